"""What a run takes of memory, time and disk, and which settings would make it fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from turnwise.config.parts import Components
from turnwise.config.wiring import choose_device, compute_dtype
from turnwise.engine.hf import MIB, HFEngine
from turnwise.model.adapter import add_adapter
from turnwise.model.memory import FLOAT32_BYTES, GIB, MemoryEstimate, ModelShape, estimate_memory
from turnwise.model.step_time import Rates, StepSize, Timed, estimate_step, longest_of, measured_rates
from turnwise.preflight.disk import BUNDLE_BYTES_PER_TOKEN, Writes, num_checkpoints
from turnwise.preflight.finding import Finding
from turnwise.preflight.memory import free_bytes, resident_bytes, total_bytes
from turnwise.tracker.progress import duration
from turnwise.trainer_settings import Precision

CUDA_RUNTIME_BYTES = GIB
"""CUDA's context, kernels and workspaces, which are no tensors of PyTorch."""
VLLM_BATCH = 256
"""Trajectories side by side in vLLM, whose own settings decide it."""
MEASURED_ROWS = 1024
"""Tokens of the matrix product whose rate is measured."""
SMALLER_RANK = 16
MORE_DEVICES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Device:
    """What the run is meant for; 0 stands for this machine's own."""

    gib: float
    count: int
    tflops: float
    gb_per_s: float


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A model as the run trains it."""

    shape: ModelShape
    num_trained: int | None
    """Parameters of an adapter; None: all weights are trained."""
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, components: Components, meant: Device | None = None) -> "Sized":
        """From the shapes alone."""
        device = choose_device(components)
        is_elsewhere = meant is not None and meant.gib > 0
        dtype = compute_dtype(components, device)
        if is_elsewhere and components.trainer.dtype is Precision.auto:
            dtype = torch.bfloat16
        model, rank = components.model.empty_model(), components.model.lora_rank
        shape, num_trained = ModelShape.of(model), None
        if rank:
            add_adapter(model, rank=rank, alpha=components.model.lora_alpha)
            num_trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        if is_elsewhere:
            device = torch.device("cuda")
        return cls(shape=shape, num_trained=num_trained, device=device, dtype=dtype)

    def memory(self, components: Components, **changes: Any) -> MemoryEstimate:
        """Estimated for the run's settings, or with `changes` of the estimate's own."""
        trainer, engine, on_cpu = components.trainer, components.engine, self.device.type == "cpu"
        settings: dict[str, Any] = {
            "dtype": self.dtype,
            "token_budget": largest_pass(components),
            "logit_chunk": trainer.logit_chunk,
            "cache_bytes": engine.cache_mib * MIB if isinstance(engine, HFEngine) else 0,
            "has_reference": components.loss.kl_weight > 0,
            "gradient_checkpointing": trainer.gradient_checkpointing,
            "num_trained": self.num_trained,
            "on_cpu": on_cpu,
            "runtime_bytes": resident_bytes() if on_cpu else CUDA_RUNTIME_BYTES,
        }
        return estimate_memory(self.shape, **(settings | changes))


def largest_pass(components: Components) -> int:
    """Tokens of the largest micro-batch that a step can have: it holds no more than are sampled."""
    rollout = components.rollout
    num_sampled = rollout.num_problems * rollout.group_size * rollout.max_tokens
    return min(max(components.trainer.token_budget, rollout.max_tokens), num_sampled)


def check_memory(components: Components, meant: Device, finding: Finding) -> None:
    """An estimate of what training takes on each device, against what such a device has.

    Args:
        components: The run's.
        meant: The devices.
        finding: Where to say it.
    """
    sized = Sized.of(components, meant)
    estimate = sized.memory(components)
    dtype = str(sized.dtype).removeprefix("torch.")
    finding.note(f"{sized.shape.num_parameters / 1e6:,.1f} million parameters, passes in {dtype}")
    if sized.num_trained is not None:
        finding.note(f"{sized.num_trained / 1e6:,.2f} million of an adapter are trained in their place")
    finding.note(f"GiB: {', '.join(f'{name} {size / GIB:.2f}' for name, size in estimate.parts.items() if size)}")
    if not isinstance(components.engine, HFEngine):
        finding.note("the memory of vLLM is a setting of its own and is not counted")
    needed = estimate.sharded(meant.count)
    each = f" on each of {meant.count} devices" if meant.count > 1 else ""
    finding.note(f"{needed / GIB:.2f} GiB together{each} (activations estimated)")
    has = meant.gib * GIB or total_bytes(sized.device)
    finding.note(f"{'such a device' if meant.gib else f'this {sized.device.type}'} has {has / GIB:.1f} GiB")
    if needed > has:
        sizes = _ways(components, sized, meant.count, has)
        ways = [f"{name}: {size / GIB:.2f} GiB{' fits' if size <= has else ''}" for name, size in sizes.items()]
        if sizes and min(sizes.values()) > has:
            ways.append("none of these fits: a smaller model, or a larger device")
        finding.fail(f"{needed / GIB:.1f} GiB do not fit on it", "; ".join(ways) or "a smaller model")


def _ways(components: Components, sized: Sized, count: int, has: float) -> dict[str, float]:
    """Settings that take less, with what is needed then: each by itself, and all that is free of side effects together.

    Of devices the fewest with which it fits, if any do.
    """
    trainer, engine = components.trainer, components.engine

    def needed(**changes: Any) -> float:
        return sized.memory(components, **changes).sharded(count)

    together: dict[str, Any] = {}
    found: dict[str, float] = {}
    if trainer.token_budget > components.rollout.max_tokens:
        budget = max(trainer.token_budget // 2, components.rollout.max_tokens)
        found[f"trainer.token_budget={budget}"] = needed(token_budget=budget)
        together["token_budget"] = components.rollout.max_tokens
    if not trainer.gradient_checkpointing:
        found["trainer.gradient_checkpointing=true"] = needed(gradient_checkpointing=True)
        together["gradient_checkpointing"] = True
    if isinstance(engine, HFEngine) and engine.cache_mib > 1:
        found[f"engine.cache_mib={engine.cache_mib // 2}"] = needed(cache_bytes=engine.cache_mib // 2 * MIB)
        cached = 2 * sized.shape.num_layers * sized.shape.num_key_value_channels * sized.dtype.itemsize
        least = -(-cached * components.rollout.max_tokens * components.rollout.group_size // MIB)
        together["cache_bytes"] = min(engine.cache_mib, least) * MIB
    if together:
        found["all of these, as far as a trajectory and a group allow"] = needed(**together)
    if sized.num_trained is None:
        found[f"model.lora_rank={SMALLER_RANK}"] = needed(num_trained=sized.shape.adapter_size(SMALLER_RANK))
    for more in MORE_DEVICES:
        size = sized.memory(components).sharded(more)
        if more > count and size <= has:
            found[f"{more} devices (mode.num_devices)"] = size
            break
    return found


def fits_here(components: Components) -> str:
    """Why the model should not be loaded on this machine; empty where it may be.

    Keys and values are not counted on a CPU, where only those that are written take memory.
    """
    sized = Sized.of(components)
    estimate = sized.memory(components)
    needed = estimate.total - (estimate.cache if sized.device.type == "cpu" else 0) - estimate.runtime
    free = free_bytes(sized.device)
    if needed <= free:
        return ""
    return f"{needed / GIB:.1f} GiB would be needed beside this process, this {sized.device.type} has {free / GIB:.1f}"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the live checks saw of a step."""

    prompts: Sequence[int] = ()
    """Tokens of each prompt that was sampled after."""
    lengths: Sequence[int] = ()
    """Tokens of the sampled trajectories, prompts included; none if some were cut shorter than in a run."""
    sampled: Timed | None = None
    updated: Timed | None = None


