"""What stands before the first turn, in environments with a tool and without one."""

import asyncio
from typing import Any

import pytest

from turnwise.env.calculator import Calculator
from turnwise.env.lookup import Lookup
from turnwise.env.no_tool import NoTool
from turnwise.env.python_tool import PythonTool
from turnwise.types import Message, Problem
from turnwise.worked_examples import ExampleMessage, ExampleRole

ASKED = Problem(
    id="p",
    prompt=(Message(role="user", content="Hello."), Message(role="user", content="What is 2 + 3?")),
    answer="5",
    source="tests",
)
EXAMPLES = [
    ExampleMessage(role=ExampleRole.user, content="What is 1 + 1?"),
    ExampleMessage(role=ExampleRole.assistant, content="\\boxed{2}"),
]


def opening(settings: Any) -> list[tuple[str, str]]:
    async def run() -> list[tuple[str, str]]:
        pool = settings.start()
        try:
            return [(one.role, one.content) for one in pool.episode(ASKED).initial_messages()]
        finally:
            await pool.close()

    return asyncio.run(run())


@pytest.mark.parametrize("environment", [PythonTool, Calculator, Lookup, NoTool])
def test_system_message_examples_problem_and_what_is_appended_to_it(environment: Any) -> None:
    assert opening(environment(system_prompt="Be brief.", examples=EXAMPLES, problem_suffix=" Think.")) == [
        ("system", "Be brief."),
        ("user", "What is 1 + 1?"),
        ("assistant", "\\boxed{2}"),
        ("user", "Hello."),
        ("user", "What is 2 + 3? Think."),
    ]
    assert opening(environment()) == [("user", "Hello."), ("user", "What is 2 + 3?")]


def test_a_lookup_answers_about_the_problem_and_not_about_what_is_appended_to_it() -> None:
    async def answer(**settings: Any) -> str:
        (reply,) = (await Lookup(**settings).start().episode(ASKED).step("```lookup\n1000\n```")).messages
        return reply.content

    assert asyncio.run(answer(problem_suffix=" Think.")) == asyncio.run(answer())
