import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import problem
from turnwise.env.calculator import Calculator, CalculatorPool, calculate
from turnwise.protocols import Environment, EnvironmentPool
from turnwise.types import StepResult, StopReason, ToolStatus


def block(code: str) -> str:
    return f"```calculator\n{code}\n```"


def step(text: str, calculator: Calculator | None = None) -> StepResult:
    pool: EnvironmentPool = (calculator or Calculator()).start()
    episode: Environment = pool.episode(problem())
    return asyncio.run(episode.step(text))


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("37 + 12", "49"),
        ("12 - 37", "-25"),
        ("-4 * 12", "-48"),
        ("7*8", "56"),
        ("3 - -4", "7"),
        ("3--4", "7"),
        ("-7 // 2", "-4"),  # rounded down, as in Python
        ("-7 % 3", "2"),
        ("  8 +\n 1 ", "9"),
        ("007 + 1", "8"),
        ("999999999 * 999999999", "999999998000000001"),  # (10^9 - 1)^2 = 10^18 - 2 * 10^9 + 1
    ],
)
def test_one_operation_is_answered_by_its_result(code: str, output: str):
    result = step(block(code))
    assert [message.content for message in result.messages] == [output]
    assert result.tool_result is not None
    assert (result.tool_result.status, result.tool_result.output) == (ToolStatus.ok, output)
    assert (result.stop_reason, result.tool_calls[0].code) == (None, code)


@pytest.mark.parametrize(
    "code",
    [
        "37",
        "37 + 12 * 3",
        "37 +",
        "+ 12",
        "x + 1",
        "2 ** 3",
        "7 / 2",
        "1.5 + 1",
        "(3 + 4)",
        "3 + 4 = 7",
        "٣ + ٤",
        "1 2 + 3",
    ],
)
def test_anything_but_one_operation_is_malformed(code: str):
    result = step(block(code))
    assert [message.content for message in result.messages] == ["Error: expected one operation"]
    assert [(call.code, call.error) for call in result.tool_calls] == [(code, "expected one operation")]
    assert result.tool_result is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```calculator\n37 + 12", "code block is not closed"),
        ("```python\n37 + 12\n```", "unknown tool 'python', expected 'calculator'"),
        (block(""), "code block is empty"),
        (block("1 + 2") + "\n" + block("3 + 4"), "more than one call"),
        (block("1 + 2 + 3") + "\n" + block("3 + 4"), "expected one operation"),
    ],
)
def test_malformed_calls_name_their_error(text: str, error: str):
    assert [message.content for message in step(text).messages] == [f"Error: {error}"]


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("7 // 0", "ZeroDivisionError: division by zero"),
        ("7 % 0", "ZeroDivisionError: division by zero"),
        ("1234 + 1", "OverflowError: a number has more than 3 digits"),
        ("1 + -1234", "OverflowError: a number has more than 3 digits"),
        (f"1 * {'9' * 100_000}", "OverflowError: a number has more than 3 digits"),
    ],
)
def test_what_cannot_be_carried_out_is_the_callers_error(code: str, output: str):
    result = step(block(code), Calculator(max_digits=3))
    assert result.tool_result is not None
    assert (result.tool_result.status, result.tool_result.output) == (ToolStatus.user_error, output)
    assert [message.content for message in result.messages] == [output]
    assert not any(call.error for call in result.tool_calls)


def test_digits_are_counted_without_the_sign():
    assert calculate("-123 - -877", 3).output == "754"
    assert calculate("9" * 1000 + "*" + "9" * 1000, 1000).status is ToolStatus.ok


def test_answers_and_void_turns_end_the_episode():
    assert step("The answer is \\boxed{49}.").answer == "49"
    assert step("49").stop_reason is StopReason.void_turn


def test_the_pool_is_closed_any_number_of_times():
    async def run() -> None:
        pool = CalculatorPool(Calculator())
        await pool.close()
        await pool.close()

    asyncio.run(run())


@settings(deadline=None)
@given(st.lists(st.sampled_from(["1", "23", "+", "-", "*", "//", "%", " ", "\n", "0", "x"])).map("".join) | st.text())
def test_arbitrary_code_is_an_operation_or_an_error(code: str):
    result = step(block(code))
    assert result.tool_result is None or result.tool_result.status in (ToolStatus.ok, ToolStatus.user_error)


@pytest.mark.parametrize("value", [0, 1001])
def test_bad_limit_is_named(value: int):
    with pytest.raises(ValueError, match=f"max_digits={value}: expected 1 to 1000"):
        Calculator(max_digits=value)
