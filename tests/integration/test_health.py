"""Runs that fall ill: they warn, stop, go back and take another way, and write down where they are stuck."""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from integration_runs import SHARDED, SMALL, Run, assert_same_run, lines, links
from killed_runs import Starter
from turnwise.config import training
from turnwise.health import Collapsed
from turnwise.model.policy import TorchPolicy
from turnwise.protocols import PolicyLoss, Update
from turnwise.report.summary import Outcome, read_summary
from turnwise.rollout.episode import Episode
from turnwise.rotation import found_steps
from turnwise.token_batch import TokenBatch
from turnwise.tracker.bundle import bundle_steps
from turnwise.tracker.health import read_alarms
from turnwise.types import Completion
from turnwise.watchdog import Stuck


@pytest.fixture(scope="module")
def settings(whole: Run) -> tuple[str, ...]:
    """A run whose third step is ill, unless other samples or a smaller step lead it another way."""
    first, second, third = (row["loss/entropy"] for row in lines(whole()) if "loss/entropy" in row)
    assert third < min(first, second)
    smallest = f"health.entropy.min={third + 1e-6}"
    ways = ("health.entropy.action=roll_back", "health.entropy.patience=1", "health.max_roll_backs=50")
    return (*SMALL, *ways, smallest, "trainer.keep_checkpoints=0")


@pytest.fixture(scope="module")
def recovered(settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory, start: Starter) -> Path:
    """That run to its end."""
    folder = tmp_path_factory.mktemp("health") / "recovered"
    ended = start(settings, folder)
    assert ended.wait() == 0, ended.output.read_text()
    return folder


def test_a_warning_changes_nothing_but_is_told(run: Run, whole: Run, capsys: pytest.CaptureFixture[str]):
    well = whole()
    capsys.readouterr()
    ill = run("health.tool_use.min=1.1", "health.tool_use.patience=2", folder="ill")
    assert lines(ill) == lines(well)
    (alarm,) = read_alarms(ill)
    assert (alarm.monitor, alarm.since, alarm.step) == ("tool_use", 0, 1)
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: health.tool_use: rollout/tool_use is" in printed
    assert printed.count("in step 1, counted from 0, as since step 0 (min=1.1)") == 2, "when it happens, and at the end"
    page = (ill / "report.html").read_text()
    assert "Out of bounds" in page
    assert "health.tool_use" in page
    assert "Out of bounds" not in (well / "report.html").read_text()
    assert read_summary(ill).outcome is Outcome.finished


def test_a_stop_ends_the_run_as_failed_and_its_checkpoints_stay(start: Starter, tmp_path: Path):
    folder = tmp_path / "run"
    ended = start((*SMALL, "health.length.max=1", "health.length.patience=2", "health.length.action=stop"), folder)
    assert ended.wait() == 1
    printed = ended.output.read_text()
    assert "Traceback" not in printed
    assert "error: health.length: rollout/num_sampled_tokens is " in printed
    summary = read_summary(folder)
    assert (summary.outcome, summary.total_steps) == (Outcome.failed, 2)
    assert (folder / "checkpoints" / "last").resolve().name == "step_1", "step 2 was not saved"
    # Who thinks that this is how it should be says so, and goes on.
    assert start((*SMALL, "health.length.action=off"), folder).wait() == 0
    assert read_summary(folder).outcome is Outcome.finished


def test_a_run_goes_back_and_takes_another_way(settings: tuple[str, ...], recovered: Path):
    first, *others = read_alarms(recovered)
    assert (first.step, first.since, first.to) == (2, 2, 1), "to the newest checkpoint from before the trouble"
    smallest = next(float(one.partition("=")[2]) for one in settings if one.startswith("health.entropy.min"))
    rows = [row for row in lines(recovered) if "loss/entropy" in row]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all(row["loss/entropy"] >= smallest for row in rows), "what is left is the way that went well"
    learning_rates = [row["update/learning_rate"] for row in rows]
    assert learning_rates == pytest.approx([2e-4, *[2e-4 * 0.5 ** (1 + len(others))] * 2])
    given_up = recovered / "rolled_back" / "1"
    assert bundle_steps(given_up) == [1, 2]
    assert [row["step"] for row in lines(given_up) if row.get("loss/entropy", 1) < smallest] == [2]
    assert read_summary(recovered).outcome is Outcome.finished


def test_killed_behind_its_way_back_it_goes_on_as_if_it_had_not_been(
    settings: tuple[str, ...], recovered: Path, start: Starter, tmp_path: Path
):
    folder = tmp_path / "killed"
    run = start(settings, folder)
    wait_for(lambda: (folder / "health.jsonl").exists())
    assert run.kill() == -signal.SIGKILL
    assert start(settings, folder).wait() == 0
    assert list(read_alarms(folder)) == list(read_alarms(recovered))
    assert_same_run(recovered, folder)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["back", "restore", "evidence", "alarm"])
