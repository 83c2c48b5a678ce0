"""Worked examples: what a prompt shows before the problem, chosen with the model and placed by the environment."""

from dataclasses import dataclass
from enum import StrEnum


class ExampleRole(StrEnum):
    """Who speaks in a worked example; the system message is a prompt's own."""

    user = "user"
    assistant = "assistant"
    tool = "tool"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleMessage:
    """One message of a worked example, as it stands in a configuration."""

    role: ExampleRole
    """Who speaks: user, assistant or tool."""
    content: str
    """What is said."""

    def __post_init__(self) -> None:
        if not isinstance(self.role, ExampleRole):
            raise ValueError(f"role={self.role!r} of a worked example: expected {', '.join(ExampleRole)}")
        if not self.content.strip():
            raise ValueError(f"content={self.content!r} of a worked example, role {self.role}: expected text")
