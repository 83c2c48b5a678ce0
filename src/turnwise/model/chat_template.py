"""A tokenizer's chat template as a function: messages to text, the same text on every day."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from turnwise.types import Message

TEXT_TAGS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
"""What a turn may say and a prompt may show: text, though some tokenizers count it among their special tokens."""

OUR_ARGUMENTS = (
    *("conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
    *("tokenizer_kwargs", "sanitize_control_tokens", "strftime_now"),
)
"""What rendering decides itself, so that it is no option of a template."""


_WRITES_DATE = "writes today as"
_NO_DATE = "{%- macro strftime_now(form) -%}{{ raise_exception('" + _WRITES_DATE + " ' ~ form) }}{%- endmacro %}\n"
"""Put before a template, takes the place of the function that tells it the date; it writes nothing itself."""


class ChatTemplate:
    """Renders messages; control tokens that their contents spell out are removed.

    Attributes:
        name: For messages of errors.
        source: The template itself, in Jinja.
        options: Values of its variables.
        reads_date: Whether it would ask for today's date unless an option keeps it from that.
        control: Finds control tokens in text.
        control_ids: The tokenizer's special tokens, but for those that are text.
    """

    def __init__(self, tokenizer: Any, name: str, options: Mapping[str, Any]) -> None:
        """Takes the template of `tokenizer`, with `options` as its variables.

        Raises:
            ValueError: There is no template, or it has no such option.
        """
        self.name = name
        self._tokenizer = tokenizer
        self.options = dict(options)
        if not tokenizer.chat_template:
            raise ValueError(f"{name}: the tokenizer has no chat template; set model.chat_template to a jinja file")
        self.source: str = tokenizer.get_chat_template(tools=options.get("tools"))
        self.reads_date = "strftime_now" in self.source
        self._safe_source = _NO_DATE + self.source if self.reads_date else self.source
        for option in options:
            if option in OUR_ARGUMENTS:
                raise ValueError(f"model.template_options.{option}: this is no option of a template, it is set here")
            if not re.search(rf"\b{re.escape(option)}\b", self.source):
                raise ValueError(f"model.template_options.{option}: the chat template of {name} reads no such variable")
        added = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        control = {id_: text for id_, text in added.items() if text not in TEXT_TAGS}
        longest_first = sorted(control.values(), key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.control_ids = frozenset(control)

    def render(self, messages: Sequence[Message], *, opens_turn: bool) -> str:
        """The text of a transcript.

        Args:
            messages: With roles as the template knows them.
            opens_turn: Whether the policy's next turn is opened at the end.

        Raises:
            ValueError: The template refuses the messages, or reads today's date.
        """
        from jinja2 import TemplateError

        rows = [{"role": m.role, "content": self.without_control_tokens(m.content)} for m in messages]
        try:
            return self._tokenizer.apply_chat_template(
                rows,
                tokenize=False,
                chat_template=self._safe_source,
                add_generation_prompt=opens_turn,
                **self.options,
            )
        except TemplateError as error:
            if str(error).startswith(_WRITES_DATE):
                raise ValueError(self._date_refusal(str(error))) from error
            roles = ", ".join(row["role"] for row in rows)
            raise ValueError(f"{self.name}: the chat template refuses messages of roles {roles}: {error}") from error

    def without_control_tokens(self, content: str) -> str:
        """`content` without what would be encoded as a control token."""
        while self.control.search(content):  # what is left may join up to another one
            content = self.control.sub("", content)
        return content

    def _date_refusal(self, what: str) -> str:
        remedy = (
            "pin it: model.template_options.date_string='26 Jul 2024'"
            if re.search(r"\bdate_string\b", self.source)
            else "set model.chat_template to a copy of the template in which a date stands"
        )
        return (
            f"{self.name}: the chat template {what} into the prompt, so that prompts and figures would change from day "
            f"to day; {remedy}"
        )
