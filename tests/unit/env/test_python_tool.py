import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from builders import problem
from turnwise.env.breaker import BrokenToolError
from turnwise.env.python_tool import PythonTool, PythonToolPool
from turnwise.env.sandbox.fusion import FusionSandbox
from turnwise.env.sandbox.interface import ErrorDetail, Interpreter, ProgramResult
from turnwise.env.sandbox.local import LocalSandbox
from turnwise.protocols import Environment, EnvironmentPool
from turnwise.types import Isolation, Message, StepResult, StopReason, ToolStatus


@pytest.fixture(scope="module")
def pool() -> Iterator[PythonToolPool]:
    pool = PythonTool(sandbox=LocalSandbox(wall_s=2.0, memory_mb=256), max_output_chars=64).start()
    yield pool
    asyncio.run(pool.close())


@asynccontextmanager
async def started(tool: PythonTool) -> AsyncIterator[PythonToolPool]:
    pool = tool.start()
    try:
        yield pool
    finally:
        await pool.close()


def block(code: str) -> str:
    return f"Let me see.\n```python\n{code}\n```\n"


def step(pool: PythonToolPool, text: str) -> StepResult:
    return asyncio.run(pool.episode(problem()).step(text))


def reply(result: StepResult) -> str:
    (message,) = result.messages
    assert message.role == "tool"
    return message.content


def test_parts_fulfil_their_protocols(pool: PythonToolPool):
    shared: EnvironmentPool = pool
    episode: Environment = shared.episode(problem())
    assert episode.initial_messages() == (Message(role="user", content="What?"),)


def test_a_box_outside_code_ends_the_episode_and_runs_nothing(pool: PythonToolPool, tmp_path):
    marker = tmp_path / "was_run"
    result = step(pool, block(f"open({str(marker)!r}, 'w')") + "So \\boxed{42}.")
    assert (result.stop_reason, result.answer, result.tool_result) == (StopReason.answered, "42", None)
    assert [call.error for call in result.tool_calls] == [None]
    assert not marker.exists()


def test_neither_call_nor_answer_is_a_void_turn(pool: PythonToolPool):
    result = step(pool, "I think it is 42.")
    assert result == StepResult(stop_reason=StopReason.void_turn)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("```python\nprint(1)", "Error: code block is not closed"),
        ("```sh\nls\n```", "Error: unknown tool 'sh', expected 'python'"),
        (block("print(1)") + "```python\n```", "Error: code block is empty"),
    ],
)
def test_a_malformed_call_is_answered_and_nothing_of_the_turn_runs(pool: PythonToolPool, text: str, content: str):
    result = step(pool, text)
    assert reply(result) == content
    assert result.tool_result is None
    assert any(call.error for call in result.tool_calls)


@pytest.mark.parametrize(
    ("code", "status", "content"),
    [
        ("print(6 * 7)", ToolStatus.ok, "42"),
        ("6 * 7", ToolStatus.ok, "(no output)"),
        ("print()", ToolStatus.ok, "(no output)"),
        ("print('  a')\nprint('b')", ToolStatus.ok, "  a\nb"),
        ("math.gcd(4, 6)", ToolStatus.user_error, "NameError: name 'math' is not defined"),
        ("print(1)\nprint(1 / 0)", ToolStatus.user_error, "1\nZeroDivisionError: division by zero"),
        ("while True: print(end='')", ToolStatus.timeout, "TimeoutError: program ran too long"),
        ("print(1)\nx = 'a' * 10**12", ToolStatus.memory, "MemoryError: program used too much memory"),
        ("print('x' * 10**6)", ToolStatus.output_limit, "OutputError: program printed or wrote too much"),
        # 64 characters shown: 30 + "\n...\n" + 29.
        ("print('a' * 100 + 'b' * 100)", ToolStatus.ok, "a" * 30 + "\n...\n" + "b" * 29),
        ("print('a' * 64)", ToolStatus.ok, "a" * 64),
    ],
)
def test_what_the_policy_sees(pool: PythonToolPool, code: str, status: ToolStatus, content: str):
    result = step(pool, block(code))
    assert reply(result) == content
    assert result.stop_reason is None
    assert result.tool_result is not None
    assert (result.tool_result.status, result.tool_result.output) == (status, content)


def test_several_calls_run_as_one_program(pool: PythonToolPool):
    result = step(pool, block("x = 20") + block("print(x + 1)"))
    assert reply(result) == "21"
    assert [call.code for call in result.tool_calls] == ["x = 20", "print(x + 1)"]


def test_value_of_the_last_expression_on_request():
    async def run() -> StepResult:
        async with started(PythonTool(sandbox=LocalSandbox(num_workers=1), shows_value=True)) as pool:
            return await pool.episode(problem()).step(block("x = 6") + block("x * 7"))

    assert reply(asyncio.run(run())) == "42"


def test_traceback_on_request():
    async def run() -> StepResult:
        async with started(PythonTool(sandbox=LocalSandbox(), error_detail=ErrorDetail.traceback)) as pool:
            return await pool.episode(problem()).step(block("def f():\n    return 1 / 0\nf()"))

    assert reply(asyncio.run(run())) == (
        "Traceback (most recent call last):\n"
        '  File "program.py", line 3, in <module>\n    f()\n'
        '  File "program.py", line 2, in f\n    return 1 / 0\n'
        "ZeroDivisionError: division by zero"
    )


