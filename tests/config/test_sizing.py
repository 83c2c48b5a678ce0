"""How large the parts of a step are, and how what was seen of them becomes an estimate of its seconds."""

import re

import pytest

from turnwise.config.doctor import sizing
from turnwise.config.doctor.sizing import Device, Seen, check_step_time, size_of, size_of_step
from turnwise.config.parts import Components
from turnwise.config.sweep import compose_components
from turnwise.model.step_time import Rates, Timed
from turnwise.preflight.finding import Finding

HERE = Device(gib=0, count=1, tflops=0, gb_per_s=0)
STEP = re.compile(r"about (\S+) s a step: prompts (\S+), decoding (\S+), update (\S+);")


@pytest.fixture
def components(monkeypatch: pytest.MonkeyPatch) -> Components:
    """Of a step of 4 x 8 trajectories, on a machine that is not measured."""
    monkeypatch.setattr(sizing, "measured_rates", lambda *_: Rates(flops=1e10, bytes=1e10))
    size = ("rollout.num_problems=4", "rollout.group_size=8", "rollout.max_tokens=100", "trainer.num_minibatches=2")
    return compose_components([*size, "trainer.device=cpu"], label="sizing")


def estimate(components: Components, seen: Seen, meant: Device = HERE) -> tuple[str, list[float]]:
    """What is said of the trajectories; seconds of the step, prompts, decoding and update."""
    finding = Finding("step time")
    check_step_time(components, meant, prompt_tokens=30, seen=seen, finding=finding)
    how, about = finding.lines
    found = STEP.search(about)
    assert found is not None, about
    return how, [float(figure) for figure in found.groups()]


def test_without_prompts_nothing_is_shared(components: Components):
    size = size_of(components, [100, 100, 56])
    assert (size.num_problems, size.group_size, size.num_minibatches) == (3, 1, 2)
    assert size.prompt_tokens == 0
    assert size.num_trajectories * size.new_tokens == pytest.approx(256)


def test_a_few_trajectories_stand_for_a_step(components: Components):
    few = size_of(components, [50, 50, 70, 70], num_prompts=2, prompt_tokens=40)
    assert (few.num_problems, few.group_size, few.prompt_tokens, few.new_tokens, few.longest_tokens) == (
        2,
        2,
        40,
        20,
        30,
    )
    step = size_of_step(components, 40, [50, 50, 70, 70])
    assert (step.num_problems, step.group_size, step.new_tokens) == (4, 8, 20)
    # mean 60 and deviation 10, sqrt(2 log 32) = 2.6328, less the prompt
    assert step.longest_tokens == pytest.approx(60 + 26.328 - 40, abs=1e-3)
    assert size_of_step(components, 40, [98, 40]).longest_tokens == 60, "rollout.max_tokens less the prompt"


def test_a_prompt_beyond_the_limit_counts_as_far_as_the_limit(components: Components):
    size = size_of_step(components, 140, [])
    assert (size.prompt_tokens, size.new_tokens, size.longest_tokens) == (100, 0, 0)


def test_what_was_timed_here_is_what_the_estimate_goes_by(components: Components):
    part = size_of(components, [50, 60], num_prompts=1, prompt_tokens=20)
    how, plain = estimate(components, Seen())
    assert "32 trajectories of 100 tokens, as long as rollout.max_tokens allows, at " in how
    assert "timed" not in how
    how, slow = estimate(components, Seen(sampled=Timed(size=part, seconds=60)))
    assert how.endswith("; sampling timed here")
    # 40 passes took a minute; those of a step, from a prompt of 30 tokens to the limit, are 70
    assert slow[2] == pytest.approx(105, rel=0.05)
    assert slow[3] == plain[3]
    one, three = (
        estimate(components, Seen(prompts=[20], lengths=[50, 60], updated=Timed(size=part, seconds=seconds)))
        for seconds in (5, 15)
    )
    assert "32 trajectories of 55 tokens, as sampled here, at " in one[0]
    assert one[0].endswith("; an update timed here")
    assert three[1][3] == pytest.approx(3 * one[1][3], rel=0.05)


def test_what_was_timed_here_says_nothing_of_another_device(components: Components):
    part = size_of(components, [50, 60], num_prompts=1, prompt_tokens=20)
    seen = Seen(sampled=Timed(size=part, seconds=60), updated=Timed(size=part, seconds=60))
    how, found = estimate(components, seen, Device(gib=0, count=1, tflops=1, gb_per_s=0))
    assert "timed" not in how
    assert found[0] < 10
