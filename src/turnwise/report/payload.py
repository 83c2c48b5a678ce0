"""One group as the viewer of a page reads it: texts, credit, tokens, and the kinds that its filters know."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from turnwise.tracker.bundle import Advantages, Returns
from turnwise.types import ScoredGroup, Trajectory, Turn

MAX_TOKENS = 512
"""Of one stretch of prompt, turn or tool output whose tokens are embedded one by one."""

Kinds = Mapping[str, Sequence[str]]
"""Filter to what a trajectory is in it, such as `tool` to `ok` and `timeout`."""


def shown_group(scored: ScoredGroup, returns: Returns, advantages: Advantages) -> dict[str, Any]:
    """A group whole, but for the tokens of long stretches."""
    problem, trajectories = scored.group.problem, scored.group.trajectories
    prompt_end = next((one.turns[0].span[0] for one in trajectories if one.turns), 0)
    flips = sign_flips(scored, advantages)
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
                "kinds": kinds(scored, place, advantages[place], any(flips[place])),
                "peers": scored.shaping_peers_G[place] if scored.shaping_peers_G else (),
                "turns": [
                    {
                        "reward": round(scored.turn_rewards_GK[place][k], 4),
                        "terms": {
                            name: round(rows[place][k], 4) for name, rows in scored.terms.items() if rows[place][k]
                        },
                        "return": round(returns[place][k], 4),
                        "advantage": round(advantages[place][k], 4),
                        "flip": flips[place][k],
                        **_turn(turn),
                        **_tokens(one, k),
                    }
                    for k, turn in enumerate(one.turns)
                ],
            }
            for place, one in enumerate(trajectories)
        ],
    }


def kinds(scored: ScoredGroup, place: int, advantages_K: Sequence[float], is_flipped: bool) -> Kinds:
    """What the filters find the trajectory at `place` by."""
    one = scored.group.trajectories[place]
    is_from_zero = scored.has_equal_outcomes and any(advantages_K)
    statuses = dict.fromkeys(turn.tool_result.status.value for turn in one.turns if turn.tool_result is not None)
    return {
        "outcome": ["excluded" if one.is_excluded else "correct" if scored.correct_G[place] else "wrong"],
        "format": ["error" if any(turn.has_format_error for turn in one.turns) else "sound"],
        "tool": [*statuses] or ["none"],
        "stop": [one.stop_reason.value],
        "credit": ["flip" if is_flipped else "from_zero" if is_from_zero else "agrees"],
    }


def sign_flips(scored: ScoredGroup, advantages: Advantages) -> list[list[bool]]:
    """Which turns, `[G][K]`, have an advantage of the opposite sign of what GRPO gives their whole trajectory.

    That is whether the trajectory is correct less the share of correct ones in its group, over its standard deviation,
    which leaves the sign alone. Where all agree it is 0 and nothing is a flip. Excluded trajectories do not count.
    """
    counts = [not one.is_excluded for one in scored.group.trajectories]
    correct = [is_correct for is_correct, does_count in zip(scored.correct_G, counts, strict=True) if does_count]
    share = fmean(correct) if correct else 0.0
    return [
        [does_count and advantage * (is_correct - share) < 0 for advantage in row]
        for row, is_correct, does_count in zip(advantages, scored.correct_G, counts, strict=True)
    ]


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
