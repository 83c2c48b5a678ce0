"""One evaluation of one set on disk: its record, and its trajectories wave by wave, so that it can be interrupted."""

from collections.abc import Sequence
from pathlib import Path

from turnwise.evaluation.protocol import EvaluationProtocol
from turnwise.tracker.bundle import append_groups, bundle_path, read_groups
from turnwise.tracker.evaluations import SetRecord, SetResult, read_record, record_path, recorded_steps, write_record
from turnwise.types import Problem, ScoredGroup


class KeptEvaluation:
    """Grows a trajectory bundle beside the record of the evaluation; the record comes first, its result last.

    Args:
        folder: That of the set.
        step: Steps of training that the weights have seen.
        protocol: Of the evaluation.
        weights: Whose they are, in words that differ where the policy does; empty: not known, so that nothing kept
            earlier is taken for this evaluation's.
        problems: Those of the set, in the order in which they are asked.
        keeps_groups: Whether the trajectories are kept, or the record alone.
        writes: Whether this process keeps anything at all; another one that evaluates the same does if not.

    Raises:
        ValueError: Trajectories of other weights, of another protocol or of other problems lie there and would be
            mixed with these.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        protocol: EvaluationProtocol,
        weights: str,
        *,
        problems: Sequence[Problem],
        keeps_groups: bool,
        writes: bool = True,
    ) -> None:
        self.folder = folder
        self.protocol = protocol
        self._step = step
        self._record = SetRecord(protocol=protocol.content, weights=weights, result=None)
        self._bundle = bundle_path(folder, step)
        self._writes, self._keeps_groups = writes, writes and keeps_groups
        self.scored_groups: list[ScoredGroup] = []
        if weights and record_path(folder, step).exists():
            check_kept(folder, step, protocol, weights)
            if self._bundle.exists():
                self.scored_groups = [scored for scored, _ in read_groups(self._bundle)]
                self._check_order(problems)
        elif writes:
            self._bundle.unlink(missing_ok=True)
        if self._keeps_groups:
            self._bundle.parent.mkdir(parents=True, exist_ok=True)
        if writes:
            write_record(folder, step, self._record)

    def first(self) -> list[ScoredGroup]:
        """The trajectories of the earliest finished evaluation before this one by the same protocol; none: nothing."""
        for step in recorded_steps(self.folder):
            if step < self._step and bundle_path(self.folder, step).exists():
                found = read_record(self.folder, step).result
                if found is not None and found.protocol == self.protocol.digest:
                    return [scored for scored, _ in read_groups(bundle_path(self.folder, step))]
        return []

    def append(self, scored_groups: Sequence[ScoredGroup]) -> None:
        """Adds the groups of a wave; they are kept whole or not at all."""
        if self._keeps_groups:
            zeros = [[[0.0] * len(row) for row in scored.turn_rewards_GK] for scored in scored_groups]
            append_groups(self._bundle, scored_groups, zeros, zeros)
        self.scored_groups += scored_groups

    def finish(self, result: SetResult) -> None:
        """Writes the result into the record."""
        if self._writes:
            record = SetRecord(protocol=self._record.protocol, weights=self._record.weights, result=result)
            write_record(self.folder, self._step, record)

    def _check_order(self, problems: Sequence[Problem]) -> None:
        kept = [scored.group.problem.id for scored in self.scored_groups]
        if kept != [problem.id for problem in problems[: len(kept)]]:
            raise ValueError(
                f"{self._bundle} does not hold the first {len(kept)} of the set's {len(problems)} problems in their "
                f"order: name another hydra.run.dir"
            )


def check_kept(folder: Path, step: int, protocol: EvaluationProtocol, weights: str) -> None:
    """Refuses to go on with an evaluation that is another one's; where nothing is kept there is nothing to mix.

    Raises:
        ValueError: Trajectories of other weights or of another protocol lie in the set's folder, or torn ones.
    """
    if not record_path(folder, step).exists():
        return
    found = read_record(folder, step)
    there = EvaluationProtocol(content=found.protocol)
    if there.digest != protocol.digest:
        raise ValueError(
            f"{folder} holds an evaluation by protocol {there.digest}, this one is {protocol.digest}: name another "
            f"hydra.run.dir"
        )
    if bundle_path(folder, step).exists():
        read_groups(bundle_path(folder, step))  # a torn one is named here, before anything is sampled
    if found.weights != weights:
        raise ValueError(
            f"{folder} holds an evaluation of other weights ({found.weights}), these are {weights}: name another "
            f"hydra.run.dir"
        )
