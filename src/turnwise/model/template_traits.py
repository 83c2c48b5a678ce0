"""What a chat template does, found out by rendering probes: where turns end and open, tool output, earlier turns.

A transcript here grows by appending: sampled turns are never rendered again, and what follows a turn is rendered after
a probe in its place. That is right for a template if what it writes after a turn does not depend on the turns, and if
it leaves what stands before as it is. Both are checked for turns as the policy writes them, with their thinking.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from turnwise.model.chat_template import ChatTemplate
from turnwise.types import Message

MARK = "Sphinx7of7black7quartz"
"""Stands for what a sampled turn says when the template is probed; no whitespace, so that none of it is stripped."""
THOUGHT = "Jackdaws2love2my2big2sphinx"
"""Stands for what a sampled turn thinks."""
OPEN_THINK, CLOSE_THINK = "<think>", "</think>"

USER = Message(role="user", content="question")
OTHER_USER = Message(role="user", content="another question,\nof two lines")
REPLY = Message(role="tool", content="observation")

_OPENED = re.compile(rf"{OPEN_THINK}\s*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateTraits:
    """What a renderer needs to know of a template."""

    end_of_turn: str
    """The control token that closes an assistant's turn."""
    opening: str
    """What stands between a user's text and the turn: the end of a message, and the header of an assistant's."""
    opened_thinking: str
    """The end of `opening` that begins a thought, such as `<think>` and a line break; empty where it does not."""
    can_think: bool
    """Whether a turn may begin with a thought: not where `opening` holds one that is closed."""
    tool_role: str
    """The role in which the template takes tool output."""
    dropped: str
    """The end of `opening` that the template's own rendering leaves out of earlier turns; here it stays."""

    def turn(self, *, thinks: bool) -> Message:
        """A probe in the place of a sampled turn."""
        begun = self.opened_thinking or f"{OPEN_THINK}\n"
        thought = f"{begun}{THOUGHT}\n{CLOSE_THINK}\n\n" if thinks else ""
        return Message(role="assistant", content=thought + MARK)

    @property
    def turns(self) -> tuple[Message, ...]:
        """Probes of the kinds of turn that the policy can write; the last one thinks if any can."""
        kinds = (True,) if self.opened_thinking else (False, True) if self.can_think else (False,)
        return tuple(self.turn(thinks=thinks) for thinks in kinds)


def find_traits(template: ChatTemplate) -> TemplateTraits:
    """Probes `template`.

    Raises:
        ValueError: It closes no turn with a control token, or a transcript cannot grow by appending: it rewrites what
            stands before, as some drop earlier thoughts.
    """
    opened = (template.render((asked,), opens_turn=True) for asked in (USER, OTHER_USER))
    opening = "".join(_common_ending(*opened))
    thinking = _OPENED.search(opening)
    traits = TemplateTraits(
        end_of_turn=_find_end_of_turn(template),
        opening=opening,
        opened_thinking=thinking.group() if thinking else "",
        can_think=thinking is not None or CLOSE_THINK not in opening,
        tool_role="user",
        dropped="",
    )
    traits = replace(traits, tool_role=_find_tool_role(template, traits))
    return replace(traits, dropped=_find_dropped(template, traits))


def after_turn(template: ChatTemplate, before: tuple[Message, ...], *messages: Message) -> str:
    """What the template writes after the last turn of `before`, from its end of turn to where the next one begins.

    Raises:
        ValueError: A turn of `before`, or its thought, is dropped when `messages` follow: appending would keep it.
    """
    rendered = template.render((*before, *messages), opens_turn=True)
    if THOUGHT in before[-1].content and THOUGHT not in rendered:
        roles = ", ".join(message.role for message in messages)
        switch = " (or switch thinking off: model.template_options.enable_thinking=false)"
        raise ValueError(
            f"{template.name}: the chat template does not preserve prefixes: it drops the thought of a turn once a "
            f"message of role {roles} follows, so a transcript cannot grow by appending; set model.chat_template to "
            f"one that keeps it{switch if 'enable_thinking' in template.source else ''}"
        )
    num_turns = sum(message.role == "assistant" for message in before)
    parts = rendered.split(MARK, num_turns)  # no further: what a tool prints may hold the mark too
    if len(parts) <= num_turns:
        raise ValueError(_rewrites(template, "earlier messages are not rendered as they were"))
    return parts[-1]


