"""Families of chat models: tokenizers with their control tokens, small templates of ours, and one transcript of each.

The templates here are not those of the models. They do what matters of them, and write what stands by hand in
`unit/model/golden`; tests in `equivalence` hold the same texts against the templates that the models come with.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tiny_models import TEXTS, VOCAB_SIZE
from turnwise.env.tool_format import ToolFormat
from turnwise.model.chat import ChatRenderer
from turnwise.model.tiny import train_tokenizer
from turnwise.types import Message

GOLDEN = Path(__file__).parent / "unit" / "model" / "golden"
CHATML_TOKENS = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
LLAMA_TOKENS = ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Whatever the role, its name is written."""

QWEN2_5 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A system message where there is none; a tool's reply is a user's message between tags."""

QWEN3 = (
    "{% set ns = namespace(asked=0) %}{% for m in messages if m.role == 'user' %}{% set ns.asked = ns.asked + 1 %}"
    "{% endfor %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.asked = ns.asked - 1 %}{% endif %}"
    "{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content.split('</think>\n\n')[-1] if m.role == 'assistant' and ns.asked > 0 else m.content }}"
    "{{ '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
"""A turn loses its thought when the next question comes, not before; thinking can be switched off."""

THINKING = QWEN3.partition("{% if enable_thinking")[0] + "{{ '<think>\n' }}{% endif %}"
"""The same where the template begins every thought itself."""

LLAMA3 = (
    "{% for m in messages %}{{ bos_token if loop.first else '' }}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

LLAMA3_1 = (
    "{% set today = date_string if date_string is defined else strftime_now('%d %b %Y') %}"
    "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}"
    "{{ 'Today Date: ' + today + '\n\n' }}"
    "{% if messages[0].role != 'system' %}{{ '<|eot_id|>' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content | trim + '<|eot_id|>' }}{% elif m.role == 'tool' %}"
    "{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content | tojson + '<|eot_id|>' }}"
    "{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""The date stands in the system message, and a tool's reply is JSON in the role ipython."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family's template in our words, the names that TRL gives to the originals, and where its transcript stands."""

    template: str
    golden: str
    originals: tuple[str, ...] = ()
    control_tokens: tuple[str, ...] = CHATML_TOKENS
    tool_format: ToolFormat = ToolFormat.code_block
    thinks: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The transcript, written by hand."""
        return (GOLDEN / f"{self.golden}.txt").read_text(encoding="utf-8").removesuffix("\n")

    def renderer(self, template: str | None = None) -> ChatRenderer:
        """A renderer with `template`, by default ours."""
        made = tokenizer_with(template or self.template, self.control_tokens, TAGS)
        made.bos_token = self.control_tokens[1]
        return ChatRenderer(made, self.golden, options=self.options)


HERMES: dict[str, Any] = {"tool_format": ToolFormat.hermes_json}
OFF: dict[str, Any] = {"options": {"enable_thinking": False}}
FAMILIES = (
    Family(template=QWEN2_5, golden="qwen2_5", originals=("qwen2_5",)),
    Family(template=QWEN2_5, golden="qwen2_5_hermes", originals=("qwen2_5",), **HERMES),
    Family(template=QWEN3, golden="qwen3_thinking", originals=("qwen3",), thinks=True),
    Family(template=QWEN3, golden="qwen3_thinking_hermes", originals=("qwen3",), thinks=True, **HERMES),
    Family(template=THINKING, golden="qwen3_thinking", thinks=True),
    Family(template=QWEN3, golden="qwen3_without_thinking", originals=("qwen3",), **OFF),
    Family(template=QWEN3, golden="qwen3_without_thinking_hermes", originals=("qwen3",), **OFF, **HERMES),
    Family(template=LLAMA3, golden="llama3", originals=("llama3",), control_tokens=LLAMA_TOKENS),
    Family(
        template=LLAMA3_1,
        golden="llama3_1",
        originals=("llama3_1", "llama3_2"),
        control_tokens=LLAMA_TOKENS,
        options={"date_string": "26 Jul 2024"},
    ),
    Family(template=CHATML, golden="smollm2"),
)

CALLS = {
    ToolFormat.code_block: ("```python\nprint(2 + 3)\n```", '```python\nprint(6 * 7)\nprint("done")\n```'),
    ToolFormat.hermes_json: (
        '<tool_call>\n{"name": "python", "arguments": {"code": "print(2 + 3)"}}\n</tool_call>',
        '<tool_call>\n{"name": "python", "arguments": {"code": "print(6 * 7)\\nprint(\\"done\\")"}}\n</tool_call>',
    ),
}
THOUGHT = "<think>\nIs it \\boxed{41}?\n</think>\n\n"
ANSWER = "So it is \\boxed{42}."


def transcript(chat: ChatRenderer, tool_format: ToolFormat, *, thinks: bool) -> tuple[str, list[str]]:
    """A worked example and a problem, and two turns of the policy, with a tool's reply between them.

    Returns:
        The transcript, grown by appending, and the turns as the environment reads them.
    """
    shown, called = CALLS[tool_format]
    opening = (
        Message(role="system", content="Use Python."),
        Message(role="user", content="What is 2 + 3?"),
        Message(role="assistant", content=shown),
        Message(role="tool", content="5"),
        Message(role="assistant", content="\\boxed{5}"),
        Message(role="user", content="What is 6 * 7?"),
    )
    thought = THOUGHT if thinks else ""
    turns = [chat.turn_ids(thought + called), chat.turn_ids(thought + ANSWER)]
    reply = chat.continuation_ids([Message(role="tool", content='42\n"done"')])
    return chat.decode((*chat.prompt_ids(opening), *turns[0], *reply, *turns[1])), [chat.text(turn) for turn in turns]


@cache
def tokenizer_with(template: str, control_tokens: tuple[str, ...], plain_tokens: tuple[str, ...] = ()) -> Any:
    """A small tokenizer that has `control_tokens`, whose first ends a turn, and `plain_tokens`, which are text."""
    made: Any = train_tokenizer(TEXTS, VOCAB_SIZE)
    made.add_special_tokens({"additional_special_tokens": list(control_tokens), "eos_token": control_tokens[0]})
    made.add_tokens(list(plain_tokens))
    made.chat_template = template
    return made