class Broken:
    """A sandbox, and its pool, that fails for every program but the first."""

    max_capture_bytes = 65536
    isolation = Isolation.remote
    keeps_sessions = True

    def __init__(self) -> None:
        self.num_runs = 0

    def start(self) -> "Broken":
        return self

    async def run(
        self, code: str, error_detail: ErrorDetail = ErrorDetail.traceback, *, shows_value: bool = False
    ) -> ProgramResult:
        self.num_runs += 1
        status = ToolStatus.ok if self.num_runs == 1 else ToolStatus.infrastructure
        return ProgramResult(status=status, stdout="", stderr="no route", wall_s=0.0)

    def session(self) -> Interpreter:
        return self

    async def close(self) -> None:
        pass


def test_a_failing_sandbox_ends_the_episode():
    pool = PythonTool(sandbox=Broken()).start()
    assert reply(step(pool, block("print(1)"))) == "no route"
    result = step(pool, block("print(1)"))
    assert result.stop_reason is StopReason.tool_infrastructure
    assert result.tool_result is not None
    assert (result.tool_result.status, result.tool_result.output) == (ToolStatus.infrastructure, "no route")


def test_variables_live_from_turn_to_turn_where_that_is_wanted():
    async def play() -> list[list[str]]:
        async with started(PythonTool(sandbox=LocalSandbox(cpu_s=1.0), stateful=True)) as pool:
            episodes = [pool.episode(problem()) for _ in range(2)]
            turns = [
                "x = {i}",
                "print(x)\nopen('f', 'w').write('y')",
                "print(x, open('f').read())",
                "while True: pass",
                "x",
            ]
            told = [
                [reply(await one.step(block(turn.format(i=i)))) for turn in turns] for i, one in enumerate(episodes)
            ]
            for one in episodes:
                await one.close()
                await one.close()
            return told

    end = ["TimeoutError: program ran too long\n(variables lost)", "NameError: name 'x' is not defined"]
    assert asyncio.run(play()) == [["(no output)", f"{i}", f"{i} y", *end] for i in range(2)]


def test_the_note_of_lost_variables_stays_within_what_is_shown():
    async def play() -> str:
        tool = PythonTool(sandbox=LocalSandbox(), stateful=True, max_output_chars=40)
        async with started(tool) as pool:
            return reply(
                await pool.episode(problem()).step(block("print('x' * 99, flush=True)\nimport os\nos._exit(0)"))
            )

    shown = asyncio.run(play())
    assert (len(shown), shown[-17:]) == (40, "\n(variables lost)")


def test_nothing_lives_on_by_default(pool: PythonToolPool):
    async def play() -> str:
        episode = pool.episode(problem())
        await episode.step(block("x = 1"))
        return reply(await episode.step(block("print(x)")))

    assert asyncio.run(play()) == "NameError: name 'x' is not defined"


def test_sessions_need_a_sandbox_that_has_them():
    with pytest.raises(ValueError, match=r"stateful=true: .* expected env/sandbox=local"):
        PythonTool(sandbox=FusionSandbox(url="http://127.0.0.1:1"), stateful=True)


@pytest.mark.parametrize("last", ["\\boxed{1}", "nothing", None])
def test_no_step_after_the_end(pool: PythonToolPool, last: str | None):
    async def run() -> None:
        episode = pool.episode(problem())
        assert reply(await episode.step(block("print(1)"))) == "1"
        if last is None:
            await episode.close()
            await episode.close()
        else:
            await episode.step(last)
        with pytest.raises(RuntimeError, match="'p0' is over"):
            await episode.step(block("print(2)"))

    asyncio.run(run())


def test_episodes_side_by_side_get_their_own_replies(pool: PythonToolPool):
    async def episode(i: int) -> list[str]:
        live = pool.episode(problem())
        return [reply(await live.step(block(f"print({i}, {turn})"))) for turn in range(3)]

    async def run() -> list[list[str]]:
        return await asyncio.gather(*(episode(i) for i in range(6)))

    assert asyncio.run(run()) == [[f"{i} {turn}" for turn in range(3)] for i in range(6)]


@pytest.mark.parametrize("value", [31, 65537])
def test_output_shown_lies_within_output_captured(value: int):
    with pytest.raises(ValueError, match=f"max_output_chars={value}: expected 32 to .*65536"):
        PythonTool(sandbox=LocalSandbox(), max_output_chars=value)


def test_a_sandbox_that_fails_too_often_ends_the_run():
    pool = PythonTool(sandbox=Broken(), max_infrastructure_rate=0.01).start()  # 2 failures of 200 may be
    results = [step(pool, block("print(1)")) for _ in range(3)]
    assert [result.stop_reason for result in results] == [None, *[StopReason.tool_infrastructure] * 2]
    with pytest.raises(BrokenToolError, match=r"failed in 3 of the last 4 tool calls.* no route$"):
        step(pool, block("print(1)"))


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rate_out_of_range(rate: float):
    with pytest.raises(ValueError, match=f"^max_infrastructure_rate={rate}: expected 0 to 1"):
        PythonTool(max_infrastructure_rate=rate)
