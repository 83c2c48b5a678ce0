import asyncio
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from turnwise.env import sandbox as sandbox_module
from turnwise.env import worker as worker_script
from turnwise.env.sandbox import ErrorDetail, Sandbox, SandboxPool
from turnwise.types import ToolResult, ToolStatus

DAEMON = """
import os, time
read_end, write_end = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write_end, b"%d" % os.getpid())
        time.sleep(60)
    os._exit(0)
print(os.read(read_end, 20).decode(), flush=True)
"""
KILL_WORKER = "import os\nos.kill(os.getppid(), 9)\n"


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    pool = Sandbox(memory_mb=128).start()
    yield pool
    asyncio.run(pool.close())


@pytest.fixture
def hasty() -> Iterator[SandboxPool]:
    pool = Sandbox(num_workers=1, wall_s=0.5).start()
    yield pool
    asyncio.run(pool.close())


def run(pool: SandboxPool, code: str, error_detail: ErrorDetail = ErrorDetail.traceback) -> ToolResult:
    return asyncio.run(pool.run(code, error_detail))


def worker_processes() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if worker_script.__file__ in p.cmdline()]


def sandbox_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("turnwise-sandbox-*"))


def is_gone(pid: int, patience_s: float = 5.0) -> bool:
    deadline = time.monotonic() + patience_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# What a program prints and how it ends


@pytest.mark.parametrize(
    ("code", "status", "output"),
    [
        ("print(6 * 7)", "ok", "42\n"),
        ("6 * 7", "ok", ""),
        ("", "ok", ""),
        ("import sys\nprint('out')\nprint('err', file=sys.stderr)", "ok", "out\nerr\n"),
        ("import sys\nsys.exit()", "ok", ""),
        ("print('é\\x00∑\\r\\n🙂')", "ok", "é\0∑\r\n🙂\n"),
        ("import os\nos.write(1, b'\\xff')", "ok", "\N{REPLACEMENT CHARACTER}"),
        ("print(__name__, __import__('sys').argv)", "ok", "__main__ ['program.py']\n"),
        ("import os\nprint(os.listdir())\nopen('left', 'w').write('x')", "ok", "[]\n"),
        ("import os\nprint(1)\nos._exit(0)", "ok", "1\n"),
        ("import sys\nsys.stdout.close()", "ok", ""),
        ("import atexit\natexit.register(print, 'bye')", "ok", "bye\n"),
        ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print(1))).start()", "ok", "1\n"),
        ("import subprocess\nsubprocess.run(['echo', 'hi'])", "ok", "hi\n"),
        ("import subprocess\nsubprocess.Popen(['sleep', '60'])", "ok", ""),
        ("import sys\nsys.exit(3)", "user_error", "SystemExit: 3\n"),
        ("import sys\nsys.exit('sorry')", "user_error", "SystemExit: sorry\n"),
        ("import os\nos._exit(3)", "user_error", "Error: exit code 3\n"),
        ("import os\nos.kill(os.getpid(), 11)", "user_error", "Error: killed by signal 11\n"),
        ("import os\nos.close(1)\n1 / 0", "user_error", "ZeroDivisionError: division by zero\n"),
        ("input()", "user_error", "EOFError: EOF when reading a line\n"),
        ("print((", "user_error", "SyntaxError: '(' was never closed (program.py, line 1)\n"),
        ("fractions.Fraction(1)", "user_error", "NameError: name 'fractions' is not defined\n"),
        ("import decimal\nraise decimal.Overflow", "user_error", "decimal.Overflow\n"),
        ("class E(Exception): __str__ = lambda self: 1 / 0\nraise E", "user_error", "E: <exception str() failed>\n"),
        ("def f(): f()\nf()", "user_error", "RecursionError: maximum recursion depth exceeded\n"),
        ("open('big', 'wb').write(b'x' * (17 << 20))", "user_error", "OSError: [Errno 27] File too large\n"),
        ("print('\\ud800')", "user_error", None),
        ("x = '\ud800'", "user_error", None),
        ("\0", "user_error", None),
        ("x = 'a' * 10**12", "memory", ""),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "memory", ""),
        ("import os\nos.kill(os.getpid(), 9)", "memory", ""),  # what the kernel does when memory runs out
        ("print('x' * 10**6)", "output_limit", "x" * 65536),
        ("while True: print('x' * 1023)", "output_limit", ("x" * 1023 + "\n") * 64),
        ("import subprocess\nsubprocess.run('yes')", "output_limit", "y\n" * 32768),
        ("import os\nos.write(1, b'x' * 65536)", "ok", "x" * 65536),
        ("import os\nos.write(1, b'x' * 65537)", "output_limit", "x" * 65536),
    ],
)  # fmt: skip
def test_status_and_output(pool: SandboxPool, code: str, status: str, output: str | None):
    result = run(pool, code, ErrorDetail.last_line)
    assert result.status == status, result
    assert output is None or result.output == output
    assert 0 < result.wall_s < 5


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "import signal\nfor n in set(signal.Signals) - {9, 19}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "sum(range(10**12))",
        "import threading\nthreading.Event().wait()",
        "import os\nos.close(1)\nos.close(2)\nwhile True: pass",
        "import subprocess\nsubprocess.run(['sleep', '60'])",
    ],
)
def test_wall_clock_ends_every_program(hasty: SandboxPool, code: str):
    result = run(hasty, code)
    assert result.status is ToolStatus.timeout
    assert 0.5 <= result.wall_s < 2


