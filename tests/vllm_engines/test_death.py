"""A real vLLM whose processes are killed under the trainer: whatever it is asked then, it is the end of that vLLM."""

import asyncio
import signal
from collections.abc import Iterator

import psutil
import pytest

from tiny_models import sampling
from turnwise.engine.vllm.backend import NoVLLMLeft
from vllm_engines.live import Live
from vllm_engines.test_ranks import called
from vllm_engines.test_runs import alive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
END = "^no vLLM is left to sample with: vLLM: its processes have ended$"


@pytest.fixture
def live() -> Iterator[Live]:
    pytest.importorskip("vllm.engine.arg_utils", reason="vLLM is not installed here: make test-vllm")
    engine = Live.started("vllm", "package:tiny")
    try:
        engine.load(engine.move(seed=1), version=1)
        yield engine
    finally:
        engine.close()


def of_vllm(live: Live, kind: str) -> psutil.Process:
    """Its scheduler or its worker, by the name that it gives itself."""
    (found,) = [one for one in psutil.Process().children(recursive=True) if f"VLLM::{kind}" in called(one)]
    return found


@pytest.mark.parametrize("kind", ["EngineCore", "Worker"])
@pytest.mark.parametrize("doing", ["turn", "hand-over"])
def test_a_call_under_way_ends_with_vllm(live: Live, kind: str, doing: str) -> None:
    async def work() -> None:
        (prompt,) = live.prompts(1)
        victim.send_signal(signal.SIGSTOP)  # what is asked of it now stays under way
        asked = asyncio.create_task(
            live.engine.session().generate(prompt, sampling(max_new_tokens=16))
            if doing == "turn"
            else live.engine.load_weights(weights, 2)
        )
        await asyncio.sleep(3)
        assert not asked.done()
        victim.kill()
        with pytest.raises(NoVLLMLeft, match=END):
            await asked
        with pytest.raises(NoVLLMLeft, match=END):  # and so does every later one
            await live.engine.load_weights(weights, 3)

    weights, victim = live.move(seed=2), of_vllm(live, kind)
    everything = psutil.Process().children(recursive=True)
    live.run(asyncio.wait_for(work(), timeout=120))
    live.run(live.engine.close())
    assert alive([one for one in everything if "VLLM" in called(one)], within_s=30) == []
