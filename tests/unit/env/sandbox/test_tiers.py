"""What programs can and cannot do in the tiers A and B, which this machine has to have."""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from turnwise.env.sandbox import canaries, link, syscalls
from turnwise.env.sandbox.canaries import weakness
from turnwise.env.sandbox.interface import ErrorDetail, ProgramResult
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox, WantedTier
from turnwise.types import Isolation, ToolStatus

OF_OTHER_ARCHITECTURES = {
    "fork", "vfork", "futimesat", "utime", "utimes", "chmod", "chown", "lchown", "inotify_init", "iopl", "ioperm",
    "modify_ldt", "lookup_dcookie",
}  # fmt: skip
REFUSED = "PermissionError: [Errno 1] Operation not permitted"


@pytest.fixture(scope="module", params=[Tier.A, Tier.B])
def pool(request: pytest.FixtureRequest) -> Iterator[LocalPool]:
    pool = LocalPool(LocalSandbox(num_workers=1, wall_s=3.0, scratch_mb=32), request.param)
    yield pool
    asyncio.run(pool.close())


def brokers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if link.broker_script.__file__ in child.cmdline()]


def run(pool: LocalPool, code: str) -> ProgramResult:
    return asyncio.run(pool.run(code, ErrorDetail.last_line))


def test_no_attempt_to_get_out_succeeds(pool: LocalPool):
    assert weakness(pool) == ""


def test_every_attempt_succeeds_where_nothing_is_in_its_way():
    """So that each of them is known to try something. Not all of them are for everybody."""
    unsafe = LocalPool(LocalSandbox(num_workers=1), Tier.unsafe)
    found = weakness(unsafe)
    asyncio.run(unsafe.close())
    for attempt in (
        "reading a file", "listing a folder", "writing a file", "changing a file", "removing a file",
        "a TCP connection", "an abstract socket", "a datagram", "outliving the zygote",
        "a signal to the trainer", "a signal to the zygote",
        "a signal that the kernel sends", "changing a file's mode", "changing a file's times",
        "the trainer's environment", "a fork", "another program", "memory without a limit", "shared memory", "tracing",
    ):  # fmt: skip
        assert attempt in found
    if os.getuid() == 0:
        assert all(attempt in found for attempt in ("a kernel setting", "a mount", "the zygote's memory"))
    assert all(call in found for call in syscalls.HARMLESS_TO_TRY)


def test_the_best_tier_is_the_first_that_holds(monkeypatch: pytest.MonkeyPatch):
    others, reasons = brokers(), {Isolation.A: "", Isolation.B: ""}
    monkeypatch.setattr(canaries, "weakness", lambda pool: reasons[pool.isolation])

    def best(*, allow_unsafe: bool) -> Isolation:
        pool = LocalSandbox(num_workers=1, allow_unsafe=allow_unsafe).start()
        asyncio.run(pool.close())
        return pool.isolation

    assert best(allow_unsafe=True) is Isolation.A
    reasons[Isolation.A] = "a fork"
    assert best(allow_unsafe=True) is Isolation.B
    reasons[Isolation.B] = "a mount"
    with pytest.raises(ValueError, match=r"tier A: a fork; tier B: a mount\).*env\.sandbox\.allow_unsafe=true"):
        best(allow_unsafe=False)
    assert best(allow_unsafe=True) is Isolation.unsafe
    assert brokers() == others


@pytest.mark.parametrize("tier", [WantedTier.A, WantedTier.B])
def test_a_tier_that_was_asked_for_is_had_or_nothing(tier: WantedTier, monkeypatch: pytest.MonkeyPatch):
    pool = LocalSandbox(num_workers=1, tier=tier).start()
    asyncio.run(pool.close())
    assert pool.isolation is Isolation[tier.name]
    monkeypatch.setattr(canaries, "weakness", lambda _: "a program got out by a fork")
    with pytest.raises(ValueError, match=rf"tier={tier} cannot be had on this machine \(tier {tier}: a program"):
        LocalSandbox(num_workers=1, tier=tier).start()


def test_limits_too_low_for_any_program_are_no_reason_to_do_without_isolation(monkeypatch: pytest.MonkeyPatch):
    others = brokers()
    monkeypatch.setattr(canaries, "_program", lambda _: "while True: pass")
    with pytest.raises(ValueError, match=r"did not come to its end \(timeout.*expected limits that leave room"):
        LocalSandbox(num_workers=1, wall_s=0.3, allow_unsafe=True).start()
    assert brokers() == others


