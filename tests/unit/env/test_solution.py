"""Problems with tests, played against the real sandbox; their programs are made up."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builders import problem
from turnwise.env.breaker import BrokenToolError
from turnwise.env.calculator import Calculator
from turnwise.env.no_tool import NoTool
from turnwise.env.python_tool import PythonTool, PythonToolPool
from turnwise.env.sandbox.interface import ErrorDetail, Interpreter, ProgramResult
from turnwise.env.sandbox.local import LocalSandbox
from turnwise.env.solution import find_solution, shown_program
from turnwise.env.tool_format import ToolFormat
from turnwise.task.benchmark import Benchmark
from turnwise.task.columns import AnswerRule, Columns
from turnwise.types import Isolation, Message, StepResult, StopReason, ToolStatus

TESTS = """def check(candidate):
    assert candidate(2) == 4
    assert candidate(-1) == -2

check(twice)
"""
TWICE = replace(problem(answer="return 2 * x"), tests=TESTS, entry_point="twice")
RIGHT = "def twice(x):\n    return 2 * x"
WRONG = "def twice(x):\n    return x + 2"
DONE = "\\boxed{done}"


@pytest.fixture(scope="module")
def pool() -> Iterator[PythonToolPool]:
    pool = PythonTool(sandbox=LocalSandbox(wall_s=1.0, memory_mb=256)).start()
    yield pool
    asyncio.run(pool.close())


def block(code: str) -> str:
    return f"```python\n{code}\n```\n"


def play(pool: PythonToolPool, *turns: str) -> StepResult:
    """The last of the replies to `turns`, all in one episode."""

    async def run() -> StepResult:
        episode = pool.episode(TWICE)
        results = [await episode.step(turn) for turn in turns]
        await episode.close()
        return results[-1]

    return asyncio.run(run())


def test_a_solution_that_passes_is_the_answer(pool: PythonToolPool) -> None:
    for turns in (
        (block(RIGHT), DONE),
        (block(RIGHT) + DONE,),
        (block(RIGHT), "It works."),
        (block(WRONG), block(RIGHT), DONE),
    ):
        result = play(pool, *turns)
        assert (result.stop_reason, result.answer, result.passed) == (StopReason.answered, RIGHT, True)


def test_a_program_that_is_called_goes_on(pool: PythonToolPool) -> None:
    result = play(pool, block(f"{RIGHT}\nprint(twice(4))"))
    assert (result.stop_reason, result.passed, result.messages[0].content) == (None, None, "8")


def test_the_last_program_that_defines_the_entry_point_counts(pool: PythonToolPool) -> None:
    result = play(pool, block(RIGHT), block(WRONG), block("print(1)"), DONE)
    assert (result.answer, result.passed) == (WRONG, False)


@pytest.mark.parametrize(
    "code",
    [
        f"{WRONG}\nprint('ok')\nprint('passed')",
        f"{RIGHT}\nexit(0)",
        f"{RIGHT}\nraise SystemExit",
        f"{RIGHT}\nimport os\nos._exit(0)",
        "def twice(x):\n    raise SystemExit(0)",
        "import os\n\ndef twice(x):\n    os._exit(0)",
        f"{RIGHT}\nwhile True: pass",
        "def twice(x):\n    while True: pass",
        "def twice(x):\n    return [0] * 10**9",
        f"{RIGHT}\nx = 1 / 0",
        "twice = 3",
        "class twice:\n    pass",
    ],
)
def test_nothing_but_passing_passes(pool: PythonToolPool, code: str) -> None:
    result = play(pool, block("print(1)"), block(code) + DONE)
    assert (result.stop_reason, result.answer, result.passed) == (StopReason.answered, code, False)


def test_a_box_without_a_solution_is_a_wrong_answer(pool: PythonToolPool) -> None:
    result = play(pool, block("print(1)"), DONE)
    assert (result.stop_reason, result.answer, result.passed) == (StopReason.answered, "done", False)
    result = play(pool, block("print(1)"), "I give up.")
    assert (result.stop_reason, result.answer, result.passed) == (StopReason.void_turn, None, None)


def test_problems_without_tests_are_as_before(pool: PythonToolPool) -> None:
    async def run() -> StepResult:
        return await pool.episode(problem()).step(block(RIGHT) + "\\boxed{4}")

    result = asyncio.run(run())
    assert (result.answer, result.passed) == ("4", None)


def test_a_session_does_not_help_a_solution() -> None:
    pool = PythonTool(sandbox=LocalSandbox(), stateful=True).start()
    try:
        alone = play(pool, block("two = 2"), block("def twice(x):\n    return two * x"), DONE)
        whole = play(pool, block(RIGHT), DONE)
    finally:
        asyncio.run(pool.close())
    assert (alone.passed, whole.passed) == (False, True)


class Broken:
    """A sandbox, and the pool of it, that always fails."""

    max_capture_bytes = 65536
    keeps_sessions = False
    isolation = Isolation.remote

    def start(self) -> "Broken":
        return self

    def session(self) -> Interpreter:
        raise NotImplementedError

    async def run(
        self, code: str, error_detail: ErrorDetail = ErrorDetail.traceback, *, shows_value: bool = False
    ) -> ProgramResult:
        return ProgramResult(status=ToolStatus.infrastructure, stdout="", stderr="no route", wall_s=0.1)

    async def close(self) -> None:
        pass


def test_a_sandbox_that_fails_is_no_wrong_solution() -> None:
    pool = PythonTool(sandbox=Broken(), max_infrastructure_rate=0.005).start()  # 1 failure of 200 may be
    result = play(pool, block(RIGHT) + DONE)
    assert (result.stop_reason, result.passed) == (StopReason.tool_infrastructure, None)
    assert result.tool_result is not None
    assert result.tool_result.output == "no route"
    with pytest.raises(BrokenToolError, match="failed in 2 of the last 2 tool calls"):
        play(pool, block(RIGHT) + DONE)


def test_a_tool_that_cannot_run_tests_takes_no_such_problem() -> None:
    with pytest.raises(ValueError, match="problem 'p0' has tests, which env=python_tool alone can run"):
        Calculator().start().episode(TWICE)


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        ([], None),
        (["x = 1", "def twice(x"], None),
        (["def twice(x): pass", "def twice(x"], 0),
        (["def twice(x): pass", "async def twice(x): pass", "twice(2)"], 1),
        (["twice = lambda x: 2 * x", "def other():\n    def twice(x): pass"], 0),
        (["a = twice = print", "class A:\n    def twice(self): pass"], 0),
        (["def twice(x): pass", "(" * 100_000], 0),
        (["def twice(x): pass", "x = '\0'"], 0),
        (["twice: 'F' = lambda x: 2 * x", "twice: 'F'"], 0),
        (["import sys\nif sys:\n    def twice(x): pass\nelse:\n    x = 1", "twice(2)"], 0),
        (["try:\n    from m import twice\nexcept ImportError:\n    pass", "del twice"], 0),
        (["def twice(x): pass", "from m import g as twice"], 1),
        (["def twice(x): pass", "from m import twice as g\nimport a.twice"], 0),
        (["def twice(x): pass", "other, (twice, *rest) = 1, (2, 3)"], 1),
        (["def twice(x): pass", "f = lambda x: [twice for twice in x]\nprint(twice)"], 0),
        (["def twice(x): pass", "class A:\n    twice = 1\ntwice.x = 1"], 0),
        (["def twice(x): pass", "if (twice := abs): pass"], 1),
        (["twice = " + " + ".join(["1"] * 900)], 0),
    ],
)
def test_which_program_is_the_solution(programs: list[str], expected: int | None) -> None:
    assert find_solution(programs, "twice") == (None if expected is None else programs[expected])


SHOWN = "from typing import List\nfrom math import floor\n\ndef half(x: int) -> int:\n    return x // 2"
ASKED = "def twice(x: List) -> int:\n    '''Double. def twice(x)'''\n\nWrite it."


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (f"{SHOWN}\n\n\n{ASKED}", SHOWN),
        (f"'''Numbers.'''\nTWO = 2\n{ASKED}", "'''Numbers.'''\nTWO = 2"),
        (ASKED, ""),
        (f"Write a function:\n\n{ASKED}", ""),
        (f"Function\n{ASKED}", ""),
        (f"Task: Double\n{ASKED}", ""),
        (f"{SHOWN}\n\ndef twice_more(x): ...", ""),
        ("Double a number.", ""),
    ],
)
def test_what_a_statement_shows_before_the_function(statement: str, expected: str) -> None:
    assert shown_program(statement, "twice") == expected


@pytest.mark.parametrize(
    ("code", "passed"),
    [
        ("def twice(x: List) -> int:\n    return half(4 * x)", True),
        ("'''Mine.'''\nfrom __future__ import annotations\n\ndef twice(x: List) -> int:\n    return half(4 * x)", True),
        ("def half(x):\n    return x\n\ndef twice(x):\n    return half(2 * x)", True),
        ("def twice(x: Dict) -> int:\n    return 2 * x", False),
    ],
)
def test_a_solution_has_what_its_problem_shows(pool: PythonToolPool, code: str, passed: bool) -> None:
    prompt = (Message(role="user", content=f"{SHOWN}\n\n{ASKED}"),)

    async def run() -> StepResult:
        return await pool.episode(replace(TWICE, prompt=prompt)).step(block(code) + DONE)

    result = asyncio.run(run())
    assert (result.answer, result.passed) == (code, passed)


@pytest.mark.parametrize("tool_format", list(ToolFormat))
def test_a_fenced_program_hands_in_with_and_without_the_tool(pool: PythonToolPool, tool_format: ToolFormat) -> None:
    """However calls are written, so that one instruction is right in every environment."""

    async def run() -> list[StepResult]:
        tool = PythonTool(sandbox=LocalSandbox(), tool_format=tool_format).start()
        alone = NoTool().start(pool.judge)
        try:
            return [await one.episode(TWICE).step(f"{block(RIGHT)}So: {DONE}") for one in (tool, alone)]
        finally:
            await tool.close()

    for result in asyncio.run(run()):
        assert (result.stop_reason, result.answer, result.passed) == (StopReason.answered, RIGHT, True)


def test_the_published_solutions_pass() -> None:
    folder = os.environ.get("TURNWISE_BENCHMARKS")
    if folder is None:
        pytest.skip("TURNWISE_BENCHMARKS names no folder with the benchmarks' files")
    columns = Columns(question=["prompt"], answer_rule=AnswerRule.code, tests="test", entry_point="entry_point")
    path = str(Path(folder) / "humaneval.jsonl")
    problems = (
        Benchmark(name="humaneval", split="test", columns=columns, path=path).start(0).eval_sets(999)["humaneval"]
    )

    async def run() -> list[str]:
        pool = PythonTool(sandbox=LocalSandbox()).start()
        try:
            wrong = []
            for one in problems:
                statement = one.prompt[0].content
                whole = f"{statement}\n{one.answer}"
                alone = whole[statement.index(f"def {one.entry_point}(") :]  # without what the statement shows before
                for program in {whole, alone}:
                    result = await pool.episode(one).step(block(program) + DONE)
                    if not result.passed:
                        wrong.append(one.id)
            return wrong
        finally:
            await pool.close()

    assert len(problems) == 164
    assert asyncio.run(run()) == []
