"""One group as the viewer of a page reads it: texts, credit, tokens, and the kinds that its filters know."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from turnwise.tracker.bundle import Advantages, Returns
from turnwise.types import ScoredGroup, Trajectory, Turn

MAX_TOKENS = 512
"""Of one stretch of prompt, turn or tool output whose tokens are embedded one by one."""
DIGITS = 4
"""After the point, of rewards, returns and advantages; an advantage that they round to 0 is 0."""

Kinds = Mapping[str, Sequence[str]]
"""Filter to what a trajectory is in it, such as `tool` to `ok` and `timeout`."""


def shown_group(scored: ScoredGroup, returns: Returns, advantages: Advantages) -> dict[str, Any]:
    """A group whole, but for the tokens of long stretches."""
    problem, trajectories = scored.group.problem, scored.group.trajectories
    prompt_end = next((one.turns[0].span[0] for one in trajectories if one.turns), 0)
    advantages = [[round(advantage, DIGITS) for advantage in row] for row in advantages]
    against = against_outcome(scored, advantages)
    return {
        "id": problem.id,
        "source": problem.source,
        "gold": problem.answer,
        "prompt": [[message.role, message.content] for message in problem.prompt],
        "prompt_ids": trajectories[0].token_ids[:prompt_end][:MAX_TOKENS],
        "prompt_end": prompt_end,
        "trajectories": [
            {
                "sample": one.sample_index,
                "answer": one.answer,
                "num_tokens": len(one.token_ids),
                "kinds": kinds(scored, place, advantages[place], any(against[place])),
                "peers": scored.shaping_peers_G[place] if scored.shaping_peers_G else (),
                "turns": [
                    {
                        "reward": round(scored.turn_rewards_GK[place][k], DIGITS),
                        "terms": {
                            name: round(rows[place][k], DIGITS) for name, rows in scored.terms.items() if rows[place][k]
                        },
                        "return": round(returns[place][k], DIGITS),
                        "advantage": advantages[place][k],
                        "against": against[place][k],
                        **_turn(turn),
                        **_tokens(one, k),
                    }
                    for k, turn in enumerate(one.turns)
                ],
            }
            for place, one in enumerate(trajectories)
        ],
    }


def kinds(scored: ScoredGroup, place: int, advantages_K: Sequence[float], is_against: bool) -> Kinds:
    """What the filters find the trajectory at `place` by; `is_against`: some turn of it is against the outcome."""
    one = scored.group.trajectories[place]
    statuses = dict.fromkeys(turn.tool_result.status.value for turn in one.turns if turn.tool_result is not None)
    if one.is_excluded or not any(advantages_K):
        credit = "no_credit"
    elif scored.has_equal_outcomes:
        credit = "equal_outcomes"
    else:
        credit = "against_outcome" if is_against else "with_outcome"
    return {
        "outcome": ["excluded" if one.is_excluded else "correct" if scored.correct_G[place] else "wrong"],
        "format": ["error" if any(turn.has_format_error for turn in one.turns) else "sound"],
        "tool": [*statuses] or ["none"],
        "stop": [one.stop_reason.value],
        "credit": [credit],
    }


def against_outcome(scored: ScoredGroup, advantages: Advantages) -> list[list[bool]]:
    """Which turns, `[G][K]`, have an advantage of the opposite sign of their trajectory's outcome in its group.

    That is 1 if it is correct, else 0, less the share of correct ones: positive for the correct, negative for the
    wrong, and 0 where all agree, so that no turn is against it. Excluded trajectories do not count.
    """
    counts = [not one.is_excluded for one in scored.group.trajectories]
    correct = [is_correct for is_correct, does_count in zip(scored.correct_G, counts, strict=True) if does_count]
    share = fmean(correct) if correct else 0.0
    return [
        [does_count and advantage * (is_correct - share) < 0 for advantage in row]
        for row, is_correct, does_count in zip(advantages, scored.correct_G, counts, strict=True)
    ]


def has_trainer_logprobs(scored: ScoredGroup) -> bool:
    """Whether the trainer's log-probs of any turn were recorded."""
    return any(turn.trainer_logprobs is not None for one in scored.group.trajectories for turn in one.turns)


def _turn(turn: Turn) -> dict[str, Any]:
    result = turn.tool_result
    return {
        "text": turn.text,
        "errors": [call.error for call in turn.tool_calls if call.error is not None],
        "result": None if result is None else [result.status, result.output, round(result.wall_s, 3)],
        "finish": turn.finish_reason,
        "version": turn.policy_version,
    }


def _tokens(trajectory: Trajectory, k: int) -> dict[str, Any]:
    """The tokens of turn `k` with the sampler's log-probs and what the trainer's add; and those up to the next turn."""
    turn = trajectory.turns[k]
    start, end = turn.span
    following = trajectory.turns[k + 1].span[0] if k + 1 < len(trajectory.turns) else len(trajectory.token_ids)
    sampled = turn.behaviour_logprobs[:MAX_TOKENS]
    gaps = None
    if turn.trainer_logprobs is not None:
        gaps = [float(f"{own - its:.2g}") for own, its in zip(turn.trainer_logprobs, sampled, strict=False)]
    return {
        "span": [start, end, following],
        "ids": trajectory.token_ids[start:end][:MAX_TOKENS],
        "logprobs": [round(logprob, 3) for logprob in sampled],
        "gaps": gaps,
        "reply_ids": trajectory.token_ids[end:following][:MAX_TOKENS],
    }
