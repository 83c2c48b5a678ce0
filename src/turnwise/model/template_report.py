"""What a model's chat template does to a transcript, for a person to read before a run: `mode=doctor` prints it."""

from dataclasses import dataclass

from turnwise.model.chat import ChatRenderer
from turnwise.model.template_traits import CLOSE_THINK, OPEN_THINK, find_default_system, keeps_thoughts, knows_tools
from turnwise.types import Message

EXAMPLE = (Message(role="system", content="Be brief."), Message(role="user", content="What is 6 * 7?"))
TURN = "print(6 * 7)"
REPLY = Message(role="tool", content="42")


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateReport:
    """What a chat template does."""

    name: str
    """What the model is called in messages."""
    options: tuple[str, ...]
    """Its variables that are set, as `name=value`."""
    end_of_turn: str
    """The token that it puts after a turn of the policy."""
    stop_tokens: tuple[str, ...]
    """The tokens at which sampling ends a turn."""
    opening: str
    """What it writes between the user's text and the policy's first turn."""
    default_system: str
    """What it writes before a user's message where no system message is given; empty: nothing but control tokens."""
    tool_role: str
    """In which role tool output reaches the policy."""
    tool_reply: str
    """How it writes the reply `42` of a tool, from the end of the turn before it to the beginning of the next turn."""
    prefixes: str
    """Whether a transcript that grows is what the template itself would write of the same messages."""
    thinking: str
    """What it does to what the policy thinks."""
    date: str
    """Whether it asks for today's date."""
    example: tuple[str, ...]
    """The tokens of a transcript of one turn and a tool's reply, the turn that is opened last included."""

    def lines(self) -> list[str]:
        """The report as plain text; in quotes is what stands in a transcript, tokens of the example are set apart."""
        facts = {
            "options": ", ".join(self.options) or "none set",
            "a turn ends with": repr(self.end_of_turn),
            "sampling stops at": ", ".join(map(repr, self.stop_tokens)),
            "a turn is opened by": repr(self.opening),
            "without a system message": repr(self.default_system) if self.default_system else "none is written",
            "tool output": f"{self.tool_role}: {self.tool_reply!r}",
            "prefixes": self.prefixes,
            "thinking": self.thinking,
            "date": self.date,
        }
        width = max(map(len, facts))
        shown = [f"  {name:<{width}}  {value}" for name, value in facts.items()]
        return [f"chat template of {self.name}", *shown, "  an example, token by token:", *self._example_lines()]

    def _example_lines(self) -> list[str]:
        """The tokens of the example with bars between them, a line break after each that ends one."""
        rows: list[list[str]] = [[]]
        for token in self.example:
            rows[-1].append(repr(token)[1:-1])
            if token.endswith("\n"):
                rows.append([])
        return [f"    {'|'.join(row)}" for row in rows if row]


def describe_template(renderer: ChatRenderer) -> TemplateReport:
    """Describes the template of `renderer`, which has refused it already where it cannot be used."""
    template, traits = renderer.template, renderer.traits
    reply = renderer.continuation_ids([REPLY])
    example = (*renderer.prompt_ids(EXAMPLE), *renderer.turn_ids(TURN), *reply)
    date = "asks for today's, which an option pins" if template.reads_date else "never asks for today's"
    return TemplateReport(
        name=renderer.name,
        options=tuple(f"{name}={value!r}" for name, value in template.options.items()),
        end_of_turn=traits.end_of_turn,
        stop_tokens=tuple(renderer.decode([token]) for token in sorted(renderer.stop_token_ids)),
        opening=traits.opening,
        default_system=find_default_system(template),
        tool_role=_tool_role(renderer),
        tool_reply=renderer.decode(reply),
        prefixes=_prefixes(traits.dropped),
        thinking=_thinking(renderer),
        date=date,
        example=tuple(renderer.decode([token]) for token in example),
    )


def _tool_role(renderer: ChatRenderer) -> str:
    if renderer.traits.tool_role != REPLY.role:
        return "as a message of the user, for the template has no role for it"
    if knows_tools(renderer.template, renderer.traits):
        return "as the template writes messages of the role tool"
    return "as a message of the role tool, of which the template knows no more than the name"


def _prefixes(dropped: str) -> str:
    if not dropped:
        return "preserved: a transcript that grows is what the template writes of its messages"
    return f"preserved but for {dropped!r}, which the template itself leaves out of earlier turns; here it stays"


def _thinking(renderer: ChatRenderer) -> str:
    traits = renderer.traits
    if traits.opened_thinking:
        begun = f"every turn begins with {traits.opened_thinking!r}, written by the template"
    elif not traits.can_think:
        return f"off: every turn begins behind a {CLOSE_THINK}"
    else:
        begun = f"up to the policy: a turn that begins with {OPEN_THINK} thinks until {CLOSE_THINK}"
    later = "after the next question too" if keeps_thoughts(renderer.template, traits) else "until the next question"
    return f"{begun}; kept {later}"
