"""Bounds on all programs together: real ones where this user may make a control group, and a made-up /sys besides."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from turnwise.env.sandbox import cgroup
from turnwise.env.sandbox.cgroup import Cgroup, own_groups, remove_groups
from turnwise.env.sandbox.interface import ProgramResult
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox
from turnwise.types import ToolStatus

SETTINGS = LocalSandbox(num_workers=2, memory_mb=100, scratch_mb=20, max_processes=7).settings(Tier.unsafe)


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for /sys/fs/cgroup; files of limits have to be there, as the kernel makes them."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def test_groups_of_both_versions_are_found(made_up: Path):
    (made_up / "membership").write_text("4:memory:/a/b\n3:cpu,cpuacct:/a\n0::/c\n")
    assert own_groups("memory") == [(1, made_up / "memory/a/b"), (2, made_up / "c")]
    assert own_groups("pids") == [(2, made_up / "c")]
    assert own_groups("cpu") == [(1, made_up / "cpu,cpuacct/a"), (2, made_up / "c")]


def test_where_there_are_no_groups_nothing_is_bounded(made_up: Path):
    assert Cgroup(SETTINGS).controllers == ()
    (made_up / "membership").write_text("0::/nowhere\n")
    group = Cgroup(SETTINGS)
    group.add(1)
    asyncio.run(group.close())
    assert group.controllers == ()


def test_a_group_that_takes_no_limits_is_removed_again(made_up: Path):
    """As version 2 does where a controller is not handed down: there is a folder, and no file of the limit in it."""
    (made_up / "membership").write_text("0::/\n")
    assert Cgroup(SETTINGS).controllers == ()
    assert {path.name for path in made_up.iterdir()} == {"membership", "cgroup.subtree_control"}
    assert (made_up / "cgroup.subtree_control").read_text() == "+pids"  # each controller was asked for, pids last


def test_limits_are_the_sum_of_what_programs_may_have(made_up: Path):
    (made_up / "membership").write_text("4:memory:/\n0::/two\n")
    memory = made_up / "memory" / f"turnwise-{os.getpid()}"
    for folder in (memory, made_up / "two"):
        folder.mkdir(parents=True)
    for name in ("cgroup.procs", "memory.limit_in_bytes"):
        (memory / name).touch()
    group = Cgroup(SETTINGS)
    # two workers of 100 MiB and 20 MiB of files each, and room for the rest
    assert int((memory / "memory.limit_in_bytes").read_text()) == (2 * 120 + cgroup.ROOM_MB) << 20
    assert group.controllers == ("memory",)  # `cgroup.procs` of the other is not there, so nothing could be put in
    group.allow(3)  # open sessions, each of which may have as much
    assert int((memory / "memory.limit_in_bytes").read_text()) == (5 * 120 + cgroup.ROOM_MB) << 20
    fixed = Cgroup(replace(SETTINGS, total_memory_mb=50))
    fixed.allow(3)
    assert int((memory / "memory.limit_in_bytes").read_text()) == 50 << 20


def test_what_a_killed_broker_left_is_removed(made_up: Path):
    (made_up / "membership").write_text("0::/\n")
    (made_up / "turnwise-7").mkdir()
    remove_groups(7)
    assert not (made_up / "turnwise-7").exists()


def test_memory_of_all_programs_together_is_bounded_where_a_group_can_be_had():
    """Each of them stays within its own limit; an idle session is not the one that suffers."""
    sandbox = LocalSandbox(num_workers=4, memory_mb=200, total_memory_mb=300, wall_s=20, cpu_s=20)
    pool = LocalPool(sandbox, Tier.A)
    if "memory" not in pool.facts.cgroups:
        asyncio.run(pool.close())
        pytest.skip("this user cannot make a control group for memory")

    async def fill() -> tuple[list[ProgramResult], ProgramResult]:
        session = pool.session()
        await session.run("x = 1")
        code = "import time\nx = bytearray(150 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\ntime.sleep(2)"
        results = await asyncio.gather(*(pool.run(code) for _ in range(4)))
        return results, await session.run("print(x)")

    launched = pool._link.connection()._launched
    assert launched is not None
    groups = [own / f"turnwise-{launched.process.pid}" for _, own in own_groups("memory")]
    assert any(group.exists() for group in groups)
    results, after = asyncio.run(fill())
    alone = asyncio.run(pool.run("x = b'1' * (150 << 20)\nprint(len(x))"))
    asyncio.run(pool.close())
    assert {result.status for result in results} == {ToolStatus.ok, ToolStatus.memory}
    assert after.output == "1\n"
    assert alone.output == f"{150 << 20}\n"
    assert not any(group.exists() for group in groups)
