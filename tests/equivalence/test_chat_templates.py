"""The texts written by hand in `unit/model/golden` against the chat templates that the models come with.

TRL brings copies of them (`trl/chat_templates`). The tokenizers are small ones of ours with the families' control
tokens: what is compared is the text, and where a renderer lets it grow.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

from chat_families import FAMILIES, THINKING, Family, transcript
from turnwise.model.template_report import describe_template

pytestmark = pytest.mark.slow

if (spec := find_spec("trl")) is None or spec.origin is None:
    pytest.skip("TRL is not installed: make test-equivalence", allow_module_level=True)
ORIGINALS = Path(spec.origin).parent / "chat_templates"
CASES = [(family, original) for family in FAMILIES for original in family.originals]


def original(name: str) -> str:
    return (ORIGINALS / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize(("family", "name"), CASES, ids=lambda one: one if isinstance(one, str) else one.golden)
def test_a_transcript_to_the_letter(family: Family, name: str) -> None:
    text, _ = transcript(family.renderer(original(name)), family.tool_format, thinks=family.thinks)
    assert text == family.text()


@pytest.mark.parametrize(("family", "name"), CASES, ids=lambda one: one if isinstance(one, str) else one.golden)
def test_our_templates_have_the_traits_of_the_originals(family: Family, name: str) -> None:
    assert family.renderer().traits == family.renderer(original(name)).traits


@pytest.mark.parametrize("name", ["qwen3_5_think", "qwen3_6"])
def test_thoughts_that_a_template_begins(name: str) -> None:
    (family,) = (one for one in FAMILIES if one.template == THINKING)
    traits = family.renderer(original(name)).traits
    assert (traits.opened_thinking, traits.dropped) == ("<think>\n", "")


def test_llama_3_2_is_refused_until_its_date_is_pinned() -> None:
    (family,) = (one for one in FAMILIES if one.golden == "llama3_1")
    unpinned = Family(template="", golden="llama3_2", control_tokens=family.control_tokens)
    with pytest.raises(ValueError, match=r"pin it: model\.template_options\.date_string='26 Jul 2024'"):
        unpinned.renderer(original("llama3_2"))
    assert unpinned.renderer(original("llama3_1")).traits.tool_role == "tool"


def test_a_template_that_drops_every_thought_is_refused() -> None:
    family = Family(template="", golden="r1", control_tokens=("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"))
    with pytest.raises(ValueError, match="it drops the thought of a turn once a message of role tool follows"):
        family.renderer(original("deepseek_r1_distill"))


def test_the_system_message_that_qwen_2_5_adds() -> None:
    report = describe_template(FAMILIES[0].renderer(original("qwen2_5")))
    assert "You are Qwen, created by Alibaba Cloud. You are a helpful assistant." in report.default_system
