"""Whole runs: what they leave behind, that they repeat, and that they go on where they were stopped."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from integration_runs import IN_PROCESS, SMALL, Run, assert_same_run, lines, weights
from killed_runs import Starter
from turnwise.checkpoint import load_batch
from turnwise.loss.clipped import ClippedLoss
from turnwise.report.summary import read_summary, write_summary
from turnwise.tracker.bundle import bundle_path, read_groups
from turnwise.tracker.evaluations import set_folder
from turnwise.types import Isolation, LossOutput, StopReason, ToolStatus

CONTRACT = (
    "rollout/accuracy",
    "rollout/num_turns",
    "reward/turn_mean",
    "reward/shaped_fraction",
    "advantage/zero_groups",
    "loss/value",
    "loss/clip_fraction",
    "loss/entropy",
    "loss/grad_norm",
    "mismatch/kl",
    "time/step_s",
    "time/rollout_s",
    "time/tool_s",
    "time/update_s",
    "time/idle_share",
    "rollout/staleness",
    "throughput/sampled_tokens_per_s",
)
"""Figures that every step logs, beside `tool/<status>` and `stop/<reason>`."""


@pytest.mark.parametrize("preset", ["algo=gtpo", "algo=grpo"])
def test_three_steps_leave_every_artefact(whole: Run, preset: str):
    run_dir = whole(preset, "reward.shaping=true")
    for name in ("config.json", "metrics.jsonl", "summary.json", "report.html", "checkpoints/last/model.safetensors"):
        assert (run_dir / name).stat().st_size > 0, name

    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss/value" in row]
    evaluations = [row["step"] for row in rows if "eval/arithmetic/accuracy" in row]
    assert [row["step"] for row in steps] == [0, 1, 2]
    assert evaluations == [0, 2, 3], "before the first step, every second one, after the last"
    for row in steps:
        assert next(iter(row)) == "step"
        assert [name for name in CONTRACT if name not in row] == []
        assert {f"stop/{reason}" for reason in StopReason} <= row.keys()
        assert sum(row[f"stop/{reason}"] for reason in StopReason) == pytest.approx(1)
        assert sum(row.get(f"tool/{status}", 0) for status in ToolStatus) == pytest.approx(1)
        assert all(math.isfinite(value) for value in row.values())
        assert (row["loss/grad_norm"] > 0) == (row["advantage/zero_groups"] < 1)
        # What was sampled is scored by the trainer as the engine scored it: k3 of float rounding is below 1e-6 nats.
        assert row["mismatch/kl"] < 1e-6

    (start,) = json.loads((run_dir / "config.json").read_text())["starts"]
    assert {row["tool/isolation"] for row in steps} == {Isolation[start["isolation"]].value}
    assert start["isolation"] in ("A", "B")

    summary = read_summary(run_dir)
    assert summary.outcome == "finished"
    assert summary.total_steps == 3
    assert summary.initial is not None
    assert summary.final is not None
    assert (summary.initial.step, summary.final.step) == (0, 3)


def test_groups_hold_what_the_metrics_say(whole: Run):
    run_dir = whole("algo=gtpo", "reward.shaping=true")
    for step, row in enumerate(row for row in lines(run_dir) if "loss/value" in row):
        groups = read_groups(bundle_path(run_dir, step))
        assert [len(scored.group.trajectories) for scored, _ in groups] == [4, 4, 4]
        graded = [correct for scored, _ in groups for correct in scored.correct_G]
        assert row["rollout/accuracy"] == pytest.approx(sum(graded) / 12)
        versions = {turn.policy_version for scored, _ in groups for t in scored.group.trajectories for turn in t.turns}
        assert versions == {step}, "every turn was sampled from the weights of its own step"


def test_groups_hold_how_trainer_and_sampler_agree_on_every_token(whole: Run):
    turns = [
        turn
        for scored, _ in read_groups(bundle_path(whole(), 0))
        for trajectory in scored.group.trajectories
        for turn in trajectory.turns
    ]
    assert turns
    for turn in turns:
        assert turn.trainer_logprobs == pytest.approx(turn.behaviour_logprobs, abs=1e-4)


def test_the_first_step_of_a_warm_up_is_one_at_its_share_of_the_learning_rate(run: Run):
    warmed = run("trainer.num_steps=1", "trainer.learning_rate=4e-4", "trainer.warmup_steps=4", folder="warmed")
    lower = run("trainer.num_steps=1", "trainer.learning_rate=1e-4", folder="lower")
    for one, other in zip(lines(warmed), lines(lower), strict=True):
        assert one == other
        assert one.get("update/learning_rate", 1e-4) == 1e-4
    left, right = weights(warmed), weights(lower)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_same_command_twice_gives_the_same_run(run: Run, whole: Run):
    assert_same_run(run(), whole())


def test_another_seed_gives_another_run(run: Run, whole: Run):
    another = run("seed=1", "trainer.num_steps=1")
    assert lines(another)[:2] != lines(whole())[:2]


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(run: Run, whole: Run, stopped_after: int):
    run(f"trainer.num_steps={stopped_after}")
    assert_same_run(whole(), run())


def test_the_wall_clock_of_a_run_counts_all_its_starts(run: Run):
    run_dir = run(*IN_PROCESS, "trainer.num_steps=1")
    write_summary(run_dir, replace(read_summary(run_dir), wall_s=1000.0))
    assert 1000 < read_summary(run(*IN_PROCESS, "trainer.num_steps=2")).wall_s < 1300


def test_evaluating_a_checkpoint_gives_the_number_that_training_gave(run: Run):
    trained = run("evaluation.num_problems=24")
    model = trained / "checkpoints" / "last"
    evaluated = run("mode=evaluate", f"model.path={model}", "evaluation.num_problems=24", folder="evaluated")
    (figures,) = lines(evaluated)
    final = lines(trained)[-1]
    opinions = {"accuracy_second", "accuracy_math_verify", "disagreement", "unread"}  # only asked for by mode=evaluate
    assert opinions < {key.rpartition("/")[2] for key in figures}
    said = {k: v for k, v in figures.items() if k != "step" and k.rpartition("/")[2] not in opinions}
    assert said == {k: v for k, v in final.items() if k != "step" and "/change" not in k}
    assert said["eval/arithmetic/protocol"] > 0
    kept = [
        read_groups(bundle_path(set_folder(one, "arithmetic"), step)) for one, step in [(trained, 3), (evaluated, 0)]
    ]
    transcripts = [[t.token_ids for scored, _ in groups for t in scored.group.trajectories] for groups in kept]
    assert transcripts[0] == transcripts[1]
    assert len(transcripts[0]) == 24


def test_a_warm_start_repeats_and_gives_a_model_that_evaluates(run: Run):
    small = ("mode=warmstart", "warmstart.num_demonstrations=48", "warmstart.num_steps=2", "warmstart.batch_size=16")
    one, two = (run(*small, folder=folder) / "model" for folder in ("one", "two"))
    left, right = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert (one / "tokenizer.json").read_bytes() == (two / "tokenizer.json").read_bytes()
    evaluated = run("mode=evaluate", f"model.path={one}", "rollout.max_tokens=64", folder="evaluated")
    assert lines(evaluated)[0]["eval/arithmetic/accuracy"] == 0.0, "two steps teach nothing"


def test_every_demonstrated_task_has_a_warm_start(run: Run):
    small = ("mode=warmstart", "warmstart.num_demonstrations=32", "warmstart.num_steps=1", "warmstart.vocab_size=300")
    model = run(*small, "experiment=chain", folder="warm") / "model"
    evaluated = run("mode=evaluate", "experiment=chain", f"model.path={model}", "rollout.max_tokens=64", folder="after")
    assert lines(evaluated)[0]["eval/chain/accuracy"] == 0.0


def test_the_policy_of_the_chains_fails_more_often_the_longer_they_are(run: Run):
    accuracies = []
    for horizon in (2, 8):
        settings = ("mode=evaluate", "experiment=chain", "evaluation.num_problems=96", f"task.horizon={horizon}")
        (figures,) = lines(run(*settings, folder=f"horizon_{horizon}"))
        accuracies.append(figures["eval/chain/accuracy"])
    # 0.64 and 0.09 of 512, the standard error of 96 problems being 0.05 at most.
    assert 0.4 < accuracies[0] < 0.8
    assert 0.0 < accuracies[1] < 0.3


def test_a_checkpoint_is_a_model_for_transformers(whole: Run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = whole() / "checkpoints" / "last"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "gcd of 12 and 18?"}], tokenize=False)
    assert model(**tokenizer(text, return_tensors="pt")).logits.shape[-1] == len(tokenizer)


def test_ctrl_c_saves_leaves_no_process_and_goes_on_exactly(run: Run, whole: Run, start: Starter, tmp_path: Path):
    stopped = tmp_path / "stopped"
    process = start(SMALL, stopped, hold=("sample", 3))  # an evaluation, the first step and now the second one
    process.wait_until_held()
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(60) == 130, process.output.read_text()
    assert "Traceback" not in process.output.read_text()
    assert len(children) >= 2, "the sandbox had processes to leave behind"
    # Killed processes of a killed parent are reaped by init, in its own time.
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert read_summary(stopped).outcome == "stopped"
    assert read_summary(stopped).total_steps == 1
    assert_same_run(whole(), run(folder="stopped"))


def test_nan_in_the_loss_stops_the_run_saves_the_batch_and_leaves_the_checkpoint(
    run: Run, whole: Run, monkeypatch: pytest.MonkeyPatch
):
    run_dir = run("trainer.num_steps=1")
    before = {path: path.read_bytes() for path in (run_dir / "checkpoints").rglob("*") if path.is_file()}

    def of_nothing(_: ClippedLoss, logprobs: Tensor, *__: object) -> LossOutput:
        return LossOutput(loss=logprobs.sum() * math.nan, metrics={})

    message = "step 1: optimiser step 1 of 1 was not taken: the loss of sequences"
    with monkeypatch.context() as patched:
        patched.setattr(ClippedLoss, "__call__", of_nothing)
        with pytest.raises(FloatingPointError, match=message):
            run()
    summary = read_summary(run_dir)
    assert (summary.outcome, summary.total_steps) == ("failed", 1)
    assert "failed_batch_step_1.pt" in summary.why

    batch = load_batch(run_dir / "failed_batch_step_1.pt")
    groups = read_groups(bundle_path(run_dir, 1))
    assert batch.num_sequences == sum(not t.is_excluded for scored, _ in groups for t in scored.group.trajectories)
    after = {path: path.read_bytes() for path in (run_dir / "checkpoints").rglob("*") if path.is_file()}
    assert before == after

    assert_same_run(run(), whole())
