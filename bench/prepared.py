"""What some benchmarks need beside the repository, and the target of the Makefile that prepares it."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


class NotPrepared(Exception):
    """A benchmark lacks something; the message names it and says how to get it."""


class Unsuitable(NotPrepared):
    """What a benchmark lacks is not to be had on this machine."""


def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct.

    Raises:
        NotPrepared: It is not there.
    """
    return _existing(ROOT / "models" / "smollm2_135m" / "config.json", "make smollm2").parent


def peer_python() -> Path:
    """The interpreter of TRL's environment.

    Raises:
        NotPrepared: It is not there.
    """
    return _existing(ROOT / ".venv-peer" / "bin" / "python", "make bench-peer")


def _existing(path: Path, target: str) -> Path:
    if not path.exists():
        raise NotPrepared(f"needs {path.relative_to(ROOT)}, which `{target}` prepares")
    return path
