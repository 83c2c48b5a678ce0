import json
import subprocess
import sys
from typing import Any

import psutil
import pytest

from turnwise.tracker.files import read_metrics
from turnwise.tracker.wandb import Wandb, WandbMode, resolve_mode

LOGGED = [
    ({"eval/arithmetic/accuracy": 0.3125}, 0),
    ({"rollout/accuracy": 1 / 3, "reward/turn_mean": -0.1, "tool/ok": 1.0, "loss/value": -1.2345678901234567e-9}, 0),
    ({"rollout/accuracy": 0.1 + 0.2, "throughput/sampled_tokens_per_s": 12345.678}, 1),
]


def records(path) -> list[dict[str, Any]]:
    """What a file of wandb's holds."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in text.splitlines()]


def history(run_dir) -> list[tuple[str, dict[int, dict[str, float]]]]:
    """Run id and figures by step of each wandb run in the folder, oldest first, from wandb's own files."""
    found = []
    for path in sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb")):
        found_here = records(path)
        (run_id,) = {record["run"]["run_id"] for record in found_here if record["type"] == "run"}
        items = [record["history"] for record in found_here if record["type"] == "history"]
        steps = {item["step"].get("num", 0): item["item"] for item in items}
        found.append((run_id, {n: {k: v for k, v in item.items() if k[0] != "_"} for n, item in steps.items()}))
    return found


@pytest.fixture
def _no_login(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("_no_login")
def test_offline_history_reads_back_and_a_resumed_run_keeps_its_id(tmp_path, capfd):
    settings = Wandb(project="turnwise-test")
    tracker = settings.start(tmp_path, first_step=0, label="gtpo", config={"seed": 3, "reward": {"shaping": True}})
    for metrics, step in LOGGED:
        tracker.log(metrics, step)
    tracker.log_groups([], [], [], 0)
    tracker.close()
    tracker.close()
    tracker = settings.start(tmp_path, first_step=2, label="gtpo", config={"seed": 3})
    tracker.log({"rollout/accuracy": 0.75}, 2)
    tracker.close()

    (first_id, first), (second_id, second) = history(tmp_path)
    assert first == {0: {**LOGGED[0][0], **LOGGED[1][0]}, 1: LOGGED[2][0]}
    assert second == {2: {"rollout/accuracy": 0.75}}
    assert first_id == second_id == (tmp_path / "wandb" / "run_id").read_text().strip()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4  # the run's own files are there as well
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_disabled_leaves_the_files_alone(tmp_path):
    tracker = Wandb(mode=WandbMode.disabled, save_groups_every=0).start(tmp_path, first_step=0, label="x", config={})
    tracker.log({"a/x": 1.0}, 0)
    tracker.log_groups([], [], [], 0)
    tracker.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["groups", "metrics.jsonl"]
    assert list((tmp_path / "groups").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused_before_the_runs_files_are_touched(tmp_path):
    (tmp_path / "wandb").write_text("a file where wandb wants its folder")
    with pytest.raises(ValueError, match=r"tracker=wandb cannot start: .*File exists: .*/wandb"):
        Wandb(mode=WandbMode.offline).start(tmp_path, first_step=0, label="x", config={})
    assert [path.name for path in tmp_path.iterdir()] == ["wandb"]


@pytest.mark.usefixtures("_no_login")
@pytest.mark.parametrize(("end", "code"), [(None, 0), (ValueError("x"), 1), (KeyboardInterrupt(), 0)])
def test_a_run_that_fails_says_so(tmp_path, end, code):
    tracker = Wandb().start(tmp_path, first_step=0, label="gtpo", config={})
    try:
        if end:
            raise end
        tracker.close()
    except BaseException:
        tracker.close()
    (path,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert [record["exit"].get("exit_code", 0) for record in records(path) if record["type"] == "exit"] == [code]


@pytest.mark.usefixtures("_no_login")
def test_when_wandbs_process_is_killed_the_run_goes_on_and_the_next_has_another(tmp_path, caplog):
    tracker = Wandb().start(tmp_path / "one", first_step=0, label="gtpo", config={})
    tracker.log({"a/x": 0.0}, 0)
    (service,) = (child for child in psutil.Process().children() if child.name().startswith("wandb-core"))
    service.kill()
    service.wait()
    for step in range(1, 4):
        tracker.log({"a/x": float(step)}, step)
    tracker.close()
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("turnwise")]
    assert warning.startswith("warning: tracker=wandb is lost; the run goes on without it (Connection")
    assert [row["step"] for row in read_metrics(tmp_path / "one")] == [0, 1, 2, 3]

    tracker = Wandb().start(tmp_path / "two", first_step=0, label="gtpo", config={})
    tracker.log({"a/x": 0.5}, 0)
    tracker.close()
    ((_, figures),) = history(tmp_path / "two")
    assert figures == {0: {"a/x": 0.5}}


@pytest.mark.usefixtures("_no_login")
def test_auto_follows_the_login(monkeypatch, tmp_path):
    assert resolve_mode(WandbMode.auto) is WandbMode.offline
    (tmp_path / "netrc").write_text("machine example.org login user password secret\n")
    assert resolve_mode(WandbMode.auto) is WandbMode.offline
    monkeypatch.setenv("WANDB_BASE_URL", "https://example.org")
    assert resolve_mode(WandbMode.auto) is WandbMode.online
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert resolve_mode(WandbMode.auto) is WandbMode.online


@pytest.mark.usefixtures("_no_login")
def test_auto_follows_wandbs_own_variable_and_an_explicit_mode_does_not(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode(WandbMode.auto) is WandbMode.disabled
    assert resolve_mode(WandbMode.offline) is WandbMode.offline
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    with pytest.raises(ValueError, match="WANDB_MODE=dryrun: expected online, offline or disabled"):
        resolve_mode(WandbMode.auto)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"project is empty"):
        Wandb(project="")
    with pytest.raises(ValueError, match=r"save_groups_every=-2: expected >= 0"):
        Wandb(save_groups_every=-2)
    with pytest.raises(ValueError, match=r"finish_timeout_s=0: expected >= 1"):
        Wandb(finish_timeout_s=0)