def test_killed_within_its_way_back_it_comes_to_the_same_end(
    settings: tuple[str, ...], recovered: Path, start: Starter, tmp_path: Path, moment: str
):
    folder = tmp_path / "killed"
    run = start(settings, folder, hold=(moment, 1))  # a first start takes nothing back, nor restores it, before
    run.wait_until_held()
    assert run.kill() == -signal.SIGKILL
    assert not (folder / "health.jsonl").exists(), "the alarm is to be the last that is written"
    again = start(settings, folder)
    assert again.wait() == 0, again.output.read_text()
    assert list(read_alarms(folder)) == list(read_alarms(recovered))
    assert_same_run(recovered, folder)
    assert links(folder) == links(recovered)
    assert given_up(folder) == given_up(recovered)


@pytest.mark.slow
def test_two_ranks_killed_within_their_way_back_come_to_the_same_end(start: Starter, tmp_path: Path):
    settings = (*SHARDED, "trainer.num_steps=3", "trainer.keep_checkpoints=0")

    def whole(folder: Path, settings: tuple[str, ...]) -> Path:
        ranks = start.ranks(2, settings, folder)
        assert [one.wait() for one in ranks] == [0, 0], ranks[0].output.read_text()
        return folder

    entropies = [row["loss/entropy"] for row in lines(whole(tmp_path / "well", settings)) if "loss/entropy" in row]
    ill = entropies.index(max(entropies))
    assert ill > 0, "there is a step before it to go back to"
    ways = ("health.entropy.action=roll_back", "health.entropy.patience=1", "health.max_roll_backs=50")
    settings = (*settings, *ways, f"health.entropy.max={max(entropies) - 1e-6}")
    recovered = whole(tmp_path / "recovered", settings)
    assert next(read_alarms(recovered)).to == ill - 1, "to the newest checkpoint from before the trouble"
    for moment in ("back", "evidence", "alarm"):
        folder = tmp_path / moment
        ranks = start.ranks(2, settings, folder, hold={0: (moment, 1)})
        ranks[0].wait_until_held()
        for one in ranks:
            one.send(signal.SIGKILL)
        assert [one.wait() for one in ranks] == [-signal.SIGKILL] * 2
        assert not (folder / "health.jsonl").exists(), "the alarm is to be the last that is written"
        whole(folder, settings)
        assert list(read_alarms(folder)) == list(read_alarms(recovered))
        assert_same_run(recovered, folder)
        assert links(folder) == links(recovered)
        assert given_up(folder) == given_up(recovered)


def given_up(run_dir: Path) -> dict[str, tuple[list[dict[str, Any]], list[int]]]:
    """The figures that a run gave up and the steps of its trajectories, time by time."""
    return {path.name: (lines(path), bundle_steps(path)) for path in (run_dir / "rolled_back").iterdir()}


@pytest.mark.parametrize("lost", [("step_1",), ("step_0", "step_1")])
def test_nothing_is_given_up_before_a_whole_checkpoint_is_found(
    settings: tuple[str, ...], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: tuple[str, ...]
):
    checkpoints, go_back, names = tmp_path / "run" / "checkpoints", training.go_back, list(lost)

    def go_back_to_what_is_damaged(*arguments: Any) -> int:
        while names:
            (checkpoints / names.pop() / "rng.pt").write_bytes(b"torn")
        return go_back(*arguments)

    monkeypatch.setattr(training, "go_back", go_back_to_what_is_damaged)
    refused = pytest.raises(Collapsed, match=r"there is no checkpoint from before; .*step_1: .*; .*step_0: ")
    with nullcontext() if len(lost) == 1 else refused:
        run(*settings[len(SMALL) :])
    first, *_ = read_alarms(tmp_path / "run")
    if len(lost) == 1:
        assert (first.to, first.action) == (0, "roll_back")
    else:
        assert (first.to, first.action) == (None, "stop")
        assert found_steps(checkpoints) == [0, 1, 2], "the whole one is there"


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (
            (
                "health.entropy.action=roll_back",
                "health.entropy.min=9.0",
                "health.entropy.max_ratio=null",
                "health.max_roll_backs=1",
            ),
            "it did so 1 x already",
        ),
        (("health.not_finite=roll_back", "health.max_roll_backs=1"), "it did so 1 x already"),
    ],
)
def test_who_cannot_go_back_stops(run: Run, overrides: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch):
    if "health.not_finite=roll_back" in overrides:
        monkeypatch.setattr(TorchPolicy, "update", overflows)
    with pytest.raises(Collapsed, match=f"it was to go back, but {why}"):
        run(*overrides, "health.entropy.patience=1", "trainer.keep_checkpoints=0", "trainer.num_steps=1")


