"""Kept trajectories for the viewer of a page: as many steps of as many runs as its bytes allow."""

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnwise.report.payload import has_trainer_logprobs, shown_group
from turnwise.tracker.bundle import bundle_path, bundle_steps, iterate_credit

MAX_BYTES = 8_000_000
"""Of the embedded trajectories of one page."""


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """What a viewer holds: one entry for each run; `note` says what was left out, `skipped` what is broken."""

    runs: Sequence[dict[str, Any]]
    note: str
    skipped: Sequence[str]


def read_trajectories(
    folders: Mapping[str, Path], max_bytes: int = MAX_BYTES, *, tokenizer: Path | None = None
) -> Trajectories:
    """Reads the bundles of several runs, a label and a folder each, as far as `max_bytes` allow.

    Every run gets an equal share. The first, the last and the middle step come first, then those between, ever closer;
    none takes more than a third of the share, but for the problem that goes beyond it. A bundle that breaks off gives
    what it holds up to there.

    Returns:
        Runs without any trajectory are left out. Each entry has a `label`, its `steps` (every one a `gzip` of JSON
        lines in base64, a line a group), `facets` (how many trajectories are of each kind), `tokens` (id to text) and
        `has_trainer` (whether log-probs of the trainer were recorded in any group read, shown or not).
    """
    is_single = len(folders) == 1
    runs, skipped = [], []
    notes: dict[str, str] = {}
    for label, folder in folders.items():
        steps, broken = _read_run(folder, max_bytes // len(folders))
        name = "" if is_single else f"{label}: "
        skipped += [f"{name}{why}" for why in broken]
        if steps:
            facets = sum((step.facets for step in steps), Counter[tuple[str, str]]())
            runs.append(
                {
                    "label": label,
                    "steps": [step.entry for step in steps],
                    "facets": [[facet, kind, number] for (facet, kind), number in sorted(facets.items())],
                    "tokens": _token_texts(folder, tokenizer, set().union(*(step.token_ids for step in steps))),
                    "has_trainer": any(step.has_trainer for step in steps),
                }
            )
            notes[label] = _note(steps, len(bundle_steps(folder)))
    return Trajectories(runs=runs, note=_joined(notes, len(folders), not skipped), skipped=skipped)


def spread(steps: Sequence[int]) -> Iterator[int]:
    """The first, the last and the middle of `steps`, then the middles of what lies between, widest gaps first."""
    yield from dict.fromkeys([*steps[:1], *steps[-1:]])
    gaps = [(0, len(steps) - 1)]
    for start, end in gaps:  # grows while it is walked
        middle = (start + end) // 2
        if start < middle:
            yield steps[middle]
            gaps += [(start, middle), (middle, end)]


class _Step:
    """The groups of one step, compressed one after the other."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.num_problems = 0
        self.num_shown = 0
        self.num_trajectories = 0
        self.has_trainer = False
        self.facets = Counter[tuple[str, str]]()
        self.token_ids: set[int] = set()
        self._stream = zlib.compressobj(wbits=31)  # with the header of gzip
        self._data = b""

    @property
    def size(self) -> int:
        """Bytes in the page: base64 makes four of three."""
        return len(self._data) * 4 // 3

    def add(self, shown: Mapping[str, Any]) -> None:
        """Adds what `shown_group` made."""
        self.num_shown += 1
        self.num_trajectories += len(shown["trajectories"])
        self.token_ids.update(shown["prompt_ids"])
        for one in shown["trajectories"]:
            self.facets.update((facet, kind) for facet, kinds in one["kinds"].items() for kind in kinds)
            for turn in one["turns"]:
                self.token_ids.update(turn["ids"], turn["reply_ids"])
        line = json.dumps(shown, separators=(",", ":"), allow_nan=False) + "\n"
        self._data += self._stream.compress(line.encode()) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    @property
    def entry(self) -> dict[str, Any]:
        """For the page."""
        data = self._data + self._stream.copy().flush()
        return {"step": self.step, "size": self.num_trajectories, "gzip": base64.b64encode(data).decode()}


def _read_run(folder: Path, max_bytes: int) -> tuple[list[_Step], list[str]]:
    """Steps in order, and a line for each bundle that is broken."""
    steps: list[_Step] = []
    broken: list[str] = []
    left = max_bytes
    for number in spread(bundle_steps(folder)):
        if left <= 0:
            break
        step, path = _Step(number), bundle_path(folder, number)
        try:
            for scored, returns, advantages in iterate_credit(path):
                step.num_problems += 1
                step.has_trainer |= has_trainer_logprobs(scored)
                if step.size < min(left, max_bytes // 3):
                    step.add(shown_group(scored, returns, advantages))
        except ValueError as error:
            broken.append(str(error).replace(str(path), f"groups/{path.name}"))
        if step.num_shown:
            left -= step.size
            steps.append(step)
    return sorted(steps, key=lambda step: step.step), broken


def _note(steps: Sequence[_Step], num_kept: int) -> str:
    size = sum(step.num_trajectories for step in steps)
    parts = [f"{size:,} trajectories of {len(steps)} of {num_kept} kept steps are in this page"]
    parts += [
        f"step {step.step} with {step.num_shown} of its {step.num_problems} problems"
        for step in steps
        if step.num_shown < step.num_problems
    ]
    return f"{', '.join(parts)}."


def _joined(notes: Mapping[str, str], num_runs: int, is_whole: bool) -> str:
    """What is in the page of each run, said once where it is the same of all."""
    if not notes:
        return "No trajectories were kept."
    said = [f"{label}: {note}" for label, note in notes.items()]
    if len(notes) == num_runs and len({*notes.values()}) == 1:
        each = "Of each run: " if num_runs > 1 else ""
        said = [f"{each}{next(iter(notes.values()))}"]
    return " ".join([*said, *(["All lie whole in groups/."] if is_whole else [])])


def _token_texts(folder: Path, tokenizer: Path | None, token_ids: Iterable[int]) -> dict[int, str]:
    """Id to text by the tokenizer of the last checkpoint, else by the one given; nothing where there is none."""
    own = folder / "checkpoints" / "last" / "tokenizer.json"
    path = own if own.exists() else tokenizer
    if path is None or not path.exists():
        return {}
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(path))
    return {token: loaded.decode([token], skip_special_tokens=False) for token in sorted(token_ids)}