def test_a_folder_for_temporary_files_may_have_a_long_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 90)))
    Path(tempfile.gettempdir()).mkdir()
    pool = LocalSandbox(num_workers=1).start()
    asyncio.run(pool.close())
    assert pool.isolation is Isolation.A


IN_A_CONTAINER = """
import errno, sys
import pyseccomp
from turnwise.env.sandbox.isolation import libc
from turnwise.env.sandbox.local import LocalSandbox

if __name__ == "__main__":
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for call in ("unshare", "mount", "umount2", "setns", "pivot_root", "mount_setattr", "open_tree", "fsopen"):
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), call)
    libc().prctl(38, 1, 0, 0, 0)
    rules.load()
    pool = LocalSandbox(num_workers=1).start()
    print(pool.isolation.name)
"""


def test_where_a_container_forbids_namespaces_tier_b_is_found():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", IN_A_CONTAINER], capture_output=True, text=True, env=environment)
    assert done.stdout == "B\n", done.stderr


def test_files_are_bounded_in_tier_b_too():
    pool = LocalPool(LocalSandbox(num_workers=1, scratch_mb=32, wall_s=60.0, cpu_s=60.0), Tier.B)  # on a busy machine
    for code in (
        "for i in range(10**5): open(str(i), 'wb').write(b'x' * (1 << 20))",
        "for i in range(10**6): open(str(i), 'w')",
    ):
        assert run(pool, code).status is ToolStatus.output_limit
    assert (
        run(pool, "import os, time\nopen('x', 'wb').write(b'x' * (9 << 20))\ntime.sleep(0.3)").status is ToolStatus.ok
    )
    asyncio.run(pool.close())


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    syscalls.filter_program.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyseccomp", None)
        with pytest.raises(
            ValueError, match=r"\(tier A and B: libseccomp is missing.*set env\.sandbox\.allow_unsafe=true"
        ):
            LocalSandbox().start()
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
        ("open('/usr/x', 'w')", "blocked", None),  # refused by what comes first: a user's rights, Landlock, the mount
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
    assert status is None or result.status == status
    assert output is None or result.output == output
    assert result.wall_s < 10


def test_files_of_the_host_are_not_there_or_refused(pool: LocalPool):
    result = run(pool, "open('/etc/passwd')")
    if pool.isolation is Isolation.A:
        told = (ToolStatus.user_error, "FileNotFoundError: [Errno 2] No such file or directory: '/etc/passwd'\n")
    else:
        told = (ToolStatus.blocked, "PermissionError: [Errno 13] Permission denied: '/etc/passwd'\n")
    assert (result.status, result.output) == told


def test_processor_time_that_runs_out_is_no_lack_of_memory():
    """Both end in SIGKILL; the broker looks at the clock before the kernel's own limit is near."""
    pool = LocalPool(LocalSandbox(num_workers=2, cpu_s=1.0, wall_s=30), Tier.A)

    async def run_some() -> list[ProgramResult]:
        return await asyncio.gather(*(pool.run("while True: pass") for _ in range(4)))

    results = asyncio.run(run_some())
    asyncio.run(pool.close())
    assert [(result.status, result.output) for result in results] == [(ToolStatus.timeout, "")] * 4


def test_a_stopped_program_ends_at_its_time():
    pool = LocalPool(LocalSandbox(num_workers=1, wall_s=1.0), Tier.A)

    async def stopped() -> ProgramResult:
        before = set(psutil.Process().children(recursive=True))
        running = asyncio.create_task(pool.run("import time\ntime.sleep(0.5)\nprint('went on')"))
        while not (new := set(psutil.Process().children(recursive=True)) - before):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        new.pop().suspend()
        return await running

    result = asyncio.run(stopped())
    asyncio.run(pool.close())
    assert (result.status, result.output) == (ToolStatus.timeout, "")


def test_no_call_that_is_to_be_refused_is_lost_to_an_older_libseccomp():
    known = syscalls.numbers(*syscalls.FORBIDDEN)
    assert set(syscalls.NUMBERS) <= set(syscalls.FORBIDDEN)
    assert not {name for name in syscalls.FORBIDDEN if name not in known} - OF_OTHER_ARCHITECTURES
    for name, number in syscalls.NUMBERS.items():
        assert known[name] == number
        assert number < syscalls.FUTURE.start


