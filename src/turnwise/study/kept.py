"""Whether the runs of a study still hold the trajectories that they kept.

What a study compares comes from other files; the viewer of its page and `mode=rescore` read these.
"""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from turnwise.study.alike import flat
from turnwise.study.runs import Run, Skipped, Study
from turnwise.tracker.bundle import bundle_path, bundle_steps

MAX_NAMED = 3
"""Steps of one run that are named; more are counted."""
_PIECE_BYTES = 2**20


def checked(study: Study) -> Study:
    """The study with `damaged` filled in; every bundle is read to its end, which shows whether it is whole."""
    damages = ((run, _damage(run)) for run in study.runs)
    damaged = tuple(Skipped(arm=run.arm, setting=run.setting, seed=run.seed, why=why) for run, why in damages if why)
    return replace(study, damaged=damaged)


def _damage(run: Run) -> str:
    """What is wrong with the bundles of a run; empty: nothing. A run whose record does not say may have any."""
    every = flat(run.record["config"]).get("tracker.save_groups_every")
    due = range(0, run.summary.total_steps, every) if isinstance(every, int) and every > 0 else ()
    there = bundle_steps(run.folder)
    if due and not there:
        return "groups/ holds none"
    lost = [step for step in due if step not in there]
    broken = [step for step in there if not _is_whole(bundle_path(run.folder, step))]
    parts = [("lacks", lost), ("is broken at", broken)]
    return " and ".join(f"groups/ {words} {_steps(steps)}" for words, steps in parts if steps)


def _is_whole(path: Path) -> bool:
    """Whether a bundle unpacks to whole lines; the format has a checksum, so what does is as it was written."""
    last = b""
    try:
        with gzip.open(path) as file:
            while piece := file.read(_PIECE_BYTES):
                last = piece
    except (OSError, EOFError, zlib.error):
        return False
    return last.endswith(b"\n")


def _steps(steps: Sequence[int]) -> str:
    """`step 3`, or `steps 0, 1, 2 and 27 more`."""
    named = ", ".join(map(str, steps[:MAX_NAMED]))
    more = f" and {len(steps) - MAX_NAMED} more" if len(steps) > MAX_NAMED else ""
    return f"step{'s' if len(steps) > 1 else ''} {named}{more}"
