"""The protocol that a number stands under: what changes it, and what does not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from omegaconf import DictConfig

from builders import problem
from turnwise.config.build import build_components
from turnwise.config.evaluating import protocol_of, protocols, tool_settings, without_tool

PROBLEMS = [problem(id="a"), problem(id="b")]


@pytest.fixture
def digest(composed: Callable[..., DictConfig]) -> Callable[..., str]:
    def of(*overrides: str) -> str:
        components = build_components(composed(*overrides), "label")
        return protocol_of(components, tool_settings(components), PROBLEMS).digest

    return of


@pytest.mark.parametrize(
    "override",
    [
        "rollout.max_turns=3",
        "rollout.max_tokens=225",
        "evaluation.num_samples=2",
        "evaluation.temperature=0.5",
        "evaluation.top_k=5",
        "evaluation.top_p=0.5",
        "env.max_output_chars=100",
        "env.stateful=true",
        "env.shows_value=true",
        "env.tool_format=hermes_json",
        "env.sandbox.wall_s=1",
        "model.system_prompt=Think.",
        "reward.grader.max_characters=100",
    ],
)
def test_whatever_may_change_an_answer_or_its_grade_changes_the_hash(digest, override):
    assert digest() != digest(override)


def test_the_text_of_a_chat_template_that_replaces_the_models_own_is_part_of_it(digest, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    first = digest(f"model.chat_template={template}")
    template.write_text("{{ messages[0] }}")
    assert len({first, digest(f"model.chat_template={template}"), digest()}) == 3


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=7"],
        ["algo=grpo"],
        ["reward.shaping=true"],
        ["trainer.num_steps=3", "trainer.learning_rate=1e-3"],
        ["rollout.group_size=4", "rollout.temperature=0.7"],
        ["evaluation.wave_size=4", "evaluation.save_groups=false"],
        ["evaluation.tools=both"],
        ["env.sandbox.num_workers=7", "env.sandbox.tier=B", "env.sandbox.total_memory_mb=4000"],
        ["engine.cache_mib=512"],
        ["model.path=package:tiny_calculator"],
    ],
)
def test_what_only_trains_or_only_says_how_it_is_run_does_not(digest, overrides):
    assert digest() == digest(*overrides)


def test_the_problems_are_part_of_it(composed):
    components = build_components(composed(), "label")
    env = tool_settings(components)
    assert protocol_of(components, env, PROBLEMS).digest != protocol_of(components, env, PROBLEMS[:1]).digest


def test_the_arm_without_the_tool_asks_as_its_model_wants_it(composed):
    components = build_components(composed("model=instruct", "model.path=a/b"), "label")
    assert without_tool(components).system_prompt == components.model.system_prompt_without_tool != ""


def test_with_and_without_the_tool_are_two_protocols(composed):
    components = build_components(composed("evaluation.tools=both"), "label")
    digests = {suffix: protocol(PROBLEMS).digest for suffix, protocol in protocols(components).items()}
    assert list(digests) == ["", "_without_tool"]
    assert len(set(digests.values())) == 2


@pytest.mark.parametrize(("tools", "suffixes"), [("on", [""]), ("off", ["_without_tool"])])
def test_one_of_them_alone(composed, tools, suffixes):
    assert list(protocols(build_components(composed(f"evaluation.tools={tools}"), "label"))) == suffixes


def without_digest(composed, *overrides, problems=PROBLEMS) -> str:
    components = build_components(composed("evaluation.tools=off", *overrides), "label")
    return protocols(components)["_without_tool"](problems).digest


def test_without_the_tool_nothing_of_the_tool_counts(composed):
    first = without_digest(composed)
    for override in ("rollout.max_turns=3", "env.stateful=true", "env.sandbox.wall_s=1", "env.max_output_chars=64"):
        assert without_digest(composed, override) == first
    assert without_digest(composed, "model.system_prompt_without_tool=Think.") != first


def test_but_the_sandbox_where_it_tests_programs(composed):
    tested = [replace(problem(), tests="assert f() == 1", entry_point="f")]
    one = without_digest(composed, problems=tested)
    assert one != without_digest(composed, "env.sandbox.wall_s=1", problems=tested)
    assert one == without_digest(composed, "env.sandbox.num_workers=7", problems=tested)


def test_the_environment_without_a_tool_is_that_arm(composed):
    alone = build_components(composed("env=no_tool", "rollout.max_turns=1"), "label")
    assert protocols(alone)[""](PROBLEMS).digest == without_digest(composed)