def test_processor_time_is_limited():
    pool = Sandbox(num_workers=1, cpu_s=0.5, wall_s=30).start()
    result = run(pool, "while True: pass")
    asyncio.run(pool.close())
    assert result.status is ToolStatus.timeout
    assert result.wall_s < 20


def test_traceback_names_the_programs_own_frames_alone(pool: SandboxPool):
    code = "import json\n\ndef f(x):\n    return json.loads(x)\n\nprint(1)\nf('')"
    assert run(pool, code).output == (
        "1\nTraceback (most recent call last):\n"
        "  File \"program.py\", line 7, in <module>\n    f('')\n"
        '  File "program.py", line 4, in f\n    return json.loads(x)\n'
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)\n"
    )


def test_same_program_same_text_in_every_worker(pool: SandboxPool):
    code = "import random\nprint(set('abcdef'), hash('x'), random.random(), random.sample(range(99), 5))"

    async def run_many() -> set[str]:
        other = Sandbox(num_workers=1).start()
        results = await asyncio.gather(*(p.run(code) for p in [pool, other] * 4))
        await other.close()
        return {result.output for result in results}

    assert len(asyncio.run(run_many())) == 1


def test_programs_see_neither_the_trainer_nor_each_other(pool: SandboxPool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    fresh = Sandbox(num_workers=1).start()
    code = """
        import builtins, math, os, sys
        print([m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'turnwise')])
        print(sorted(set(os.environ) - {'LC_CTYPE'}))
        print([fd for fd in range(1024) if os.path.exists(f'/proc/self/fd/{fd}')])
        print(hasattr(math, 'x'), hasattr(builtins, 'x'), 'y' in globals())
        math.x = builtins.x = y = 1
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    first, second = run(fresh, code), run(fresh, code)
    asyncio.run(fresh.close())
    names = ["HOME", "LC_ALL", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH"]
    names += ["PYTHONHASHSEED", "PYTHONUTF8", "TMPDIR"]
    # Descriptor 3 is the private copy of the program's own output.
    assert first.output == f"[]\n{names}\n[0, 1, 2, 3]\nFalse False False\n"
    assert second.output == first.output


# Nothing is left behind


@pytest.mark.parametrize("ending", ["", "1 / 0", "while True: pass", "print('x' * 10**6)", "os._exit(0)"])
def test_daemons_die_with_their_program(hasty: SandboxPool, ending: str):
    result = run(hasty, DAEMON + ending)
    assert is_gone(int(result.output.split()[0]), patience_s=0)
    assert result.wall_s < 2


def test_many_programs_leave_nothing(pool: SandboxPool):
    asyncio.run(pool.run("1"))
    workers = worker_processes()
    before = [worker.num_fds() for worker in workers], psutil.Process().num_fds()

    async def run_many() -> list[ToolResult]:
        return await asyncio.gather(*(pool.run(f"open('f', 'w').write('x')\nprint({i})") for i in range(200)))

    results = asyncio.run(run_many())
    assert [result.output for result in results] == [f"{i}\n" for i in range(200)]
    assert worker_processes() == workers
    assert not any(worker.children() for worker in workers)
    assert not any(list(Path(worker.cwd()).iterdir()) for worker in workers)
    assert ([worker.num_fds() for worker in workers], psutil.Process().num_fds()) == before


def test_folders_too_deep_for_recursion_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.chdir(root)
    for _ in range(sys.getrecursionlimit() + 50):
        Path("d").mkdir()
        os.chdir("d")
    worker_script.remove_folder(str(root))
    assert not root.exists()


def test_close_ends_running_programs_and_leaves_nothing():
    folders, others = sandbox_folders(), worker_processes()

    async def close_while_running() -> tuple[list[psutil.Process], list[ToolResult]]:
        pool = Sandbox(wall_s=60).start()
        runs = [asyncio.create_task(pool.run(DAEMON + "time.sleep(60)")) for _ in range(3)]
        await asyncio.sleep(0.5)
        started = [
            p
            for worker in worker_processes()
            if worker not in others
            for p in [worker, *worker.children(recursive=True)]
        ]
        await pool.close()
        await pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.run("1")
        return started, await asyncio.gather(*runs)

    start = time.monotonic()
    started, results = asyncio.run(close_while_running())
    assert len(started) >= 4  # two workers and their programs at least
    assert not any(process.is_running() for process in started)
    assert {result.status for result in results} == {ToolStatus.infrastructure}
    assert sandbox_folders() == folders
    assert time.monotonic() - start < 10


SCRIPT = """
import asyncio
from turnwise.env.sandbox import Sandbox

pool = Sandbox(num_workers=1, wall_s=60).start()
print(asyncio.run(pool.run("import os; print(os.getppid(), os.environ['TMPDIR'])")).output, end="", flush=True)
"""


def test_a_pool_that_nobody_closed_ends_with_the_interpreter():
    command = [sys.executable, "-c", SCRIPT + "1 / 0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, env=environment, text=True)
    pid, folder = done.stdout.split()
    assert done.returncode == 1
    assert is_gone(int(pid), patience_s=0)
    assert not Path(folder).parent.exists()


def test_a_pool_that_is_dropped_ends():
    pool = Sandbox(num_workers=1).start()
    pid = int(run(pool, "import os\nprint(os.getppid())").output)
    del pool
    gc.collect()
    assert is_gone(pid, patience_s=0)


def test_a_killed_trainer_leaves_nothing(tmp_path: Path):
    program = (
        DAEMON + f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getppid()}} {{os.getpid()}}')\ntime.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT + f"asyncio.run(pool.run({program!r}))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as trainer:
        assert trainer.stdout is not None
        worker_pid, folder = trainer.stdout.readline().split()
        worker = psutil.Process(int(worker_pid))
        while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
            time.sleep(0.01)
        descendants = [worker, *worker.children(recursive=True)]
        trainer.send_signal(signal.SIGKILL)
    assert len(descendants) >= 3  # worker, program, daemon
    assert all(is_gone(process.pid) for process in descendants)
    assert not Path(folder).parent.exists()


# Failures of the sandbox itself


def test_a_killed_worker_is_replaced(hasty: SandboxPool):
    result = run(hasty, KILL_WORKER)
    assert result.status is ToolStatus.infrastructure
    assert result.output.startswith("EOFError")
    assert run(hasty, "print(1)").output == "1\n"


def test_a_program_is_tried_once_more_and_nothing_of_the_first_try_lives_on(hasty: SandboxPool, tmp_path: Path):
    first_try = str(tmp_path / "first_try")
    code = f"""
import os, sys
if not os.path.exists({first_try!r}):
    sys.stdout = open({first_try!r}, "w")
else:
    print("second")
    sys.exit()
"""
    result = run(hasty, code + DAEMON + KILL_WORKER)
    assert (result.status, result.output) == (ToolStatus.ok, "second\n")
    assert is_gone(int(Path(first_try).read_text()))


def test_a_stopped_worker_is_replaced(hasty: SandboxPool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox_module, "GRACE_S", 0.3)
    result = run(hasty, "import os\nos.kill(os.getppid(), 19)")
    assert result.status is ToolStatus.infrastructure
    assert result.output == "TimeoutError: the sandbox worker gave no answer within 0.8 s"
    assert run(hasty, "print(1)").output == "1\n"


def test_a_worker_that_talks_nonsense_is_replaced(hasty: SandboxPool, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(worker_script, "read_message", lambda _: {"status": "splendid", "output": "", "wall_s": 0.0})
        assert run(hasty, "print(1)").status is ToolStatus.infrastructure
    assert run(hasty, "print(2)").output == "2\n"


def test_a_worker_that_cannot_start_is_an_infrastructure_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    folders = sandbox_folders()
    pool = Sandbox(num_workers=1).start()
    result = run(pool, "print(1)")
    asyncio.run(pool.close())
    assert result.status is ToolStatus.infrastructure
    assert "/nowhere/python" in result.output
    assert sandbox_folders() == folders


def test_a_cancelled_run_does_not_disturb_the_next(pool: SandboxPool):
    async def cancel() -> list[str]:
        runs = [asyncio.create_task(pool.run(f"import time\ntime.sleep(0.3)\nprint({i})")) for i in range(4)]
        await asyncio.sleep(0.1)
        for task in runs:
            task.cancel()
        return [(await pool.run(f"print('next {i}')")).output for i in range(4)]

    assert asyncio.run(cancel()) == [f"next {i}\n" for i in range(4)]


def test_as_many_programs_as_workers_run_at_once(pool: SandboxPool):
    async def sleepers() -> float:
        await asyncio.gather(*(pool.run("1") for _ in range(2)))
        start = time.monotonic()
        await asyncio.gather(*(pool.run("import time\ntime.sleep(0.4)") for _ in range(4)))
        return time.monotonic() - start

    # Four programs of 0.4 s on two workers: 0.8 s; one after another they would take 1.6 s.
    assert 0.8 <= asyncio.run(sleepers()) < 1.5


def test_number_of_processes_is_limited_for_ordinary_users(tmp_path: Path):
    # As a user of its own, whose only process this is: three more are allowed.
    script = f"""
import dataclasses, os, runpy
worker = runpy.run_path({worker_script.__file__!r})
settings = worker["Settings"](folder="", wall_s=1, cpu_s=9, memory_mb=512, file_mb=1,
                              max_open_files=64, max_processes=3, max_capture_bytes=64)
if os.getuid() == 0:
    os.setuid(54321)
settings = dataclasses.replace(settings, max_processes=3 + worker["_count_own_tasks"]())
worker["_enter_child"](settings, os.getppid(), "/", 1)
try:
    for i in range(50):
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "2"])
except BlockingIOError:
    print(i, flush=True)
os.killpg(0, 9)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "\x003\n", done.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_workers", 0),
        ("wall_s", 0.0),
        ("wall_s", float("nan")),
        ("cpu_s", float("inf")),
        ("memory_mb", 63),
        ("file_mb", -1),
        ("max_open_files", 15),
        ("max_processes", -1),
        ("max_capture_bytes", 63),
    ],
)
def test_limits_out_of_range_are_refused(field: str, value: float):
    with pytest.raises(ValueError, match=f"{field}={value}: expected a finite number >= "):
        replace(Sandbox(), **{field: value})
