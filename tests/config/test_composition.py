"""Every option, preset and documented command composes, and makes what it says."""

import re
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class

from turnwise.advantage.end_aligned import EndAlignedAdvantage
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.config.build import build_components, build_mode
from turnwise.config.options import CONF_DIR, about_option, option_groups
from turnwise.config.schema import COMPONENTS
from turnwise.core.group_statistics import Pool
from turnwise.core.ratios import RatioLevel
from turnwise.env.calculator import Calculator
from turnwise.loss.clipped import ClippedLoss
from turnwise.reward.format import FormatRule
from turnwise.reward.outcome import OutcomeReward
from turnwise.reward.similarity.embedding import EmbeddingSimilarity
from turnwise.reward.similarity.lexical import LexicalSimilarity
from turnwise.reward.similarity.structure import StructureSimilarity
from turnwise.reward.turn_level import TurnLevelReward
from turnwise.task.chain import Chain

ROOT = CONF_DIR.parent
PRESETS = ("algo", "experiment", "ablation", "debug")
OPTIONS = [(group, option) for group, options in option_groups().items() for option in options]
PARTS = {group: options for group, options in option_groups().items() if group not in (*PRESETS, "task", "env")}
ROUNDS = [
    [(group, options[index % len(options)]) for group, options in PARTS.items()]
    for index in range(max(map(len, PARTS.values())))
]
"""Every option of every part but these two at least once, in as few compositions as can be."""
TASKS_AND_TOOLS = [
    *(
        [("task", task), ("env", {"chain": "calculator", "lookup": "lookup"}.get(task, "python_tool"))]
        for task in option_groups()["task"]
    ),
    *([("task", "jsonl"), ("env", env)] for env in option_groups()["env"]),
]
"""Every task with a tool that it is for, and every tool."""
NEEDED = {
    ("model", "instruct"): ["model.path=owner/name"],
    ("model", "instruct_hermes"): ["model.path=owner/name", "env.tool_format=hermes_json"],
    ("task", "jsonl"): ["task.path=problems.jsonl"],
    ("task", "strategyqa_dev"): ["task.path=strategyqa_dev.jsonl"],
    ("env/sandbox", "fusion"): ["env.sandbox.url=http://127.0.0.1:8080"],
    ("mode", "rescore"): ["mode.path=runs/earlier"],
}
"""Values that an option leaves to the user."""
FULL = TurnLevelReward(shaping=True)
GAMMAS = (0.5, 0.7, 0.8, 0.95)
README = ROOT / "README.md"
HELP = CONF_DIR / "config.yaml"


@pytest.fixture(autouse=True)
def any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a preset sets is looked at here, not whether this processor computes in half precision."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)


def documented_commands(text: str) -> list[list[str]]:
    """Arguments of each `python src/main.py` line, up to a comment or explanation set off by two spaces."""
    lines = re.findall(r"python src/main\.py(?: (.*))?$", text, flags=re.MULTILINE)
    commands = [re.split(r"\s{2,}|\s#|`|\||&&", line)[0].replace("'", "").split() for line in lines]
    return [command for command in commands if not any("[" in word or "FOLDER" in word for word in command)]


def test_no_group_is_empty() -> None:
    groups = option_groups()
    assert set(PRESETS) < set(groups)
    assert {"gtpo", "grpo", "no_discount", "no_shaping", "no_turn_rewards"} < set(groups["ablation"])
    assert {"grpo", "gtpo"} < set(groups["algo"])
    assert all(groups.values())


@pytest.mark.parametrize(
    "chosen",
    [*ROUNDS, *TASKS_AND_TOOLS, *([preset] for preset in OPTIONS if preset[0] in PRESETS)],
    ids=lambda chosen: "-".join(chosen[0]) if len(chosen) == 1 else None,
)
def test_every_option_builds(composed, choices, chosen: list[tuple[str, str]]) -> None:
    overrides = [f"{group}={option}" for group, option in chosen]
    overrides += [value for pair in chosen for value in NEEDED.get(pair, [])]
    config = composed(*overrides)
    components = build_components(config, "label")
    assert callable(build_mode(config))
    for group, option in chosen:
        assert choices(*overrides)[group] == option
        if f"{group}/{option}" in COMPONENTS and hasattr(components, group):
            assert type(getattr(components, group)) is get_class(COMPONENTS[f"{group}/{option}"])


