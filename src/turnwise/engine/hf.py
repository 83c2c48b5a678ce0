"""Samples with a transformers model in this process: the engine that needs nothing but PyTorch."""

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from time import perf_counter

import torch
from torch import Tensor, nn

from turnwise.engine.decode_graph import DecodeGraphs
from turnwise.engine.openmp import release_workers
from turnwise.engine.packed_model import PackedModel
from turnwise.engine.run_pass import run_pass
from turnwise.engine.sampling import draw_uniforms
from turnwise.engine.schedule import Plan, Schedule
from turnwise.engine.slot_cache import SlotCache
from turnwise.engine.transcript import Completed, Transcript, Turn, deliver
from turnwise.types import Completion, FinishReason, Sampling

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class HFEngine:
    """Continuous batching without padding; keys and values stay across turns; results repeat bit for bit."""

    max_batch_size: int = 256
    """Trajectories that are sampled side by side; further ones wait until one of these is done."""
    prefill_tokens: int = 16384
    """Tokens of prompts and tool output that a pass takes beside those that decode; changes memory and speed."""
    cache_mib: int = 2048
    """Memory in MiB for keys and values; where it does not suffice, fewer trajectories are sampled side by side."""
    tool_ticks: int = 4
    """Passes from the one that ends a turn to the one that its trajectory joins again, while its tool runs."""
    waits_for_tools: bool = True
    """Wait for a tool that takes longer, so that results repeat; false: go on without it, and they do not."""
    cuda_graphs: bool = False
    """On a GPU, record the passes that only decode and replay them; keys and values are then kept between steps."""

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "prefill_tokens", "cache_mib", "tool_ticks"):
            if getattr(self, name) < 1:
                raise ValueError(f"engine.{name}={getattr(self, name)}: expected >= 1")

    def start(self, model: nn.Module, stop_token_ids: frozenset[int], *, max_tokens: int) -> "HFRolloutEngine":
        """Takes `model` over: the engine's own copy, not the module that is trained. Nothing is ever padded.

        Raises:
            ValueError: The model does more than full attention in every layer (sliding windows, recurrence, sinks), or
                graphs are wanted and it is not on a GPU, or `cache_mib` does not hold a trajectory of `max_tokens`.
        """
        weight = next(model.parameters())
        if self.cuda_graphs and not weight.is_cuda:
            raise ValueError(f"engine.cuda_graphs=true needs a CUDA device, the model is on {weight.device}")
        packed = PackedModel(model)
        self.check_room(packed, min(max_tokens, packed.max_positions))
        return HFRolloutEngine(self, packed, stop_token_ids)

    def check_room(self, model: PackedModel, num_tokens: int) -> None:
        """Raises ValueError if `cache_mib` does not hold the keys and values of a trajectory of so many tokens."""
        needed_mib = math.ceil(num_tokens * model.shape.bytes_per_token / MIB)
        if needed_mib > self.cache_mib:
            raise ValueError(
                f"engine.cache_mib={self.cache_mib}: expected >= {needed_mib}, the keys and values of one trajectory "
                f"of {num_tokens} tokens"
            )


