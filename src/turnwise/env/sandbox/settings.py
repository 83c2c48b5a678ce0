"""What a broker is told at its start, and passes on to its zygotes."""

import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnwise.ranks import Ranks

SOURCE = str(Path(__file__).resolve().parents[3])
"""Where the processes of the sandbox find turnwise."""
SHOWN_FOLDER = "/tmp/sandbox"
"""What the folder is called in output in which the folder of a program lies; in tier A it has this very name."""
HOME = "home"
"""The folder of a program, which it finds empty."""
SHOWN_PREFIX = "/usr"
"""What the folders of the interpreter and of turnwise are called in output."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The limits of `LocalSandbox`, and what was decided when it started."""

    tier: str
    num_workers: int
    wall_s: float
    cpu_s: float
    memory_mb: int
    total_memory_mb: int
    file_mb: int
    max_open_files: int
    max_processes: int
    max_capture_bytes: int
    scratch_mb: int
    preloaded: list[str]
    forbidden: str
    """The filter of calls, in hexadecimal digits."""
    socket: str
    """Where further trainers connect; empty where there are none."""

    def part(self, ranks: "Ranks") -> "Settings":
        """What is left of them for one of the ranks of this machine.

        Raises:
            ValueError: Less memory than one program may take.
        """
        total_memory_mb, least = self.total_memory_mb // ranks.local_count, self.memory_mb + self.scratch_mb
        if self.total_memory_mb and total_memory_mb < least:
            raise ValueError(
                f"env.sandbox.total_memory_mb={self.total_memory_mb}: each of the {ranks.local_count} ranks of this "
                f"machine has {total_memory_mb} of it; expected {least * ranks.local_count} or more, which is "
                f"env.sandbox.memory_mb and env.sandbox.scratch_mb for each, or one sandbox for all: env.sandbox.socket"
            )
        return replace(self, num_workers=ranks.part(self.num_workers), total_memory_mb=total_memory_mb)


def clean_environment() -> dict[str, str]:
    """The environment of every process of the sandbox.

    With `-s -P` it isolates as `-I` does, which would ignore PYTHONHASHSEED.
    """
    return {
        "PYTHONPATH": SOURCE,
        "PATH": os.defpath,
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",  # each arena of a thread would take 64 MiB of the address space
    }


def masked(text: str, home: str) -> str:
    """`text` without what differs from place to place: addresses of objects, `home`, where interpreter and source lie.

    An address that the capture limit cut short is masked like a whole one. A path cut short is not; the status is
    `output_limit` then, and `PythonTool` shows a fixed text in place of such output.
    """
    text = re.sub(r" at 0x[0-9a-f]+", " at 0x...", text)
    shown = {home: f"{SHOWN_FOLDER}/{HOME}", os.path.dirname(home): SHOWN_FOLDER}  # noqa: PTH120
    prefixes = sorted({sys.prefix, sys.base_prefix, SOURCE} - {SHOWN_PREFIX}, key=len, reverse=True)
    for path, name in (shown | dict.fromkeys(prefixes, SHOWN_PREFIX)).items():
        text = text.replace(path, name)
    return text
