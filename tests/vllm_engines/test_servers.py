"""Two real servers: weights over the network, and one of them that dies with turns under way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from integration_runs import lines
from tiny_models import small_model
from turnwise.engine.vllm.greeting import WeightPath
from turnwise.engine.vllm.process import ServerProcess
from turnwise.engine.vllm.server import VLLMServer, flags
from turnwise.model.causal_lm import CausalLM
from vllm_engines.live import CPU, ROOT, SETTINGS, Live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Two servers of the tiny policy, each the leader of a process group."""

    urls: list[str]
    process_ids: list[int]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    pytest.importorskip("vllm.engine.arg_utils", reason="vLLM is not installed here: make test-vllm")
    model = CausalLM(path="package:tiny").load_model(CPU, torch.float32)
    processes, is_over = [ServerProcess(), ServerProcess()], threading.Event()
    answering = threading.Semaphore(0)

    def serve(process: ServerProcess) -> None:
        try:
            process.start(sys.executable, flags(SETTINGS.arguments(model, process.folder)))
        finally:
            answering.release()
        is_over.wait()  # a server ends with the thread that started it

    threads = [threading.Thread(target=serve, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    try:
        for _ in processes:
            answering.acquire()
        started = [process._process for process in processes]
        yield Servers(urls=[one.url for one in processes], process_ids=[one.pid for one in started if one])
    finally:
        is_over.set()
        for process in processes:
            process.close()


def test_weights_arrive_over_the_network_on_both(servers: Servers) -> None:
    live = Live.around(VLLMServer(urls=servers.urls, transfer=WeightPath.network), "package:tiny")
    try:
        prompts = live.prompts(8)
        for version in (1, 2):
            live.load(live.move(seed=version), version)
            turns = live.sample(prompts)
            assert {turn.policy_version for turn in turns} == {version}
            assert live.gap(prompts, turns) <= 2e-4
        assert len({member.backend.network for member in live.engine._members} - {None}) == 1
    finally:
        live.close()


def test_another_model_is_refused(servers: Servers) -> None:
    with pytest.raises(ValueError, match=rf"^engine.urls: {servers.urls[0]}: it serves vocab_size=622, expected 293"):
        VLLMServer(urls=servers.urls).start(small_model(), frozenset({1}), max_tokens=64)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def started(servers: Servers, run_dir: Path, *overrides: str) -> "subprocess.Popen[str]":
    """A run over both servers, two steps of which have been sampled."""
    command = [sys.executable, "src/main.py", "debug=fast", "engine=vllm_server", f"hydra.run.dir={run_dir}"]
    command += [f"engine.urls=[{','.join(servers.urls)}]", "trainer.eval_every=1000", "trainer.save_every=1000"]
    with (run_dir.parent / "output").open("w") as output:
        process = subprocess.Popen([*command, *overrides], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: num_rows(run_dir) >= 3, process, run_dir)  # the evaluation before them has one too
    return process


def said(run_dir: Path) -> str:
    return (run_dir.parent / "output").read_text()


def num_rows(run_dir: Path) -> int:
    metrics = run_dir / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]", run_dir: Path) -> None:
    while not condition():
        assert process.poll() is None, said(run_dir)
        time.sleep(0.2)


def stop_in_a_step(group: int, run_dir: Path) -> None:
    """Freezes a server, without which no step ends, until the run stands still: it waits for turns or a hand-over."""
    os.killpg(group, signal.SIGSTOP)
    seen = -1
    while (now := num_rows(run_dir)) != seen:
        seen = now
        time.sleep(5)


def assert_all_counted(run_dir: Path) -> None:
    trained = [row for row in lines(run_dir) if "mismatch/log_ratio_max" in row]
    assert len(trained) > 2
    assert {row["loss/num_sequences"] for row in trained} == {8}
    assert max(row["mismatch/log_ratio_max"] for row in trained) < 2e-4


def test_a_server_that_is_stuck_for_a_while_is_left_out_for_a_while(servers: Servers, run_dir: Path) -> None:
    process = started(servers, run_dir, "trainer.num_steps=1000", "engine.timeout_s=30")
    url, group = servers.urls[1], servers.process_ids[1]
    stop_in_a_step(group, run_dir)
    wait_until(lambda: f"warning: {url} is left out" in said(run_dir), process, run_dir)
    os.killpg(group, signal.SIGCONT)
    wait_until(lambda: f"warning: {url} is there again" in said(run_dir), process, run_dir)
    rows = num_rows(run_dir)
    wait_until(lambda: num_rows(run_dir) > rows, process, run_dir)
    process.terminate()
    assert process.wait() == 0, said(run_dir)
    assert "30 s (engine.timeout_s)" in said(run_dir)  # for a turn, or to get on with a hand-over
    assert "Traceback" not in said(run_dir)
    assert_all_counted(run_dir)


def test_a_server_that_is_killed_in_a_step_costs_no_trajectory(servers: Servers, run_dir: Path) -> None:
    process = started(servers, run_dir, "trainer.num_steps=12")
    stop_in_a_step(servers.process_ids[1], run_dir)
    os.killpg(servers.process_ids[1], signal.SIGKILL)
    assert process.wait() == 0, said(run_dir)
    assert said(run_dir).count(f"warning: {servers.urls[1]} is left out until weights are handed over again") == 1
    assert "Traceback" not in said(run_dir)
    assert_all_counted(run_dir)


def test_when_the_last_one_is_gone_the_engine_names_it(servers: Servers) -> None:
    live = Live.around(VLLMServer(urls=servers.urls[:1], max_retries=1), "package:tiny")
    try:
        live.load(live.move(seed=1), 1)
        os.killpg(servers.process_ids[0], signal.SIGKILL)
        with pytest.raises(
            RuntimeError, match=f"no vLLM is left to sample with: {servers.urls[0]}: it cannot be reached"
        ):
            live.sample(live.prompts(2))
    finally:
        live.close()
