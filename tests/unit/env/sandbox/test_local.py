"""The life of a broker and its zygotes: what they leave, what becomes of programs when one of them fails."""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from turnwise.env.sandbox import link
from turnwise.env.sandbox.interface import ProgramResult
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox, WantedTier
from turnwise.types import ToolStatus

BROKER_ID = "open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1]"
KILL_ZYGOTE = "import os\nos.kill(os.getppid(), 9)\n"


def run(pool: LocalPool, code: str) -> ProgramResult:
    return asyncio.run(pool.run(code))


def brokers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if link.broker_script.__file__ in child.cmdline()]


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


def comes_true(condition: Callable[[], bool], patience_s: float = 5.0) -> bool:
    deadline = time.monotonic() + patience_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_cancelled_program_is_killed_and_does_not_disturb_the_next(sandbox_pool: LocalPool, tmp_path: Path):
    async def cancel() -> list[str]:
        code = "import os, time\nopen({!r} + str(os.getpid()), 'w')\ntime.sleep(60)"
        runs = [asyncio.create_task(sandbox_pool.run(code.format(f"{tmp_path}/"))) for _ in range(4)]
        while len(list(tmp_path.iterdir())) < 2:
            await asyncio.sleep(0.01)
        for task in reversed(runs):  # those that wait before those that run, which make room
            task.cancel()
        return [(await sandbox_pool.run(f"print('next {i}')")).output for i in range(4)]

    assert asyncio.run(cancel()) == [f"next {i}\n" for i in range(4)]
    started = [int(path.name) for path in tmp_path.iterdir()]
    assert len(started) == 2
    assert all(is_gone(pid) for pid in started)


def test_as_many_programs_as_workers_run_at_once(sandbox_pool: LocalPool, tmp_path: Path):
    def meet(mine: str, other: str) -> str:
        mine, other = repr(str(tmp_path / mine)), repr(str(tmp_path / other))
        return f"import os\nopen({mine}, 'w')\nwhile not os.path.exists({other}): pass\nprint('met')"

    async def both() -> tuple[ProgramResult, ProgramResult]:
        return await asyncio.gather(sandbox_pool.run(meet("a", "b")), sandbox_pool.run(meet("b", "a")))

    assert [result.output for result in asyncio.run(both())] == ["met\n", "met\n"]


def test_no_more_programs_than_workers_run_at_once(hasty_pool: LocalPool, tmp_path: Path):
    code = f"import os\nopen({str(tmp_path)!r} + '/x', 'x')\nos.remove({str(tmp_path)!r} + '/x')\nprint('alone')"

    async def many() -> list[ProgramResult]:
        return await asyncio.gather(*(hasty_pool.run(code) for _ in range(20)))

    assert {result.output for result in asyncio.run(many())} == {"alone\n"}


def test_many_programs_leave_nothing(sandbox_pool: LocalPool):
    run(sandbox_pool, "import numpy")
    (broker,) = [one for one in brokers() if one.pid == int(run(sandbox_pool, f"import os\nprint({BROKER_ID})").output)]
    zygotes = broker.children()
    before = broker.num_fds(), [zygote.num_fds() for zygote in zygotes], psutil.Process().num_fds()

    async def run_many() -> list[ProgramResult]:
        return await asyncio.gather(*(sandbox_pool.run(f"open('f', 'w').write('x')\nprint({i})") for i in range(200)))

    results = asyncio.run(run_many())
    assert [result.output for result in results] == [f"{i}\n" for i in range(200)]
    folder = Path(broker.cmdline()[-1])
    assert comes_true(lambda: broker.children(recursive=True) == zygotes)  # folders are removed meanwhile
    assert not [path for path in folder.rglob("*") if path.name not in ("light", "heavy")]
    assert comes_true(lambda: (broker.num_fds(), [zygote.num_fds() for zygote in zygotes]) == before[:2])
    assert psutil.Process().num_fds() <= before[2]


