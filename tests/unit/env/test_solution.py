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
from turnwise.env.python_tool import PythonTool, PythonToolPool
from turnwise.env.sandbox.interface import ErrorDetail, Interpreter, ProgramResult
from turnwise.env.sandbox.local import LocalSandbox
from turnwise.env.solution import find_solution
from turnwise.task.benchmark import Benchmark
from turnwise.task.columns import AnswerRule, Columns
from turnwise.types import Isolation, StepResult, StopReason, ToolStatus

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
    ],
)
def test_which_program_is_the_solution(programs: list[str], expected: int | None) -> None:
    assert find_solution(programs, "twice") == (None if expected is None else programs[expected])


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
                program = f"{one.prompt[0].content}\n{one.answer}"
                result = await pool.episode(one).step(block(program) + DONE)
                if not result.passed:
                    wrong.append(one.id)
            return wrong
        finally:
            await pool.close()

    assert len(problems) == 164
    assert asyncio.run(run()) == []
