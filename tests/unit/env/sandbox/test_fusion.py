import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fusion_server import SANDBOX_ERROR, Fault, FusionServer, serving
from turnwise.env.sandbox.fusion import FusionPool, FusionSandbox
from turnwise.env.sandbox.interface import ErrorDetail, ProgramResult, Sandbox, SandboxPool
from turnwise.env.sandbox.local import LocalSandbox
from turnwise.types import ToolStatus


@pytest.fixture(scope="module")
def shared() -> Iterator[FusionServer]:
    """A server without faults, for what only runs programs."""
    with serving() as server:
        yield server


@pytest.fixture
def server() -> Iterator[FusionServer]:
    """One of the test's own, whose counts it may read."""
    with serving() as server:
        yield server


def run_all(server: FusionServer, *codes: str, **settings: Any) -> list[ProgramResult]:
    """Runs programs side by side in one pool."""

    async def run() -> list[ProgramResult]:
        pool = FusionPool(FusionSandbox(url=server.url, **{"retry_s": 0.01, **settings}))
        try:
            return await asyncio.gather(*(pool.run(code) for code in codes))
        finally:
            await pool.close()

    return asyncio.run(run())


def run(server: FusionServer, code: str = "print(1)", **settings: Any) -> ProgramResult:
    (result,) = run_all(server, code, **settings)
    return result


def answer(**ran: Any) -> Fault:
    """The answer of a server that runs nothing and says `ran`."""
    outcome = {"status": "Finished", "execution_time": 0.5, "return_code": 0, "stdout": "", "stderr": "", **ran}
    return Fault(status=200, body={"status": "Success", "message": "", "run_result": outcome})


def test_parts_fulfil_their_protocols(shared: FusionServer):
    sandbox: Sandbox = FusionSandbox(url=shared.url)
    pool: SandboxPool = sandbox.start()
    asyncio.run(pool.close())


PROGRAMS = [
    "print('é', 6 * 7)",
    "import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint('out')",
    "1 / 0",
    "def f(x):\n    return x[1]\nprint('before')\nf([])",
    "print(1",
    "import sys; sys.exit(3)",
    "import sys; sys.exit()",
    "class Odd(Exception):\n    pass\nraise Odd('two\\nlines')",
    "import json; json.loads('{')",
    "import os; os._exit(5)",
    "import ctypes; ctypes.string_at(0)",
    "import sys; sys.stdout.close(); 1 / 0",
    "print({'a', 'b', 'c', 'd'}, object())",
    "import random; print(random.random())",
    "import os; print(os.getcwd(), os.listdir())",
    "print(input())",
    "import threading; t = threading.Thread(target=print, args=(3,)); t.start()",
    "print(__name__, __file__)",
    "'\ud800'",
    "x = 'a' * 3 * 10**9",
    "'''nul \\0 and quotes \"'''; print('\\0')",
]


@pytest.mark.parametrize("detail", ErrorDetail)
def test_a_program_gives_what_it_gives_in_the_local_sandbox(shared: FusionServer, detail: ErrorDetail):
    async def both() -> list[list[tuple[ToolStatus, str]]]:
        pools: list[SandboxPool] = [LocalSandbox().start(), FusionSandbox(url=shared.url, max_concurrency=2).start()]
        try:
            results = [await asyncio.gather(*(pool.run(code, detail) for code in PROGRAMS)) for pool in pools]
        finally:
            for pool in pools:
                await pool.close()
        return [[(result.status, result.output) for result in those] for those in results]

    local, remote = asyncio.run(both())
    assert dict(zip(PROGRAMS, remote, strict=True)) == dict(zip(PROGRAMS, local, strict=True))


def test_limits(shared: FusionServer):
    endless, flood, talkative, greedy, most = run_all(
        shared,
        "print('so far', flush=True)\nwhile True: pass",
        "while True: print('x' * 1000)",
        "print('x' * 101)",
        "print('so far')\nx = bytearray(200 << 20)",
        "print('x' * 99)",
        wall_s=1.0,
        memory_mb=128,
        max_capture_bytes=100,
    )
    assert (endless.status, endless.output) == (ToolStatus.timeout, "so far\n")
    assert 1.0 <= endless.wall_s < 10
    assert flood.status is ToolStatus.output_limit
    assert (talkative.status, talkative.output) == (ToolStatus.output_limit, "x" * 100)
    assert (greedy.status, greedy.output) == (ToolStatus.memory, "so far\n")
    assert (most.status, most.output) == (ToolStatus.ok, "x" * 99 + "\n")


