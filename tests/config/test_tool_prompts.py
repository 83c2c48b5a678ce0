"""What a policy is told about its tool: the prompts of `conf`, as a template of the Qwen kind renders them."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

from builders import problem
from chat_families import CHATML, CHATML_TOKENS, FAMILIES, tokenizer_with
from tiny_models import TEXTS, VOCAB_SIZE
from turnwise.config.build import build_components
from turnwise.config.parts import EnvironmentSettings
from turnwise.env.opening import opening_messages
from turnwise.env.tool_call import extract_boxed
from turnwise.env.tool_format import ToolFormat
from turnwise.model.chat import ChatRenderer
from turnwise.model.tiny import train_tokenizer
from turnwise.protocols import Environment
from turnwise.types import Message, Problem, StopReason
from turnwise.worked_examples import ExampleRole

HERMES = ("model=instruct_hermes", "model.path=owner/name", "env.tool_format=hermes_json")
CALL = '<tool_call>\n{"name": "python", "arguments": {"code": "x = 6 * 7\\nprint(x)"}}\n</tool_call>'
QWEN = (
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|user|>user\n<tool_response>\n' + m.content + '\n</tool_response><|end|>\n' }}"
    "{% else %}{{ '<|' + m.role + '|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>assistant\n' }}{% endif %}"
)
"""As Qwen 2.5 and Qwen 3 do it: a tool's reply is a user's message between tags."""


@pytest.fixture
def chat() -> ChatRenderer:
    made = train_tokenizer(TEXTS, VOCAB_SIZE)
    made.chat_template = QWEN
    return ChatRenderer(made, name="qwen")


def rendered(chat: ChatRenderer, ids: tuple[int, ...]) -> str:
    return chat.decode(ids)


def test_hermes_prompt_and_reply_as_the_policy_reads_them(composed, chat: ChatRenderer) -> None:
    async def play() -> tuple[str, str]:
        pool = build_components(composed(*HERMES), "").env.start()
        try:
            episode: Environment = pool.episode(problem())
            opening = rendered(chat, chat.prompt_ids(episode.initial_messages()))
            reply = await episode.step(f"Let me see.\n{CALL}")
            return opening, rendered(chat, chat.continuation_ids(reply.messages))
        finally:
            await pool.close()

    opening, reply = asyncio.run(play())
    assert opening.startswith("<|system|>system\nSolve the problem, with Python")
    assert '<tools>\n{"type": "function", "function": {"name": "python", ' in opening
    assert f"\n{CALL}\n" in opening
    assert opening.endswith("\\boxed{answer}.<|end|>\n<|user|>user\nWhat?<|end|>\n<|assistant|>assistant\n")
    assert reply == "\n<|user|>user\n<tool_response>\n42\n</tool_response><|end|>\n<|assistant|>assistant\n"


@pytest.mark.parametrize(
    ("overrides", "tool_format", "shown"),
    [
        (HERMES, ToolFormat.hermes_json, CALL),
        (("model=instruct", "model.path=owner/name"), ToolFormat.code_block, "```python"),
        (("env=lookup", "task=lookup"), ToolFormat.code_block, "```lookup"),
    ],
)
def test_a_prompt_shows_the_format_that_is_read(composed, overrides: tuple[str, ...], tool_format, shown: str) -> None:
    env = build_components(composed(*overrides), "").env
    assert env.tool_format is tool_format
    assert shown in env.system_prompt
    assert re.search(r"\\boxed\{answer\}", env.system_prompt)


SMOLLM2 = Path(__file__).parents[1] / "unit" / "model" / "golden" / "smollm2_worked_examples.txt"


def opened(settings: EnvironmentSettings, question: str) -> str:
    """What the policy reads before its first turn, as ChatML."""
    asked = Problem(id="p", prompt=(Message(role="user", content=question),), answer="1", source="tests")
    chat = ChatRenderer(tokenizer_with(CHATML, CHATML_TOKENS), name="chatml")
    return rendered(chat, chat.prompt_ids(opening_messages(settings, asked)))


def test_the_worked_examples_of_smollm2_to_the_letter(composed) -> None:
    env = build_components(composed("model=smollm2_135m"), "").env
    assert opened(env, "Compute 598 + 233 * 50.") == SMOLLM2.read_text()


def test_the_worked_examples_of_smollm2_print_what_they_say(composed) -> None:
    text = opened(build_components(composed("model=smollm2_135m"), "").env, "?")
    examples = text.split("```python\n")[1:]
    assert len(examples) == 5
    for example in examples:
        code, _, rest = example.partition("\n```<|im_end|>\n<|im_start|>tool\n")
        printed: list[str] = []
        exec(code, {"print": lambda value, to=printed: to.append(str(value))})
        (output,) = printed
        assert rest.startswith(f"{output}<|im_end|>\n<|im_start|>assistant\n\\boxed{{{output}}}<|im_end|>\n")


def test_without_a_tool_smollm2_is_shown_the_same_questions_and_answers(composed) -> None:
    def shown(*overrides: str) -> tuple[list[str], list[str]]:
        env = build_components(composed("model=smollm2_135m", *overrides), "").env
        asked = [one.content.removesuffix(env.problem_suffix) for one in env.examples if one.role is ExampleRole.user]
        answers = [extract_boxed(one.content) for one in env.examples if one.role is ExampleRole.assistant]
        return asked, [answer for answer in answers if answer is not None]

    assert shown("env=no_tool") == shown()
    assert len(shown()[1]) == 5


@pytest.mark.parametrize("model", ["instruct", "instruct_hermes", "smollm2_135m"])
def test_without_a_tool_no_prompt_speaks_of_one(composed, model: str) -> None:
    env = build_components(composed(f"model={model}", "model.path=owner/name", "env=no_tool"), "").env
    text = opened(env, "What is 6 * 7?")
    assert r"\boxed{" in env.system_prompt
    assert not re.search(r"```|tool_call|python|code|print", text, re.IGNORECASE)
    assert "tool" not in text


@pytest.mark.parametrize(
    ("model", "golden", "opened_by"),
    [
        ("qwen2_5_0_5b_instruct", "qwen2_5", "<|im_start|>assistant\n"),
        ("qwen2_5_7b_instruct", "qwen2_5", "<|im_start|>assistant\n"),
        ("qwen3_0_6b", "qwen3_thinking", "<|im_start|>assistant\n"),
        ("qwen3_8b", "qwen3_thinking", "<|im_start|>assistant\n"),
        ("qwen3_8b model.template_options.enable_thinking=false", "qwen3_thinking", "<think>\n\n</think>\n\n"),
        ("llama3_8b_instruct", "llama3", "assistant<|end_header_id|>\n\n"),
        ("llama3_1_8b_instruct", "llama3_1", "assistant<|end_header_id|>\n\n"),
        ("llama3_2_1b_instruct", "llama3_1", "assistant<|end_header_id|>\n\n"),
    ],
)
def test_options_of_models_go_with_the_templates_of_their_families(
    composed, model: str, golden: str, opened_by: str
) -> None:
    lm = build_components(composed(*f"model={model}".split()), "").model
    family = next(one for one in FAMILIES if one.golden == golden)
    chat = replace(family, options=lm.template_options).renderer()
    assert chat.traits.opening.endswith(opened_by)
    assert "```python" in lm.system_prompt


def test_the_tiny_policy_is_told_nothing(composed) -> None:
    for overrides in ([], ["env=no_tool"]):
        env = build_components(composed(*overrides), "").env
        assert opened(env, "2 + 2?") == "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"


def test_the_prompt_of_lookups_leads_to_an_answer(composed) -> None:
    components = build_components(composed("env=lookup", "task=lookup", "task.num_hops=1"), "")
    (one,) = components.task.start(0).next_batch(1)
    key = re.search(r"\d+", one.prompt[0].content)
    assert key

    async def play() -> str | None:
        episode = components.env.start().episode(one)
        (reply,) = (await episode.step(f"```lookup\n{key[0]}\n```")).messages
        assert reply.role == "tool"
        ended = await episode.step(f"\\boxed{{{reply.content}}}")
        assert ended.stop_reason is StopReason.answered
        return ended.answer

    assert [m.role for m in components.env.start().episode(one).initial_messages()] == ["system", "user"]
    assert asyncio.run(play()) == one.answer
    assert Message(role="user", content=one.prompt[0].content) == one.prompt[0]