def test_close_ends_running_programs_and_leaves_nothing(daemon_code: str):
    others = brokers()

    async def close_while_running() -> tuple[set[psutil.Process], list[ProgramResult], Path]:
        pool = LocalPool(LocalSandbox(wall_s=60), Tier.unsafe)
        runs = [asyncio.create_task(pool.run(daemon_code + "time.sleep(60)")) for _ in range(3)]
        (broker,) = [one for one in brokers() if one not in others]
        folder, started = Path(broker.cmdline()[-1]), set[psutil.Process]()
        while len(started) < 6:  # broker, zygote, two programs, two daemons
            await asyncio.sleep(0.01)
            started = {broker, *broker.children(recursive=True)}
        await pool.close()
        await pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.run("1")
        return started, await asyncio.gather(*runs), folder

    started, results, folder = asyncio.run(close_while_running())
    assert all(is_gone(process.pid) for process in started)
    assert {result.status for result in results} == {ToolStatus.infrastructure}
    assert not folder.exists()


SCRIPT = """
import asyncio
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox

pool = LocalPool(LocalSandbox(num_workers=1, wall_s=60), Tier.unsafe)
code = "import os; print(os.getppid(), os.environ['TMPDIR'][5:].split('/')[0])"  # as a whole, the path is masked
print(asyncio.run(pool.run(code)).output, pool._link._connection._launched.folder, end="", flush=True)
"""


def test_a_pool_that_nobody_closed_ends_with_the_interpreter():
    command = [sys.executable, "-c", SCRIPT + "1 / 0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, env=environment, text=True)
    pid, _, folder = done.stdout.split()
    assert done.returncode == 1
    assert is_gone(int(pid), patience_s=1)
    assert "turnwise-sandbox-" in folder
    assert not Path(folder).exists()


def test_a_pool_that_is_dropped_ends():
    pool = LocalPool(LocalSandbox(num_workers=1), Tier.unsafe)
    pid = int(run(pool, "import os\nprint(os.getppid())").output)
    del pool
    gc.collect()
    assert is_gone(pid, patience_s=1)


def test_a_killed_trainer_leaves_nothing(daemon_code: str, tmp_path: Path):
    program = f"{daemon_code}open({str(tmp_path / 'is_running')!r}, 'w')\ntime.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT + f"print()\nasyncio.run(pool.run({program!r}))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as trainer:
        assert trainer.stdout is not None
        trainer.stdout.readline()
        folder = trainer.stdout.readline().strip()
        assert Path(folder).exists()
        while not (tmp_path / "is_running").exists():
            time.sleep(0.01)
        descendants = psutil.Process(trainer.pid).children(recursive=True)
        trainer.send_signal(signal.SIGKILL)
    assert len(descendants) >= 4  # broker, zygote, program, daemon
    assert all(is_gone(process.pid) for process in descendants)
    assert not Path(folder).exists()


def test_a_fork_of_the_trainer_keeps_no_broker_alive():
    """As the workers of a data loader are: they inherit the socket, and outlive the trainer here."""
    fork = "import os, signal, time\nfork = os.fork()\nif fork == 0:\n    time.sleep(60)\nprint('', fork, flush=True)\n"
    script = SCRIPT.replace(', end=""', "") + fork + "os.kill(os.getpid(), signal.SIGKILL)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True
    ) as trainer:
        assert trainer.stdout is not None
        zygote, _, fork = (trainer.stdout.readline().split()[0] for _ in range(3))
        try:
            assert is_gone(int(zygote))
            assert not is_gone(int(fork), patience_s=0)
        finally:
            os.kill(int(fork), signal.SIGKILL)


def test_a_killed_zygote_is_replaced(hasty_pool: LocalPool):
    result = run(hasty_pool, KILL_ZYGOTE + "import time\ntime.sleep(5)")
    assert (result.status, result.output) == (
        ToolStatus.infrastructure,
        "OSError: the sandbox's zygote has ended",
    )
    assert run(hasty_pool, "print(1)").output == "1\n"


def test_a_killed_broker_is_replaced(tmp_path: Path):
    pool = LocalPool(LocalSandbox(num_workers=1), Tier.unsafe)
    broker = pool._link.connection()._launched
    assert broker is not None
    code = f"import os\nif not os.path.exists({str(tmp_path / 'x')!r}):\n  open({str(tmp_path / 'x')!r}, 'w')\n"
    code += f"  os.kill(int({BROKER_ID}), 9)\n  while True: pass\nprint('again')"
    assert run(pool, code).output == "again\n"
    asyncio.run(pool.close())
    assert not Path(broker.folder).exists()


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
    result = run(hasty_pool, code + daemon_code + KILL_ZYGOTE)
    assert (result.status, result.output) == (ToolStatus.ok, "second\n")
    assert is_gone(int(Path(first_try).read_text()))