def size_of(
    components: Components, lengths: Sequence[int], *, num_prompts: int = 0, prompt_tokens: float = 0.0
) -> StepSize:
    """That of a part of a step with the run's settings.

    Args:
        components: The run's.
        lengths: Tokens of its trajectories, prompts included.
        num_prompts: Which as many trajectories share each; 0: nothing is shared.
        prompt_tokens: Of a prompt in the mean; no more than a trajectory has count.
    """
    trainer, engine = components.trainer, components.engine
    prompt_tokens = min(prompt_tokens, fmean(lengths))
    num_problems = num_prompts or len(lengths)
    return StepSize(
        num_problems=num_problems,
        group_size=len(lengths) // num_problems,
        prompt_tokens=prompt_tokens,
        new_tokens=fmean(lengths) - prompt_tokens,
        longest_tokens=max(lengths) - prompt_tokens,
        max_batch_size=engine.max_batch_size if isinstance(engine, HFEngine) else VLLM_BATCH,
        token_budget=trainer.token_budget,
        num_epochs=trainer.num_epochs,
        num_minibatches=trainer.num_minibatches,
        is_on_policy=trainer.num_epochs == 1 and trainer.num_minibatches == 1,
        has_reference=components.loss.kl_weight > 0,
        gradient_checkpointing=trainer.gradient_checkpointing,
        trains_adapter=components.model.lora_rank > 0,
    )


