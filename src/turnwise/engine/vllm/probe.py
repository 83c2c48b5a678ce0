"""What an engine must answer after it was given weights, computed from the weights themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PROBE_LENGTH = 137
"""Tokens of the probe's prompt: more than a block of any prefix cache, so that a cache of old weights shows."""
PROBE_TURN = 8
"""Tokens that it samples."""
PROBE_TEMPERATURE = 0.7
"""Not 1: an engine that reports log-probs before the temperature is found out."""

PROBE_BOUNDS = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
"""How far the log-prob of a probe's token may be from that of the weights, in nats, by the engine's precision."""


def probe_prompt(vocab_size: int, max_positions: int) -> list[int]:
    """A fixed prompt of tokens from all over the vocabulary, after which no model is sure of anything."""
    generator = torch.Generator().manual_seed(0)
    length = max(1, min(PROBE_LENGTH, max_positions - PROBE_TURN))
    return torch.randint(vocab_size, (length,), generator=generator).tolist()


class Reference:
    """A model without weights of its own: it computes with those that it is given, and holds none."""

    def __init__(self, model: nn.Module) -> None:
        """Takes `model` over and lets its parameters go; its buffers stay."""
        self._model: Any = model.eval()
        self._model.set_attn_implementation("sdpa")  # takes every precision on every device
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    @torch.no_grad()
    def logprobs(
        self, weights: Mapping[str, Tensor], prompt: Sequence[int], token_ids: Sequence[int], temperature: float
    ) -> Tensor:
        """Log-probs `[tokens]` of `token_ids` after `prompt`, float64 on the CPU; tied weights under every name."""
        device = next(iter(weights.values())).device
        ids = torch.tensor([[*prompt, *token_ids]], device=device)
        call = {"input_ids": ids, "use_cache": False}
        logits = torch.func.functional_call(self._model, dict(weights), (), call, tie_weights=False).logits[0]
        scores = (logits[len(prompt) - 1 : -1].double() / temperature).log_softmax(-1)
        return scores.gather(1, ids[0, len(prompt) :, None]).squeeze(1).cpu()
