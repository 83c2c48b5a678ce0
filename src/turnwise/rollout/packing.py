"""A[i, j] -> every sampled token of turn j: scored groups become one packed batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P
from turnwise.protocols import PGK
from turnwise.types import ScoredGroup, StopReason, TokenBatch, Trajectory


def pack(
    scored_groups: Sequence[ScoredGroup],
    advantages: PGK,
    *,
    temperature: float,
    top_k: int = NO_TOP_K,
    top_p: float = NO_TOP_P,
    takes_part: Sequence[Sequence[bool]] | None = None,
) -> TokenBatch:
    """Packs the trajectories that take part in the loss end to end.

    Args:
        scored_groups: P groups.
        advantages: One number for each turn.
        temperature: At which the turns were sampled.
        top_k: Tokens that they were sampled among; 0 for all.
        top_p: Probability of the tokens that they were sampled among.
        takes_part: What `taking_part` says of every trajectory; by default all but the excluded ones take part.

    Returns:
        A batch in the order of the groups. Only sampled tokens are in the loss mask; trajectories that take no part are
        not in the batch, so that nothing of them can reach the gradient or a denominator.

    Raises:
        ValueError: If `advantages` does not have the shape of the groups.
    """
    token_ids: list[int] = []
    position_ids: list[int] = []
    turn_index: list[int] = []
    advantage_N: list[float] = []
    logprobs_N: list[float] = []
    lengths: list[int] = []
    num_loss_turns = 0
    takes_part = taking_part(scored_groups) if takes_part is None else takes_part
    for scored, advantages_GK, takes_part_G in zip(scored_groups, advantages, takes_part, strict=True):
        rows = zip(scored.group.trajectories, advantages_GK, takes_part_G, strict=True)
        for trajectory, advantages_K, is_in_loss in rows:
            if len(advantages_K) != len(trajectory.turns):
                raise ValueError(
                    f"advantages of {trajectory.problem_id!r}/{trajectory.sample_index}: "
                    f"{len(advantages_K)} numbers for {len(trajectory.turns)} turns"
                )
            if not is_in_loss:
                continue
            # What follows the last turn was never conditioned on: nothing of it is needed.
            length = trajectory.turns[-1].span[1]
            turn_row, advantage_row, logprob_row = [-1] * length, [0.0] * length, [0.0] * length
            for k, (turn, advantage) in enumerate(zip(trajectory.turns, advantages_K, strict=True)):
                span = slice(*turn.span)
                turn_row[span] = [k] * len(turn.behaviour_logprobs)
                advantage_row[span] = [advantage] * len(turn.behaviour_logprobs)
                logprob_row[span] = turn.behaviour_logprobs
            token_ids += trajectory.token_ids[:length]
            position_ids += range(length)
            turn_index += turn_row
            advantage_N += advantage_row
            logprobs_N += logprob_row
            lengths.append(length)
            num_loss_turns += len(trajectory.turns)
    turn_index_N = torch.tensor(turn_index, dtype=torch.int64)
    loss_mask_N = turn_index_N >= 0
    return TokenBatch(
        token_ids=torch.tensor(token_ids, dtype=torch.int64),
        position_ids=torch.tensor(position_ids, dtype=torch.int64),
        loss_mask=loss_mask_N,
        advantages=torch.tensor(advantage_N, dtype=torch.float32),
        behaviour_logprobs=torch.tensor(logprobs_N, dtype=torch.float32),
        turn_index=turn_index_N,
        sequence_index=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64)),
        cu_seqlens=torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32),
        num_loss_tokens=int(loss_mask_N.sum()),
        num_loss_turns=num_loss_turns,
        num_loss_sequences=len(lengths),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )


def taking_part(
    scored_groups: Sequence[ScoredGroup], *, drop_void_turns: bool = False, drop_equal_outcomes: bool = False
) -> list[list[bool]]:
    """Which trajectories take part in the loss.

    Args:
        scored_groups: P groups.
        drop_void_turns: Leave out trajectories with a void turn: one that holds neither a well-formed tool call nor the
            final answer (SimpleTIR, arXiv 2509.02479).
        drop_equal_outcomes: Leave out groups that are all correct or all wrong (DAPO, arXiv 2503.14476).

    Returns:
        `[P][G]`; excluded trajectories never take part.
    """
    return [
        [
            not trajectory.is_excluded
            and not (drop_equal_outcomes and scored.has_equal_outcomes)
            and not (drop_void_turns and has_void_turn(trajectory))
            for trajectory in scored.group.trajectories
        ]
        for scored in scored_groups
    ]


def with_trainer_logprobs(
    scored_groups: Sequence[ScoredGroup], takes_part: Sequence[Sequence[bool]], logprobs_N: Tensor
) -> list[ScoredGroup]:
    """The groups with the trainer's log-probs in the turns that were packed: the way back from `pack`.

    Args:
        scored_groups: P groups.
        takes_part: `[P][G]`, as `pack` was given it.
        logprobs_N: Of the packed batch.
    """
    left = logprobs_N.tolist()
    start = 0

    def recorded(trajectory: Trajectory, is_in_loss: bool) -> Trajectory:
        nonlocal start
        if not is_in_loss:
            return trajectory
        end = start + trajectory.turns[-1].span[1]
        own, start = left[start:end], end
        turns = (replace(turn, trainer_logprobs=tuple(own[slice(*turn.span)])) for turn in trajectory.turns)
        return replace(trajectory, turns=tuple(turns))

    found = []
    for scored, takes_part_G in zip(scored_groups, takes_part, strict=True):
        pairs = zip(scored.group.trajectories, takes_part_G, strict=True)
        group = replace(scored.group, trajectories=tuple(recorded(*pair) for pair in pairs))
        found.append(replace(scored, group=group))
    return found


def has_void_turn(trajectory: Trajectory) -> bool:
    """Whether some turn holds neither a well-formed tool call nor the final answer."""
    return any(
        all(call.error is not None for call in turn.tool_calls)
        and not (turn is trajectory.turns[-1] and trajectory.stop_reason is StopReason.answered)
        for turn in trajectory.turns
    )
