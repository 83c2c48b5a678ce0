"""Programs one after the other in one process: variables live, limits hold for each, nothing runs in between."""

import asyncio
import time
from collections.abc import Iterator

import psutil
import pytest

from turnwise.env.sandbox.interface import ErrorDetail, ProgramResult
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox
from turnwise.types import ToolStatus


@pytest.fixture(scope="module", params=list(Tier))
def pool(request: pytest.FixtureRequest) -> Iterator[LocalPool]:
    pool = LocalPool(LocalSandbox(num_workers=2, wall_s=1.0, cpu_s=0.5), request.param)
    yield pool
    asyncio.run(pool.close())


def play(pool: LocalPool, *codes: str, pause_s: float = 0.0) -> list[ProgramResult]:
    async def played() -> list[ProgramResult]:
        session, results = pool.session(), []
        for code in codes:
            results.append(await session.run(code, ErrorDetail.last_line, shows_value=True))
            await asyncio.sleep(pause_s)
        await session.close()
        await session.close()
        return results

    return asyncio.run(played())


def test_variables_functions_and_files_live_on(pool: LocalPool):
    results = play(pool, "x = 1\ndef f(): return x", "x += 1\nopen('a', 'w').write('b')", "f(), open('a').read()")
    assert [result.output for result in results] == ["", "1\n", "(2, 'b')\n"]
    assert not any(result.has_ended for result in results)


def test_a_value_too_long_is_not_shown_as_if_it_were_whole(pool: LocalPool):
    # Two quotes and the end of the line: 65,536 bytes are kept.
    results = play(pool, "'x' * 65533", "'x' * 65534")
    assert [(result.status, len(result.value)) for result in results] == [("ok", 65536), ("output_limit", 0)]


def test_a_closed_session_runs_nothing(pool: LocalPool):
    async def played() -> None:
        session = pool.session()
        await session.run("x = 1")
        await session.close()
        with pytest.raises(RuntimeError, match="the session is closed"):
            await session.run("x")

    asyncio.run(played())


def test_an_error_takes_no_variables_with_it(pool: LocalPool):
    results = play(pool, "x = 1\n1 / 0", "import sys\nsys.exit(3)", "sys.exit()", "x")
    assert [(result.status, result.output) for result in results] == [
        ("user_error", "ZeroDivisionError: division by zero\n"),
        ("user_error", "SystemExit: 3\n"),
        ("ok", ""),
        ("ok", "1\n"),
    ]


def test_a_traceback_tells_the_programs_apart():
    async def played() -> str:
        pool = LocalPool(LocalSandbox(num_workers=1), Tier.A)
        session = pool.session()
        await session.run("def f(x):\n    return 1 / x")
        result = await session.run("y = 0\n\nf(y)")
        await pool.close()
        return result.output

    assert asyncio.run(played()) == (
        "Traceback (most recent call last):\n"
        '  File "program_2.py", line 3, in <module>\n    f(y)\n'
        '  File "program.py", line 2, in f\n    return 1 / x\n'
        "ZeroDivisionError: division by zero\n"
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("while True: pass", ToolStatus.timeout),
        ("import time\ntime.sleep(9)", ToolStatus.timeout),
        ("print('x' * 10**6)", ToolStatus.output_limit),
        ("import os\nos._exit(0)", ToolStatus.ok),
        ("import os\nos._exit(3)", ToolStatus.user_error),
        ("import ctypes\nctypes.string_at(0)", ToolStatus.user_error),
    ],
)
def test_the_end_of_its_process_takes_the_variables(pool: LocalPool, code: str, status: ToolStatus):
    first, ended, after, last = play(pool, "x = 1", code, "x", "y = 2\ny")
    assert (ended.status, ended.has_ended) == (status, True)
    assert (after.output, after.has_ended, first.has_ended) == ("NameError: name 'x' is not defined\n", False, False)
    assert last.output == "2\n"


def test_memory_that_runs_out_is_an_error_that_the_session_survives(pool: LocalPool):
    results = play(pool, "x = 1", "y = bytearray(2 << 30)", "x")
    assert [result.status for result in results] == ["ok", "memory", "ok"]


def test_processor_time_is_counted_for_each_program_alone(pool: LocalPool):
    work = "import time\nt = time.process_time()\nwhile time.process_time() < t + 0.3: pass"
    assert [result.status for result in play(pool, *[work] * 4)] == ["ok"] * 4


def test_nothing_of_a_session_runs_between_its_programs(pool: LocalPool):
    begin = "import threading, time\nn = 0\ndef count():\n  global n\n  while True: n += 1; time.sleep(0.001)\n"
    begin += "threading.Thread(target=count, daemon=True).start()\ntime.sleep(0.05)"
    _, first, second = play(pool, begin, "n", "n", pause_s=0.3)
    assert int(second.value) - int(first.value) < 50  # of 300 that it would count


def test_sessions_know_nothing_of_each_other(pool: LocalPool):
    async def both() -> list[str]:
        one, other = pool.session(), pool.session()
        await one.run("import math\nx = math.x = 1\nopen('f', 'w')")
        result = await other.run("import os, math\nprint('x' in globals(), hasattr(math, 'x'), os.listdir())")
        alone = await pool.run("import os, math\nprint('x' in globals(), hasattr(math, 'x'), os.listdir())")
        await one.close()
        await other.close()
        return [result.output, alone.output]

    assert asyncio.run(both()) == ["False False []\n"] * 2


