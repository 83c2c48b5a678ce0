import asyncio
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from turnwise.env.sandbox import process as process_module
from turnwise.env.sandbox import worker as worker_script
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox
from turnwise.types import ToolResult, ToolStatus

KILL_WORKER = "import os\nos.kill(os.getppid(), 9)\n"


def run(pool: LocalPool, code: str) -> ToolResult:
    return asyncio.run(pool.run(code))


def worker_processes() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if worker_script.__file__ in p.cmdline()]


def sandbox_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("turnwise-sandbox-*"))


def is_gone(pid: int, patience_s: float = 5.0) -> bool:
    """Whether the process ends in time; one that only waits for a foreign parent to reap it has ended."""
    deadline = time.monotonic() + patience_s
    try:
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    except psutil.NoSuchProcess:
        pass
    return True


def test_a_cancelled_run_does_not_disturb_the_next(sandbox_pool: LocalPool):
    async def cancel() -> list[str]:
        runs = [asyncio.create_task(sandbox_pool.run(f"import time\ntime.sleep(0.3)\nprint({i})")) for i in range(4)]
        await asyncio.sleep(0.1)
        for task in runs:
            task.cancel()
        return [(await sandbox_pool.run(f"print('next {i}')")).output for i in range(4)]

    assert asyncio.run(cancel()) == [f"next {i}\n" for i in range(4)]


def test_as_many_programs_as_workers_run_at_once(sandbox_pool: LocalPool, tmp_path: Path):
    def meet(mine: str, other: str) -> str:
        mine, other = repr(str(tmp_path / mine)), repr(str(tmp_path / other))
        return f"import os\nopen({mine}, 'w')\nwhile not os.path.exists({other}): pass\nprint('met')"

    async def both() -> tuple[ToolResult, ToolResult]:
        return await asyncio.gather(sandbox_pool.run(meet("a", "b")), sandbox_pool.run(meet("b", "a")))

    assert [result.output for result in asyncio.run(both())] == ["met\n", "met\n"]


def test_many_programs_leave_nothing(sandbox_pool: LocalPool):
    asyncio.run(sandbox_pool.run("1"))
    workers = worker_processes()
    before = [worker.num_fds() for worker in workers], psutil.Process().num_fds()

    async def run_many() -> list[ToolResult]:
        return await asyncio.gather(*(sandbox_pool.run(f"open('f', 'w').write('x')\nprint({i})") for i in range(200)))

    results = asyncio.run(run_many())
    assert [result.output for result in results] == [f"{i}\n" for i in range(200)]
    assert worker_processes() == workers
    assert not any(worker.children() for worker in workers)
    assert not any(list(Path(worker.cwd()).iterdir()) for worker in workers)
    assert [worker.num_fds() for worker in workers] == before[0]
    assert psutil.Process().num_fds() <= before[1]


def test_close_ends_running_programs_and_leaves_nothing(daemon_code: str):
    folders, others = sandbox_folders(), worker_processes()

    async def close_while_running() -> tuple[set[psutil.Process], list[ToolResult]]:
        pool = LocalPool(LocalSandbox(wall_s=60), Tier.unsafe)
        runs = [asyncio.create_task(pool.run(daemon_code + "time.sleep(60)")) for _ in range(3)]
        started = set[psutil.Process]()
        while len(started) < 6:  # two workers, two programs, two daemons
            await asyncio.sleep(0.01)
            workers = [worker for worker in worker_processes() if worker not in others]
            started = {process for worker in workers for process in (worker, *worker.children(recursive=True))}
        await pool.close()
        await pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.run("1")
        return started, await asyncio.gather(*runs)

    started, results = asyncio.run(close_while_running())
    assert not any(process.is_running() for process in started)
    assert {result.status for result in results} == {ToolStatus.infrastructure}
    assert sandbox_folders() == folders


SCRIPT = """
import asyncio
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox

pool = LocalPool(LocalSandbox(num_workers=1, wall_s=60), Tier.unsafe)
code = "import os; print(os.getppid(), os.environ['TMPDIR'].split('/')[-2])"  # as a whole, the path is masked
print(asyncio.run(pool.run(code)).output, end="", flush=True)
"""


