"""Groups are what the algorithm takes them for: P problems x G trajectories, and a turn is no trajectory."""

import math
from collections.abc import Sequence

from turnwise.preflight.finding import Finding
from turnwise.protocols import PGK
from turnwise.types import Group, Problem, TokenBatch

REMEDY = (
    "a group is keyed by its problem and holds rollout.group_size trajectories of it, whatever number of turns these "
    "have (rollout/sampler.py, rollout/packing.py)"
)


def check_groups(
    groups: Sequence[Group],
    problems: Sequence[Problem],
    *,
    group_size: int,
    advantages: PGK,
    batch: TokenBatch,
    finding: Finding,
) -> None:
    """Each problem has one group of `group_size` trajectories from one prompt, and each turn one advantage.

    Args:
        groups: As they were sampled.
        problems: For which they were sampled.
        group_size: G.
        advantages: What the estimator made of their rewards.
        batch: Their trajectories that take part in the loss, packed.
        finding: Where to say it.
    """

    def expect(holds: bool, line: str) -> None:
        if not holds:
            finding.fail(line, REMEDY)

    ids = [problem.id for problem in problems]
    expect(len(set(ids)) == len(ids), f"two problems of a step have one id: {ids}")
    expect([group.problem.id for group in groups] == ids, f"groups of {[g.problem.id for g in groups]} for {ids}")
    for group in groups:
        name, numbers = group.problem.id, [one.sample_index for one in group.trajectories]
        expect(numbers == list(range(group_size)), f"{name}: samples {numbers}, expected 0 to {group_size - 1}")
        expect({one.problem_id for one in group.trajectories} == {name}, f"{name}: holds trajectories of others")
        prompts = {one.token_ids[: one.turns[0].span[0]] for one in group.trajectories if one.turns}
        expect(len(prompts) <= 1, f"{name}: its trajectories begin with {len(prompts)} different prompts")
    rows = [one for group in groups for one in group.trajectories]
    advantages_K = [row for group in advantages for row in group]
    shape = [len(one.turns) for one in rows]
    expect(
        [len(row) for row in advantages_K] == shape,
        f"advantages of {[len(row) for row in advantages_K]} turns for trajectories of {shape} turns",
    )
    expect(all(math.isfinite(one) for row in advantages_K for one in row), "an advantage is not a finite number")
    trained = [one for one in rows if not one.is_excluded]
    num_turns = sum(len(one.turns) for one in trained)
    expect(
        batch.num_sequences == batch.num_loss_sequences == len(trained),
        f"{len(trained)} trajectories became {batch.num_sequences} sequences, and the loss divides by "
        f"{batch.num_loss_sequences}",
    )
    expect(batch.num_loss_turns == num_turns, f"{num_turns} turns, and the loss divides by {batch.num_loss_turns}")
    finding.note(
        f"{len(groups)} problems x {group_size} trajectories with {sum(shape)} turns, of which {num_turns} train"
    )
