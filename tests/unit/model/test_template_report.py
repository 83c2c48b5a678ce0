"""What is said of a chat template, for families of models whose templates differ in it."""

from dataclasses import replace

import pytest

from chat_families import CHATML, FAMILIES, LLAMA3_1, QWEN3, THINKING, Family
from tiny_models import renderer
from turnwise.model.template_report import TemplateReport, describe_template

HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"


def family(golden: str) -> Family:
    return next(one for one in FAMILIES if one.golden == golden)


def report(golden: str) -> TemplateReport:
    return describe_template(family(golden).renderer())


def test_the_whole_report_of_the_tiny_policy() -> None:
    assert describe_template(renderer()).lines() == [
        "chat template of tiny",
        "  options                   none set",
        "  a turn ends with          '<|end|>'",
        "  sampling stops at         '<|end|>'",
        "  a turn is opened by       '<|end|><|assistant|>'",
        "  without a system message  none is written",
        "  tool output               as the template writes messages of the role tool: "
        "'<|tool|>42<|end|><|assistant|>'",
        "  prefixes                  preserved: a transcript that grows is what the template writes of its messages",
        "  thinking                  up to the policy: a turn that begins with <think> thinks until </think>; "
        "kept after the next question too",
        "  date                      never asks for today's",
        "  an example, token by token:",
        "    <|system|>|B|e| |b|r|i|e|f|.|<|end|>|<|user|>|What| is| |6| |*| |7|?|<|end|>|<|assistant|>"
        "|pr|in|t|(|6| |*| |7|)|<|end|>|<|tool|>|4|2|<|end|>|<|assistant|>",
    ]


def test_a_row_of_the_example_ends_with_a_line_break() -> None:
    rows = report("smollm2").lines()[-9:]
    assert rows[0] == "    <|im_start|>|s|y|s|t|e|m|\\n"
    assert rows[3:] == [
        "    What| is| |6| |*| |7|?|<|im_end|>|\\n",
        "    <|im_start|>|a|s|s|is|t|an|t|\\n",
        "    pr|in|t|(|6| |*| |7|)|<|im_end|>|\\n",
        "    <|im_start|>|t|o|o|l|\\n",
        "    4|2|<|im_end|>|\\n",
        "    <|im_start|>|a|s|s|is|t|an|t|\\n",
    ]


@pytest.mark.parametrize(
    ("golden", "default_system"),
    [
        ("qwen2_5", "<|im_start|>system\nYou help."),
        ("qwen3_thinking", ""),
        ("llama3", ""),
        (
            "llama3_1",
            f"<|begin_of_text|>{HEADER.format('system')}"
            "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
        ),
        ("smollm2", ""),
    ],
)
def test_what_is_written_where_no_system_message_is_given(golden: str, default_system: str) -> None:
    assert report(golden).default_system == default_system


OWN_FORM = "as the template writes messages of the role tool"
BY_NAME = "as a message of the role tool, of which the template knows no more than the name"


@pytest.mark.parametrize(
    ("golden", "role", "reply"),
    [
        (
            "qwen2_5",
            OWN_FORM,
            "\n<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        ),
        ("llama3", BY_NAME, f"{HEADER.format('tool')}42<|eot_id|>{HEADER.format('assistant')}"),
        ("llama3_1", OWN_FORM, f'{HEADER.format("ipython")}"42"<|eot_id|>{HEADER.format("assistant")}'),
        ("smollm2", BY_NAME, "\n<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_the_role_of_tool_output(golden: str, role: str, reply: str) -> None:
    made = report(golden)
    assert (made.tool_role, made.tool_reply) == (role, reply)


def test_a_template_without_a_role_for_tools() -> None:
    without = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
    made = describe_template(Family(template=without, golden="x").renderer())
    assert made.tool_role == "as a message of the user, for the template has no role for it"
    assert made.tool_reply == "\n<|im_start|>user\n42<|im_end|>\n<|im_start|>assistant\n"


def test_thinking_on_off_and_begun_by_the_template() -> None:
    on, off = report("qwen3_thinking"), report("qwen3_without_thinking")
    begun = describe_template(Family(template=THINKING, golden="begun").renderer())
    assert on.thinking.endswith("thinks until </think>; kept until the next question")
    assert off.thinking == "off: every turn begins behind a </think>"
    assert begun.thinking.startswith("every turn begins with '<think>\\n', written by the template; kept until the")
    assert on.prefixes == begun.prefixes == report("qwen2_5").prefixes
    assert off.prefixes.startswith(
        "preserved but for '<think>\\n\\n</think>\\n\\n', which the template itself leaves out"
    )
    assert off.options == ("enable_thinking=False",)


def test_the_date() -> None:
    assert report("llama3_1").date == "asks for today's, which an option pins"
    fixed = replace(family("llama3_1"), template=LLAMA3_1.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'"))
    assert describe_template(replace(fixed, options={}).renderer()).date == "never asks for today's"


def test_every_token_at_which_sampling_stops() -> None:
    chat = Family(template=QWEN3, golden="x").renderer()
    assert describe_template(chat).stop_tokens == ("<|im_end|>",)
    assert describe_template(chat).end_of_turn == "<|im_end|>"
