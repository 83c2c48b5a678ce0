"""One transcript for each family of chat models, as a renderer makes it grow, against the text written by hand."""

import pytest

from chat_families import ANSWER, CALLS, CHATML, FAMILIES, LLAMA3_1, LLAMA_TOKENS, QWEN3, THOUGHT, Family, transcript
from turnwise.types import Message

REPLY = Message(role="tool", content="42")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.golden)
def test_a_transcript_to_the_letter(family: Family) -> None:
    chat = family.renderer()
    text, turns = transcript(chat, family.tool_format, thinks=family.thinks)
    assert text == family.text()
    thought = THOUGHT if family.thinks else ""
    assert turns == [thought + CALLS[family.tool_format][1], thought + ANSWER]


def test_the_role_of_tool_output() -> None:
    roles = {family.golden: family.renderer().traits.tool_role for family in FAMILIES}
    assert set(roles.values()) == {"tool"}
    assert "<|im_start|>user\n<tool_response>" in FAMILIES[0].text()
    assert "<|start_header_id|>ipython" in FAMILIES[-2].text()


def test_what_is_dropped_from_earlier_turns_is_known_and_stays() -> None:
    assert {family.golden: family.renderer().traits.dropped for family in FAMILIES if "qwen3" in family.golden} == {
        "qwen3_thinking": "",
        "qwen3_thinking_hermes": "",
        "qwen3_without_thinking": "<think>\n\n</think>\n\n",
        "qwen3_without_thinking_hermes": "<think>\n\n</think>\n\n",
    }


def test_a_thought_that_the_template_begins_is_part_of_the_text_and_not_of_the_tokens() -> None:
    (family,) = (one for one in FAMILIES if one.template.endswith("{{ '<think>\n' }}{% endif %}"))
    chat = family.renderer()
    assert chat.decode(chat.turn_ids("<think>\nHm.\n</think>\n\nSo 4.")) == "Hm.\n</think>\n\nSo 4.<|im_end|>"
    assert chat.decode(chat.turn_ids("So 4.")) == "\n</think>\n\nSo 4.<|im_end|>"
    for said in ("<think>\nHm.\n</think>\n\nSo 4.", "<think>\nHm."):
        assert chat.text(chat.turn_ids(said)) == said


def test_a_question_after_a_thought_is_refused_where_the_template_would_drop_it() -> None:
    chat = Family(template=QWEN3, golden="qwen3_thinking").renderer()
    assert chat.continuation_ids([REPLY])
    with pytest.raises(ValueError, match="it drops the thought of a turn once a message of role user follows"):
        chat.continuation_ids([Message(role="user", content="And 6 * 8?")])
    off = Family(template=QWEN3, golden="off", options={"enable_thinking": False}).renderer()
    assert off.continuation_ids([Message(role="user", content="And 6 * 8?")])


def test_a_template_that_reads_the_date_is_refused_until_it_is_pinned() -> None:
    moving = Family(template=LLAMA3_1, golden="llama", control_tokens=LLAMA_TOKENS)
    with pytest.raises(ValueError, match="llama: the chat template writes today as %d %b %Y into the prompt") as error:
        moving.renderer()
    assert str(error.value).endswith("pin it: model.template_options.date_string='26 Jul 2024'")
    fixed = Family(template="{{ strftime_now('%Y') }}" + CHATML, golden="fixed")
    with pytest.raises(ValueError, match=r"set model\.chat_template to a copy of the template in which a date stands"):
        fixed.renderer()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"enable_thinkin": False}, "enable_thinkin: the chat template of qwen3 reads no such variable"),
        ({"messages": []}, r"model\.template_options\.messages: this is no option of a template"),
        ({"tokenize": True}, r"model\.template_options\.tokenize: this is no option of a template"),
    ],
)
def test_options_that_a_template_does_not_have(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Family(template=QWEN3, golden="qwen3", options=options).renderer()


DROPS_THOUGHTS = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
COUNTS = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n' ~ messages | length ~ '")
FORGETS = CHATML.replace("m.content", "(m.content if loop.revindex < 3 else '...')")


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (DROPS_THOUGHTS, "it drops the thought of a turn once a message of role tool follows"),
        (COUNTS, "what it writes after a turn depends on what stands before"),
        (FORGETS, "earlier messages are not rendered as they were"),
    ],
)
def test_templates_that_rewrite_history_are_refused(template: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"x: the chat template does not preserve prefixes: {complaint}, so a "):
        Family(template=template, golden="x").renderer()


def test_the_remedy_names_a_switch_where_there_is_one() -> None:
    drops = QWEN3.replace("ns.asked > 0", "not loop.last")
    with pytest.raises(ValueError, match=r"switch thinking off: model\.template_options\.enable_thinking=false"):
        Family(template=drops, golden="x").renderer()
    assert Family(template=drops, golden="x", options={"enable_thinking": False}).renderer().traits.dropped


def test_what_a_template_does_to_a_turn_that_nothing_follows_does_not_matter() -> None:
    """A sampled turn is never rendered, so the template has no say in it."""
    last = CHATML.replace("m.content", "('' if m.role != 'assistant' or not loop.last else 'last: ') + m.content")
    assert Family(template=last, golden="x").renderer().continuation_ids([REPLY]) == (
        Family(template=CHATML, golden="x").renderer().continuation_ids([REPLY])
    )


def test_a_tool_may_print_what_the_probes_say() -> None:
    chat = Family(template=QWEN3, golden="x").renderer()
    printed = "".join(message.content for message in chat.traits.turns)
    assert f"\n{printed}\n</tool_response>" in chat.decode(
        chat.continuation_ids([Message(role="tool", content=printed)])
    )