def test_output_that_is_not_utf_8_is_named_the_same_each_time(shared: FusionServer):
    result = run(shared, "import sys; sys.stdout.buffer.write(b'\\xff')")
    assert (result.status, result.output) == (ToolStatus.ok, "Error: the output is not UTF-8\n")


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (SANDBOX_ERROR, "SandboxError: no cgroup is left"),
        (Fault(status=502, body="bad\ngateway"), "/run_code answered 502 Bad Gateway: bad gateway"),
        (Fault(hangs_up=True), "RemoteProtocolError: Server disconnected without sending a response."),
        (Fault(status=200, body="<html>"), "not an answer of SandboxFusion: JSONDecodeError"),
        (Fault(status=200, body=[1]), "not an answer of SandboxFusion: TypeError"),
        (Fault(status=200, body={"status": "Success"}), "not an answer of SandboxFusion: KeyError: 'message'"),
        (answer(return_code=None, stdout="ready /t\n"), "not an answer of SandboxFusion: TypeError"),
        (
            answer(return_code=127, stderr="bash: python: command not found\n"),
            "the program did not begin: exit code 127: bash: python: command not found",
        ),
        (answer(status="Error", stderr="fork failed"), "SandboxError"),
    ],
)
def test_a_failure_of_the_server_is_tried_again_and_then_told(server: FusionServer, fault: Fault, failure: str):
    server.always = fault
    result = run(server, max_retries=2)
    assert result.status is ToolStatus.infrastructure
    assert failure in result.output
    assert len(server.requests) == 3

    server.faults.extend([fault] * 2)
    server.always = None
    assert run(server, max_retries=2).output == "1\n"


def test_the_program_is_no_part_of_a_failure(server: FusionServer):
    """Else no two failures would be alike, and none could be counted."""
    run(server, "print('secret')", max_retries=0)
    message = f"exception on running code {server.requests[0]['code']}: no space left"
    server.always = Fault(status=200, body={"status": "SandboxError", "message": message, "run_result": None})
    assert "secret" not in run(server, "print('secret')", max_retries=0).output


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_request_that_can_never_succeed_is_not_repeated(server: FusionServer, status: int):
    server.always = Fault(status=status, body={"detail": "wrong"})
    result = run(server)
    assert f"answered {status} " in result.output
    assert len(server.requests) == 1


def test_waits_double(server: FusionServer):
    server.always = Fault(status=503)
    run(server, max_retries=3, retry_s=0.1)
    waits = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert [wait >= least for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True)] == [True] * 3


def test_nothing_is_sent_before_the_server_wants_it(server: FusionServer):
    server.faults.append(Fault(status=429, headers={"Retry-After": "1"}))
    results = run_all(server, *["print(1)"] * 4, max_concurrency=2)
    assert [result.output for result in results] == ["1\n"] * 4
    # two at once at first, and while one of them must wait the other connection rests too
    assert [at - server.times[0] < 1.0 for at in server.times] == [True, True, False, False, False]


def test_a_server_that_wants_an_hour_is_given_up(server: FusionServer):
    server.always = Fault(status=503, headers={"Retry-After": "3600"})
    assert run(server).status is ToolStatus.infrastructure
    assert len(server.requests) == 1


def test_an_answer_that_does_not_come(server: FusionServer):
    server.faults.append(Fault(delay_s=5.0))
    started = time.monotonic()
    result = run(server, wall_s=0.1, grace_s=0.2, max_retries=0)
    assert (result.status, result.output) == (ToolStatus.infrastructure, "no answer within 0.3 s")
    assert 0.3 <= result.wall_s <= time.monotonic() - started < 4.0


def test_an_answer_without_end_is_not_read_to_its_end(server: FusionServer):
    result = answer(stdout="ready /t\n" + "x" * 50_000_000)
    server.always = Fault(status=200, body=json.dumps(result.body))
    assert run(server).status is ToolStatus.output_limit
    assert server.hung_up.wait(5.0)


def test_no_more_at_once_than_allowed_over_connections_that_are_kept(server: FusionServer):
    results = run_all(server, *(f"print({n})" for n in range(12)), max_concurrency=3)
    assert [result.output for result in results] == [f"{n}\n" for n in range(12)]
    assert server.most_running == 3
    assert server.num_connections == 3


def test_what_is_sent(server: FusionServer):
    run(server, "print('é')", wall_s=2.0, memory_mb=256)
    (request,) = server.requests
    code = request.pop("code")
    assert request == {"language": "python", "compile_timeout": 2.0, "run_timeout": 2.0, "memory_limit_MB": 256}
    assert code.isascii()