def find_default_system(template: ChatTemplate) -> str:
    """What stands before a user's message that comes first; empty where it is nothing but control tokens."""
    alone = template.render((USER,), opens_turn=False)
    with_system = template.render((Message(role="system", content=MARK), USER), opens_turn=False)
    control = re.compile(f"({template.control.pattern})")  # whole tokens are compared: two may end alike
    ending = _common_ending(control.split(alone), control.split(with_system))
    before = alone[: len(alone) - len("".join(ending))]
    return before if control.sub("", before).strip() else ""


def keeps_thoughts(template: ChatTemplate, traits: TemplateTraits) -> bool:
    """Whether a turn's thought is still there when the next question has come."""
    return THOUGHT in template.render((USER, traits.turn(thinks=True), OTHER_USER), opens_turn=True)


def knows_tools(template: ChatTemplate, traits: TemplateTraits) -> bool:
    """Whether tool output has a form of its own, and is not written as a message of any role would be."""
    before = (USER, traits.turns[-1])
    as_tool = after_turn(template, before, REPLY)
    try:
        as_other = after_turn(template, before, replace(REPLY, role="critic"))
    except ValueError:
        return True
    return as_other.replace("critic", REPLY.role) != as_tool


def _find_end_of_turn(template: ChatTemplate) -> str:
    rendered = template.render((USER, Message(role="assistant", content=MARK)), opens_turn=False)
    _, mark, rest = rendered.partition(MARK)
    found = template.control.match(rest)
    if not mark or found is None:
        raise ValueError(
            f"{template.name}: the chat template writes {rest[:20]!r} after an assistant's turn, expected one of the "
            f"tokenizer's control tokens; without an end-of-turn token no sampled turn can end"
        )
    return found.group()


def _find_tool_role(template: ChatTemplate, traits: TemplateTraits) -> str:
    """`tool`, under whatever name the template writes it, or `user` where it has no such role."""
    try:
        rendered = template.render((USER, traits.turns[-1], REPLY), opens_turn=True)
    except ValueError:
        return "user"
    return REPLY.role if REPLY.content in rendered else "user"


def _find_dropped(template: ChatTemplate, traits: TemplateTraits) -> str:
    """Compares transcripts that grew with the template's own rendering of the same messages."""
    found = {
        _dropped(template, traits, before, turn)
        for turn in traits.turns
        for before in ((USER,), (OTHER_USER, traits.turns[0], USER))
    }
    if len(found) > 1:
        raise ValueError(_rewrites(template, "what it leaves out of earlier turns depends on what they say"))
    return found.pop()


def _dropped(template: ChatTemplate, traits: TemplateTraits, before: tuple[Message, ...], turn: Message) -> str:
    """The end of the opening that is not there when the template itself renders what has grown from `before`."""
    reply = replace(REPLY, role=traits.tool_role)
    follow = after_turn(template, (USER, turn), reply)
    if after_turn(template, (*before, turn, reply, turn), reply) != follow:
        raise ValueError(_rewrites(template, "what it writes after a turn depends on what stands before"))
    said = turn.content.removeprefix(traits.opened_thinking)
    opened = template.render(before, opens_turn=True)
    whole = template.render((*before, turn, reply, turn, reply), opens_turn=True)
    for cut in range(len(traits.opening), -1, -1):
        dropped = traits.opening[cut:]
        first, later = opened.removesuffix(dropped), follow.removesuffix(dropped)
        if whole == f"{first}{said}{later}{said}{follow}":
            return dropped
    raise ValueError(_rewrites(template, "earlier messages are not rendered as they were"))


def _common_ending(text: Sequence[str], other: Sequence[str]) -> Sequence[str]:
    pairs = zip(reversed(text), reversed(other), strict=False)
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return text[len(text) - length :]


def _rewrites(template: ChatTemplate, what: str) -> str:
    return (
        f"{template.name}: the chat template does not preserve prefixes: {what}, so a transcript cannot grow by "
        f"appending; set model.chat_template to one that leaves earlier messages as they are"
    )