def test_a_pool_that_nobody_closed_ends_with_the_interpreter():
    command = [sys.executable, "-c", SCRIPT + "1 / 0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, env=environment, text=True)
    pid, folder = done.stdout.split()
    assert done.returncode == 1
    assert is_gone(int(pid), patience_s=0)
    assert folder.startswith("turnwise-sandbox-")
    assert not Path(tempfile.gettempdir(), folder).exists()


def test_a_pool_that_is_dropped_ends():
    pool = LocalPool(LocalSandbox(num_workers=1), Tier.unsafe)
    pid = int(run(pool, "import os\nprint(os.getppid())").output)
    del pool
    gc.collect()
    assert is_gone(pid, patience_s=0)


def test_a_killed_trainer_leaves_nothing(daemon_code: str, tmp_path: Path):
    program = f"{daemon_code}open({str(tmp_path / 'is_running')!r}, 'w')\ntime.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT + f"asyncio.run(pool.run({program!r}))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as trainer:
        assert trainer.stdout is not None
        worker_pid, folder = trainer.stdout.readline().split()
        worker = psutil.Process(int(worker_pid))
        assert Path(tempfile.gettempdir(), folder).exists()
        while not (tmp_path / "is_running").exists():
            time.sleep(0.01)
        descendants = [worker, *worker.children(recursive=True)]
        trainer.send_signal(signal.SIGKILL)
    assert len(descendants) >= 3  # worker, program, daemon
    assert all(is_gone(process.pid) for process in descendants)
    assert not Path(tempfile.gettempdir(), folder).exists()


def test_a_killed_worker_is_replaced(hasty_pool: LocalPool):
    result = run(hasty_pool, KILL_WORKER)
    assert result.status is ToolStatus.infrastructure
    assert result.output.startswith("EOFError")
    assert run(hasty_pool, "print(1)").output == "1\n"


def test_a_program_is_tried_once_more_and_nothing_of_the_first_try_lives_on(
    hasty_pool: LocalPool, daemon_code: str, tmp_path: Path
):
    first_try = str(tmp_path / "first_try")
    code = f"""
import os, sys
if not os.path.exists({first_try!r}):
    sys.stdout = open({first_try!r}, "w")
else:
    print("second")
    sys.exit()
"""
    result = run(hasty_pool, code + daemon_code + KILL_WORKER)
    assert (result.status, result.output) == (ToolStatus.ok, "second\n")
    assert is_gone(int(Path(first_try).read_text()))


def test_a_stopped_worker_is_replaced(hasty_pool: LocalPool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process_module, "GRACE_S", 0.3)
    monkeypatch.setattr(process_module, "CLEANUP_S", 0.3)
    result = run(hasty_pool, "import os\nos.kill(os.getppid(), 19)")
    assert result.status is ToolStatus.infrastructure
    assert result.output == "TimeoutError: the sandbox worker gave no answer within 0.8 s"
    assert run(hasty_pool, "print(1)").output == "1\n"


def test_a_worker_that_talks_nonsense_is_replaced(hasty_pool: LocalPool, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(process_module, "read_message", lambda _: {"status": "splendid", "output": "", "wall_s": 0.0})
        assert run(hasty_pool, "print(1)").status is ToolStatus.infrastructure
    assert run(hasty_pool, "print(2)").output == "2\n"


def test_a_worker_that_cannot_start_is_an_infrastructure_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    folders = sandbox_folders()
    pool = LocalPool(LocalSandbox(num_workers=1), Tier.unsafe)
    result = run(pool, "print(1)")
    asyncio.run(pool.close())
    assert result.status is ToolStatus.infrastructure
    assert "/nowhere/python" in result.output
    assert sandbox_folders() == folders


def test_a_program_that_removes_the_workers_folder_harms_no_other(hasty_pool: LocalPool):
    run(hasty_pool, "import os, shutil\nshutil.rmtree(os.path.dirname(os.getcwd()))")
    assert run(hasty_pool, "print(1)").output == "1\n"


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
        replace(LocalSandbox(), **{field: value})