class HFRolloutEngine:
    """Runs pass after pass in a thread of its own, so that tools and decoding go on side by side.

    The thread plans, computes and records by itself, and goes back to the event loop only when the schedule waits for a
    caller. The lock is for whoever changes schedule and transcripts while the thread works; it is never held in a pass.

    The same requests give the same bits, whatever a tool takes: which rows share a pass follows from the requests
    alone (`Schedule`). For that all sessions must be opened before any of them is asked; one that is opened while
    others decode joins at the tick that comes next.
    """

    def __init__(self, settings: HFEngine, model: PackedModel, stop_token_ids: frozenset[int]) -> None:
        """Use `HFEngine.start`."""
        self._settings = settings
        self._model: PackedModel | None = model
        self._stop_token_ids = stop_token_ids
        self._schedule = Schedule(
            tool_ticks=settings.tool_ticks,
            waits_for_tools=settings.waits_for_tools,
            prefill_tokens=settings.prefill_tokens,
            max_slots=settings.max_batch_size,
            max_cached_tokens=settings.cache_mib * MIB // model.shape.bytes_per_token,
        )
        self._lock = Lock()
        enter = partial(torch.cuda.set_device, model.device) if model.device.index is not None else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine", initializer=enter)
        self._server: asyncio.Task[None] | None = None
        self._has_changed = asyncio.Event()
        self._graphs: DecodeGraphs | None = None
        self._version = 0
        self._busy_s = 0.0

    @property
    def busy_s(self) -> float:
        """Seconds of passes and of loading weights."""
        return self._busy_s

    def session(self) -> "HFSession":
        """Begins a trajectory; before it is asked for a turn or closed, none goes on."""
        self._open_model("session")
        with self._lock:
            return HFSession(self, self._schedule.open())

    async def sample(self, transcript: Transcript, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        """What `HFSession.generate` does."""
        model = self._open_model("generate")
        if transcript.is_closed or transcript.turn is not None:
            state = "closed" if transcript.is_closed else "at its turn"
            raise RuntimeError(f"generate was called on a session that is {state}")
        if not token_ids:
            raise ValueError("generate needs at least one prompt token")
        if list(token_ids[: (num_known := len(transcript.token_ids))]) != transcript.token_ids:
            raise ValueError(f"generate: the tokens do not begin with the {num_known} that the session knows")
        max_new_tokens = min(sampling.max_new_tokens, model.max_positions - len(token_ids))
        if max_new_tokens < 1:
            return Completion(token_ids=(), logprobs=(), finish_reason=FinishReason.abort, policy_version=self._version)
        self._settings.check_room(model, len(token_ids) + max_new_tokens)
        turn = Turn(
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            uniforms=draw_uniforms(sampling.seed, max_new_tokens).tolist(),
            future=asyncio.get_running_loop().create_future(),
        )
        with self._lock:
            transcript.ask(token_ids, turn)
        if self._server is None or self._server.done():
            self._has_changed = asyncio.Event()
            self._server = asyncio.create_task(self._serve(model))
        self._has_changed.set()
        return await turn.future

    def end(self, transcript: Transcript) -> None:
        """What `HFSession.close` does."""
        with self._lock:
            transcript.is_closed = True
            transcript.fail()
        self._has_changed.set()

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copies `weights` into the engine's model.

        Raises:
            RuntimeError: The engine is closed, or a session is open: its keys and values would be of the old weights.
            ValueError: Names or shapes differ from those of the engine's model.
        """
        model = self._open_model("load_weights")
        if any(not transcript.is_closed for transcript in self._schedule.transcripts):
            raise RuntimeError("load_weights was called while turns are being sampled: close the sessions first")
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load, model, weights, version)

    async def rest(self) -> None:
        """Waits until keys and values are gone: with the last session, unless graphs were recorded over them."""
        if self._server is not None:
            await self._server

    async def close(self) -> None:
        """Ends what is being sampled and frees the model and the keys and values; safe to call twice."""
        if self._server is not None:
            self._server.cancel()
            await asyncio.gather(self._server, return_exceptions=True)
            self._give_up()  # a server that was cancelled before it began did not
        self._thread.shutdown()
        self._server = self._model = self._graphs = None

    async def _serve(self, model: PackedModel) -> None:
        """Has passes made until every session is closed. The cache lives as long."""
        loop, cache = asyncio.get_running_loop(), None
        try:
            await asyncio.sleep(0)  # by then every session of the same moment is open
            release_workers()
            while self._schedule.transcripts:
                self._has_changed.clear()
                if self._schedule.is_settled:
                    cache = await loop.run_in_executor(self._thread, self._make_passes, model, cache)
                if self._schedule.transcripts:
                    await self._has_changed.wait()
        except Exception as error:  # belongs to the callers: each of them gets it
            self._give_up(error)
        except asyncio.CancelledError:
            self._give_up()
            raise
        finally:
            self._thread.submit(release_workers)

    def _make_passes(self, model: PackedModel, cache: SlotCache | None) -> SlotCache | None:
        """Pass after pass, until the schedule waits for callers or is empty; returns the cache of the last one."""
        while (plan := self._next_plan()) is not None:
            if plan.stretches:
                if cache is None or cache.layout != self._schedule.layout:
                    cache, self._graphs = self._lay_out(model)
                with self._busy():
                    drawn = run_pass(model, cache, self._graphs, plan)
                if completed := self._record(plan, *drawn):
                    completed[0].future.get_loop().call_soon_threadsafe(deliver, completed)
        return cache

    def _next_plan(self) -> Plan | None:
        with self._lock:
            if not self._schedule.transcripts or not self._schedule.is_settled:
                return None
            tick = self._schedule.tick
            plan = self._schedule.plan()
            return plan if self._schedule.tick > tick else None

    def _load(self, model: PackedModel, weights: Mapping[str, Tensor], version: int) -> None:
        with self._busy():
            model.load(weights)
        self._version = version

    def _lay_out(self, model: PackedModel) -> tuple[SlotCache, DecodeGraphs | None]:
        """A cache as the schedule wants it; one that graphs were recorded over is used again."""
        if self._graphs is not None and self._graphs.cache.layout == self._schedule.layout:
            return self._graphs.cache, self._graphs
        cache = SlotCache(model.shape, self._schedule.layout, model.device)
        if self._settings.cuda_graphs:
            return cache, DecodeGraphs(cache, lambda static: model.logits(static, None))
        return cache, None

    def _record(self, plan: Plan, token_ids: list[int], logprobs: list[float]) -> list[Completed]:
        completed: list[Completed] = []
        with self._lock:
            for draw, token_id, logprob in zip(plan.draws, token_ids, logprobs, strict=True):
                transcript = draw.transcript
                if transcript.turn is not draw.turn:
                    continue  # closed while the pass ran
                finish_reason = transcript.append(token_id, logprob, self._stop_token_ids)
                if finish_reason is not None:
                    self._schedule.rest(transcript)
                    completed.append(transcript.complete(finish_reason, self._version))
        return completed

    def _give_up(self, error: Exception | None = None) -> None:
        with self._lock:
            for transcript in self._schedule.transcripts:
                transcript.fail(error)
        self._thread.submit(int).result()  # without turns, the thread ends with the pass that is under way
        self._schedule.reset()
        self._graphs = None  # what lies in its slots may not be finite

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Around what the thread computes."""
        started = perf_counter()
        try:
            yield
        finally:
            self._busy_s += perf_counter() - started

    def _open_model(self, wanted: str) -> PackedModel:
        if self._model is None:
            raise RuntimeError(f"{wanted} was called on a closed engine")
        return self._model


class HFSession:
    """A trajectory's turns with the engine, and its keys and values there until it is closed."""

    def __init__(self, engine: HFRolloutEngine, transcript: Transcript) -> None:
        """Use `HFRolloutEngine.session`."""
        self._engine = engine
        self._transcript = transcript

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Samples one turn; aborted and empty where the model has no position left for it.

        A caller that is cancelled closes the session.

        Raises:
            ValueError: `token_ids` is empty or does not begin with the tokens that the session knows, or a trajectory
                as long as `sampling` allows does not fit into `engine.cache_mib`.
            RuntimeError: The session or its engine is closed, or a turn of it is being sampled.
        """
        try:
            return await self._engine.sample(self._transcript, token_ids, sampling)
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Ends the trajectory; a turn that is being sampled is cancelled. Safe to call twice."""
        self._engine.end(self._transcript)
