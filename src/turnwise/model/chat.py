"""Between messages and tokens: a tokenizer with its chat template, which must grow by appending."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnwise.model.chat_template import ChatTemplate
from turnwise.model.template_traits import CLOSE_THINK, USER, after_turn, find_traits
from turnwise.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class ChatRenderer:
    """Renders messages with the tokenizer's chat template and never encodes sampled text again.

    What the template does is found by probing it once (`TemplateTraits`). Its end-of-turn token is what it writes right
    after an assistant's content. Its `tool` role, when it has none, is replaced by `user`: tool output then reaches the
    policy as a user message. Control tokens spelt out in a message's content are removed, so that what a tool prints
    cannot end a turn or open one. Where the template itself begins the policy's thought, its `<think>` belongs to the
    text of the turn, though not to the sampled tokens.

    Attributes:
        name: For messages and labels.
        template: The chat template.
        traits: What it does.
        stop_token_ids: Tokens that end a sampled turn: the template's end of turn, the tokenizer's end of text, and
            `more_stop_ids`.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        name: str,
        *,
        options: Mapping[str, Any] | None = None,
        more_stop_ids: Iterable[int] = (),
    ) -> None:
        """Probes the template of `tokenizer`.

        Args:
            tokenizer: With a chat template.
            name: What it is called in errors.
            options: Variables of the template.
            more_stop_ids: Tokens with which the model was taught to end a turn, beside those that are found here.

        Raises:
            ValueError: There is no template, or no such option; it reads today's date; it closes no turn with a control
                token; or a longer transcript does not begin with the shorter one (a template that rewrites history: the
                tokens of a multi-turn transcript would then differ from the sampled ones).
        """
        self.name = name
        self._tokenizer: Any = tokenizer
        self.template = ChatTemplate(tokenizer, name, options or {})
        self.traits = find_traits(self.template)
        (end_id,) = self._encode(self.traits.end_of_turn)
        eos: Any = tokenizer.eos_token_id
        ends: list[int] = [end_id] if eos is None else [end_id, eos]
        self.stop_token_ids: frozenset[int] = frozenset([*ends, *more_stop_ids])
        self._prompt_ids = lru_cache(maxsize=4096)(self._render_prompt)
        self._continuation_ids = lru_cache(maxsize=4096)(self._render_continuation)

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of an opening transcript, up to where the policy's first turn begins."""
        return self._prompt_ids(tuple(messages))

    def continuation_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens to append after a sampled turn (its stop token included), up to where the next turn begins.

        Raises:
            ValueError: The template would drop the turn's thought once such messages follow it.
        """
        return self._continuation_ids(tuple(messages))

    def turn_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of a turn that was written and not sampled, its end of turn included: for demonstrations."""
        begun = self.traits.opened_thinking
        said = text.removeprefix(begun) if text.startswith(begun) else f"\n{CLOSE_THINK}\n\n{text}"
        return self._encode(self.template.without_control_tokens(said) + self.traits.end_of_turn)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of text inside a turn, control tokens removed: what stands before and after is encoded apart."""
        return self._encode(self.template.without_control_tokens(text))

    def holds_control_token(self, text: str) -> bool:
        """Whether `text` spells out a control token, which is removed wherever text is encoded."""
        return self.template.without_control_tokens(text) != text

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a sampled turn, control tokens removed; with the `<think>` that the template put before it."""
        said = [token_id for token_id in token_ids if token_id not in self.template.control_ids]
        return self.traits.opened_thinking + self.decode(said)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens as it is, control tokens included."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return self._tokenizer.get_vocab()

    def save_pretrained(self, folder: Path) -> None:
        """Writes the tokenizer and its template in the Hugging Face layout."""
        self._tokenizer.save_pretrained(folder)

    def _render_prompt(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        return self._encode(self.template.render(self._with_tool_role(messages), opens_turn=True))

    def _render_continuation(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        follow = after_turn(self.template, (USER, self.traits.turns[-1]), *self._with_tool_role(messages))
        # The end of turn is encoded along and cut off: what follows is then encoded as it is inside a transcript.
        return self._encode(follow)[1:]

    def _with_tool_role(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(replace(m, role=self.traits.tool_role) if m.role == "tool" else m for m in messages)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
