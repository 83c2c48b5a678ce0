"""What the disk has for certain, and what it refuses."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
"""Of the system: no space, no quota, read-only, broken, file too large. No traceback would explain them."""


def force_to_disk(path: Path) -> None:
    """Returns when the disk has `path`: a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has what the disk refuses end in an OSError of `path`, whichever library meets it and in whatever words."""
    try:
        yield
    except Exception as error:
        if (number := _disk_error(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _disk_error(error: BaseException) -> int | None:
    """The one of `DISK_ERRORS` behind `error`: torch hides it, and safetensors has it in its text alone."""
    following: BaseException | None = error
    while following is not None:
        told = re.search(r"\(os error (\d+)\)", str(following))
        number = following.errno if isinstance(following, OSError) else int(told[1]) if told else None
        if number in DISK_ERRORS:
            return number
        following = following.__cause__ or following.__context__
    return None
