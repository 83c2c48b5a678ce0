from typing import Any

import pytest

from turnwise.worked_examples import ExampleMessage, ExampleRole


def test_who_speaks_and_what_is_said_are_checked() -> None:
    assert ExampleMessage(role=ExampleRole.tool, content="4").role == "tool"
    critic: Any = "critic"
    with pytest.raises(ValueError, match="role='critic' of a worked example: expected user, assistant, tool"):
        ExampleMessage(role=critic, content="No.")
    with pytest.raises(ValueError, match=r"content=' ' of a worked example, role user: expected text"):
        ExampleMessage(role=ExampleRole.user, content=" ")
