"""Token in, token out: the ids that are trained on are the ids that were sampled, and no others."""

from collections.abc import Mapping, Sequence

import torch

from turnwise.preflight.finding import Finding
from turnwise.preflight.recording import Call
from turnwise.seeding import derive_seed
from turnwise.types import Group, TokenBatch, Trajectory

REMEDY = (
    "a transcript must grow by appending the ids that the engine gave and those that the renderer gives for a reply; "
    "nothing is decoded and encoded again (rollout/episode.py, rollout/packing.py)"
)


def check_tokens(
    groups: Sequence[Group],
    batch: TokenBatch,
    *,
    prompts: Sequence[Sequence[int]],
    calls: Mapping[int, Call],
    seed: int,
    finding: Finding,
) -> None:
    """Follows every sampled id from the engine through transcript and span to the place where it is trained on.

    Args:
        groups: As they were sampled.
        batch: Their trajectories that take part in the loss, packed.
        prompts: Tokens of each group's prompt, rendered for this check.
        calls: What the engine itself sampled, by the seed of each turn.
        seed: That the groups were sampled with.
        finding: Where to say it.
    """
    sampled: list[int] = []
    logprobs: list[float] = []
    num_tool_tokens = num_turns = 0
    for group, prompt in zip(groups, prompts, strict=True):
        for trajectory in group.trajectories:
            turns = [calls[key] for key in _keys(trajectory, seed, calls)]
            for complaint in _complaints(trajectory, tuple(prompt), turns):
                finding.fail(f"{trajectory.problem_id}/{trajectory.sample_index}: {complaint}", REMEDY)
            if trajectory.is_excluded:
                continue
            num_turns += len(turns)
            num_own = sum(len(call.completion.token_ids) for call in turns)
            num_tool_tokens += trajectory.turns[-1].span[1] - len(prompt) - num_own
            for call in turns:
                sampled += call.completion.token_ids
                logprobs += call.completion.logprobs
    if not sampled:
        finding.fail(
            "nothing was sampled that could be trained on: every trajectory is excluded",
            "see why they stop: rollout.max_tokens, the tool, or the engine",
        )
        return
    trained = batch.token_ids[batch.loss_mask].tolist()
    if trained != sampled:
        what = f"{len(sampled)} ids were sampled, {len(trained)} are trained on"
        finding.fail(f"the batch: {what}, and they differ{_first_difference(sampled, trained)}", REMEDY)
    elif not torch.equal(batch.behaviour_logprobs[batch.loss_mask], torch.tensor(logprobs)):
        finding.fail("the batch: a sampled id stands beside the log-prob of another one", REMEDY)
    finding.note(
        f"{len(sampled)} sampled ids in {num_turns} turns are the ids that are trained on, {num_tool_tokens} ids of "
        f"tool output are not"
    )


def _keys(trajectory: Trajectory, seed: int, calls: Mapping[int, Call]) -> list[int]:
    """The seeds of the turns that the engine was asked for and that it sampled something in."""
    keys: list[int] = []
    while (key := derive_seed(seed, trajectory.problem_id, trajectory.sample_index, len(keys))) in calls:
        if not calls[key].completion.token_ids:
            break
        keys.append(key)
    return keys


def _complaints(trajectory: Trajectory, prompt: tuple[int, ...], calls: Sequence[Call]) -> list[str]:
    """What is wrong with a transcript."""
    found = []
    if trajectory.token_ids[: len(prompt)] != prompt:
        found.append("it does not begin with its prompt as the renderer gives it")
    if len(calls) != len(trajectory.turns):
        found.append(f"the engine sampled {len(calls)} turns, it has {len(trajectory.turns)}")
        return found
    for number, (turn, call) in enumerate(zip(trajectory.turns, calls, strict=True), start=1):
        own = trajectory.token_ids[slice(*turn.span)]
        if number == 1 and turn.span[0] != len(prompt):
            found.append(f"its first turn begins at {turn.span[0]}, the prompt ends at {len(prompt)}")
        if trajectory.token_ids[: turn.span[0]] != call.token_ids:
            found.append(f"turn {number} was sampled after other tokens than those before it")
        if own != call.completion.token_ids:
            found.append(f"turn {number} has other ids than were sampled{_first_difference(call[1].token_ids, own)}")
        elif turn.behaviour_logprobs != call.completion.logprobs:
            found.append(f"turn {number} has other log-probs than its tokens were sampled with")
    return found


def _first_difference(sampled: Sequence[int], own: Sequence[int]) -> str:
    for place, (left, right) in enumerate(zip(sampled, own, strict=False)):
        if left != right:
            return f": the first at place {place}, {left} was sampled and {right} stands there"
    return f": {len(sampled)} were sampled, {len(own)} stand there"
