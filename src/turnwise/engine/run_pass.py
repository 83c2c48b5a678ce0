"""One pass of the engine: from a plan to the tokens that were drawn."""

import math

import torch

from turnwise.engine.decode_graph import DecodeGraphs
from turnwise.engine.packed_model import PackedModel
from turnwise.engine.packed_pass import PackedPass
from turnwise.engine.sampling import sample_tokens
from turnwise.engine.schedule import Plan
from turnwise.engine.slot_cache import SlotCache


@torch.inference_mode()
def run_pass(
    model: PackedModel, cache: SlotCache, graphs: DecodeGraphs | None, plan: Plan
) -> tuple[list[int], list[float]]:
    """The token of each draw, and its log-prob.

    Raises:
        FloatingPointError: A log-prob is not finite.
    """
    uniforms = torch.tensor([draw.uniform for draw in plan.draws], dtype=torch.float64, device=model.device)
    slots = [draw.slot for draw in plan.draws]
    if graphs is not None and not plan.copies and all(len(s.token_ids) == 1 for s in plan.stretches):
        logits = graphs.logits(plan.stretches, slots)
    else:
        packed = PackedPass(cache, plan.stretches, plan.copies)
        logits = model.logits(packed, [packed.last_rows[slot] for slot in slots])
    token_ids, logprobs = sample_tokens(logits, [draw.turn.sampling for draw in plan.draws], uniforms)
    for draw, logprob in zip(plan.draws, scores := logprobs.tolist(), strict=True):
        if not math.isfinite(logprob):
            raise FloatingPointError(f"the model's logits are not finite after {draw.num_tokens} tokens")
    return token_ids.tolist(), scores
