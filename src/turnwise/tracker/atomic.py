"""Files that are either whole or not there."""

import os
from pathlib import Path

from turnwise.disk import naming


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to a temporary sibling, forces it to disk and renames it to `path`.

    Raises:
        OSError: The disk is full or refuses; `path`, which is its `filename`, is then as it was before.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