def test_a_broker_that_gives_no_sign_of_life_is_replaced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link, "STALL_S", 0.4)
    monkeypatch.setattr(link, "GRACE_S", 0.2)
    pool = LocalPool(LocalSandbox(num_workers=1, wall_s=1.0), Tier.unsafe)
    zygote = int(run(pool, "import os\nprint(os.getppid())").output)
    result = run(pool, f"import os\nos.kill(int({BROKER_ID}), 19)")
    assert result.status is ToolStatus.infrastructure
    assert result.stderr == "OSError: the sandbox's broker gave no sign of life for 0.4 s"
    assert run(pool, "print(1)").output == "1\n"
    asyncio.run(pool.close())
    assert is_gone(zygote)


def test_a_zygote_that_has_stopped_is_replaced(hasty_pool: LocalPool):
    result = run(hasty_pool, "import os\nos.kill(os.getppid(), 19)")
    assert (result.status, result.stderr) == (
        ToolStatus.infrastructure,
        "OSError: the sandbox's zygote does not answer",
    )
    assert run(hasty_pool, "print(1)").output == "1\n"


def test_a_broker_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    folders = sandbox_folders()
    with pytest.raises(OSError, match="/nowhere/python"):
        LocalPool(LocalSandbox(num_workers=1), Tier.unsafe)
    assert sandbox_folders() == folders


def test_a_process_that_cannot_be_set_up_is_not_the_programs_fault(monkeypatch: pytest.MonkeyPatch):
    sandbox = LocalSandbox(num_workers=1)
    broken = replace(sandbox.settings(Tier.B), forbidden="00")
    monkeypatch.setattr(LocalSandbox, "settings", lambda *_: broken)
    pool = LocalPool(sandbox, Tier.B)
    result = run(pool, "print(1)")
    asyncio.run(pool.close())
    assert result.status is ToolStatus.infrastructure
    assert "could not set up a process: exit code 70: " in result.stderr
    assert "prctl: Invalid argument" in result.stderr


def test_a_program_that_removes_the_folder_above_its_own_harms_no_other(hasty_pool: LocalPool):
    run(hasty_pool, "import os, shutil\nshutil.rmtree(os.path.dirname(os.getcwd()))")
    assert run(hasty_pool, "print(1)").output == "1\n"


def test_folders_too_deep_for_recursion_are_removed(sandbox_pool: LocalPool):
    depth = sys.getrecursionlimit() + 50
    result = run(sandbox_pool, f"import os\nprint(os.listdir())\nfor _ in range({depth}): os.mkdir('d'); os.chdir('d')")
    assert (result.status, result.output) == (ToolStatus.ok, "[]\n")
    launched = sandbox_pool._link.connection()._launched
    assert launched is not None
    assert comes_true(lambda: not list(Path(launched.folder).glob("*/*")))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_workers", 0),
        ("wall_s", 0.0),
        ("wall_s", float("nan")),
        ("cpu_s", float("inf")),
        ("memory_mb", 15),
        ("total_memory_mb", -1),
        ("file_mb", 0),
        ("cpu_s", 1e30),
        ("memory_mb", 1 << 31),
        ("max_open_files", 15),
        ("max_processes", -1),
        ("max_capture_bytes", 63),
    ],
)
def test_limits_out_of_range_are_refused(field: str, value: float):
    with pytest.raises(ValueError, match=rf"{field}={re.escape(str(value))}: expected a number from "):
        replace(LocalSandbox(), **{field: value})


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"file_mb": 65}, "file_mb=65: expected at most scratch_mb=64, where files go"),
        (
            {"total_memory_mb": 1087},
            "total_memory_mb=1087: expected 0, or .* memory_mb=1024 and scratch_mb=64",
        ),
        ({"tier": "C"}, "tier=C: expected best, A or B"),
        ({"num_workers": 2049}, "num_workers=2049: expected at most 2048"),
        ({"tier": WantedTier.B, "allow_unsafe": True}, "tier=B allow_unsafe=true: one asks for isolation"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits: dict[str, Any], told: str):
    with pytest.raises(ValueError, match=told):
        LocalSandbox(**limits)


@pytest.mark.parametrize("name", ["num py", "nmupy", "numpy.linalg", ""])
def test_what_is_no_module_is_refused(name: str):
    with pytest.raises(ValueError, match=rf"preloaded=\['numpy', '{name}'\]: no module '{name}' is installed here"):
        LocalSandbox(preloaded=["numpy", name])
