"""What the user gets wrong ends with one line that helps and exit code 2; what we get wrong keeps its traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from turnwise.config import launch
from turnwise.config.errors import ConfigError, building, explain
from turnwise.config.options import CONF_DIR

MISTAKES = [
    # a key that is not there
    (
        "rollout.group_sze=3",
        ["rollout.group_sze: no such key", "did you mean rollout.group_size?", "rollout.max_turns"],
    ),
    ("trainr.num_steps=3", ["trainr: no such key", "did you mean trainer?"]),
    ("num_steps=3", ["num_steps: no such key", "did you mean warmstart.num_steps or trainer.num_steps?"]),
    ("env.sandbox.wals=3", ["env.sandbox.wals: no such key", "did you mean env.sandbox.wall_s?"]),
    ("advantage=group_norm advantage.discount=0.5", ["advantage.discount: no such key", "advantage.std_kind"]),
    ("+trainer.speed=3", ["trainer.speed: no such key", "trainer.learning_rate"]),
    ("hydra.job.env_set.A=1", ["+hydra.job.env_set.A=VALUE"]),
    ("mode.out=x", ["mode.out: no such key", "the chosen mode has no settings"]),
    ("+mode.out=x", ["mode.out: no such key; the chosen mode has no settings"]),
    ("task=reasoning_gym task.optoins={}", ["did you mean task.options?"]),
    # a value that does not fit
    ("trainer.num_steps=abc", ["trainer.num_steps", "'abc'", "Integer"]),
    ("trainer.device=gpu", ["trainer.device", "'gpu'", "[auto, cpu, cuda]"]),
    ("advantage.pool=team", ["advantage.pool", "'team'", "group, batch, turn_index, first_turn"]),
    ("rollout=5", ["rollout=5", "rollout.NAME=VALUE"]),
    ("reward.similarity=lexical", ["reward.similarity=lexical", "reward/similarity=lexical"]),
    ("algo=grpo reward.similarity=null", ["reward.similarity=None", "reward/similarity=lexical"]),
    ("reward.similarity=${model.path}", ["reward.similarity=package:tiny", "reward/similarity=lexical"]),
    ("~trainer", ["trainer is not set"]),
    ("task=jsonl", ["task.path is not set"]),
    ("env/sandbox=fusion", ["env.sandbox.url is not set"]),
    ("env.system_prompt=${model.tone}", ["env", "model.tone"]),
    # a value out of range
    ("seed=-1", ["seed=-1: expected >= 0"]),
    ("advantage.discount=1.5", ["advantage.discount=1.5: expected 0 to 1"]),
    ("env.sandbox.wall_s=-1", ["env.sandbox.wall_s=-1"]),
    ("env/sandbox=fusion env.sandbox.url=localhost:8080", ["env.sandbox.url='localhost:8080': expected http://HOST"]),
    ("env/sandbox=fusion env.sandbox.url=http://me:secret@h:1", ["env.sandbox.url=...: holds", "token_variable=NAME"]),
    (
        "env/sandbox=fusion env.sandbox.url=http://h:1 env.sandbox.token_variable=NO_SUCH",
        ["token_variable=NO_SUCH: no"],
    ),
    ("env/sandbox=fusion env.sandbox.url=http://h:1 env.stateful=true", ["env.stateful=true", "env/sandbox=local"]),
    ("env=calculator env/sandbox=fusion", ["env/sandbox: no such group, or the chosen option of env has none"]),
    ("env.sandbox.preloaded=[nunpy]", ["env.sandbox.preloaded=['nunpy']: no module 'nunpy' is installed"]),
    ("env.sandbox.socket=/nowhere/at/all", ["env.sandbox.socket=/nowhere/at/all: expected a place in a folder"]),
    ("env.max_infrastructure_rate=5", ["env.max_infrastructure_rate=5.0: expected 0 to 1"]),
    ("reward/similarity=lexical reward.similarity.ngram=0", ["reward.similarity.ngram=0: expected"]),
    ("mode=warmstart warmstart.num_steps=0", ["warmstart.num_steps=0: expected >= 1"]),
    ("mode=warmstart mode.num_steps=5", ["mode.num_steps: no such key", "the chosen mode has no settings"]),
    ("warmstart.source=hub", ["warmstart.source", "demonstrations, transcripts, self"]),
    ("warmstart.too_long=shrink", ["warmstart.too_long", "error, cut, drop"]),
    ("engine=vllm_server engine.urls=[localhost:8000]", ["engine.urls: 'localhost:8000': expected http://HOST:PORT"]),
    ("engine=vllm_server engine.urls=[http://a:1,http://a:1/]", ["engine.urls: http://a:1 stands there twice"]),
    ("engine=vllm_server engine.urls=http://a:1", ["engine.urls: expected a list, engine.urls=[VALUE,...]"]),
    ("engine=vllm_server engine.timeout_s=0", ["engine.timeout_s=0.0: expected seconds > 0"]),
    ("engine=vllm_server engine.transfer=mail", ["engine.transfer", "auto, shared_memory, network"]),
    ("engine=vllm_server engine.url=http://a:1", ["engine.url: no such key (did you mean engine.urls?)"]),
    # values that do not go together
    ("reward.shaping=true rollout.group_size=1", ["reward.shaping=true", "rollout.group_size=1"]),
    (
        "engine=vllm engine.sleep=true trainer.max_staleness=1 loss.correction=truncate",
        ["trainer.max_staleness=1", "engine.sleep=true", "use engine.sleep=false or trainer.max_staleness=0"],
    ),
    (
        "engine=vllm_server engine.serve.sleep=true trainer.max_staleness=1 loss.correction=truncate",
        ["trainer.max_staleness=1", "use engine.serve.sleep=false"],
    ),
    (
        "health.entropy.action=roll_back health.entropy.patience=4 trainer.keep_checkpoints=2 trainer.save_every=3",
        ["health.entropy.action=roll_back", "(health.entropy.patience)", "trainer.keep_checkpoints=2", "save_every=3"],
    ),
    (
        "mode=evaluate health.entropy.action=stop",
        ["health.entropy.action: the monitors look at the"],
    ),
    ("mode=warmstart health.not_finite=roll_back", ["health.not_finite: the", "mode=warmstart has none of these"]),
    ("mode=evaluate health={entropy:{max:3}}", ["health: the monitors", "health.watchdog.NAME=VALUE"]),
    ("mode=rescore mode.path=x +health.length.max=3", ["health.length.max: the", "mode=rescore has none of these"]),
    ("health.reference_kl.action=stop", ["health.reference_kl.action=stop", "expected loss.kl_weight > 0"]),
    (
        "health.grad_norm.action=stop trainer.num_steps=7",
        ["health.baseline_steps=5", "health.grad_norm.patience=3", "trainer.num_steps=7", "it would never speak"],
    ),
    (
        "health.entropy.action=roll_back health.entropy.min=null health.entropy.max_ratio=null",
        ["health.entropy.action=roll_back", "it would never speak", "expected one of health.entropy.min, max"],
    ),
    (
        "health.tool_use.action=stop health.tool_use.patience=9 trainer.num_steps=8",
        ["health.tool_use.patience=9", "trainer.num_steps=8", "it would never speak"],
    ),
    ("health.entropy=stop", ["health.entropy: expected values of its own, health.entropy.NAME=VALUE"]),
    ("health.length.patience=0", ["health.length.patience=0: expected >= 1"]),
    ("health.not_finite=warn", ["health.not_finite=warn: no step can be taken, expected stop or roll_back"]),
    ("health.watchdog.timeout_s=-1", ["health.watchdog.timeout_s=-1.0: expected a finite number >= 0"]),
    ("health.entropie.min=1", ["health.entropie", "did you mean health.entropy?"]),
    (
        "trainer.device=cpu model.attention=flash_attention_2",
        ["model.attention=flash_attention_2", "trainer.device=cpu"],
    ),
    (
        "task=chain",
        [
            "task=chain env=python_tool",
            "called in calculator",
            "in python; expected env=calculator or experiment=chain",
        ],
    ),
    ("mode=warmstart task=chain", ["task=chain env=python_tool"]),
    ("experiment=chain env=python_tool", ["task=chain env=python_tool"]),
    (
        "env=calculator",
        ["task=arithmetic env=calculator", "called in python", "in calculator; expected env=python_tool"],
    ),
    ("task=lookup", ["task=lookup env=python_tool", "called in lookup", "in python; expected env=lookup"]),
    (
        "model=instruct model.path=owner/name env.tool_format=hermes_json",
        [
            "env.tool_format=hermes_json",
            "shows calls as code_block: expected env.tool_format=code_block",
            "<tool_call>",
        ],
    ),
    (
        "model=instruct_hermes model.path=owner/name",
        ["env.tool_format=code_block", "shows calls as hermes_json: expected env.tool_format=hermes_json", "'```'"],
    ),
    ("env=lookup task=lookup env.tool_format=hermes_json", ["env.system_prompt shows calls as code_block"]),
    ("model=smollm2_135m env.tool_format=hermes_json", ["env.examples shows calls as code_block: expected env.tool_"]),
    (
        "env.examples=[{role:critic,content:nope}]",
        ["role: Invalid value 'critic', expected one of [user, assistant, tool]"],
    ),
    ("model.examples=[{role:user,content:''}]", ["model.examples", "content='' of a worked example, role user"]),
    ("model.examples=[{role:user,text:nope}]", ["text: no such key; keys: role, content"]),
    ("model.examples=[{content:nope}]", ["model.examples", "role"]),
    ("env.tool_format=xml", ["env.tool_format", "'xml'", "code_block, hermes_json"]),
    # an option that is not there
    ("advantage=group_nrm", ["advantage=group_nrm: no such option", "did you mean group_norm?", "turn_return"]),
    ("reward/similarity=semantic", ["reward/similarity=semantic: no such option", "embedding, lexical"]),
    ("trainer=3", ["trainer=3"]),
    # not an override at all
    ("trainer.num_steps", ["cannot read the override 'trainer.num_steps'"]),
    ("trainer.num_steps=[1", ["cannot read the override 'trainer.num_steps=[1'"]),
    ("seed=0,1", ["seed=0,1", "-m"]),
    # in a sweep
    ("-m seed=0,1 trainer.num_steps=abc", ["trainer.num_steps", "'abc'"]),
    ("-m seed=0,1 advantage.discount=2", ["advantage.discount=2"]),
    # no place for the output
    ("hydra.run.dir=/proc/none/run", ["hydra.run.dir=/proc/none/run"]),
]


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_mistakes_end_with_one_line(start, tmp_path: Path, arguments: str, parts: list[str]) -> None:
    ended = start(*arguments.split(" "))
    assert (ended.code, ended.runs) == (2, [])
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    for part in parts:
        assert part in ended.stderr
    assert "schema" not in ended.stderr
    assert not list(tmp_path.rglob("*seed*"))


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("advantage/odd.yaml", "defaults: [turn_return, _self_]\ndiscnt: 1\n", ["discnt", "advantage.discount?"]),
        ("advantage/odd.yaml", "defaults: [turn_return, _self_]\npool: team\n", ["advantage.pool", "'team'"]),
        (
            "ablation/odd.yaml",
            "# @package _global_\nrewrd: {shaping: true}\n",
            ["rewrd: no such key", "did you mean reward?"],
        ),
        ("ablation/odd.yaml", "# @package _global_\nseed: [\n", ["odd.yaml", "line 3"]),
    ],
)
def test_mistakes_in_yaml_files_name_the_file(start, tmp_path: Path, name: str, text: str, parts: list[str]) -> None:
    more = tmp_path / "more"
    (more / name).parent.mkdir(parents=True)
    (more / name).write_text(text)
    group = Path(name).parent
    ended = start("--config-dir", str(more), f"{group}=odd")
    assert ended.code == 2
    assert ended.stderr.count("\n") == 1
    for part in [f"{group}/odd.yaml", *parts]:
        assert part in ended.stderr


def test_failure_of_a_run_is_no_mistake_of_the_user(start) -> None:
    def fail(components, run_dir):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        start("seed=1", mode=fail)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "'problems.jsonl': no such file"), ('{"id": "a"\n', "problems.jsonl:1: not JSON")],
)
def test_mistake_found_while_the_mode_starts(start, tmp_path: Path, text: str | None, message: str) -> None:
    def read_problems(components, run_dir):
        with building():
            components.task.start(components.seed)

    if text is not None:
        (tmp_path / "problems.jsonl").write_text(text)
    ended = start("task=jsonl", "task.path=problems.jsonl", mode=read_problems)
    assert ended.code == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr
    assert not list(tmp_path.rglob("*seed*"))


def test_interrupt_exits_130(start) -> None:
    def interrupted(components, run_dir):
        raise KeyboardInterrupt

    ended = start("seed=1", mode=interrupted)
    assert (ended.code, ended.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("error", [ValueError("many\n  lines"), OSError("many lines"), ImportError("many lines")])
def test_building_turns_the_users_mistakes_into_one_line(error: Exception) -> None:
    with pytest.raises(ConfigError, match=r"^many lines$") as caught, building():
        raise error
    assert caught.value.__cause__ is error


def test_building_lets_bugs_pass() -> None:
    with pytest.raises(ZeroDivisionError), building():
        raise ZeroDivisionError


def test_long_messages_are_cut() -> None:
    assert len(explain(ValueError("x" * 10_000))) < 700


def test_cuda_must_be_there(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = composed("trainer.device=cuda")
    with pytest.raises(ConfigError, match=r"trainer\.device=cuda, but no CUDA device is visible"):
        launch.build_components(config, "label")


def test_flash_attention_needs_half_precision(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    launch.build_components(composed("model.attention=flash_attention_2", "trainer.dtype=bfloat16"), "label")
    config = composed("model.attention=flash_attention_2", "trainer.dtype=float32")
    with pytest.raises(ConfigError, match=r"model\.attention=flash_attention_2 .* trainer\.dtype=float32"):
        launch.build_components(config, "label")


@pytest.mark.parametrize("device", ["CPU", "GPU"])
def test_a_dtype_that_the_device_lacks_is_refused(composed, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: device == "GPU")
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match=f"trainer.dtype=bfloat16: this {device} cannot compute in it"):
        launch.build_components(composed("trainer.dtype=bfloat16"), "label")
    launch.build_components(composed("trainer.dtype=float32"), "label")


def test_help_shows_examples_groups_and_options(start, tmp_path: Path) -> None:
    ended = start("--help")
    assert (ended.code, ended.stderr) == (0, "")
    assert "python src/main.py algo=gtpo reward.shaping=true" in ended.stdout
    assert "  advantage          discounted_normalised, end_aligned, gigpo, group_norm, hybrid_turn, " in ended.stdout
    assert "  reward/similarity  embedding, lexical, structure\n" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 120
    assert "schema" not in ended.stdout
    assert not list(tmp_path.iterdir())


def test_process_in_another_folder_ends_with_one_line(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HYDRA_FULL_ERROR")}
    command = [sys.executable, str(CONF_DIR.parent / "src/main.py"), "-m", "seed=0,1", "advantage.discount=2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: advantage.discount=2.0: expected 0 to 1\n")
    assert "Traceback" not in done.stdout


def test_user_may_ask_for_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(CONF_DIR.parent / "src/main.py"), "advantage.discount=2"]
    environment = os.environ | {"HYDRA_FULL_ERROR": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "advantage.discount=2.0: expected 0 to 1" in done.stderr


@pytest.mark.parametrize(
    "overrides",
    [
        ["advantage=turn_return"],
        ["advantage=turn_return", "advantage.pool=turn_index"],
        ["advantage=turn_return", "advantage.pool=first_turn"],
        ["advantage=group_norm"],
        ["advantage=rloo"],
        ["advantage=reinforce_pp", "advantage.group_baseline=true"],
        ["advantage=mt_grpo"],
        ["advantage=hybrid_turn"],
        ["advantage=discounted_normalised"],
        ["advantage=gigpo"],
    ],
    ids=" ".join,
)
def test_a_group_of_one_is_refused_where_siblings_are_compared(composed, overrides: list[str]) -> None:
    config = composed(*overrides, "rollout.group_size=1", "rollout.num_problems=4")
    with pytest.raises(ConfigError, match=r"rollout\.group_size=1: .* expected >= 2"):
        launch.build_components(config, label="test")
    launch.build_components(composed(*overrides, "rollout.group_size=2"), label="test")


@pytest.mark.parametrize(
    "overrides",
    [
        ["advantage=turn_return", "advantage.pool=batch"],
        ["advantage=discounted_normalised", "advantage.pool=batch"],
        ["advantage=reinforce_pp"],
    ],
    ids=" ".join,
)
def test_a_group_of_one_is_enough_where_the_batch_is_compared(composed, overrides: list[str]) -> None:
    launch.build_components(composed(*overrides, "rollout.group_size=1", "rollout.num_problems=2"), label="test")
    config = composed(*overrides, "rollout.group_size=1", "rollout.num_problems=1")
    with pytest.raises(ConfigError, match=r"rollout\.group_size=1 rollout\.num_problems=1: .* expected 2 trajectories"):
        launch.build_components(config, label="test")


def test_a_pool_that_an_estimator_does_not_know(composed) -> None:
    config = composed("advantage=discounted_normalised", "advantage.pool=first_turn")
    with pytest.raises(ConfigError, match=r"advantage\.pool=first_turn: expected one of group, batch"):
        launch.build_components(config, label="test")


@pytest.mark.parametrize(
    "overrides",
    [
        ["env=calculator", "task=jsonl", "task.path=problems.jsonl"],
        ["env=calculator", "task=reasoning_gym"],
        ["task=chain", "env=calculator", "model=tiny"],
        ["model=tiny_calculator"],
        ["env.tool_format=hermes_json"],
        ["env=lookup", "task=lookup", "env.tool_format=hermes_json", 'env.system_prompt="Write a <tool_call>."'],
        ["experiment=chain", "model=instruct", "model.path=owner/name"],
        ["experiment=chain", "env=no_tool"],
        ["env=no_tool", 'env.system_prompt="Explain ```python."'],
        ["env.examples=[{role:user,content:2+2?},{role:assistant,content:4}]"],
    ],
    ids=" ".join,
)
def test_what_is_only_unusual_is_not_refused(composed, overrides: list[str]) -> None:
    launch.build_components(composed(*overrides), label="test")