@pytest.mark.parametrize(
    "overrides",
    [(), pytest.param(("trainer.max_staleness=1", "loss.correction=truncate"), marks=pytest.mark.slow)],
    ids=["in turn", "ahead"],
)
def test_figures_that_are_not_finite_send_it_back_where_that_is_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
):
    update, calls = TorchPolicy.update, 0

    def overflows_once(policy: TorchPolicy, batch: TokenBatch, loss: PolicyLoss) -> Update:
        nonlocal calls
        calls += 1
        return overflows(policy, batch, loss) if calls == 2 else update(policy, batch, loss)

    monkeypatch.setattr(TorchPolicy, "update", overflows_once)
    folder = run("health.not_finite=roll_back", *overrides)
    assert calls == 4, "three steps, and one that was not taken"
    (alarm,) = read_alarms(folder)
    assert (alarm.monitor, alarm.step, alarm.to) == ("not_finite", 1, 1)
    assert (folder / "failed_batch_step_1.pt").exists()
    assert read_summary(folder).outcome is Outcome.finished


def test_weights_that_are_not_finite_are_given_up_with_their_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch):
    update, calls = TorchPolicy.update, 0

    def ruined(policy: TorchPolicy, batch: TokenBatch, loss: PolicyLoss) -> Update:
        nonlocal calls
        calls += 1
        done = update(policy, batch, loss)
        if calls == 2:
            for tensor in policy.weights().values():
                tensor.fill_(torch.nan)
        return done

    monkeypatch.setattr(TorchPolicy, "update", ruined)
    folder = run("health.not_finite=roll_back", "trainer.keep_checkpoints=0", "trainer.eval_every=100")
    assert [(one.step, one.to) for one in read_alarms(folder)] == [(2, 2), (2, 1)], "step 2 was saved with such weights"
    assert read_summary(folder).outcome is Outcome.finished


def overflows(policy: TorchPolicy, batch: TokenBatch, loss: PolicyLoss) -> Update:
    raise FloatingPointError("the gradient is not finite")


def hang_until(monkeypatch: pytest.MonkeyPatch, is_over: Callable[[], bool]) -> None:
    """Every call of a tool waits for it."""
    advance = Episode.advance

    async def slow(episode: Episode, completion: Completion) -> None:
        while not is_over():
            await asyncio.sleep(0.05)
        await advance(episode, completion)

    monkeypatch.setattr(Episode, "advance", slow)


def test_a_tool_that_hangs_is_written_down(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def found() -> list[str]:
        texts = [path.read_text() for path in (tmp_path / "run").glob("stuck_*.txt")]
        return [text for text in texts if "tool for" in text.partition("\n")[0]]

    hang_until(monkeypatch, lambda: bool(found()))
    folder = run("health.watchdog.timeout_s=1.0", "trainer.num_steps=1", "evaluation.num_problems=2")
    assert "warning: no progress of " in capfd.readouterr().err
    assert "in slow" in found()[0]
    assert read_summary(folder).outcome is Outcome.finished


def test_a_run_that_is_to_stop_for_it_saves_and_fails(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hang_until(monkeypatch, lambda: False)
    with pytest.raises(Stuck, match=r"no progress of .*tool for [\d.]+ s.* stacks are in .*stuck_1\.txt"):
        run("health.watchdog.timeout_s=4.0", "health.watchdog.action=stop", "evaluation.num_problems=2")
    summary = read_summary(tmp_path / "run")
    assert (summary.outcome, summary.why[:5]) == (Outcome.failed, "Stuck")
    assert (tmp_path / "run" / "checkpoints" / "last").exists()


def test_what_does_not_listen_is_ended_from_without(start: Starter, tmp_path: Path):
    folder = tmp_path / "run"
    watchdog = ("health.watchdog.action=stop", "health.watchdog.timeout_s=4.0", "health.watchdog.grace_s=0.5")
    ended = start((*SMALL, *watchdog, "reward.grader._target_=broken_rewards.HangingGrader"), folder)
    assert ended.wait() == 1
    printed = ended.output.read_text()
    assert "no progress of reward for " in printed
    assert "the run did not end by itself" in printed
    assert "grade_all" in (folder / "stuck_1.txt").read_text()
    assert read_summary(folder).outcome is Outcome.failed
    assert (folder / "report.html").exists()


@pytest.mark.slow
def test_two_ranks_that_do_not_listen_end_each_by_itself(start: Starter, tmp_path: Path):
    folder = tmp_path / "run"
    watchdog = ("health.watchdog.action=stop", "health.watchdog.timeout_s=4.0", "health.watchdog.grace_s=0.5")
    ranks = start.ranks(2, (*SHARDED, *watchdog, "reward.grader._target_=broken_rewards.HangingGrader"), folder)
    assert [one.wait() for one in ranks] == [1, 1]
    assert "the run did not end by itself" in "".join(one.output.read_text() for one in ranks)
    assert list(folder.glob("stuck_1_rank*.txt"))
    assert read_summary(folder).outcome is Outcome.failed


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
