"""Tokenizers with the control tokens of real families of chat models, and small templates that render as theirs do."""

from functools import cache
from typing import Any

from tiny_models import TEXTS, VOCAB_SIZE
from turnwise.model.tiny import train_tokenizer

CHATML_TOKENS = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As SmolLM2 does it: whatever the role."""


@cache
def tokenizer_with(template: str, control_tokens: tuple[str, ...], plain_tokens: tuple[str, ...] = ()) -> Any:
    """A small tokenizer that has `control_tokens`, whose first ends a turn, and `plain_tokens`, which are text."""
    made: Any = train_tokenizer(TEXTS, VOCAB_SIZE)
    made.add_special_tokens({"additional_special_tokens": list(control_tokens), "eos_token": control_tokens[0]})
    made.add_tokens(list(plain_tokens))
    made.chat_template = template
    return made
