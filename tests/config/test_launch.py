"""Jobs of a multirun: one that cannot go on leaves word of it and does not keep the others from their work."""

import json
import pickle
from pathlib import Path

from turnwise.config.errors import ConfigError, JobEnded
from turnwise.config.launch import alone_in
from turnwise.config.parts import Components
from turnwise.config.stopping import STOP_FILE
from turnwise.engine.vllm.backend import NoVLLMLeft
from turnwise.env.breaker import BrokenToolError
from turnwise.report.summary import Outcome, read_summary

SWEEP = ("-m", "seed=0,1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=seed${seed}")


def refuse_seed_1(components: Components, run_dir: Path) -> None:
    if components.seed == 1:
        raise ConfigError("task.path='problems.jsonl': no such file")
    (run_dir / "trained").touch()


def test_a_mode_that_refuses_one_job_leaves_the_others_alone(start, tmp_path: Path) -> None:
    ended = start(*SWEEP, mode=refuse_seed_1)
    assert ended.code == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: gtpo")
    assert last.endswith("task.path='problems.jsonl': no such file")
    assert [(tmp_path / f"sweep/seed{seed}/trained").exists() for seed in range(3)] == [True, False, True]
    summary = read_summary(tmp_path / "sweep/seed1")
    assert (summary.outcome, summary.why) == (Outcome.failed, "task.path='problems.jsonl': no such file")

    assert start(*SWEEP, mode=lambda components, run_dir: None).code == 0, "its folder can be used again"
    assert len(json.loads((tmp_path / "sweep/seed1/config.json").read_text())["starts"]) == 2


def test_a_single_run_that_the_mode_refuses_leaves_nothing(start, tmp_path: Path) -> None:
    ended = start("seed=1", "hydra.run.dir=run", mode=refuse_seed_1)
    assert (ended.code, ended.stderr) == (2, "error: task.path='problems.jsonl': no such file\n")
    assert not (tmp_path / "run").exists()


def lose_servers(components: Components, run_dir: Path) -> None:
    raise NoVLLMLeft("no vLLM is left to sample with: http://a:1: it cannot be reached")


def test_servers_that_are_lost_end_a_run_with_one_line(start, tmp_path: Path) -> None:
    ended = start("seed=1", "hydra.run.dir=run", mode=lose_servers)
    line = (
        "error: no vLLM is left to sample with: http://a:1: it cannot be reached; once it works, the same command "
        "with this hydra.run.dir goes on\n"
    )
    assert (ended.code, ended.stderr) == (1, line)


def test_servers_that_are_lost_end_each_job_of_a_multirun(start) -> None:
    ended = start(*SWEEP, mode=lose_servers)
    assert ended.code == 1
    assert (
        sum(line.startswith("error: ") and "http://a:1: it cannot" in line for line in ended.stderr.splitlines()) >= 1
    )


def break_in_seed_1(components: Components, run_dir: Path) -> None:
    (run_dir / "checkpoints").mkdir()
    if components.seed == 1:
        raise BrokenToolError("the sandbox failed: no route")


def test_a_tool_that_breaks_ends_a_run_with_one_line_and_keeps_its_folder(start, tmp_path: Path) -> None:
    ended = start("seed=1", "hydra.run.dir=run", mode=break_in_seed_1)
    line = "error: the sandbox failed: no route; once it works, the same command with this hydra.run.dir goes on\n"
    assert (ended.code, ended.stderr) == (1, line)
    assert (tmp_path / "run/checkpoints").exists()


def test_a_tool_that_breaks_in_one_job_leaves_the_others_alone(start, tmp_path: Path) -> None:
    ended = start(*SWEEP, mode=break_in_seed_1)
    assert ended.code == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: gtpo")
    assert last.endswith(": the sandbox failed: no route")
    assert all((tmp_path / f"sweep/seed{seed}/checkpoints").exists() for seed in range(3))


def test_the_stop_file_ends_every_job_that_is_to_come(start, tmp_path: Path, monkeypatch) -> None:
    stop_file = tmp_path / "stop"
    monkeypatch.setenv(STOP_FILE, str(stop_file))

    def told_to_stop_in_seed_1(components: Components, run_dir: Path) -> None:
        (run_dir / "trained").touch()
        if components.seed == 1:
            stop_file.touch()
            raise SystemExit(130)  # as a run ends that has saved

    ended = start(*SWEEP, mode=told_to_stop_in_seed_1)
    assert ended.code == 130
    assert ended.stderr.splitlines()[-1] == "error: stopped; the same command goes on from here"
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["multirun.yaml", "seed0", "seed1"]


def test_ctrl_c_ends_the_whole_multirun_at_once(start, tmp_path: Path) -> None:
    def interrupted(components: Components, run_dir: Path) -> None:
        (run_dir / "trained").touch()
        raise SystemExit(130)

    assert start(*SWEEP, mode=interrupted).code == 130
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["multirun.yaml", "seed0"]


def test_the_end_of_a_job_comes_back_from_another_process() -> None:
    end = pickle.loads(pickle.dumps(JobEnded("no such file", 2)))
    assert (end.text, end.exit_code) == ("no such file", 2)


def test_a_folder_is_for_one_process(start, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with alone_in(folder):
        ended = start(f"hydra.run.dir={folder}")
        assert folder.is_dir(), "the other one is about to write there"
    assert ended.code == 2
    assert "another process works in this folder; wait for it, end it or name another" in ended.stderr
    assert start(f"hydra.run.dir={folder}").code == 0
