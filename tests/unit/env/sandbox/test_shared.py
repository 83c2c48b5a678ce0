"""Several trainers on one broker: `env.sandbox.socket`."""

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from turnwise.env.sandbox import link
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox
from turnwise.types import ToolStatus

TRAINER = """
import asyncio, sys
from turnwise.env.sandbox.local import LocalSandbox

pool = LocalSandbox(num_workers=1, wall_s=20, socket=sys.argv[1]).start()
async def work():
    session = pool.session()
    await session.run(f"x = {sys.argv[2]}")
    runs = [pool.run(f"print({sys.argv[2]}, {i})") for i in range(20)]
    outputs = [result.output for result in await asyncio.gather(*runs)]
    return outputs == [f"{sys.argv[2]} {i}\\n" for i in range(20)], (await session.run("print(x)")).output
fits, kept = asyncio.run(work())
print(fits, kept.strip(), flush=True)
input()
"""


def brokers(path: Path) -> list[psutil.Process]:
    """Those that listen at `path`, whoever started them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if link.broker_script.__file__ in (process.info["cmdline"] or []):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(one.laddr == str(path) for one in process.net_connections("unix")):
                    found.append(process)
    return found


def gone(path: Path) -> bool:
    deadline = time.monotonic() + 5
    while brokers(path) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not brokers(path) and not path.exists()


def test_trainers_that_start_at_once_share_one_broker(tmp_path: Path):
    path = tmp_path / "sandbox.sock"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    trainers = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(path), str(rank)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
        )
        for rank in range(3)
    ]  # fmt: skip
    told = [trainer.stdout.readline() for trainer in trainers if trainer.stdout is not None]
    assert told == [f"True {rank}\n" for rank in range(3)]
    assert len(brokers(path)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # Whoever started it may go, and by force: the others go on.
    trainers[0].kill()
    trainers[1].kill()
    for trainer in trainers[:2]:
        trainer.wait()
    assert len(brokers(path)) == 1
    trainers[2].communicate("\n")
    assert gone(path)


def test_others_limits_are_refused(tmp_path: Path):
    sandbox = LocalSandbox(num_workers=1, socket=str(tmp_path / "s"))
    pool = LocalPool(sandbox, Tier.A)
    with pytest.raises(ValueError, match=r"env\.sandbox: socket=.*/s: the broker there has wall_s=5\.0, not 3\.0$"):
        replace(sandbox, wall_s=3.0).start()
    asyncio.run(pool.close())
    assert gone(tmp_path / "s")


def test_a_socket_that_nobody_serves_any_more_is_replaced(tmp_path: Path):
    sandbox = LocalSandbox(num_workers=1, socket=str(tmp_path / "s"))
    pool = LocalPool(sandbox, Tier.A)
    (broker,) = brokers(tmp_path / "s")
    broker.kill()
    broker.wait()
    assert (tmp_path / "s").exists()
    assert asyncio.run(pool.run("print(1)")).output == "1\n"
    asyncio.run(pool.close())
    assert gone(tmp_path / "s")


def test_one_trainers_end_is_not_that_of_anothers_programs(tmp_path: Path):
    sandbox = LocalSandbox(num_workers=2, socket=str(tmp_path / "s"))
    one, other = LocalPool(sandbox, Tier.A), LocalPool(sandbox, Tier.A)

    async def close_one() -> tuple[ToolStatus, str]:
        mine = asyncio.create_task(one.run("while True: pass"))
        others = asyncio.create_task(other.run("import time\ntime.sleep(0.7)\nprint('done')"))
        await asyncio.sleep(0.3)
        await one.close()
        return (await mine).status, (await others).output

    assert asyncio.run(close_one()) == (ToolStatus.infrastructure, "done\n")
    asyncio.run(other.close())
    assert gone(tmp_path / "s")


def test_trainers_that_leave_give_back_all_they_had(tmp_path: Path):
    """Sessions that are closed, that are not, and programs that are cancelled as their trainer goes."""
    sandbox = LocalSandbox(num_workers=2, socket=str(tmp_path / "s"))
    stays = LocalPool(sandbox, Tier.A)
    asyncio.run(stays.run("import numpy"))
    (broker,) = brokers(tmp_path / "s")
    counts = []

    async def come_and_go() -> None:
        pool = LocalPool(sandbox, Tier.A)
        sessions = [pool.session() for _ in range(6)]
        await asyncio.gather(*(session.run("x = 1") for session in sessions))
        running = [asyncio.create_task(pool.run("while True: pass")) for _ in range(3)]
        running.append(asyncio.create_task(sessions[0].run("while True: pass")))
        await asyncio.sleep(0.2)
        await asyncio.gather(*(session.close() for session in sessions[:4]))
        for task in running:
            task.cancel()
        await pool.close()

    for _ in range(4):
        asyncio.run(come_and_go())
        deadline = time.monotonic() + 5
        while len(broker.children(recursive=True)) > 4 and time.monotonic() < deadline:  # two zygotes, their keepers
            time.sleep(0.02)
        assert asyncio.run(stays.run("print(1)")).output == "1\n"
        counts.append((broker.num_fds(), len(broker.children(recursive=True))))
    asyncio.run(stays.close())
    assert counts == counts[:1] * 4
    assert gone(tmp_path / "s")


@pytest.mark.parametrize("name", ["nowhere/s", "x" * 108])
def test_a_place_that_cannot_be_had_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=f"socket=.*{name}: expected a place in a folder that exists, in 107 bytes"):
        LocalSandbox(socket=str(tmp_path / name))
