"""`mode=rescore`: what another reward or advantage estimator would have said of trajectories that were kept."""

import json
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from turnwise.config.checks import check_similarity
from turnwise.config.ending import closing
from turnwise.config.errors import ConfigError, building
from turnwise.config.parts import Components
from turnwise.config.provenance import CONFIG_FILE, leaves
from turnwise.config.wiring import (
    announce,
)
from turnwise.report.changes import changes_table
from turnwise.rollout.rescoring import Changes, RescoredStep, joined, rescore_step
from turnwise.tracker.bundle import bundle_path, bundle_steps

LARGE_BYTES = 16 * 2**20
"""Size of bundles beyond which the start of more processes pays."""


@dataclass(frozen=True, kw_only=True)
class Rescore:
    """Recomputes reward, return and advantage of the bundles of an earlier run under this configuration; no model."""

    takes_ranks: ClassVar[bool] = False
    looks_at_steps: ClassVar[bool] = False

    path: str
    """Folder of the run whose `groups/` are read; nothing in it is changed."""
    write_groups: bool = False
    """Whether bundles with the new numbers are written to this run's own folder."""
    num_workers: int = 0
    """Processes that score steps side by side; 0 takes one for each core where the bundles are large, else none."""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"mode.num_workers={self.num_workers}: expected >= 0")

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Leaves a line of `rescore/` and diagnostic figures for each step, and prints what changed."""
        console = announce(components, run_dir)
        with building():
            source = Path(self.path).expanduser()
            steps = _steps_of(source, run_dir)
            check_similarity(components)
            for line in _differences(source, components):
                console.print(line, style="dim", highlight=False, soft_wrap=True)
            job = partial(rescore_step, source=source, reward=components.reward, estimator=components.advantage)
            job(steps[0], out=None)  # what the bundles lack, the first one tells before anything is written
            tracker = components.tracker.start(run_dir, first_step=0, label=components.label, config=components.config)
        job = partial(job, out=run_dir if self.write_groups else None)
        changes: dict[int, Changes] = {}
        with building(), closing(run_dir, tracker, console):
            for step, rescored in zip(steps, self._run(job, source, steps), strict=True):
                changes[step] = rescored.changes
                tracker.log(rescored.figures, step)
            overall = joined(list(changes.values())).figures()
            console.print(changes_table({step: one.figures() for step, one in changes.items()}, overall))

    def _run(self, job: Callable[[int], RescoredStep], source: Path, steps: list[int]) -> Iterator[RescoredStep]:
        num_bytes = sum(bundle_path(source, step).stat().st_size for step in steps)
        num_workers = self.num_workers or (os.cpu_count() or 1 if num_bytes > LARGE_BYTES else 1)
        if min(num_workers, len(steps)) == 1:
            yield from map(job, steps)
            return
        with ProcessPoolExecutor(min(num_workers, len(steps)), multiprocessing.get_context("spawn")) as pool:
            try:
                # Tensors come back as bytes: sent as themselves, each would hold a file descriptor.
                yield from map(pickle.loads, pool.map(partial(_pickled, job), steps))
            finally:
                pool.shutdown(cancel_futures=True)


def _differences(source: Path, components: Components) -> list[str]:
    """How reward and advantage were configured in the run that is read, where it differs; nothing without a record.

    Raises:
        ConfigError: Length costs something, and the lengths were limited by another number.
    """
    path = source / CONFIG_FILE
    if not path.exists():
        return []
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["config"]
        limit = there["rollout"]["max_tokens"]
        pairs = [
            (f"{part}.{key}", there_leaves.get(key), here_leaves.get(key))
            for part in ("reward", "advantage")
            for there_leaves, here_leaves in [(dict(leaves(there[part])), dict(leaves(components.config[part])))]
            for key in here_leaves | there_leaves
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not the record of a run: {error!r}") from error
    if components.reward.overlong.is_in_use and limit != components.rollout.max_tokens:
        raise ConfigError(
            f"rollout.max_tokens={components.rollout.max_tokens}: the trajectories in {source} were limited to {limit} "
            f"tokens, from which reward.overlong counts; give rollout.max_tokens={limit}"
        )
    return [f"{key.replace('_target_', 'class')}: {was} there, {now} here" for key, was, now in pairs if was != now]


def _pickled(job: Callable[[int], RescoredStep], step: int) -> bytes:
    torch.set_num_threads(1)
    return pickle.dumps(job(step))


def _steps_of(source: Path, run_dir: Path) -> list[int]:
    """The steps whose groups lie in `source`.

    Raises:
        ConfigError: There are none, or the results would be written over them.
    """
    if not source.is_dir():
        raise ConfigError(f"mode.path={source}: no such folder; expected that of a run")
    if source.resolve() == run_dir.resolve():
        raise ConfigError(f"mode.path={source} is hydra.run.dir too: the results need a folder of their own")
    steps = bundle_steps(source)
    if not steps:
        raise ConfigError(f"mode.path={source}: no groups/step_<n>.jsonl.gz in it; expected the folder of a run")
    return steps
