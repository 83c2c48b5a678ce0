"""Between messages and tokens: a tokenizer with its chat template, which must grow by appending."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnwise.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MARK = "Sphinx7of7black7quartz"
"""Stands for a sampled turn when the template is probed; no whitespace, so that no template strips any of it."""

TOOL_TAGS = ("<tool_call>", "</tool_call>")
"""What a turn says when it calls a tool, and what a prompt may show: text, though some tokenizers call it special."""

PROBE_USER = Message(role="user", content="question")
PROBE_TURN = Message(role="assistant", content=MARK)
PROBE_TOOL = Message(role="tool", content="observation")


class ChatRenderer:
    """Renders messages with the tokenizer's chat template and never encodes sampled text again.

    Two things about the template are found by probing it once. Its end-of-turn token is what it writes right
    after an assistant's content. Its `tool` role, when it has none, is replaced by `user`: tool output then
    reaches the policy as a user message. Control tokens spelt out in a message's content are removed, so that
    what a tool prints cannot end a turn or open one.

    Attributes:
        name: For messages and labels.
        stop_token_ids: Tokens that end a sampled turn: the template's end of turn and the tokenizer's end of text.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", name: str) -> None:
        """Probes the template of `tokenizer`.

        Raises:
            ValueError: If there is no template, it closes no turn with a control token, or a longer transcript
                does not begin with the shorter one (a template that rewrites history, as some strip earlier
                thinking: the tokens of a multi-turn transcript would then differ from the sampled ones).
        """
        self.name = name
        self._tokenizer: Any = tokenizer
        if not tokenizer.chat_template:
            raise ValueError(f"{name}: the tokenizer has no chat template; set model.chat_template to a jinja file")
        added = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        control = {id_: text for id_, text in added.items() if text not in TOOL_TAGS}
        longest_first = sorted(control.values(), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._control_ids = frozenset(control)
        self._end_of_turn = self._find_end_of_turn()
        (end_id,) = self._encode(self._end_of_turn)
        eos: Any = tokenizer.eos_token_id
        self.stop_token_ids = frozenset({end_id} if eos is None else {end_id, eos})
        self._tool_role = self._find_tool_role()
        self._check_prefixes()
        self._prompt_ids = lru_cache(maxsize=4096)(self._render_prompt)
        self._continuation_ids = lru_cache(maxsize=4096)(self._render_continuation)

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of an opening transcript, up to where the policy's first turn begins."""
        return self._prompt_ids(tuple(messages))

    def continuation_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens to append after a sampled turn (its stop token included), up to where the next turn begins."""
        return self._continuation_ids(tuple(messages))

    def turn_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of a turn that was written and not sampled, its end of turn included: for demonstrations."""
        return self._encode(self._without_control_tokens(text) + self._end_of_turn)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of text inside a turn, control tokens removed: what stands before and after is encoded apart."""
        return self._encode(self._without_control_tokens(text))

    def holds_control_token(self, text: str) -> bool:
        """Whether `text` spells out a control token, which is removed wherever text is encoded."""
        return self._control.search(text) is not None

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a sampled turn, control tokens removed."""
        said = [token_id for token_id in token_ids if token_id not in self._control_ids]
        return self._tokenizer.decode(said, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def save_pretrained(self, folder: Path) -> None:
        """Writes the tokenizer and its template in the Hugging Face layout."""
        self._tokenizer.save_pretrained(folder)

    def _render_prompt(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        return self._encode(self._render(messages, opens_turn=True))

    def _render_continuation(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        rendered = self._render((PROBE_USER, PROBE_TURN, *messages), opens_turn=True)
        # The end of turn is encoded along and cut off: what follows is then encoded as it is inside a transcript.
        return self._encode(rendered[rendered.index(MARK) + len(MARK) :])[1:]

    def _render(self, messages: Sequence[Message], *, opens_turn: bool, tool_role: str | None = None) -> str:
        from jinja2 import TemplateError

        tool_role = tool_role or self._tool_role
        rows = [
            {"role": tool_role if m.role == "tool" else m.role, "content": self._without_control_tokens(m.content)}
            for m in messages
        ]
        try:
            return self._tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=opens_turn)
        except TemplateError as error:
            roles = ", ".join(row["role"] for row in rows)
            raise ValueError(f"{self.name}: the chat template refuses messages of roles {roles}: {error}") from error

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _without_control_tokens(self, content: str) -> str:
        while self._control.search(content):  # what is left may join up to another one
            content = self._control.sub("", content)
        return content

    def _find_end_of_turn(self) -> str:
        rendered = self._render((PROBE_USER, PROBE_TURN), opens_turn=False, tool_role="tool")
        _, mark, rest = rendered.partition(MARK)
        found = self._control.match(rest)
        if not mark or found is None:
            raise ValueError(
                f"{self.name}: the chat template writes {rest[:20]!r} after an assistant's turn, expected one of the "
                f"tokenizer's control tokens; without an end-of-turn token no sampled turn can end"
            )
        return found.group()

    def _find_tool_role(self) -> str:
        try:
            rendered = self._render((PROBE_USER, PROBE_TURN, PROBE_TOOL), opens_turn=True, tool_role="tool")
        except ValueError:
            return "user"
        return "tool" if PROBE_TOOL.content in rendered else "user"

    def _check_prefixes(self) -> None:
        transcript = (PROBE_USER, PROBE_TURN, PROBE_TOOL, PROBE_TURN, PROBE_TOOL)
        earlier, earlier_length = "", 0
        for length in range(1, len(transcript) + 1):
            opens_turn = transcript[length - 1].role != "assistant"
            rendered = self._render(transcript[:length], opens_turn=opens_turn)
            if not rendered.startswith(earlier):
                raise ValueError(
                    f"{self.name}: the chat template does not preserve prefixes: {length} messages are not rendered "
                    f"as an extension of the first {earlier_length}, so a transcript cannot grow by appending; set "
                    f"model.chat_template to one that leaves earlier messages as they are"
                )
            earlier, earlier_length = rendered, length
