"""What a policy is told about its tool: the prompts of `conf`, as a template of the Qwen kind renders them."""

import asyncio
import re

import pytest

from builders import problem
from tiny_models import TEXTS, VOCAB_SIZE
from turnwise.config.build import build_components
from turnwise.env.tool_format import ToolFormat
from turnwise.model.chat import ChatRenderer
from turnwise.model.tiny import train_tokenizer
from turnwise.protocols import Environment
from turnwise.types import Message, StopReason

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
    return chat._tokenizer.decode(list(ids))


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
