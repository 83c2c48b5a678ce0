"""The engines of a module's tests, one at a time, and the largest difference that was seen with each."""

from collections.abc import Iterator
from typing import Any

import pytest

from vllm_engines.live import SMOLLM2, Live

LARGEST: dict[str, float] = {}
"""The largest difference between engine and trainer, in nats, by what was compared."""

STARTS = {
    "vllm, tiny": ("vllm", "package:tiny"),
    "vllm_server, tiny": ("vllm_server", "package:tiny"),
    "vllm, SmolLM2-135M": ("vllm", str(SMOLLM2)),
}


@pytest.fixture(scope="module", params=STARTS)
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    pytest.importorskip("vllm.engine.arg_utils", reason="vLLM is not installed here: make test-vllm")
    option, path = STARTS[request.param]
    if not path.startswith("package:") and not SMOLLM2.is_dir():
        pytest.skip(f"{SMOLLM2} is not there: make smollm2")
    engine = Live.started(option, path)
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture
def assert_agree(request: pytest.FixtureRequest, live: Live) -> Any:
    """Asserts that a difference between engine and trainer is within the bound of float32, and notes it."""
    where = request.node.callspec.params["live"]

    def check(gap: float, what: str) -> None:
        name = f"{where}: {what}"
        LARGEST[name] = max(gap, LARGEST.get(name, 0.0))
        assert gap <= 2e-4

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each comparison that ran."""
    if LARGEST:
        terminalreporter.section("largest difference between the log-probs of engine and trainer, nats")
        for name, difference in sorted(LARGEST.items()):
            terminalreporter.write_line(f"{difference:8.1e}  {name}")