def test_every_component_has_an_option_of_its_name() -> None:
    options = {f"{group}/{option}" for group, option in OPTIONS}
    elsewhere = {
        "model/causal_lm",
        "task/benchmark",
        "task/suite",
        "rollout",
        "evaluation",
        "warmstart",
        "health",
    }  # filled by several options, or by the root
    assert set(COMPONENTS) - options == elsewhere


@pytest.mark.parametrize("option", option_groups()["algo"])
def test_algorithm_presets_name_their_paper(option: str) -> None:
    assert re.search(r"^# .*arXiv \d{4}\.\d{5}", (CONF_DIR / "algo" / f"{option}.yaml").read_text(), flags=re.MULTILINE)


def test_defaults_are_gtpo(composed) -> None:
    components = build_components(composed(), "label")
    assert components.reward == TurnLevelReward()
    assert components.advantage == TurnReturnAdvantage()
    assert components.config == build_components(composed("algo=gtpo"), "label").config


def test_grpo_replaces_reward_and_advantage(composed) -> None:
    components = build_components(composed("algo=grpo"), "label")
    assert components.reward == OutcomeReward()
    assert components.advantage == GroupNormAdvantage()


@pytest.mark.parametrize(
    ("ablation", "reward", "advantage"),
    [
        ("gtpo", TurnLevelReward(shaping=True), TurnReturnAdvantage()),
        ("grpo", OutcomeReward(), GroupNormAdvantage()),
        ("no_turn_rewards", OutcomeReward(format_rule=FormatRule.additive, shaping=True), TurnReturnAdvantage()),
        ("no_discount", TurnLevelReward(shaping=True), TurnReturnAdvantage(discount=1.0)),
        ("no_shaping", TurnLevelReward(), TurnReturnAdvantage()),
        ("no_discount_pool_turn_index", FULL, TurnReturnAdvantage(discount=1.0, pool=Pool.turn_index)),
        ("shaping_only", OutcomeReward(shaping=True), GroupNormAdvantage()),
        ("format_gate", TurnLevelReward(shaping=True, format_rule=FormatRule.gate), TurnReturnAdvantage()),
        ("mask_equal_outcomes", FULL, TurnReturnAdvantage(mask_equal_outcomes=True)),
        (
            "similarity_embedding",
            TurnLevelReward(shaping=True, similarity=EmbeddingSimilarity()),
            TurnReturnAdvantage(),
        ),
        (
            "similarity_structure",
            TurnLevelReward(shaping=True, similarity=StructureSimilarity()),
            TurnReturnAdvantage(),
        ),
        ("end_aligned", FULL, EndAlignedAdvantage()),
        ("alpha_0_25", TurnLevelReward(shaping=True, shaping_weight=0.25), TurnReturnAdvantage()),
        ("alpha_1_0", TurnLevelReward(shaping=True, shaping_weight=1.0), TurnReturnAdvantage()),
        ("turn_ratio", FULL, TurnReturnAdvantage()),
        *((f"gamma_{gamma}".replace(".", "_"), FULL, TurnReturnAdvantage(discount=gamma)) for gamma in GAMMAS),
        *((f"pool_{pool}", FULL, TurnReturnAdvantage(pool=pool)) for pool in Pool if pool is not Pool.group),
    ],
)
def test_ablations_change_one_thing_each(composed, ablation: str, reward, advantage) -> None:
    components = build_components(composed(f"ablation={ablation}"), "label")
    assert components.reward == reward
    assert components.advantage == advantage
    level = RatioLevel.turn if ablation == "turn_ratio" else RatioLevel.token
    assert components.loss == ClippedLoss(ratio_level=level)


def test_every_ablation_is_held_to_its_one_thing() -> None:
    marks = test_ablations_change_one_thing_each.pytestmark  # pyright: ignore[reportFunctionMemberAccess]
    assert {arm for arm, *_ in marks[0].args[1]} == set(option_groups()["ablation"])


