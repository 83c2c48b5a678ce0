import asyncio

import pytest

from builders import problem
from turnwise.env.no_tool import NoTool
from turnwise.types import StepResult, StopReason


def step(text: str) -> StepResult:
    return asyncio.run(NoTool().start().episode(problem()).step(text))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So it is \\boxed{42}.", "42"),
        ("First \\boxed{1}, no: \\boxed{2}", "2"),
        ("```python\nprint('\\boxed{3}')\n```", "3"),
        ("```python\nx = {1: {\n\\boxed{4}", "4"),
        ('<tool_call>\n{"name": "python", "arguments": {"code": "# \\boxed{5}"}}\n</tool_call>', "5"),
        ("\\boxed{6}\n```python\nprint(7)", "6"),
    ],
)
def test_the_last_box_anywhere_is_the_answer_and_nothing_is_called(text: str, answer: str) -> None:
    assert step(text) == StepResult(stop_reason=StopReason.answered, answer=answer)


@pytest.mark.parametrize("text", ["", "42", "```python\nprint(42)\n```", "\\boxed{}", "\\boxed{4"])
def test_a_turn_without_a_box_is_void_and_the_last_one(text: str) -> None:
    assert step(text) == StepResult(stop_reason=StopReason.void_turn)


def test_there_is_one_turn_and_no_program() -> None:
    async def run() -> None:
        pool = NoTool().start()
        assert pool.isolation is None
        episode = pool.episode(problem())
        await episode.step("```python\nprint(42)\n```")
        with pytest.raises(RuntimeError, match="'p0' is over"):
            await episode.step("\\boxed{42}")
        await episode.close()
        await pool.close()

    asyncio.run(run())
