"""A run over several servers: what happens to its turns when one of them fails, and how weights get to all."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import sampling
from turnwise import ranks
from turnwise.engine.vllm.backend import Gone, NoVLLMLeft
from turnwise.engine.vllm.greeting import Greeting, WeightPath, greet
from turnwise.engine.vllm.rollout import VLLMRolloutEngine
from turnwise.engine.vllm.server import VLLMServer
from turnwise.engine.vllm.traits import Wanted
from turnwise.ranks import Ranks
from turnwise.types import Completion
from vllm_stand_in import StandIn, served_model, stand_ins

PROMPTS = [(5, 6), (7, 8, 9), (3,), (4, 4, 4, 4)]
Work = Callable[[VLLMRolloutEngine], Coroutine[Any, Any, None]]


def settings(servers: list[StandIn], **overrides: Any) -> VLLMServer:
    return VLLMServer(**{"urls": [server.url for server in servers], "max_retries": 1, "timeout_s": 20.0, **overrides})


def run(servers: list[StandIn], work: Work, **overrides: Any) -> None:
    """Runs `work` with an engine over the servers."""

    async def whole() -> None:
        try:
            await work(engine)
        finally:
            await engine.close()
            await engine.close()

    engine = settings(servers, **overrides).start(served_model(0), frozenset({1}), max_tokens=96)
    asyncio.run(whole())


def weights(seed: int = 1) -> dict[str, Tensor]:
    return served_model(seed).state_dict()


async def turns(engine: VLLMRolloutEngine, prompts: list[tuple[int, ...]] = PROMPTS) -> list[Completion]:
    """A turn after each prompt, in as many trajectories at a time."""
    sessions = [engine.session() for _ in prompts]
    asked = [
        asyncio.create_task(session.generate(prompt, sampling(seed=seed, max_new_tokens=4)))
        for seed, (session, prompt) in enumerate(zip(sessions, prompts, strict=True))
    ]
    try:
        return await asyncio.gather(*asked)
    finally:
        for session, task in zip(sessions, asked, strict=True):
            task.cancel()
            session.close()
        await asyncio.gather(*asked, return_exceptions=True)


def expected_turns(seed: int) -> list[tuple[int, ...]]:
    """What greedy decoding with the weights of `seed` gives."""
    model, found = served_model(seed), []
    for prompt in PROMPTS:
        ids = [*prompt]
        for _ in range(4):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 1:
                break
        found.append(tuple(ids[len(prompt) :]))
    return found


def token_ids(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


@contextmanager
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    said: list[str] = []
    with caplog.at_level(logging.WARNING):
        yield said
        said += caplog.messages


def test_trajectories_are_shared_out_and_stay_where_they_are() -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 3)
        sessions = [engine.session() for _ in range(4)]
        for _ in range(3):
            for seed, session in enumerate(sessions):
                turn = await session.generate((5, 6), sampling(seed=seed))
                assert turn.policy_version == 3
        assert engine.busy_s > 0
        for session in sessions:
            session.close()
        sessions[0].close()
        await engine.rest()

    with stand_ins(2) as servers:
        run(servers, work)
        asked = [server.seeds[1:] for server in servers]  # the first one is the probe's
    assert asked == [[0, 2] * 3, [1, 3] * 3]
    for server in servers:
        torch.testing.assert_close(server.model.state_dict(), weights())


def test_one_file_serves_all_that_see_it_and_is_gone_afterwards() -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 1)
        assert token_ids(await turns(engine)) == expected_turns(1)

    with stand_ins(3) as servers:
        run(servers, work)
        (received,) = {next(call for call in server.arguments if call.startswith("receive")) for server in servers}
    path = Path(received.removeprefix("receive_weights "))
    assert path.is_relative_to("/dev/shm")
    assert not path.exists()


@pytest.mark.parametrize("is_forced", [True, False])
def test_weights_go_over_the_network_where_memory_is_not_shared(is_forced: bool) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        for version in (1, 2):
            await engine.load_weights(weights(version), version)
            assert token_ids(await turns(engine)) == expected_turns(version)

    with stand_ins(2) as servers:
        servers[0].is_blind = servers[1].is_blind = not is_forced
        run(servers, work, transfer=WeightPath.network if is_forced else WeightPath.auto)
        for server in servers:
            torch.testing.assert_close(server.model.state_dict(), weights(2), rtol=0, atol=0)
            offers = [call.removeprefix("fetch_weights ") for call in server.arguments if call.startswith("fetch")]
            assert len(offers) == 2
            assert not any(call.startswith("receive") for call in server.arguments)
            offer = json.loads(offers[-1])
            assert offer["host"] == "127.0.0.1"
            with pytest.raises(ConnectionRefusedError):  # the port is closed with the hand-over
                socket.create_connection((offer["host"], offer["port"]), timeout=5)
        assert servers[0].arguments[-1] != servers[1].arguments[-1]  # a word of its own for each


def test_turns_of_a_server_that_dies_are_sampled_by_another_as_they_would_have_been(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 1)
        servers[1].hangs = True
        asked = asyncio.create_task(turns(engine))
        await asyncio.to_thread(servers[1].awaited.wait, 10)
        await asyncio.to_thread(servers[1].kill)
        completions = await asked
        assert token_ids(completions) == expected_turns(1)
        assert {completion.policy_version for completion in completions} == {1}
        assert token_ids(await turns(engine)) == expected_turns(1)  # and nothing more is asked of the dead one

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work)
        assert sorted(servers[0].seeds[1:5]) == [0, 1, 2, 3]
    assert len(said) == 1
    assert said[0].startswith(f"warning: {servers[1].url} is left out until weights are handed over again, its turns ")
    assert "are sampled on the other 1: it cannot be reached (" in said[0]


def test_a_failure_that_passes_is_nobodys_concern(caplog: pytest.LogCaptureFixture) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 1)
        servers[0].failures = 2
        assert token_ids(await turns(engine)) == expected_turns(1)

    with stand_ins(1) as servers, warnings(caplog) as said:
        run(servers, work, max_retries=2)
    assert said == []


def test_a_server_that_goes_on_failing_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 1)
        servers[0].failures = 99
        assert token_ids(await turns(engine)) == expected_turns(1)

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work)
    assert len(said) == 1
    assert "it answered /inference/v1/generate with 500" in said[0]
    assert "EngineCore encountered an issue" in said[0]


def test_a_stuck_server_counts_as_dead_and_all_its_turns_move_on(caplog: pytest.LogCaptureFixture) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 1)
        servers[0].hangs = True
        assert token_ids(await turns(engine)) == expected_turns(1)
        await engine.load_weights(weights(2), 2)  # nothing is under way any more

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work, timeout_s=0.7)
    assert f"{servers[0].url} is left out" in said[0]
    assert "it did not answer /inference/v1/generate within 0.7 s (engine.timeout_s)" in said[0]


def test_a_server_that_is_there_again_is_taken_back_with_the_next_weights(caplog: pytest.LogCaptureFixture) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(1), 1)
        servers[1].kill()
        assert token_ids(await turns(engine)) == expected_turns(1)
        servers[1].come_back()
        asked = len(servers[1].asked_paths)
        assert token_ids(await turns(engine)) == expected_turns(1)
        assert len(servers[1].asked_paths) == asked  # it has other weights: it waits for new ones
        await engine.load_weights(weights(2), 2)
        torch.testing.assert_close(servers[1].model.state_dict(), weights(2))
        num_before = len(servers[1].seeds)
        assert token_ids(await turns(engine)) == expected_turns(2)
        assert len(servers[1].seeds) == num_before + 2

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work)
    assert len(said) == 2
    assert said[1] == f"warning: {servers[1].url} is there again, and samples from version 2 of the weights on"


def test_a_server_that_was_started_anew_unseen_samples_nothing_with_its_own_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(1), 1)
        servers[1].kill()
        servers[1].come_back()
        assert token_ids(await turns(engine)) == expected_turns(1)

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work)
    assert len(said) == 1
    assert said[0].endswith("it was started anew and holds other weights")


def test_a_server_that_comes_back_with_another_model_stays_out(caplog: pytest.LogCaptureFixture) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(1), 1)
        servers[1].kill()
        await turns(engine)
        servers[1].model = served_model(3, num_hidden_layers=1)
        servers[1].start(servers[1].port)
        for version in (2, 3):
            await engine.load_weights(weights(version), version)
            assert token_ids(await turns(engine)) == expected_turns(version)

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work)
    assert len(said) == 2
    assert said[1].endswith(f"{servers[1].url} is not taken back: it serves num_hidden_layers=1, expected 2")


def test_a_server_that_dies_before_or_in_a_hand_over_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(1), 1)
        servers[1].kill()
        servers[2].is_stuck = True
        await engine.load_weights(weights(2), 2)
        assert token_ids(await turns(engine)) == expected_turns(2)

    with stand_ins(3) as servers, warnings(caplog) as said:
        run(servers, work, timeout_s=2.0)
    reasons = {line.partition(" is left out")[0]: line.partition("other ")[2] for line in said}
    assert len(reasons) == 2
    assert "it cannot be reached" in reasons[f"warning: {servers[1].url}"]
    assert reasons[f"warning: {servers[2].url}"].endswith(
        "it did not get on with taking weights for 2 s (engine.timeout_s)"
    )


def test_a_server_behind_a_page_of_a_proxy_samples_nothing_with_older_weights(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = StandIn.answer

    def page(self: StandIn, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        is_hidden = self is servers[1] and path == "/collective_rpc"
        return (200, b"<html>Please wait</html>") if is_hidden else answer(self, path, body)

    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(1), 1)
        monkeypatch.setattr(StandIn, "answer", page)
        await engine.load_weights(weights(2), 2)
        assert token_ids(await turns(engine)) == expected_turns(2)

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work)
    assert len(said) == 1
    assert said[0].endswith("it answered /collective_rpc with what is no answer of vLLM: '<html>Please wait</html>'")


@pytest.mark.parametrize(
    "strange", [{"choices": []}, {"choices": [{"token_ids": [1], "logprobs": None}]}, ["choices"], {"object": "error"}]
)
def test_turns_that_are_none_are_sampled_by_another(
    strange: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = StandIn.answer

    def other(self: StandIn, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        is_strange = self is servers[1] and path == "/inference/v1/generate"
        return (200, strange) if is_strange else answer(self, path, body)

    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(1), 1)
        monkeypatch.setattr(StandIn, "answer", other)
        assert token_ids(await turns(engine)) == expected_turns(1)

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work)
    assert len(said) == 1
    assert "it answered /inference/v1/generate with what is no answer of vLLM: " in said[0]


def test_after_a_hand_over_that_failed_nothing_bears_the_label_of_before() -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(1), 1)
        labels = {member._label for member in engine._members}
        servers[0].is_deaf = True
        with pytest.raises(RuntimeError, match="misses 20 of 20 tensors"):
            await engine.load_weights(weights(2), 2)
        assert engine._members[0]._label not in labels

    with stand_ins(2) as servers:
        run(servers, work)


def test_when_none_is_left_the_run_ends_with_the_end_of_each(caplog: pytest.LogCaptureFixture) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 1)
        for server in servers:
            server.kill()
        with pytest.raises(NoVLLMLeft) as sampled:
            await turns(engine)
        with pytest.raises(NoVLLMLeft) as loaded:
            await engine.load_weights(weights(), 2)
        for ended in (sampled, loaded):
            assert str(ended.value).startswith("no vLLM is left to sample with: ")
            assert all(f"{server.url}: it cannot be reached (" in str(ended.value) for server in servers)

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work)
    assert len(said) == 1  # the last one is in the error


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("refuses_turns", RuntimeError, "answered /inference/v1/generate with 400: .*this turn is refused"),
        ("is_broken", FloatingPointError, "not finite"),
    ],
)
def test_what_is_not_the_servers_death_is_not_asked_of_another(
    fault: str, error: type[Exception], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 1)
        setattr(servers[0], fault, True)
        with pytest.raises(error, match=message):
            await turns(engine)

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work)
    assert said == []


def test_weights_of_another_run_are_an_error() -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 1)
        servers[1].label = "another/1"
        with pytest.raises(RuntimeError, match=f"{servers[1].url} sampled with the weights 'another/1'"):
            await turns(engine)

    with stand_ins(2) as servers:
        run(servers, work)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("is_deaf", "did not reach http.*: worker 0 misses 20 of 20 tensors"),
        ("is_stale", "did not reach http.*, or it computes something else"),
        ("keeps_prefixes", "http.* did not empty its prefix cache"),
    ],
)
def test_a_proof_that_fails_on_one_server_fails_the_hand_over(fault: str, message: str) -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 1)
        setattr(servers[1], fault, True)
        with pytest.raises(RuntimeError, match=message):
            await engine.load_weights(weights(2), 2)
        with pytest.raises(RuntimeError, match="after a hand-over of weights that failed"):
            await turns(engine)

    with stand_ins(2) as servers:
        run(servers, work)


def test_weights_wait_for_no_turn_of_any_server() -> None:
    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(), 1)
        servers[1].hangs = True
        asked = asyncio.create_task(turns(engine))
        await asyncio.to_thread(servers[1].awaited.wait, 10)
        with pytest.raises(RuntimeError, match="while turns are being sampled"):
            await engine.load_weights(weights(2), 2)
        servers[1].hangs = False
        servers[1].released.set()
        assert token_ids(await asked) == expected_turns(1)

    with stand_ins(2) as servers:
        run(servers, work)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"dtype": "bfloat16"}, r"it serves dtype=bfloat16, expected float32 \(trainer.dtype\)"),
        ({"max_positions": 90}, "it serves max_model_len=90, expected >= rollout.max_tokens=96"),
        ({"logprobs_mode": "raw_logprobs"}, "it serves logprobs_mode=raw_logprobs, expected processed_logprobs"),
        ({"is_chunked": True}, "it serves chunked prefill, .* expected --no-enable-chunked-prefill"),
        ({"vllm": "0.31.2"}, "it serves vLLM 0.31.2, expected 0.32 or newer"),
        ({"vllm": "dev"}, "it serves vLLM dev, expected 0.32"),
        ({"protocol": 2}, "its turnwise speaks version 2 of the hand-over, this one 1"),
    ],
)
def test_a_server_that_serves_otherwise_is_refused_by_its_url(told: dict[str, Any], message: str) -> None:
    with stand_ins(2) as servers:
        servers[1].introduction = told
        with pytest.raises(ValueError, match=f"^engine.urls: {servers[1].url}: {message}"):
            settings(servers).start(served_model(), frozenset({1}), max_tokens=96)


def test_another_model_is_refused_by_what_differs() -> None:
    with stand_ins(1, vocab_size=300, num_hidden_layers=3) as servers:
        differences = "it serves vocab_size=300, expected 293, num_hidden_layers=3, expected 2"
        with pytest.raises(ValueError, match=f"^engine.urls: {servers[0].url}: {differences}$"):
            settings(servers).start(served_model(), frozenset({1}), max_tokens=96)


def test_servers_of_two_vllms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_ins(2) as servers:
        servers[1].version = "0.33.0"
        refusal = r"engine.urls: they run vLLM 0.32.0 and 0.33.0, expected one version"
        with pytest.raises(ValueError, match=refusal):
            settings(servers).start(served_model(), frozenset({1}), max_tokens=96)
        monkeypatch.setattr(ranks, "_current", Ranks(index=1, count=2))  # who has but one of them
        with pytest.raises(ValueError, match=refusal):
            settings(servers).start(served_model(), frozenset({1}), max_tokens=96)


def test_a_server_without_our_extension_or_development_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(self: StandIn, marker: str) -> str:
        raise AttributeError("'Worker' object has no attribute 'introduce'")

    with stand_ins(1) as servers:
        with monkeypatch.context() as patch:
            patch.setattr(StandIn, "introduce", lacks)
            with pytest.raises(ValueError, match=f"{servers[0].url}: it lacks this turnwise's worker extension"):
                settings(servers).start(served_model(), frozenset({1}), max_tokens=96)
        with monkeypatch.context() as patch:
            patch.setattr(StandIn, "answer", lambda self, path, body: (404, {}))
            with pytest.raises(ValueError, match=r"is no vLLM server in development mode \(HTTP 404\)"):
                settings(servers).start(served_model(), frozenset({1}), max_tokens=96)


INTRODUCTION = {
    "protocol": 1,
    "sees_marker": True,
    "vllm": "0.32.0",
    "model": {},
    "dtype": "float32",
    "max_positions": 96,
    "logprobs_mode": "processed_logprobs",
    "device": "cpu",
    "is_chunked": False,
}
STRANGE = {
    "no JSON": b"<html>Please wait</html>",
    "no text": b"\xff\xfe\xfd",
    "a word": "hello",
    "nothing": None,
    "a list": [1],
    "no results": {"detail": "Not Found"},
    "results of no worker": {"results": []},
    "null for results": {"results": None},
    "a number for results": {"results": 3},
    "a worker that says nothing": {"results": [None]},
    "a worker without JSON": {"results": ["hello"]},
    "a worker that says a list": {"results": ["[1]"]},
    "a worker without a protocol": {"results": ['{"a": 1}']},
    "a worker with a word for a protocol": {"results": ['{"protocol": "one"}']},
    "a worker with a protocol alone": {"results": ['{"protocol": 1}']},
    "a worker that says too much": {"results": [json.dumps(INTRODUCTION | {"mood": "good"})]},
    "a worker with a word for a number": {"results": [json.dumps(INTRODUCTION | {"max_positions": "many"})]},
    "a worker with a word for a model": {"results": [json.dumps(INTRODUCTION | {"model": "tiny"})]},
}
"""Answers with status 200 to the question what is served, none of them of a server with the worker extension."""


@pytest.mark.parametrize("kind", STRANGE)
def test_whatever_else_answers_is_refused_in_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "answer", lambda self, path, body: (200, STRANGE[kind]))
    with stand_ins(1) as servers:
        refusal = f"^engine.urls: {servers[0].url}: what answers there is no vLLM server: .*; docs/ARCHITECTURE.md says"
        with pytest.raises(ValueError, match=refusal) as refused:
            settings(servers).start(served_model(), frozenset({1}), max_tokens=96)
    assert len(str(refused.value).splitlines()) == 1


def endless(piece: bytes, pause_s: float) -> Iterator[bytes]:
    while True:
        yield piece
        time.sleep(pause_s)


@pytest.mark.parametrize(
    ("status", "piece", "pause_s", "message"),
    [
        (200, b" ", 0.05, "its answer does not end"),
        (503, b" ", 0.05, "its answer does not end"),
        (200, b" " * 65536, 0.0, "what answers there is no vLLM server: it says more than 1,048,576 bytes"),
    ],
)
def test_an_answer_that_does_not_end_is_not_waited_for(
    status: int, piece: bytes, pause_s: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "answer", lambda self, path, body: (status, endless(piece, pause_s)))
    with stand_ins(1) as servers, pytest.raises((Gone, ValueError), match=f"^{message}; docs/"):
        greet(servers[0].url, Greeting(Wanted(model={}, dtype="float32", max_tokens=96), timeout_s=0.3))


def test_a_turn_that_comes_in_drops_is_sampled_by_another(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = StandIn.answer

    def drips(self: StandIn, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        is_odd = self is servers[0] and path == "/inference/v1/generate"
        return (200, endless(b" ", 0.05)) if is_odd else answer(self, path, body)

    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(1), 1)
        monkeypatch.setattr(StandIn, "answer", drips)
        assert token_ids(await turns(engine)) == expected_turns(1)

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work, timeout_s=0.5)
    assert len(said) == 1
    assert "did not answer /inference/v1/generate within 0.5 s (engine.timeout_s)" in said[0]


def test_a_redirection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "answer", lambda self, path, body: (307, {}))
    refusal = "it redirects to https://elsewhere.example/: expected the server's own address$"
    with stand_ins(1) as servers, pytest.raises(ValueError, match=refusal):
        settings(servers).start(served_model(), frozenset({1}), max_tokens=96)


@pytest.mark.parametrize("kind", STRANGE)
def test_whatever_else_answers_in_place_of_a_server_is_not_taken_back(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = StandIn.answer

    def strange(self: StandIn, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (200, STRANGE[kind]) if self is servers[1] else answer(self, path, body)

    async def work(engine: VLLMRolloutEngine) -> None:
        await engine.load_weights(weights(1), 1)
        servers[1].kill()
        await turns(engine)
        monkeypatch.setattr(StandIn, "answer", strange)
        servers[1].come_back()
        await engine.load_weights(weights(2), 2)
        assert token_ids(await turns(engine)) == expected_turns(2)

    with stand_ins(2) as servers, warnings(caplog) as said:
        run(servers, work)
    assert len(said) == 2
    assert f"{servers[1].url} is not taken back: what answers there is no vLLM server: " in said[1]


def test_shared_memory_that_a_server_does_not_see_is_refused_where_it_is_wanted() -> None:
    with stand_ins(1) as servers:
        servers[0].is_blind = True
        with pytest.raises(
            ValueError, match=r"engine.transfer=shared_memory, and it does not see this host's /dev/shm"
        ):
            settings(servers, transfer=WeightPath.shared_memory).start(served_model(), frozenset({1}), max_tokens=96)


def test_shared_memory_of_a_rank_is_no_affair_of_the_others_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_ins(2) as servers:
        servers[1].is_blind = True  # as on the host of another rank
        in_memory = settings(servers, transfer=WeightPath.shared_memory)
        monkeypatch.setattr(ranks, "_current", Ranks(index=0, count=2))
        engine = in_memory.start(served_model(), frozenset({1}), max_tokens=96)
        assert [member.backend.network for member in engine._members] == [None]
        asyncio.run(engine.close())
        monkeypatch.setattr(ranks, "_current", Ranks(index=1, count=2))
        with pytest.raises(ValueError, match=f"{servers[1].url}: engine.transfer=shared_memory, and it does not see"):
            in_memory.start(served_model(), frozenset({1}), max_tokens=96)


def test_another_model_on_a_server_of_another_rank_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_current", Ranks(index=0, count=2))
    with stand_ins(2) as servers:
        servers[1].introduction = {"dtype": "bfloat16"}
        with pytest.raises(ValueError, match=f"^engine.urls: {servers[1].url}: it serves dtype=bfloat16, expected"):
            settings(servers).start(served_model(), frozenset({1}), max_tokens=96)
        servers[1].kill()
        with pytest.raises(ValueError, match=f"^engine.urls: {servers[1].url}: no vLLM server answers there"):
            settings(servers).start(served_model(), frozenset({1}), max_tokens=96)


def test_an_address_that_this_host_lacks_is_refused_before_the_first_step() -> None:
    with stand_ins(1) as servers:
        elsewhere = settings(servers, transfer=WeightPath.network, transfer_host="192.0.2.1")
        with pytest.raises(ValueError, match=r"engine.transfer_host='192.0.2.1': this host has no such address"):
            elsewhere.start(served_model(), frozenset({1}), max_tokens=96)


def test_each_rank_has_servers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_ins(3) as servers:
        for index, expected in enumerate([[0, 2], [1]]):
            monkeypatch.setattr(ranks, "_current", Ranks(index=index, count=2))
            engine = settings(servers).start(served_model(), frozenset({1}), max_tokens=96)
            assert [member.backend.name for member in engine._members] == [servers[number].url for number in expected]
            asyncio.run(engine.close())
        monkeypatch.setattr(ranks, "_current", Ranks(index=0, count=4))
        with pytest.raises(ValueError, match=r"engine.urls=\[.*\]: 3 for 4 processes of torchrun, expected"):
            settings(servers).start(served_model(), frozenset({1}), max_tokens=96)
