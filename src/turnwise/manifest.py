"""A folder that says what it holds, so that a file that is missing, cut short or altered is noticed."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MANIFEST = "files.json"
"""Size in bytes and SHA-256 of every other file."""


def write_manifest(folder: Path) -> None:
    """Writes `folder`/files.json about all files that lie there and below, which takes about a second a GiB."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, _digests(paths), strict=True)
    }
    (folder / MANIFEST).write_text(json.dumps(files, indent=2) + "\n")


def damage_of(folder: Path, *, reads_all: bool = False) -> str | None:
    """In which way `folder` is not as its files.json says, or None; files that it does not name may lie there too.

    Args:
        folder: Where `write_manifest` was at work.
        reads_all: Whether every byte is looked at, or the sizes alone.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())
        paths = {name: folder / name for name in files}
        wanted = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        torn = [
            f"{name} has {sizes[name]} bytes of {size}" for name, (size, _) in wanted.items() if sizes[name] != size
        ]
        if reads_all and not torn:
            digests = zip(wanted, _digests(list(paths.values())), strict=True)
            torn = [f"{name} is not as it was written" for name, digest in digests if digest != wanted[name][1]]
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is torn: {error!r}"
    return "; ".join(torn) or (None if files else f"{MANIFEST} is torn: it names no file")


def is_as_written(folder: Path, name: str) -> bool:
    """Whether a single file is as the folder's files.json says."""
    try:
        return json.loads((folder / MANIFEST).read_text())[name]["sha256"] == _digest(folder / name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digests(paths: list[Path]) -> list[str]:
    with ThreadPoolExecutor() as threads:  # hashing leaves the interpreter to the other threads
        return list(threads.map(_digest, paths))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