def test_numpy_and_sympy_are_there_and_draw_the_same_numbers_each_time(pool: LocalPool):
    code = "import numpy as np, sympy\nprint(np.random.rand(), sympy.factorint(2**32 + 1))"
    first, second = run(pool, code), run(pool, code)
    assert first.status is ToolStatus.ok
    assert first.output.endswith("{641: 1, 6700417: 1}\n")
    assert first.output == second.output


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


def test_a_program_of_tier_a_is_alone_in_what_it_sees():
    pool = LocalPool(LocalSandbox(num_workers=1), Tier.A)
    code = "import os\nprint([name for name in os.listdir('/proc') if name.isdigit()], os.getpid(), os.getppid())"
    assert run(pool, code).output == "['1'] 1 0\n"
    mounted = run(pool, "print({line.split()[4] for line in open('/proc/self/mountinfo')})").output
    assert "'/tmp/sandbox/home'" in mounted
    assert not {"'/home'", "'/var'", "'/sys'", "'/dev'", f"'{tempfile.gettempdir()}'"} & set(mounted[1:-2].split(", "))
    for place in ("/etc/passwd", "/root/.bashrc", "/home", "/var", "/sys", str(Path(__file__).parent)):
        told = run(pool, f"import os\nos.stat({place!r})").output
        assert told.startswith(f"FileNotFoundError: [Errno 2] No such file or directory: {place!r}"), told
    asyncio.run(pool.close())


def test_programs_of_root_are_those_of_a_user_of_their_own(pool: LocalPool):
    """Also where the interpreter lies in a folder that is shut to others."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    code = "import os\nprint(os.getuid(), os.getgid(), os.getgroups(), os.geteuid())"
    users = {tuple(run(pool, code).output.split()) for _ in range(2)}
    assert len(users) == 1  # the slot is the same, one after the other
    (user,) = users
    assert int(user[0]) >= 1 << 30
    assert user == (user[0], user[0], "[]", user[0])
    status = run(pool, "print(open('/proc/self/status').read())").output if pool.isolation is Isolation.A else ""
    assert "CapEff:\t0000000000000004" in status or "CapEff:\t0000000000000000" in status or not status


def test_close_ends_what_runs_and_leaves_nothing(pool: LocalPool):
    tier = Tier[pool.isolation.name]
    before = set(psutil.Process().children(recursive=True))
    mine = LocalPool(LocalSandbox(num_workers=1, wall_s=60), tier)

    async def close_while_running() -> tuple[set[psutil.Process], ProgramResult]:
        running = asyncio.create_task(mine.run("import time\nprint('runs', flush=True)\ntime.sleep(60)"))
        started = set[psutil.Process]()
        while len(started) < (4 if tier is Tier.A else 3):  # broker, keeper, zygote, program
            await asyncio.sleep(0.02)
            started = set(psutil.Process().children(recursive=True)) - before
        await mine.close()
        return started, await running

    started, result = asyncio.run(close_while_running())
    assert result.status is ToolStatus.infrastructure
    assert not any(process.is_running() for process in started)


def test_a_zygote_whose_keeper_is_killed_dies_with_its_program_and_is_replaced():
    others = brokers()
    pool = LocalPool(LocalSandbox(num_workers=1, wall_s=60), Tier.A)
    (broker,) = [one for one in brokers() if one not in others]
    (keeper,) = broker.children()
    below = keeper.children(recursive=True)
    threading.Timer(0.5, keeper.kill).start()
    results = [run(pool, "import time\ntime.sleep(1)\nprint('again')") for _ in range(2)]
    assert [(result.status, result.output) for result in results] == [(ToolStatus.ok, "again\n")] * 2
    assert not any(process.is_running() for process in below)
    asyncio.run(pool.close())


def test_a_zygote_that_cannot_be_set_up_says_why(monkeypatch: pytest.MonkeyPatch):
    """As tier A ends on a kernel without namespaces."""
    sandbox = LocalSandbox()
    broken = replace(sandbox.settings(Tier.A), scratch_mb=-1)
    monkeypatch.setattr(LocalSandbox, "settings", lambda *_: broken)
    pool = sandbox.start_in(Tier.A)
    assert "mount" in run(pool, "print(1)").stderr
    asyncio.run(pool.close())
