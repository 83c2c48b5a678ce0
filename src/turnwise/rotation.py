"""The checkpoints of a run's folder: which of them stay, and what `last` and `best` point at."""

import json
import shutil
from pathlib import Path

from turnwise.disk import force_to_disk

_PREFIX = "step_"
_TEMPORARY = ".tmp-"


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint lies that step `step` follows."""
    return folder / f"{_PREFIX}{step}"


def draft_of(folder: Path, step: int) -> Path:
    """Where it lies until it is whole; nobody reads it there."""
    return folder / f"{_TEMPORARY}{_PREFIX}{step}"


def note_of(path: Path) -> Path:
    """Where a checkpoint's accuracy is noted, which is known later than the rest of it."""
    return path / "evaluation.json"


def found_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, damaged ones among them, oldest first."""
    numbers = [path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*") if path.is_dir()]
    return sorted(map(int, filter(str.isdecimal, numbers)))


def found_checkpoints(folder: Path) -> list[Path]:
    """Their folders."""
    return [path_of(folder, step) for step in found_steps(folder)]


def publish(draft: Path, target: Path) -> None:
    """Gives a checkpoint that is whole its name, in place of one that has it, and points `last` at it."""
    if target.exists():
        target.rename(target.with_name(f"{_TEMPORARY}replaced-{target.name}"))
    draft.rename(target)
    point(target.parent, "last", target)


def point(folder: Path, name: str, target: Path) -> None:
    """Makes `folder`/name a link to `target`, which lies beside it, in one step."""
    link = folder / f"{_TEMPORARY}{name}"
    link.unlink(missing_ok=True)  # of a process that was killed below
    link.symlink_to(target.name)
    if (folder / name).is_dir() and not (folder / name).is_symlink():
        shutil.rmtree(folder / name)  # a copy of the folder by what knows no links
    link.replace(folder / name)
    force_to_disk(folder)


def tidy(folder: Path, step: int, keep: int, every: int = 1) -> None:
    """Removes what a kill left and checkpoints after `step`, points `best`, and drops all but the `keep` newest.

    That is of all, and of those whose step `every` divides.
    """
    remove_leftovers(folder)
    paths = {step: path_of(folder, step) for step in found_steps(folder)}
    for later in [number for number in paths if number > step]:
        shutil.rmtree(paths.pop(later))
    noted = {path: accuracy for path in paths.values() if (accuracy := _noted_accuracy(path)) is not None}
    best = max(noted, key=noted.__getitem__, default=None)
    if best is None:
        (folder / "best").unlink(missing_ok=True)
    elif (folder / "best").resolve() != best.resolve():
        point(folder, "best", best)
    last = (folder / "last").resolve()
    regular = [path for number, path in paths.items() if number % every == 0]
    stay = {best, *list(paths.values())[-keep:], *regular[-keep:]}
    for path in paths.values() if keep else ():
        if path not in stay and path.resolve() != last:
            shutil.rmtree(path)


def remove_leftovers(folder: Path) -> None:
    """Removes what has a temporary name: a kill left it, or a disk that was full."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _noted_accuracy(path: Path) -> float | None:
    """What was noted of a checkpoint; None where nothing was, or the note is damaged: the run goes on."""
    try:
        return float(json.loads(note_of(path).read_text())["accuracy"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