def test_every_ablation_says_what_it_is() -> None:
    abouts = [about_option("ablation", arm) for arm in option_groups()["ablation"]]
    assert all(about.startswith(("GTPO", "GRPO")) and about.endswith(".") for about in abouts)
    assert len(set(abouts)) == len(abouts)
    assert (about_option("model", "tiny"), about_option("ablation", "no_such_arm")) == ("", "")


def test_command_line_wins_over_presets(composed, choices) -> None:
    assert build_components(composed("algo=gtpo", "advantage=group_norm"), "").advantage == GroupNormAdvantage()
    assert build_components(composed("ablation=no_discount", "advantage.discount=0.5"), "").advantage == (
        TurnReturnAdvantage(discount=0.5)
    )
    assert build_components(composed("debug=fast", "trainer.num_steps=7"), "").trainer.num_steps == 7
    assert choices("ablation=gtpo", "reward=outcome", "algo=grpo")["reward"] == "outcome"


def test_later_preset_wins_over_earlier_one(composed) -> None:
    components = build_components(composed("experiment=qwen2_5_7b", "debug=fast"), "label")
    assert components.rollout.num_problems == 2  # debug's, over the experiment's 512
    assert components.rollout.max_turns == 5  # the experiment's, which debug leaves alone


def test_the_chain_experiment_leaves_room_for_the_longest_chain(composed) -> None:
    components = build_components(composed("experiment=chain", "task.horizon=8"), "label")
    assert components.env == Calculator()
    assert components.task == Chain(horizon=8)
    assert components.model.path == "package:tiny_calculator"
    assert components.rollout.max_turns > 8 + 1  # its calls, its answer, and one repair at least


@pytest.mark.parametrize("algo", ["gtpo", "grpo"])
def test_similarity_has_its_own_group(composed, algo: str) -> None:
    assert build_components(composed(f"algo={algo}"), "").reward.similarity == LexicalSimilarity()  # pyright: ignore
    components = build_components(composed(f"algo={algo}", "reward/similarity=embedding", "reward.shaping=true"), "")
    assert components.reward.similarity == EmbeddingSimilarity()  # pyright: ignore
    assert components.reward.shaping


def test_what_smollm2_is_evaluated_on_is_asked_as_in_its_training(composed) -> None:
    trained, evaluated = (composed(f"experiment=smollm2_{name}") for name in ("arithmetic", "benchmarks"))
    assert trained.task.datasets == evaluated.task.train.datasets
    assert trained.evaluation.temperature == evaluated.evaluation.temperature == trained.rollout.temperature
    for name in ("model", "env"):
        assert trained[name] == evaluated[name]
    assert trained.rollout.max_turns == evaluated.rollout.max_turns


def test_system_prompt_follows_the_model(composed) -> None:
    assert build_components(composed(), "").env.system_prompt == ""
    for model in ("qwen2_5_7b_instruct", "qwen2_5_0_5b_instruct"):
        prompt = build_components(composed(f"model={model}"), "").env.system_prompt
        assert "```python" in prompt
        assert r"\boxed{" in prompt
    own = build_components(composed("model=smollm2_135m", "env.system_prompt=Think."), "")
    assert own.env.system_prompt == "Think."


@pytest.mark.parametrize("page", [README, HELP], ids=lambda path: path.name)
def test_documented_commands_compose(composed, page: Path) -> None:
    commands = documented_commands(page.read_text(encoding="utf-8"))
    assert commands
    for command in commands:
        jobs = [word for word in command if word not in ("-m", "--multirun", "--help") and not word.startswith("hydra")]
        first = [re.sub(r"^([\w/.]+=[^,\[]+),.*", r"\1", word) for word in jobs]
        build_components(composed(*first), "label")


def test_documented_commands_are_found() -> None:
    text = "  python src/main.py        train\nrun `x`:\n    python src/main.py -m algo=a,b 'task=c'  # both\n"
    assert documented_commands(text) == [[], ["-m", "algo=a,b", "task=c"]]
