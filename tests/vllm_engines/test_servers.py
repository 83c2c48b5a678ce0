"""Two real servers: weights over the network, and one of them that dies with turns under way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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


def test_a_server_that_is_killed_in_a_step_costs_no_trajectory(servers: Servers, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "src/main.py", "debug=fast", "engine=vllm_server", f"hydra.run.dir={run_dir}"]
    command += [f"engine.urls=[{','.join(servers.urls)}]", "trainer.num_steps=5", "evaluation.num_problems=8"]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True)
    metrics, group = run_dir / "metrics.jsonl", servers.process_ids[1]

    def num_rows() -> int:
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    while num_rows() < 2:  # the evaluation before the first step, and that step
        assert process.poll() is None, (tmp_path / "output").read_text()
        time.sleep(0.2)
    os.killpg(group, signal.SIGSTOP)  # no step ends without it: its turns are under way when it is killed
    seen = -1
    while (now := num_rows()) != seen:
        seen = now
        time.sleep(5)
    os.killpg(group, signal.SIGKILL)
    assert process.wait() == 0, (tmp_path / "output").read_text()
    said = (tmp_path / "output").read_text()
    assert said.count(f"warning: {servers.urls[1]} is left out until weights are handed over again") == 1
    assert "Traceback" not in said
    trained = [row for row in lines(run_dir) if "mismatch/log_ratio_max" in row]
    assert [row["loss/num_sequences"] for row in trained] == [8] * 5
    assert max(row["mismatch/log_ratio_max"] for row in trained) < 2e-4


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
