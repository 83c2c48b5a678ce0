"""vLLM's child processes that die: every call says so, whether vLLM answers it with an error or not at all."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from turnwise.engine.vllm import local
from turnwise.engine.vllm.backend import CACHE, Gone
from turnwise.engine.vllm.local import ChildProcesses


class DeadError(Exception):
    """As vLLM's own: no RuntimeError."""


class Front:
    """Stands for vLLM's `AsyncLLM`: its calls never end while it is `stuck`, and fail with `failure` otherwise."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.errored = False
        self.num_cancelled = 0

    async def _call(self, *_: Any, **__: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise

    async def generate(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        await self._call()
        yield None

    collective_rpc = reset_prefix_cache = update_weight_version = sleep = wake_up = _call


CALLS: dict[str, Callable[[ChildProcesses], Coroutine[Any, Any, Any]]] = {
    "generate": lambda vllm: vllm.generate((5, 6), {}),
    "call_workers": lambda vllm: vllm.call_workers("receive_weights", "file"),
    "forget_prefixes": lambda vllm: vllm.forget_prefixes(),
    "label_weights": lambda vllm: vllm.label_weights("a/1"),
    "sleep": lambda vllm: vllm.sleep(),
    "wake": lambda vllm: vllm.wake(CACHE),
}


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def params(**fields: Any) -> SimpleNamespace:
        return SimpleNamespace(**fields)

    monkeypatch.setattr(local, "LOOK_S", 0.02)
    kinds = SimpleNamespace(FINAL_ONLY="final")
    named = SimpleNamespace(SamplingParams=params, RequestOutputKind=kinds)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", named)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(sampling_params=named))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_vllm_never_answers_ends_with_its_processes(name: str) -> None:
    async def work() -> None:
        front = Front()
        call = asyncio.create_task(CALLS[name](ChildProcesses(front)))
        await asyncio.sleep(0.1)
        assert not call.done(), "slow is not dead"
        front.errored = True
        with pytest.raises(Gone, match=r"^its processes have ended$"):
            await call
        assert front.num_cancelled == 1

    asyncio.run(work())


@pytest.mark.parametrize("name", CALLS)
def test_an_error_of_dead_processes_is_their_death(name: str) -> None:
    async def work() -> None:
        front = Front(DeadError("EngineCore encountered an issue"))
        front.errored = True
        with pytest.raises(Gone, match=r"^its processes have ended$"):
            await CALLS[name](ChildProcesses(front))

    asyncio.run(work())


def test_the_death_of_a_worker_is_noticed_though_its_call_fails_first() -> None:
    async def work() -> None:
        front = Front(Exception("Executor failed."))
        call = asyncio.create_task(CALLS["call_workers"](ChildProcesses(front)))
        await asyncio.sleep(0)
        front.errored = True
        with pytest.raises(Gone, match=r"^its processes have ended$"):
            await call

    asyncio.run(work())


@pytest.mark.parametrize("name", CALLS)
def test_an_error_of_processes_that_live_is_no_death(name: str) -> None:
    async def work() -> None:
        with pytest.raises(RuntimeError, match=r"^vLLM failed: no such method$") as failed:
            await CALLS[name](ChildProcesses(Front(Exception("no such method"))))
        assert not isinstance(failed.value, Gone)

    asyncio.run(work())


def test_a_call_that_is_cancelled_is_cancelled_in_vllm() -> None:
    async def work() -> None:
        front = Front()
        call = asyncio.create_task(CALLS["generate"](ChildProcesses(front)))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert front.num_cancelled == 1

    asyncio.run(work())