def test_a_session_that_is_closed_or_cancelled_under_way_leaves_no_process():
    async def played() -> list[int]:
        pool = LocalPool(LocalSandbox(num_workers=4, wall_s=9, cpu_s=9), Tier.A)
        await pool.session().run("x = 1")
        launched = pool._link.connection()._launched
        assert launched is not None
        broker = psutil.Process(launched.process.pid)
        before, counts = len(broker.children(recursive=True)), []
        for _ in range(3):
            sessions = [pool.session() for _ in range(4)]
            calls = [asyncio.create_task(session.run("while True: pass")) for session in sessions]
            await asyncio.sleep(0.2)
            calls[0].cancel()
            await asyncio.gather(*(session.close() for session in sessions))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert sum(isinstance(result, BaseException) for result in results) == 1
            deadline = time.monotonic() + 5
            while len(broker.children(recursive=True)) > before and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            counts.append(len(broker.children(recursive=True)) - before)
        await pool.close()
        return counts

    assert asyncio.run(played()) == [0, 0, 0]


def test_a_process_that_ends_between_programs_is_that_of_the_program_that_left_it_to(pool: LocalPool):
    leave = "import os, threading\nx = 1\nthreading.Thread(target=os._exit, args=(0,)).start()"
    results = play(pool, leave, "print('x' in globals())", pause_s=0.2)
    assert results[1].status is ToolStatus.ok
    assert results[1].output in ("False\n", "")  # it may have been stopped before, and end as it goes on


def test_many_sessions_are_open_at_a_time(pool: LocalPool):
    async def many() -> list[list[str]]:
        sessions = [pool.session() for _ in range(40)]
        turns = [await asyncio.gather(*(s.run(f"x = {i}") for i, s in enumerate(sessions)))]
        turns.append(await asyncio.gather(*(s.run("print(x)") for s in sessions)))
        await asyncio.gather(*(session.close() for session in sessions))
        return [[result.output for result in turn] for turn in turns]

    assert asyncio.run(many()) == [[""] * 40, [f"{i}\n" for i in range(40)]]


def test_what_writes_a_reply_of_its_own_deceives_itself_alone():
    forged = (
        "import json, os\n"
        "reply = json.dumps({'exit_code': 0, 'value': 'forged', 'error': ''}).encode()\n"
        "os.write(3, len(reply).to_bytes(4, 'big') + reply)\nwhile True: pass"
    )

    async def played() -> tuple[list[ProgramResult], float]:
        pool = LocalPool(LocalSandbox(num_workers=1, wall_s=1.0), Tier.A)
        session, started = pool.session(), time.monotonic()
        results = [await session.run("x = 1"), await session.run(forged), await session.run("x")]
        results.append(await pool.run("print('others')"))
        await pool.close()
        return results, time.monotonic() - started

    (_, deceived, after, other), wall_s = asyncio.run(played())
    assert (deceived.status, deceived.value) == (ToolStatus.ok, "forged")
    assert after.status is ToolStatus.timeout  # the loop goes on in its own time, and ends with it
    assert other.output == "others\n"
    assert wall_s < 10


@pytest.mark.parametrize("exit_code", [-9, 70, 255, 10**30])
def test_a_forged_word_cannot_name_what_only_the_kernel_knows(exit_code: int):
    async def played() -> ProgramResult:
        pool = LocalPool(LocalSandbox(num_workers=1, wall_s=1.0), Tier.A)
        forged = f"reply = json.dumps({{'exit_code': {exit_code}, 'value': '', 'error': 'mine'}}).encode()"
        written = "os.write(3, len(reply).to_bytes(4, 'big') + reply)\nwhile True: pass"
        result = await pool.session().run(f"import json, os\n{forged}\n{written}")
        await pool.close()
        return result

    result = asyncio.run(played())
    assert (result.status, result.output) == (ToolStatus.user_error, "mine")


@pytest.mark.parametrize("noise", [b"\0\0\0\2[]", b"\0\0\0\2{}", b"\0\0\0\1{", b"\xff" * 64, b'\0\0\0\5"\\ud8'])
def test_nonsense_in_place_of_a_reply_is_the_programs_own_error(noise: bytes):
    async def played() -> tuple[ProgramResult, ProgramResult]:
        pool = LocalPool(LocalSandbox(num_workers=1, wall_s=1.0), Tier.A)
        result = await pool.session().run(f"import os\nos.write(3, {noise!r})\nwhile True: pass")
        alone = await pool.run(f"import os\nos.write(3, {noise!r})\nprint('goes on')")
        await pool.close()
        return result, alone

    result, alone = asyncio.run(played())
    assert result.status in (ToolStatus.user_error, ToolStatus.timeout)
    assert alone.stdout == "goes on\n"
    assert alone.status is not ToolStatus.infrastructure


def test_a_session_whose_broker_is_gone_is_no_longer_the_same():
    async def played() -> list[ProgramResult]:
        pool = LocalPool(LocalSandbox(num_workers=1), Tier.A)
        session, fresh = pool.session(), pool.session()
        results = [await session.run("x = 1")]
        broker = pool._link.connection()._launched
        assert broker is not None
        broker.process.kill()
        results += [await fresh.run("print(2)"), await session.run("print(x)")]
        await pool.close()
        return results

    first, fresh, lost = asyncio.run(played())
    assert (first.status, fresh.output) == (ToolStatus.ok, "2\n")
    assert (lost.status, lost.stderr) == (
        ToolStatus.infrastructure,
        "ConnectionError: the sandbox's broker is gone, and the variables of a session with it",
    )
