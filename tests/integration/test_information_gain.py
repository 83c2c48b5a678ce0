"""IGPO's reward in real runs: the policy is asked, the answers are kept, and nothing is asked twice."""

import json
from pathlib import Path

import pytest

from integration_runs import IN_PROCESS, Run
from turnwise.config.errors import ConfigError
from turnwise.reward.information_gain import InformationGainReward
from turnwise.tracker.bundle import bundle_path, bundle_steps, read_groups

OVERRIDES = (*IN_PROCESS, "reward=information_gain", "advantage=discounted_normalised", "loss=clipped")


def rows(run_dir: Path) -> list[dict[str, float]]:
    """The metrics without timings."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith(("time/", "throughput/"))}
        for line in lines
    ]


def test_three_steps_leave_what_the_reward_asked_for(run: Run, whole: Run) -> None:
    run_dir = whole(*OVERRIDES)
    metrics = [row for row in rows(run_dir) if "loss/value" in row]
    assert len(metrics) == 3
    assert all(row["reward/information_mean"] != 0 for row in metrics)
    assert bundle_steps(run_dir) == [0, 1, 2]
    for step in bundle_steps(run_dir):
        for scored, _ in read_groups(bundle_path(run_dir, step)):
            for one in scored.group.trajectories:
                assert one.is_excluded or one.gold_logprobs is not None
            assert InformationGainReward()(scored.group) == scored, "the bundle alone gives the same reward"
    assert rows(run(*OVERRIDES)) == rows(run_dir)


def test_other_rewards_ask_nothing(run: Run) -> None:
    run_dir = run(*IN_PROCESS, "trainer.num_steps=1")
    [(scored, _), *_] = read_groups(bundle_path(run_dir, 0))
    assert all(one.gold_logprobs is None for one in scored.group.trajectories)
    with pytest.raises(ValueError, match="has no gold_logprobs"):
        InformationGainReward()(scored.group)


def test_answers_that_do_not_fit_into_the_context_are_known_before_the_first_step(run: Run) -> None:
    with pytest.raises(
        ConfigError, match=r"rollout\.max_tokens=384 and reward\.gold\.max_tokens=400: .* 512 positions"
    ):
        run(*OVERRIDES, "reward.gold.max_tokens=400")
