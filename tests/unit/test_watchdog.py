"""What stands still is noticed, and nothing else; where it stands is written down."""

import asyncio
import shutil
import subprocess
import threading
import time
from pathlib import Path

from turnwise.watchdog import Watch, Work, looking_after, write_stacks

TIMEOUT_S = 0.8


class Noticed(list[list[Work]]):
    """What the watchdog spoke of; `wait` until it has spoken so often."""

    def __init__(self) -> None:
        super().__init__()
        self._more = threading.Condition()

    def note(self, standing: dict[Work, float]) -> None:
        assert max(standing.values()) > TIMEOUT_S
        with self._more:
            self.append([*standing])
            self._more.notify_all()

    def wait(self, count: int) -> bool:
        with self._more:
            return self._more.wait_for(lambda: len(self) >= count, timeout=30)


def test_one_that_hangs_is_noticed_once_though_others_of_its_kind_ended():
    watch, noticed = Watch(), Noticed()
    with looking_after(watch, TIMEOUT_S, noticed.note), watch.under_way(Work.tool):
        with watch.under_way(Work.tool):
            pass
        assert noticed.wait(1)
        time.sleep(2 * TIMEOUT_S)
        assert noticed == [[Work.tool]]


def test_what_waits_for_it_is_named_behind_it():
    watch, noticed = Watch(), Noticed()
    with looking_after(watch, TIMEOUT_S, noticed.note), watch.under_way(Work.tool), watch.under_way(Work.engine):
        assert noticed.wait(1)
    assert noticed[0] == [Work.tool, Work.engine]


def test_each_time_that_it_gets_stuck_is_noticed():
    watch, noticed = Watch(), Noticed()
    with looking_after(watch, TIMEOUT_S, noticed.note), watch.under_way(Work.engine):
        assert noticed.wait(1)
        with watch.under_way(Work.engine):
            pass
        assert noticed.wait(2)


def test_work_that_goes_on_and_rest_are_left_alone():
    watch, noticed = Watch(), Noticed()
    with looking_after(watch, TIMEOUT_S, noticed.note):
        with watch.under_way(Work.engine):
            for _ in range(40):
                with watch.under_way(Work.engine):
                    time.sleep(0.04)
        time.sleep(2 * TIMEOUT_S)  # nothing is under way
    assert noticed == []


def test_an_exception_ends_the_work_too():
    watch = Watch()
    try:
        with watch.under_way(Work.reward):
            raise ValueError("no verdict")
    except ValueError:
        pass
    assert watch.standing() == {}


def test_the_stacks_name_threads_tasks_and_processes(tmp_path: Path):
    held = threading.Event()

    def a_thread_that_waits() -> None:
        held.wait()

    async def what_is_awaited() -> None:
        await asyncio.Event().wait()

    async def a_task_that_waits() -> None:
        await what_is_awaited()

    async def run() -> str:
        tasks = [asyncio.create_task(a_task_that_waits()) for _ in range(3)]
        await asyncio.sleep(0)
        path = tmp_path / "stacks.txt"
        await asyncio.to_thread(write_stacks, path, "the tool hangs", asyncio.get_running_loop())
        for task in tasks:
            task.cancel()
        return path.read_text()

    thread = threading.Thread(target=a_thread_that_waits, daemon=True)
    thread.start()
    sleep = tmp_path / "программа-долго"  # a name that the kernel cuts in the middle of a character
    shutil.copy(shutil.which("sleep") or "", sleep)
    with subprocess.Popen([sleep, "4321"]) as child:
        text = asyncio.run(run())
        child.kill()
    held.set()
    assert text.startswith("the tool hangs\n")
    assert "in a_thread_that_waits" in text
    tasks = text[text.index("Tasks of the event loop") :]
    assert "3 x\n" in tasks, "equal stacks stand once"
    assert tasks.index("in a_task_that_waits") < tasks.index("in what_is_awaited") < tasks.index("asyncio/locks.py")
    assert f"{child.pid} S" in text
    assert "программа-долго 4321" in text