def test_cancelling_ends_the_request_and_frees_its_place(server: FusionServer):
    async def cancelled() -> ProgramResult:
        pool = FusionPool(FusionSandbox(url=server.url, max_concurrency=1))
        server.faults.append(Fault(delay_s=1.0))
        first = asyncio.create_task(pool.run("print(1)"))
        while not server.requests:
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        result = await pool.run("print(2)")
        await pool.close()
        return result

    started = time.monotonic()
    assert asyncio.run(cancelled()).output == "2\n"
    assert time.monotonic() - started < 1.0


def test_closing_ends_what_is_under_way_and_what_waits(server: FusionServer):
    async def closed() -> list[ProgramResult]:
        pool = FusionPool(FusionSandbox(url=server.url, max_concurrency=1))
        server.faults.append(Fault(delay_s=1.0))
        runs = [asyncio.create_task(pool.run("print(1)")) for _ in range(2)]
        while not server.requests:
            await asyncio.sleep(0.01)
        await pool.close()
        await pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.run("print(1)")
        return await asyncio.gather(*runs)

    started = time.monotonic()
    results = asyncio.run(closed())
    assert time.monotonic() - started < 1.0
    assert {(result.status, result.output) for result in results} == {
        (ToolStatus.infrastructure, "the sandbox pool was closed")
    }
    assert len(server.requests) == 1


def test_start_runs_a_program_first_whether_or_not_an_event_loop_runs(server: FusionServer):
    async def start() -> FusionPool:
        return FusionSandbox(url=server.url).start()

    asyncio.run(asyncio.run(start()).close())
    asyncio.run(FusionSandbox(url=server.url).start().close())
    assert ["print(6 * 7)" in request["code"] for request in server.requests] == [True, True]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (SANDBOX_ERROR, "no SandboxFusion server runs Python there: SandboxError: no cgroup"),
        (Fault(status=404), "404 Not Found"),
        (answer(stdout="ready /t\n41\n"), r"gave '41\\n'"),
    ],
)
def test_start_refuses_a_server_that_cannot_run_programs(server: FusionServer, fault: Fault, message: str):
    server.always = fault
    with pytest.raises(ValueError, match=message):
        FusionSandbox(url=server.url, retry_s=0.01).start()


def test_start_refuses_an_address_where_nobody_answers(server: FusionServer):
    server.server_close()
    with pytest.raises(ValueError, match=rf"env\.sandbox\.url={server.url}: .* ConnectError"):
        FusionSandbox(url=server.url, max_retries=0).start()


@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "ftp://host", "http://", "http://host:port", "http://host:99999"]
)
def test_an_address_that_is_none(url: str):
    with pytest.raises(ValueError, match=r"^url='.*': expected http://HOST:PORT"):
        FusionSandbox(url=url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wall_s", 0),
        ("wall_s", float("inf")),
        ("wall_s", float("nan")),
        ("memory_mb", 1),
        ("max_capture_bytes", 10),
        ("max_capture_bytes", 2 << 20),
        ("max_concurrency", 0),
        ("grace_s", -1),
        ("max_retries", -1),
        ("retry_s", -0.1),
    ],
)
def test_settings_out_of_range(name: str, value: float):
    with pytest.raises(ValueError, match=f"^{name}={value}: expected a finite number"):
        FusionSandbox(url="http://127.0.0.1:8080", **{name: value})  # pyright: ignore[reportArgumentType]


def test_a_token_comes_from_the_environment_and_stands_nowhere_else(
    server: FusionServer, monkeypatch: pytest.MonkeyPatch
):
    run(server)
    monkeypatch.setenv("SANDBOX_TOKEN", "secret")
    sandbox = FusionSandbox(url=server.url, token_variable="SANDBOX_TOKEN")
    assert "secret" not in repr(sandbox)
    asyncio.run(sandbox.start().close())
    assert server.tokens == [None, "Bearer secret"]


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match=r"url=\.\.\.: holds a user name or password") as refused:
        FusionSandbox(url="http://me:secret@127.0.0.1:1")
    assert "secret" not in str(refused.value)


def test_of_a_page_for_people_only_the_words_are_told(server: FusionServer):
    server.always = Fault(status=502, body="<html><head><title>502</title></head>\n<h1>Bad  Gateway</h1></html>")
    result = run(server, max_retries=0)
    assert result.stderr.endswith("answered 502 Bad Gateway: 502 Bad Gateway")


def test_there_are_no_sessions(shared: FusionServer):
    pool = FusionPool(FusionSandbox(url=shared.url))
    with pytest.raises(ValueError, match="keeps nothing between programs"):
        pool.session()
    asyncio.run(pool.close())
