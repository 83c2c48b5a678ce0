"""Mistakes that only a file or a model tells: known before the first step, in one line, with nothing left behind."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from integration_runs import Run
from turnwise.config.errors import ConfigError
from turnwise.config.parts import Components
from turnwise.config.wiring import compute_dtype
from turnwise.model.causal_lm import PACKAGE_WEIGHTS


def problems(path: Path, count: int) -> Path:
    rows = [{"id": str(n), "problem": f"Compute {n} + 1.", "answer": str(n + 1)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("rollout.num_problems=200",), "a batch of 200 problems is more than the"),
        (("task.eval_fraction=1",), "more than the 0 of the train split"),
        (("rollout.max_tokens=1000",), r"rollout.max_tokens=1000: model.path=package:tiny has 512 positions"),
        (("mode=evaluate", "rollout.max_tokens=1000"), "has 512 positions"),
        (("rollout.max_tokens=5",), r"rollout.max_tokens=5: the shortest of 9 prompts has 11 tokens"),
        (("mode=evaluate", "rollout.max_tokens=5"), r"rollout.max_tokens=5: the shortest of 6 prompts"),
    ],
)
def test_what_a_run_cannot_do_is_known_before_it_begins(run: Run, tmp_path: Path, overrides, message: str):
    path = problems(tmp_path / "small.jsonl", 60)
    with pytest.raises(ConfigError, match=message):
        run("task=jsonl", f"task.path={path}", *overrides)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.json"]


@pytest.mark.parametrize("overrides", [(), ("mode=warmstart",), ("mode=warmstart", "warmstart.source=self")])
def test_nothing_is_trained_without_a_tool(run: Run, overrides: tuple[str, ...]):
    with pytest.raises(ConfigError, match=r"env=no_tool: a first turn without a call is a format error"):
        run("env=no_tool", *overrides)


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_a_model_folder_without_weights(run: Run, tmp_path: Path, mode: str):
    model = tmp_path / "model"
    shutil.copytree(PACKAGE_WEIGHTS / "tiny", model)
    (model / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no model can be loaded"):
        run(f"mode={mode}", f"model.path={model}")


def test_a_model_whose_weights_are_torn(run: Run, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(PACKAGE_WEIGHTS / "tiny", model)
    (model / "model.safetensors").write_bytes((PACKAGE_WEIGHTS / "tiny/model.safetensors").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="no model can be loaded"):
        run(f"model.path={model}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("warmstart.learning_rate=-1", r"warmstart\.learning_rate=-1"),
        ("warmstart.vocab_size=10", r"warmstart\.vocab_size=10"),
        ("warmstart.batch_size=99999", "warmstart.batch_size=99999"),
        ("warmstart.out=/dev/null/model", "/dev/null/model"),
    ],
)
def test_a_warm_start_out_of_range(run: Run, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        run("mode=warmstart", override)


def test_a_task_without_demonstrations_has_no_warm_start(run: Run):
    with pytest.raises(ConfigError, match=r"warmstart.source=demonstrations: this task has no demonstrations"):
        run("mode=warmstart", "task=jsonl", "task.path=problems.jsonl")


def test_half_precision_is_the_default_where_flash_attention_can_use_it(
    components: Components, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    assert compute_dtype(components, torch.device("cuda")) is torch.bfloat16
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: False)
    assert compute_dtype(components, torch.device("cuda")) is torch.float32
    assert compute_dtype(components, torch.device("cpu")) is torch.float32
