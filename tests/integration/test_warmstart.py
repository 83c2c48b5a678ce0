"""Warm starts of the tiny policy: from a file, from what it gets right itself, and what stops them at once."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from integration_runs import Run, lines
from turnwise.config.errors import ConfigError
from turnwise.model.causal_lm import PACKAGE_WEIGHTS
from turnwise.report.summary import read_summary
from turnwise.tracker.bundle import bundle_path
from turnwise.warmstart.imitation import NLL, TRAIN_NLL

ALL_OF_THEM = ("rollout.num_problems=4", "evaluation.num_problems=8")
TRANSCRIPTS = ("mode=warmstart", "warmstart.source=transcripts", "warmstart.batch_size=4")
OWN = ("mode=warmstart", "warmstart.source=self", "warmstart.num_problems=8", "warmstart.learning_rate=3e-4")


def written(path: Path, count: int = 12) -> Path:
    """Sums that are computed with Python, in words that the tiny policy does not use."""
    rows = []
    for n in range(count):
        said = [
            ("user", f"Add {n} and {n + 3}."),
            ("assistant", f"I ask Python.\n```python\nprint({n} + {n + 3})\n```"),
            ("tool", str(2 * n + 3)),
            ("assistant", f"So it is \\boxed{{{2 * n + 3}}}."),
        ]
        rows.append({"messages": [{"role": role, "content": content} for role, content in said]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def held_out(run_dir: Path) -> list[float]:
    return [line[NLL] for line in lines(run_dir) if NLL in line]


def test_transcripts_are_learnt_and_the_model_evaluates(run: Run, tmp_path: Path):
    path = written(tmp_path / "sums.jsonl")
    learning = ("warmstart.num_epochs=4", "warmstart.learning_rate=2e-3")
    run_dir = run(*TRANSCRIPTS, *learning, f"warmstart.path={path}", folder="warm")
    # 12 transcripts, 1 of them held out, 11 in 3 batches, four epochs: scored before each of them and at the end
    figures = held_out(run_dir)
    assert len(figures) == 5
    assert figures[-1] < figures[0] / 2
    losses = [line["loss/value"] for line in lines(run_dir) if "loss/value" in line]
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 2
    assert read_summary(run_dir).outcome == "finished"
    assert "Held-out loss" in (run_dir / "report.html").read_text()
    evaluated = run("mode=evaluate", f"model.path={run_dir / 'model'}", *ALL_OF_THEM, folder="evaluated")
    assert 0 <= lines(evaluated)[0]["eval/arithmetic/accuracy"] <= 1
    left, right = weights(run_dir / "model"), weights(run_dir / "checkpoints/last")
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_an_adapter_learns_them_too_one_step_a_batch(run: Run, tmp_path: Path):
    pytest.importorskip("peft")
    path = written(tmp_path / "sums.jsonl")
    learning = (
        "warmstart.num_steps=6",
        "warmstart.learning_rate=2e-2",
        "model.lora_rank=4",
        "trainer.num_minibatches=2",
    )
    run_dir = run(*TRANSCRIPTS, *learning, f"warmstart.path={path}")
    assert held_out(run_dir)[-1] < held_out(run_dir)[0]
    assert [line["update/num_steps"] for line in lines(run_dir) if "loss/value" in line] == [1] * 6
    assert weights(run_dir / "model").keys() == weights(PACKAGE_WEIGHTS / "tiny").keys()


def test_what_it_gets_right_itself_is_learnt_and_can_be_read_as_transcripts(run: Run, whole: Run):
    own = whole(*OWN)
    said = own / "transcripts.jsonl"
    (last,) = (line for line in lines(own) if line["step"] == 2 and "warmstart/num_kept" in line)
    assert last["warmstart/num_kept"] == len(said.read_text().splitlines()) > 4
    assert all(bundle_path(own, wave).exists() for wave in range(3))  # 8 problems in waves of 3
    trained = [line["step"] for line in lines(own) if "loss/value" in line]
    assert trained == list(range(3, 3 + len(trained)))
    learnt = [line[TRAIN_NLL] for line in lines(own) if TRAIN_NLL in line]
    assert learnt[-1] < learnt[0]
    evaluated = run("mode=evaluate", f"model.path={own / 'model'}", *ALL_OF_THEM, folder="evaluated")
    assert 0 <= lines(evaluated)[0]["eval/arithmetic/accuracy"] <= 1
    read = run(*TRANSCRIPTS, f"warmstart.path={said}", "warmstart.num_steps=1", folder="read")
    assert sum(line.get("loss/num_sequences", 0) for line in lines(read)) > 0


def test_a_second_start_samples_nothing_anew_and_ends_with_the_same_weights(run: Run, whole: Run, tmp_path: Path):
    own = whole(*OWN)
    parts = tmp_path / "parts"
    shutil.copytree(own, parts)
    shutil.rmtree(parts / "checkpoints")
    shutil.rmtree(parts / "model")
    bundle_path(parts, 2).unlink()  # stopped in the last wave
    again = run(*OWN, folder="parts")
    assert lines(again) == lines(own)
    left, right = weights(own / "model"), weights(again / "model")
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_nothing_right_is_an_error_that_says_where_to_look(run: Run, tmp_path: Path):
    problems = tmp_path / "riddles.jsonl"
    rows = [{"id": str(n), "problem": f"Riddle {n}?", "answer": "a raven"} for n in range(30)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match="not one trajectory of 6 problems is right and well-formed") as caught:
        run(*OWN, "task=jsonl", f"task.path={problems}", "warmstart.num_problems=6")
    assert str(tmp_path / "run/report.html") in str(caught.value)
    summary = read_summary(tmp_path / "run")
    assert (summary.outcome, summary.total_steps) == ("failed", 2)
    assert (tmp_path / "run/report.html").exists()
    assert not (tmp_path / "run/model").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), r"warmstart.source=transcripts needs a file: give warmstart.path=FILE"),
        (("warmstart.path=/absent.jsonl",), r"warmstart.path=/absent.jsonl: no such file"),
        (("warmstart.path={file}", "warmstart.max_tokens=20"), r"sums.jsonl:1: \d+ tokens, the limit .* is 20; of 12"),
        (("warmstart.path={file}", "rollout.max_tokens=20"), r"sums.jsonl:1: \d+ tokens, the limit .* is 20; of 12"),
        (("warmstart.path={file}", "warmstart.out={model}", "model.path={model}"), "is model.path too"),
    ],
)
def test_transcripts_that_cannot_be_learnt_are_known_before_the_model_loads(
    run: Run, tmp_path: Path, overrides: tuple[str, ...], message: str
):
    file, model = written(tmp_path / "sums.jsonl"), tmp_path / "tiny"
    shutil.copytree(PACKAGE_WEIGHTS / "tiny", model)
    (model / "model.safetensors").unlink()  # whoever loads it fails with another message
    filled = [one.format(file=file, model=model) for one in (f"model.path={model}", *overrides)]
    with pytest.raises(ConfigError, match=message):
        run(*TRANSCRIPTS, *filled)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_transcript_longer_than_the_context_is_refused(run: Run, tmp_path: Path):
    path = tmp_path / "long.jsonl"
    said = [{"role": "user", "content": "?" * 600}, {"role": "assistant", "content": "!"}]
    path.write_text(json.dumps({"messages": said}))
    with pytest.raises(ConfigError, match=r"warmstart.max_tokens=\d+: model.path=package:tiny has 512 positions"):
        run(*TRANSCRIPTS, f"warmstart.path={path}", "warmstart.max_tokens=2000")
