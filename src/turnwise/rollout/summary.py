"""What a step's trajectories looked like, as `area/name` figures."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from turnwise.core.repetition import repetition
from turnwise.rollout.packing import has_void_turn
from turnwise.types import Group, ScoredGroup, StopReason, ToolStatus, Trajectory


def summarise(
    scored_groups: Sequence[ScoredGroup], advantages: Sequence[Sequence[Sequence[float]]]
) -> dict[str, float]:
    """Figures of one step.

    Rates under `rollout/` and means under `reward/` are over the trajectories (turns) without an infrastructure
    failure; `stop/<reason>` are shares of all trajectories; `tool/<status>` are shares of all executed calls and
    absent when nothing was executed. `reward/shaped_fraction` is the share of trajectories whose reward holds a
    shaping term; `advantage/zero_groups` the share of groups whose advantages are all 0; `rollout/void_turns` the share
    of trajectories with a void turn and `rollout/equal_outcomes` that of groups that are all correct or all wrong, the
    ones that `trainer.drop_void_turns` and `trainer.drop_equal_outcomes` leave out of the loss.
    """
    trajectories = [t for scored in scored_groups for t in scored.group.trajectories]
    counted = [
        (scored, g, trajectory)
        for scored in scored_groups
        for g, trajectory in enumerate(scored.group.trajectories)
        if not trajectory.has_infrastructure_failure
    ]
    figures: dict[str, float] = {}
    if counted:
        turns = [turn for *_, trajectory in counted for turn in trajectory.turns]
        rewards = [reward for scored, g, _ in counted for reward in scored.turn_rewards_GK[g]]
        figures["rollout/accuracy"] = fmean(scored.correct_G[g] for scored, g, _ in counted)
        figures["rollout/void_turns"] = fmean(has_void_turn(trajectory) for *_, trajectory in counted)
        figures["rollout/equal_outcomes"] = fmean(scored.has_equal_outcomes for scored in scored_groups)
        figures["rollout/num_turns"] = fmean(len(trajectory.turns) for *_, trajectory in counted)
        figures["rollout/num_tokens"] = fmean(len(trajectory.token_ids) for *_, trajectory in counted)
        sampled = [_sampled_tokens(trajectory) for *_, trajectory in counted]
        figures["rollout/num_sampled_tokens"] = fmean(sum(map(len, turns)) for turns in sampled)
        figures["rollout/repetition"] = fmean(map(repetition, sampled))
        figures["rollout/tool_use"] = fmean(any(t.tool_calls for t in trajectory.turns) for *_, trajectory in counted)
        if turns:
            figures["rollout/format_errors"] = fmean(turn.has_format_error for turn in turns)
            figures["reward/turn_mean"] = fmean(rewards)
            figures["reward/trajectory_mean"] = fmean(sum(scored.turn_rewards_GK[g]) for scored, g, _ in counted)
            figures |= {
                f"reward/{name}_mean": fmean(sum(scored.terms[name][g]) for scored, g, _ in counted)
                for name in counted[0][0].terms
            }
        shaped = [any(scored.terms["shaping"][g]) for scored, g, _ in counted if "shaping" in scored.terms]
        figures["reward/shaped_fraction"] = fmean(shaped or [0.0])
    figures["rollout/excluded"] = fmean(trajectory.is_excluded for trajectory in trajectories)
    if advantages:
        figures["advantage/zero_groups"] = fmean(not any(a for row in rows for a in row) for rows in advantages)
        figures["advantage/abs_mean"] = fmean([abs(a) for rows in advantages for row in rows for a in row] or [0.0])
    results = [turn.tool_result for t in trajectories for turn in t.turns if turn.tool_result is not None]
    statuses = Counter(result.status for result in results)
    if results:
        figures |= {f"tool/{status}": statuses[status] / len(results) for status in ToolStatus}
    figures["tool/calls"] = len(results) / len(trajectories)
    reasons = Counter(trajectory.stop_reason for trajectory in trajectories)
    figures |= {f"stop/{reason}": reasons[reason] / len(trajectories) for reason in StopReason}
    return figures


def _sampled_tokens(trajectory: Trajectory) -> list[tuple[int, ...]]:
    """What the policy wrote itself, turn by turn."""
    return [trajectory.token_ids[slice(*turn.span)] for turn in trajectory.turns]


def staleness(groups: Sequence[Group], step: int) -> float:
    """Updates between the weights that sampled a turn and those that `step` trains: the mean over turns, 0 of none."""
    turns = [turn for group in groups for trajectory in group.trajectories for turn in trajectory.turns]
    return fmean([step - turn.policy_version for turn in turns] or [0.0])
