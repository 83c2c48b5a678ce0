"""`mode=rescore` on the trajectories of a real run: what it repeats, what it changes, and what it refuses."""

import gzip
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration_runs import Run
from turnwise.config.errors import ConfigError
from turnwise.report.summary import read_summary
from turnwise.tracker.bundle import bundle_path, read_groups


def lines(run_dir: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines())


@pytest.fixture
def trained(whole: Run, tmp_path: Path) -> Path:
    """A copy of the one run that all of them rescore, which a test may damage."""
    run_dir = whole("reward.shaping=true", "trainer.num_steps=2")
    return Path(shutil.copytree(run_dir, tmp_path / "trained", symlinks=True))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_same_configuration_changes_nothing(run: Run, trained: Path, num_workers: int):
    again = run(
        *("mode=rescore", f"mode.path={trained}", "reward.shaping=true", "mode.write_groups=true"),
        f"mode.num_workers={num_workers}",
        folder="again",
    )
    steps = [line for line in lines(trained) if "loss/value" in line]
    for step, (line, before) in enumerate(zip(lines(again), steps, strict=True)):
        changed = {name: value for name, value in line.items() if name.startswith("rescore/")}
        signals = {changed.pop("rescore/zero_groups"), changed.pop("rescore/zero_groups_stored")}
        assert signals == {before["advantage/zero_groups"]}
        assert changed.pop("rescore/rank_correlation") in (1, None), "None where no advantage differs from another"
        assert set(changed.values()) == {0}
        diagnosed = {name: value for name, value in line.items() if name in before}
        assert diagnosed == {name: before[name] for name in diagnosed}
        assert "advantage/turn_index_bias" in diagnosed
        assert read_groups(bundle_path(again, step)) == read_groups(bundle_path(trained, step))
    assert read_summary(again).outcome == "finished"


def test_another_estimator_gives_its_own_numbers(run: Run, trained: Path):
    rescored = run(
        "mode=rescore", f"mode.path={trained}", "algo=grpo", "advantage.eps=0", "mode.write_groups=true", folder="grpo"
    )
    for step in range(2):
        for scored, advantages in read_groups(bundle_path(rescored, step)):
            rewards = [sum(row) for row in scored.turn_rewards_GK]
            mean = sum(rewards) / len(rewards)
            std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))
            for reward, row in zip(rewards, advantages, strict=True):
                assert row == pytest.approx([(reward - mean) / std if std else 0.0] * len(row))
    assert any(line["rescore/abs_change"] > 0.01 for line in lines(rescored))


def test_by_default_only_figures_are_left(run: Run, trained: Path):
    rescored = run("mode=rescore", f"mode.path={trained}", "algo=rloo", folder="rescored")
    assert list((rescored / "groups").iterdir()) == []
    assert [line["step"] for line in lines(rescored)] == [0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "mode.path=.*nowhere: no such folder"),
        (lambda folder: folder / "trained" / "checkpoints", r"no groups/step_<n>\.jsonl\.gz in it"),
        (lambda folder: folder / "rescored", "is hydra.run.dir too"),
    ],
)
def test_a_wrong_folder_is_named(run: Run, trained: Path, tmp_path: Path, make, message: str):
    with pytest.raises(ConfigError, match=message):
        run("mode=rescore", f"mode.path={make(tmp_path)}", folder="rescored")


def test_a_torn_bundle_is_named(run: Run, trained: Path):
    path = bundle_path(trained, 1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=re.escape("step_1.jsonl.gz") + ".*not a whole trajectory bundle"):
        run("mode=rescore", f"mode.path={trained}", folder="rescored")


def test_a_bundle_of_another_format_is_named(run: Run, trained: Path):
    path = bundle_path(trained, 0)
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for row in rows:
        del row["correct"]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    with pytest.raises(ConfigError, match=r"step_0\.jsonl\.gz, line 1: .*KeyError\('correct'\)"):
        run("mode=rescore", f"mode.path={trained}", folder="rescored")


def test_a_reward_that_needs_more_than_was_kept_says_so(run: Run, trained: Path):
    with pytest.raises(ConfigError, match="has no gold_logprobs"):
        run("mode=rescore", f"mode.path={trained}", "algo=igpo", folder="rescored")


def test_an_empty_bundle_is_no_step(run: Run, trained: Path):
    bundle_path(trained, 1).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"step_1\.jsonl\.gz holds no group"):
        run("mode=rescore", f"mode.path={trained}", folder="rescored")


def test_what_the_first_bundle_tells_leaves_nothing_behind(run: Run, trained: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="has no gold_logprobs"):
        run("mode=rescore", f"mode.path={trained}", "algo=igpo", folder="rescored")
    assert [path.name for path in (tmp_path / "rescored").iterdir()] == ["config.json"]


def test_other_settings_of_the_run_are_named(run: Run, trained: Path, capsys: pytest.CaptureFixture[str]):
    run("mode=rescore", f"mode.path={trained}", "advantage.discount=0.5", folder="rescored")
    shown = capsys.readouterr().out
    assert "reward.shaping: True there, False here" in shown
    assert "advantage.discount: 0.9 there, 0.5 here" in shown
    assert "there, None here" not in shown


def test_a_penalty_on_length_needs_the_limit_of_the_run(run: Run, trained: Path):
    overrides = ("mode=rescore", f"mode.path={trained}", "algo=dapo")
    with pytest.raises(ConfigError, match=r"were limited to 224 tokens.*give rollout\.max_tokens=224"):
        run(*overrides, "rollout.max_tokens=300", folder="rescored")
    run(*overrides, folder="same")
