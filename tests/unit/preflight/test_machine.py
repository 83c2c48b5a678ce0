"""Disk, tracker, splits and programs: what is sound passes, and each thing that is broken is found."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from turnwise.env.sandbox.interface import ErrorDetail, ProgramResult
from turnwise.env.sandbox.local import LocalSandbox
from turnwise.preflight.disk import Writes, check_disk, num_checkpoints
from turnwise.preflight.finding import Finding, Verdict
from turnwise.preflight.programs import check_programs
from turnwise.preflight.splits import check_splits
from turnwise.preflight.trackers import check_tracker
from turnwise.protocols import Tracker
from turnwise.tracker.files import Files
from turnwise.tracker.wandb import Wandb, WandbMode
from turnwise.types import Isolation, Message, Problem, ToolStatus

MIB = 2**20


def writes(total: int) -> Writes:
    return Writes(checkpoint=total // 2, num_checkpoints=2, bundles=0)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(2, 4), (0, 10), (50, 10)],  # 95 steps, one every 10: ten are written, the last at the end
)
def test_the_best_checkpoint_and_the_one_that_is_being_written_count_too(keep: int, expected: int):
    assert num_checkpoints(num_steps=95, save_every=10, keep=keep) == expected


def test_a_run_without_steps_writes_one_checkpoint():
    assert num_checkpoints(num_steps=0, save_every=10, keep=2) == 1


@pytest.mark.parametrize(("share", "verdict"), [(0.1, Verdict.passed), (0.9, Verdict.warning), (1.1, Verdict.failed)])
def test_what_is_left_on_a_disk(tmp_path: Path, share: float, verdict: Verdict):
    finding = Finding("disk")
    check_disk(tmp_path, writes(int(share * shutil.disk_usage(tmp_path).free)), finding)
    assert finding.verdict is verdict
    assert bool(finding.remedies) == (verdict is not Verdict.passed)


def test_another_machines_disk_is_not_looked_at(tmp_path: Path):
    finding = Finding("disk")
    check_disk(tmp_path, writes(2**60), finding, is_here=False)
    assert finding.verdict is Verdict.passed
    assert "see that its disk has as much" in finding.lines[-1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MiB, of which one is taken."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "turnwise", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (tmp_path / "taken").write_bytes(bytes(MIB))
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk(small_disk: Path):
    finding = Finding("disk")
    check_disk(small_disk, writes(MIB // 2), finding)
    assert finding.verdict is Verdict.passed
    check_disk(small_disk, writes(3 * MIB // 2), finding)
    assert finding.verdict is Verdict.failed
    assert "which is not enough" in finding.lines[-1]


class Unwritable:
    """A tracker whose place is not there."""

    def start(self, run_dir: Path, *, first_step: int, label: str, config: Mapping[str, Any]) -> Tracker:
        raise PermissionError(13, "Permission denied", str(run_dir / "runs.db"))


class Mute:
    """A tracker that starts and then takes nothing."""

    def start(self, run_dir: Path, *, first_step: int, label: str, config: Mapping[str, Any]) -> Tracker:
        return self  # type: ignore[return-value]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        raise ConnectionError("the server closed the connection")

    def close(self) -> None:
        pass


def tracked(settings: Any) -> Finding:
    finding = Finding("tracker")
    check_tracker(settings, label="test", config={}, finding=finding)
    return finding


def test_files_start():
    assert tracked(Files()).verdict is Verdict.passed


@pytest.mark.parametrize("settings", [Unwritable(), Mute()])
def test_a_tracker_that_does_not_start(settings: Any):
    finding = tracked(settings)
    assert finding.verdict is Verdict.failed
    assert "does not start" in finding.lines[0]
    assert "tracker=files" in finding.remedies[0]


class Answer(BaseHTTPRequestHandler):
    """A server that answers with the status of its class."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Unwell(Answer):
    """One that is down."""

    status = 503


@pytest.mark.parametrize(("handler", "verdict"), [(Answer, Verdict.passed), (Unwell, Verdict.failed)])
def test_the_server_of_wandb_is_asked(
    handler: type[BaseHTTPRequestHandler], verdict: Verdict, monkeypatch: pytest.MonkeyPatch
):
    server = HTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    finding = tracked(Wandb(mode=WandbMode.online))
    server.shutdown()
    server.server_close()
    assert finding.verdict is verdict, finding.lines


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    finding = tracked(Wandb(mode=WandbMode.online))
    assert finding.verdict is Verdict.failed
    assert "http://127.0.0.1:9 does not answer" in finding.lines[1]
    assert "tracker.mode=offline" in finding.remedies[0]


def asked(id: str, text: str) -> Problem:
    return Problem(id=id, prompt=(Message(role="user", content=text),), answer="1", source="made")


class Endless:
    """A task of numbered questions whose train split begins at `first`."""

    name = "endless"

    def __init__(self, first: int) -> None:
        self.removed: dict[str, int] = {}
        self._next = first

    def next_batch(self, num_problems: int) -> list[Problem]:
        self._next += num_problems
        return [asked(f"t{n}", f"What is  NUMBER {n}?") for n in range(self._next - num_problems, self._next)]

    def eval_sets(self, num_problems: int) -> dict[str, Sequence[Problem]]:
        return {"held_out": [asked(f"e{n}", f"what is number {n}?") for n in range(num_problems)]}

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._next = state["next"]


@pytest.mark.parametrize(("first", "verdict"), [(100, Verdict.passed), (98, Verdict.failed)])
def test_splits_that_share_statements(first: int, verdict: Verdict):
    task, finding = Endless(first), Finding("splits")
    check_splits(task, task.eval_sets(100), 8, finding)
    assert finding.verdict is verdict
    assert task.state_dict() == {"next": first}, "the cursor is where it was"
    if verdict is Verdict.failed:
        assert finding.lines[0].startswith("2 problems of held_out are trained on too: e98: 'what is number 98?'")


def programs(pool: Any, max_programs: int = 10) -> Finding:
    finding = Finding("tool")
    asyncio.run(check_programs(pool, max_programs, finding))
    return finding


def test_the_local_sandbox_runs_programs():
    pool = LocalSandbox(preloaded=[], allow_unsafe=True).start()
    finding = programs(pool)
    pool.end()
    assert finding.verdict is (Verdict.warning if pool.isolation is Isolation.unsafe else Verdict.passed)
    assert "programs a second" in finding.lines[-1]


def test_many_programs_for_a_slow_sandbox_are_told():
    pool = LocalSandbox(preloaded=[], allow_unsafe=True, num_workers=1).start()
    finding = programs(pool, max_programs=10**6)
    pool.end()
    assert finding.verdict is Verdict.warning
    assert "env.sandbox.num_workers" in finding.remedies[-1]


class Broken:
    """A sandbox that answers every program in one way."""

    isolation = Isolation.A

    def __init__(self, status: ToolStatus, stdout: str) -> None:
        self._result = ProgramResult(status=status, stdout=stdout, stderr="no space left", wall_s=0.01)

    async def run(
        self, code: str, error_detail: ErrorDetail = ErrorDetail.traceback, *, shows_value: bool = False
    ) -> ProgramResult:
        return self._result


@pytest.mark.parametrize("pool", [Broken(ToolStatus.infrastructure, ""), Broken(ToolStatus.ok, "7\n")])
def test_a_sandbox_that_fails_or_mixes_up_its_answers(pool: Broken):
    finding = programs(pool)
    assert finding.verdict is Verdict.failed
    assert "of 48 programs went wrong" in finding.lines[2]
