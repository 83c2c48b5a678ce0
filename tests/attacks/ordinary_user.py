"""Goes on as a user without any rights, whoever may enter the folder in which the interpreter lies.

PYTHONPATH=... python -m attacks.ordinary_user ARGUMENT...   what the interpreter is started with as that user
"""

import ctypes
import os
import sys
from pathlib import Path

USER = 54321
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 1 << 12, 1 << 14, 1 << 18


def go_on_as_ordinary_user(arguments: list[str]) -> None:
    """Starts this interpreter anew with `arguments`, as that user; needs root, and does not return.

    Raises:
        OSError: What root needs for it is not allowed here.
    """
    _call("unshare", CLONE_NEWNS)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _open_the_way(Path(sys.base_prefix))
    os.environ.pop("TMPDIR", None)  # it may be shut to that user
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    os.execv(sys.executable, [sys.executable, *arguments])  # what it has in /proc is its own only now


def _open_the_way(place: Path) -> None:
    """Makes `place` all that there is in the first folder above it that is shut to others."""
    shut = next((one for one in reversed(place.parents) if not one.stat().st_mode & 1), None)
    if shut is None:
        return
    held = os.open(place, os.O_PATH)
    _mount("none", str(shut), "tmpfs", 0, "mode=755")
    place.mkdir(parents=True)
    _mount(f"/proc/self/fd/{held}", str(place), None, MS_BIND | MS_REC)
    os.close(held)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    encoded = None if kind is None else kind.encode()
    _call("mount", source.encode(), target.encode(), encoded, ctypes.c_ulong(flags), options.encode())


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


if __name__ == "__main__":
    go_on_as_ordinary_user(sys.argv[1:])
