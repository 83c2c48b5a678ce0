"""What programs can and cannot do in the tiers A and B, which this machine has to have."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from turnwise.env.sandbox import canaries, syscalls
from turnwise.env.sandbox.canaries import best_tier, weakness
from turnwise.env.sandbox.interface import ErrorDetail
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox
from turnwise.types import Isolation, ToolResult, ToolStatus

REFUSED = "PermissionError: [Errno 1] Operation not permitted"


@pytest.fixture(scope="module", params=[Tier.A, Tier.B])
def pool(request: pytest.FixtureRequest) -> Iterator[LocalPool]:
    pool = LocalPool(LocalSandbox(num_workers=1, wall_s=3.0, scratch_mb=32), request.param)
    yield pool
    asyncio.run(pool.close())


def run(pool: LocalPool, code: str) -> ToolResult:
    return asyncio.run(pool.run(code, ErrorDetail.last_line))


@pytest.mark.parametrize("tier", [Tier.A, Tier.B])
def test_no_attempt_to_get_out_succeeds(tier: Tier):
    assert weakness(LocalSandbox().worker, tier) == ""


def test_every_attempt_succeeds_where_nothing_is_in_its_way():
    """So that each of them is known to try something. Not all of them are for everybody."""
    found = weakness(LocalSandbox().worker, Tier.unsafe)
    for attempt in (
        "reading a file", "listing a folder", "writing a file", "changing a file", "removing a file",
        "a TCP connection", "an abstract socket", "a datagram", "outliving the worker",
        "a signal to the trainer", "a signal to its worker",
        "a signal that the kernel sends", "changing a file's mode", "changing a file's times",
        "the trainer's environment", "a fork", "another program", "memory without a limit", "shared memory", "tracing",
    ):  # fmt: skip
        assert attempt in found
    if os.getuid() == 0:
        assert all(attempt in found for attempt in ("a kernel setting", "a mount", "the worker's memory"))
    assert all(call in found for call in syscalls.HARMLESS_TO_TRY)


def test_the_best_tier_is_the_first_that_holds(monkeypatch: pytest.MonkeyPatch):
    sandbox = LocalSandbox()
    assert best_tier(sandbox.worker, allow_unsafe=False) is Tier.A
    holding = {Tier.B: ""}
    monkeypatch.setattr(canaries, "weakness", lambda _, tier: holding.get(tier, "a fork"))
    assert best_tier(sandbox.worker, allow_unsafe=True) is Tier.B
    holding.clear()
    with pytest.raises(ValueError, match=r"tier A: a fork; tier B: a fork\).*env\.sandbox\.allow_unsafe=true"):
        best_tier(sandbox.worker, allow_unsafe=False)
    assert best_tier(sandbox.worker, allow_unsafe=True) is Tier.unsafe


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    syscalls.filter_program.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyseccomp", None)
        assert "libseccomp is missing" in weakness(LocalSandbox().worker, Tier.A)
    syscalls.filter_program.cache_clear()


def test_the_pool_says_how_its_programs_are_isolated(pool: LocalPool):
    assert pool.isolation in (Isolation.A, Isolation.B)
    for tier in Tier:
        assert Isolation[tier.name].name == tier.value


@pytest.mark.parametrize(
    ("code", "status", "output"),
    [
        ("print(6 * 7)", "ok", "42\n"),
        ("open('x', 'w').write('kept')\nprint(open('x').read())", "ok", "kept\n"),
        ("import tempfile\nprint(tempfile.gettempdir())", "ok", "/tmp/sandbox/home\n"),
        ("import threading\nt = threading.Thread(target=print, args=(1,))\nt.start()\nt.join()", "ok", "1\n"),
        ("import concurrent.futures as f\nprint(*f.ThreadPoolExecutor(2).map(abs, [-1, -2]))", "ok", "1 2\n"),
        ("import asyncio\nprint(asyncio.run(asyncio.sleep(0.01, 'slept')))", "ok", "slept\n"),
        ("import inspect, json\nprint(inspect.getsource(json).count('def loads'))", "ok", "1\n"),
        ("import random\nprint(random.Random(1).randint(0, 9))", "ok", "2\n"),
        ("import os\nprint(len(os.urandom(4)))", "ok", "4\n"),
        ("import os\nos.execv('/bin/ls', ['ls'])", "blocked", "PermissionError: [Errno 1] Operation not permitted\n"),
        ("import os\nos.fork()", "blocked", "PermissionError: [Errno 1] Operation not permitted\n"),
        ("import os\nos.system('touch x')\nprint(os.listdir())", "ok", "[]\n"),
        ("import socket\nsocket.socket()", "blocked", "PermissionError: [Errno 1] Operation not permitted\n"),
        ("import os\nos.kill(os.getpid(), 9)", "blocked", "PermissionError: [Errno 1] Operation not permitted\n"),
        ("import fcntl\nfcntl.fcntl(open('x', 'w'), fcntl.F_SETLEASE, 1)", "blocked", f"{REFUSED}\n"),
        ("import fcntl\nfcntl.ioctl(0, 0x40086602, b'0' * 8)", "blocked", f"{REFUSED}\n"),
        ("import socket\na, b = socket.socketpair()\na.send(b'x')\nprint(b.recv(1))", "ok", "b'x'\n"),
        ("import os\nos.setpriority(2, 0, 19)", "blocked", "PermissionError: [Errno 1] Operation not permitted\n"),
        ("import os\nos.nice(1)\nprint(os.getpriority(os.PRIO_PROCESS, 0) > 0)", "ok", "True\n"),
        ("open('/etc/passwd')", "blocked", "PermissionError: [Errno 13] Permission denied: '/etc/passwd'\n"),
        ("raise ValueError('mine')", "user_error", "ValueError: mine\n"),
        ("x = bytearray(2 << 30)", "memory", ""),
        ("open('big', 'wb').write(b'x' * (17 << 20))", "user_error", "OSError: [Errno 27] File too large\n"),
        ("while True: pass", "timeout", ""),
        ("sum(range(10**12))", "timeout", ""),
        ("print('x' * 10**6)", "output_limit", "x" * 65536),
        ("import ctypes\nctypes.string_at(0)", "user_error", "Error: killed by signal 11\n"),
        ("import threading\nfor _ in range(9999): threading.Thread(target=threading.Event().wait).start()", None, None),
    ],
)  # fmt: skip
def test_status_and_output(pool: LocalPool, code: str, status: str | None, output: str | None):
    result = run(pool, code)
    assert result.status is not ToolStatus.infrastructure
    assert status is None or (result.status, result.output) == (status, output)
    assert result.wall_s < 10


HEARS = "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: print('told', flush=True))\n"


@pytest.mark.parametrize(("code", "output"), [("while True: pass", ""), (f"{HEARS}while True: pass", "told\n")])
def test_processor_time_that_runs_out_is_no_lack_of_memory(code: str, output: str):
    """The kernel counts a tick sooner than the worker: a SIGKILL at the very limit could not be told from another."""
    pool = LocalPool(LocalSandbox(num_workers=2, cpu_s=1.0, wall_s=30), Tier.A)

    async def run_twice() -> list[ToolResult]:
        return await asyncio.gather(*(pool.run(code) for _ in range(2)))

    results = asyncio.run(run_twice())
    asyncio.run(pool.close())
    assert [(result.status, result.output) for result in results] == [(ToolStatus.timeout, output)] * 2


def test_numpy_and_sympy_are_there_and_draw_the_same_numbers_each_time(pool: LocalPool):
    code = "import numpy as np, sympy\nprint(np.random.rand(), sympy.factorint(2**32 + 1))"
    first, second = run(pool, code), run(pool, code)
    assert first.status is ToolStatus.ok
    assert first.output.endswith("{641: 1, 6700417: 1}\n")
    assert first.output == second.output


def test_a_slow_module_that_is_not_installed_is_no_hindrance():
    pool = LocalPool(LocalSandbox(num_workers=1, preloaded=["no_such_module"]), Tier.A)
    assert run(pool, "no_such_module = 1\nprint(no_such_module)").output == "1\n"
    asyncio.run(pool.close())


def test_nothing_of_a_program_is_there_for_the_next(pool: LocalPool):
    code = "import os\nprint(os.listdir('.'))\nos.makedirs('a/b')\nopen('a/x', 'w').write('x')"
    assert [run(pool, code).output for _ in range(2)] == ["[]\n", "[]\n"]


def test_a_folder_that_its_owner_may_not_read_is_removed_too(pool: LocalPool):
    code = "import os\nprint(os.listdir('.'))\nos.mkdir('shut', 0o300)\nopen('shut/x', 'w').write('x')"
    assert [run(pool, code).output for _ in range(2)] == ["[]\n", "[]\n"]


def test_the_input_of_a_program_is_its_own(pool: LocalPool):
    code = "import fcntl\nprint(fcntl.fcntl(0, 11), fcntl.fcntl(0, 10, 42))"  # F_GETSIG, F_SETSIG
    assert [run(pool, code).output for _ in range(2)] == ["0 0\n", "0 0\n"]


def test_space_and_number_of_files_are_bounded_in_tier_a():
    pool = LocalPool(LocalSandbox(num_workers=1, scratch_mb=32, wall_s=30), Tier.A)
    full = "OSError: [Errno 28] No space left on device"
    assert run(pool, "for i in range(9): open(str(i), 'wb').write(b'x' * (8 << 20))").output == f"{full}\n"
    assert run(pool, "for i in range(10**5): open(str(i), 'w')").output.startswith(full)
    assert run(pool, "print('goes on')").output == "goes on\n"
    asyncio.run(pool.close())


def test_a_program_of_tier_a_sees_its_own_processes_alone():
    pool = LocalPool(LocalSandbox(num_workers=1), Tier.A)
    code = "import os\nprint(sorted(int(name) for name in os.listdir('/proc') if name.isdigit())[0], os.getppid())"
    assert run(pool, code).output == "1 1\n"  # the worker, and itself
    asyncio.run(pool.close())


def test_close_ends_what_runs_and_leaves_nothing(pool: LocalPool):
    tier = Tier[pool.isolation.name]
    before = set(psutil.Process().children(recursive=True))
    mine = LocalPool(LocalSandbox(num_workers=1, wall_s=60), tier)

    async def close_while_running() -> tuple[set[psutil.Process], ToolResult]:
        running = asyncio.create_task(mine.run("import time\nprint('runs', flush=True)\ntime.sleep(60)"))
        started = set[psutil.Process]()
        while len(started) < (3 if tier is Tier.A else 2):  # keeper, worker, program
            await asyncio.sleep(0.02)
            started = set(psutil.Process().children(recursive=True)) - before
        await mine.close()
        return started, await running

    started, result = asyncio.run(close_while_running())
    assert result.status is ToolStatus.infrastructure
    assert not any(process.is_running() for process in started)


def test_a_worker_whose_keeper_is_killed_dies_with_its_program_and_is_replaced():
    before = psutil.Process().children()
    pool = LocalPool(LocalSandbox(num_workers=1, wall_s=60), Tier.A)
    run(pool, "1")
    (keeper,) = [process for process in psutil.Process().children() if process not in before]
    below = keeper.children(recursive=True)
    threading.Timer(0.5, keeper.kill).start()
    result = run(pool, "import os, time\nif not os.path.exists('x'): time.sleep(2)\nprint('again')")
    assert (result.status, result.output) == (ToolStatus.ok, "again\n")
    assert not any(process.is_running() for process in below)
    asyncio.run(pool.close())


def test_a_worker_that_cannot_be_set_up_says_why(tmp_path: Path):
    """As tier A ends on a kernel without namespaces."""
    worker = LocalSandbox().worker(Tier.A)
    worker._settings = type(worker._settings)(**{**vars(worker._settings), "scratch_mb": -1})
    with pytest.raises(OSError, match="mount"):
        worker.exchange({"code": "print(1)", "is_traceback": False, "shows_value": False})
    worker.discard()