def size_of_step(components: Components, prompt_tokens: float, lengths: Sequence[int]) -> StepSize:
    """That of a step whose trajectories are like those of `lengths`, or as long as may be without any."""
    rollout = components.rollout
    lengths = lengths or [rollout.max_tokens]
    size = size_of(components, lengths, num_prompts=1, prompt_tokens=prompt_tokens)
    longest = longest_of(lengths, rollout.num_problems * rollout.group_size, rollout.max_tokens)
    return replace(
        size,
        num_problems=rollout.num_problems,
        group_size=rollout.group_size,
        longest_tokens=longest - size.prompt_tokens,
    )


def check_step_time(
    components: Components, meant: Device, *, prompt_tokens: float, seen: Seen, finding: Finding
) -> None:
    """An estimate of a step's seconds, from FLOPs, bytes and the rates of a device, and from what was seen on it.

    Args:
        components: The run's.
        meant: The devices; where a rate of theirs is stated, what was seen here says nothing of them.
        prompt_tokens: Of a prompt in the mean, where none was sampled after.
        seen: By the live checks, on this machine.
        finding: Where to say it.
    """
    if meant.gib and not (meant.tflops and meant.gb_per_s):
        finding.skip("nothing is known of such a device: say mode.device_tflops and mode.device_gb_per_s")
        return
    sized, trainer = Sized.of(components, meant), components.trainer
    size = size_of_step(components, fmean(seen.prompts or [prompt_tokens]), seen.lengths)
    stated = Rates(flops=meant.tflops * 1e12, bytes=meant.gb_per_s * 1e9)
    rates = stated
    if not (stated.flops and stated.bytes):
        rows = min(trainer.token_budget, MEASURED_ROWS)
        here = measured_rates(sized.shape, sized.dtype, choose_device(components), rows)
        rates = Rates(flops=stated.flops or here.flops, bytes=stated.bytes or here.bytes)
    is_here = not (stated.flops or stated.bytes or meant.gib)
    time = estimate_step(
        sized.shape,
        size,
        rates,
        dtype=sized.dtype,
        num_trained=sized.shape.num_parameters if sized.num_trained is None else sized.num_trained,
        num_devices=meant.count,
        sampled=seen.sampled if is_here else None,
        updated=seen.updated if is_here else None,
    )
    tried = {"sampling": seen.sampled, "an update": seen.updated}
    timed = " and ".join(name for name, one in tried.items() if one and is_here)
    how = "as sampled here" if seen.lengths else "as long as rollout.max_tokens allows"
    finding.note(
        f"{size.num_trajectories} trajectories of {size.prompt_tokens + size.new_tokens:.0f} tokens, {how}, at "
        f"{rates.flops / 1e12:.3g} TFLOP/s and {rates.bytes / 1e9:.3g} GB/s"
        f"{f', on {meant.count} devices' if meant.count > 1 else ''}"
        f"{f'; {timed} timed here' if timed else ''}"
    )
    finding.note(
        f"about {time.total_s:.3g} s a step: prompts {time.prefill_s:.2g}, decoding {time.decode_s:.2g}, update "
        f"{time.update_s:.2g}; {trainer.num_steps} steps {duration(trainer.num_steps * time.total_s)}, without tools "
        f"and evaluations"
    )


def writes(components: Components) -> Writes:
    """What the run writes at most: checkpoints in float32 with the optimiser's moments, bundles, evaluations."""
    sized = Sized.of(components)
    trainer, rollout, evaluation = components.trainer, components.rollout, components.evaluation
    shape = sized.shape
    trained = shape.num_parameters if sized.num_trained is None else sized.num_trained
    adapter = 0 if sized.num_trained is None else sized.num_trained
    num_evaluations = 2 + trainer.num_steps // trainer.eval_every
    evaluated = num_evaluations * evaluation.num_problems * evaluation.num_samples
    sampled = trainer.num_steps * rollout.num_problems * rollout.group_size
    return Writes(
        checkpoint=FLOAT32_BYTES * (shape.num_parameters + adapter + 2 * trained),
        num_checkpoints=num_checkpoints(
            num_steps=trainer.num_steps, save_every=trainer.save_every, keep=trainer.keep_checkpoints
        ),
        bundles=(sampled + evaluated) * rollout.max_tokens * BUNDLE_BYTES_PER_TOKEN,
    )
