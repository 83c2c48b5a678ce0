"""`mode=doctor`: each check passes on a sound configuration, and fails or warns when the thing it guards is broken."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from forks import forking
from integration_runs import Run
from turnwise.model.causal_lm import PACKAGE_WEIGHTS
from turnwise.preflight import workers


@pytest.fixture
def quick(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The same; the process in which reward and grader are tried is a fork, and need not import torch anew."""
    with forking() as context:
        monkeypatch.setattr(workers, "multiprocessing", SimpleNamespace(get_context=lambda _: context))
        yield run


def verdicts(run_dir: Path) -> dict[str, str]:
    return {one["check"]: one["verdict"] for one in json.loads((run_dir / "doctor.json").read_text())}


def lines(run_dir: Path, check: str) -> str:
    (one,) = [one for one in json.loads((run_dir / "doctor.json").read_text()) if one["check"] == check]
    return "\n".join([*one["lines"], *one["remedies"]])


def failing(run: Run, *overrides: str, tmp_path: Path) -> Path:
    with pytest.raises(SystemExit) as ended:
        run("mode=doctor", *overrides)
    assert ended.value.code == 1
    return tmp_path / "run"


def problems_file(path: Path, *answers: str, what: str = "What is") -> Path:
    rows = [
        {"id": str(index), "problem": f"{what} number {index}?", "answer": answer, "source": "made"}
        for index, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SHAPES_ALONE = "mode.loads_model=false"
LIVE = {
    "model",
    "token in, token out",
    "groups",
    "engine and trainer agree",
    "weights reach the engine",
    "longest update",
}


def test_the_default_configuration_passes(run: Run):
    folder = run("mode=doctor")
    found = verdicts(folder)
    assert set(found.values()) == {"pass"}
    assert "; sampling and an update timed here" in lines(folder, "step time")
    assert set(found) >= LIVE


def test_prompts_that_leave_next_to_no_room_are_warned_of_and_a_budget_beyond_a_step_is_none(quick: Run):
    found = quick("mode=doctor", SHAPES_ALONE, "rollout.max_tokens=40", "trainer.token_budget=10000000")
    assert verdicts(found)["prompts"] == "warn"
    assert " tokens for all turns and what the tool says" in lines(found, "prompts")
    assert verdicts(found)["memory"] == "pass", "a micro-batch holds no more than a step samples"


def test_truncated_sampling_several_steps_and_a_reference_pass(quick: Run):
    folder = quick(
        "mode=doctor",
        "rollout.top_p=0.9",
        "rollout.top_k=50",
        "trainer.num_minibatches=2",
        "trainer.num_epochs=2",
        "loss.kl_weight=0.01",
        "reward=information_gain",
    )
    assert set(verdicts(folder).values()) == {"pass"}
    assert "they are replayed" in lines(folder, "engine and trainer agree")


def test_an_adapter_passes(quick: Run):
    pytest.importorskip("peft")
    folder = quick("mode=doctor", "model.lora_rank=4", "env=calculator", "task=chain", "model=tiny_calculator")
    assert set(verdicts(folder).values()) == {"pass"}
    assert lines(folder, "tool") == "no programs are run"


def test_without_the_model_the_live_checks_are_skipped(quick: Run):
    found = verdicts(quick("mode=doctor", SHAPES_ALONE))
    assert found["live checks"] == "skip"
    assert not LIVE & set(found)


def test_a_model_that_does_not_fit_here_is_not_loaded(quick: Run, tmp_path: Path):
    folder = failing(quick, "trainer.token_budget=100000000", "rollout.group_size=1000000", tmp_path=tmp_path)
    found = verdicts(folder)
    assert (found["memory"], found["live checks"]) == ("fail", "skip")
    assert "would be needed beside this process" in lines(folder, "live checks")
    assert "trainer.token_budget=50000000" in lines(folder, "memory")
    assert "fits" in lines(folder, "memory")


def test_a_device_for_which_nothing_is_small_enough(quick: Run, tmp_path: Path):
    folder = failing(quick, SHAPES_ALONE, "mode.device_gib=1", tmp_path=tmp_path)
    assert "model.lora_rank=16: " in lines(folder, "memory")
    assert "none of these fits" in lines(folder, "memory")


def test_a_tracker_whose_server_is_not_there(quick: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    folder = failing(quick, SHAPES_ALONE, "tracker=wandb", "tracker.mode=online", tmp_path=tmp_path)
    assert verdicts(folder)["tracker"] == "fail"


def test_checkpoints_that_no_disk_holds(quick: Run, tmp_path: Path):
    folder = failing(
        quick, SHAPES_ALONE, "trainer.num_steps=100000000", "trainer.keep_checkpoints=0", tmp_path=tmp_path
    )
    assert verdicts(folder)["disk"] == "fail"
    assert "trainer.keep_checkpoints" in lines(folder, "disk")


def test_a_step_on_a_device_that_is_described(quick: Run):
    folder = quick(
        "mode=doctor", SHAPES_ALONE, "mode.device_gib=80", "mode.device_tflops=400", "mode.device_gb_per_s=2000"
    )
    assert "at 400 TFLOP/s and 2e+03 GB/s" in lines(folder, "step time")


def test_a_step_on_a_device_of_which_nothing_is_known(quick: Run):
    folder = quick("mode=doctor", SHAPES_ALONE, "mode.device_gib=80")
    assert verdicts(folder)["step time"] == "skip"
    assert "mode.device_tflops" in lines(folder, "step time")


def test_a_model_without_a_template(quick: Run, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(PACKAGE_WEIGHTS / "tiny", model)
    (model / "chat_template.jinja").unlink()
    config = model / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings.pop("chat_template", None)
    config.write_text(json.dumps(settings))
    folder = failing(quick, f"model.path={model}", tmp_path=tmp_path)
    assert verdicts(folder)["chat template"] == "fail"
    assert "no chat template" in lines(folder, "chat template")
    assert verdicts(folder)["memory"] == "pass", "what does not depend on it is checked all the same"


def test_problems_that_are_not_there(quick: Run, tmp_path: Path):
    folder = failing(quick, SHAPES_ALONE, "task=jsonl", "task.path=nowhere.jsonl", tmp_path=tmp_path)
    assert verdicts(folder)["problems"] == "fail"
    assert "nowhere.jsonl" in lines(folder, "problems")


def test_gold_answers_that_only_equal_text_matches_are_named(quick: Run, tmp_path: Path):
    train = problems_file(tmp_path / "train.jsonl", "1", "2", "3", what="Say")
    held_out = problems_file(tmp_path / "held_out.jsonl", "1/2", "yes", r"\frac{1}{")
    folder = quick("mode=doctor", SHAPES_ALONE, "task=jsonl", f"task.path={train}", f"task.eval_path={held_out}")
    assert verdicts(folder)["gold answers"] == "warn"
    assert "1 of 3" in lines(folder, "gold answers")
    assert "frac" in lines(folder, "gold answers")


def test_problems_to_evaluate_on_alone(quick: Run, tmp_path: Path):
    held_out = problems_file(tmp_path / "gsm8k_test.jsonl", "1", "2")
    settings = ("task=suite_math", "task.only=[gsm8k]", f"task.path={tmp_path}", "rollout.max_tokens=200")
    assert held_out.exists()
    folder = quick("mode=doctor", *settings)
    assert set(verdicts(folder).values()) == {"pass"}
    assert "evaluation set gsm8k: 2 problems" in lines(folder, "problems")


def test_a_limit_that_no_prompt_fits(quick: Run, tmp_path: Path):
    folder = failing(quick, SHAPES_ALONE, "rollout.max_tokens=8", tmp_path=tmp_path)
    assert verdicts(folder)["prompts"] == "fail"
    assert "rollout.max_tokens=" in lines(folder, "prompts")


def test_a_limit_that_some_prompts_do_not_fit(quick: Run):
    folder = quick("mode=doctor", SHAPES_ALONE, "rollout.max_tokens=16")
    assert verdicts(folder)["prompts"] == "warn"


def test_a_device_that_is_too_small(quick: Run, tmp_path: Path):
    folder = failing(quick, SHAPES_ALONE, "mode.device_gib=1", tmp_path=tmp_path)
    assert verdicts(folder)["memory"] == "fail"
    assert "engine.cache_mib" in lines(folder, "memory")


def test_sharding_takes_less_on_each(quick: Run):
    folder = quick("mode=doctor", SHAPES_ALONE, "mode.num_devices=8")
    assert "on each of 8 devices" in lines(folder, "memory")


def test_an_adapter_is_counted_by_its_own_parameters(quick: Run):
    pytest.importorskip("peft")
    folder = quick("mode=doctor", SHAPES_ALONE, "model.lora_rank=4")
    assert "0.04 million of an adapter are trained in their place" in lines(folder, "memory")
