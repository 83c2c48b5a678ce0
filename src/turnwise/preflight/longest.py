"""The update at the longest batch that the settings allow: done once, before a run meets it in its thousandth step."""

from itertools import accumulate

import torch

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P
from turnwise.preflight.finding import Finding
from turnwise.preflight.handover import unchanged
from turnwise.preflight.memory import measured_peak
from turnwise.protocols import Policy, PolicyLoss
from turnwise.types import TokenBatch

GIB = 2**30
CPU_ALLOCATOR = "DefaultCPUAllocator"
"""In PyTorch's message where a CPU has no memory left; unlike CUDA's it has no type of its own."""
MICRO_BATCHES = 2
"""Of an optimiser step of the longest batch."""
OUT_OF_MEMORY = (
    "smaller trainer.token_budget or trainer.logit_chunk, trainer.gradient_checkpointing=true, model.lora_rank, or a "
    "smaller rollout.max_tokens where one trajectory alone is too long"
)


def longest_batch(
    *,
    token_budget: int,
    max_tokens: int,
    vocab_size: int,
    num_minibatches: int = 1,
    temperature: float = 1.0,
    top_k: int = NO_TOP_K,
    top_p: float = NO_TOP_P,
) -> TokenBatch:
    """A step whose every optimiser step has two micro-batches of `token_budget` tokens that share nothing.

    In the second the gradients of the first are there too. Sequences have `max_tokens` tokens, each but the first of
    them sampled, and the last one of a micro-batch what is left; a single one may exceed the budget, as in a run.
    """
    lengths = [max_tokens] * (token_budget // max_tokens) or [max_tokens]
    if (rest := token_budget - sum(lengths)) > 1:
        lengths.append(rest)
    lengths = [length for _ in range(MICRO_BATCHES) for length in lengths for _ in range(num_minibatches)]
    random = torch.Generator().manual_seed(0)
    edges = torch.tensor([0, *accumulate(lengths)])
    sequence_index = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    position_ids = torch.arange(sum(lengths)) - edges[sequence_index]
    loss_mask = position_ids > 0
    token_ids = torch.randint(vocab_size, (sum(lengths),), generator=random)
    token_ids[edges[:-1]] = torch.arange(len(lengths)) % vocab_size  # else two of them could share a prompt
    return TokenBatch(
        token_ids=token_ids,
        position_ids=position_ids,
        loss_mask=loss_mask,
        advantages=torch.randn(sum(lengths), generator=random) * loss_mask,
        behaviour_logprobs=torch.zeros(sum(lengths)),
        turn_index=loss_mask.long() - 1,
        sequence_index=sequence_index,
        cu_seqlens=edges.to(torch.int32),
        num_loss_tokens=int(loss_mask.sum()),
        num_loss_turns=len(lengths),
        num_loss_sequences=len(lengths),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )


def check_longest(
    policy: Policy, batch: TokenBatch, *, loss: PolicyLoss, device: torch.device, finding: Finding
) -> float | None:
    """Updates the policy on `batch`, which it forgets again, and says what that took of memory.

    Args:
        policy: As the run begins with it; it is so again afterwards.
        batch: What `longest_batch` gave.
        loss: The run's.
        device: Where the policy is.
        finding: Where to say it.

    Returns:
        Seconds of the update; None where it failed.
    """
    longest = int(batch.cu_seqlens.diff().max())
    what = f"{batch.token_ids.numel()} tokens in {batch.num_sequences} sequences of up to {longest}"
    first = batch.select([0]).counted()
    with unchanged(policy):
        try:
            policy.update(first, loss)  # now there are the optimiser's moments beside what comes
            with measured_peak(device) as peak:
                figures = policy.update(batch, loss).metrics
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and CPU_ALLOCATOR not in str(error):
                raise
            first_line = str(error).splitlines()[0]
            finding.fail(f"memory ran out in an update with {what}: {first_line}", OUT_OF_MEMORY)
            return None
    of = "of the whole process, " if device.type == "cpu" else "of PyTorch's tensors, "
    so_far = "earlier work included" if peak.is_of_process else "in this update"
    taken = figures["time/update_s"]
    finding.note(f"an update with {what}: {taken:.3g} s, at most {peak.num_bytes / GIB:.2f} GiB {of}{so_far}")
    if figures["update/num_micro_batches"] > MICRO_BATCHES:
        finding.fail(
            "memory ran out in it, and it went on with half of trainer.token_budget, as the run would",
            OUT_OF_MEMORY,
        )
        return None
    return taken
