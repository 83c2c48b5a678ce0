"""The far side of a hand-over: what vLLM mixes into its workers to take weights from shared memory or the network."""

import json
import os
import select
import signal
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from turnwise.engine.vllm.stream import fetched
from turnwise.engine.vllm.traits import PROTOCOL, model_traits

EXTENSION = "turnwise.engine.vllm.worker.WeightReceiver"
"""What vLLM's `worker_extension_cls` is set to; a server must find turnwise on its path."""


def digest(tensor: Tensor) -> int:
    """The exclusive or of the bit patterns of all elements: exact, whatever the order of the additions."""
    return int(torch.hash_tensor(tensor).item())


class WeightReceiver:
    """Becomes a base class of vLLM's worker, whose `reload_weights` and `get_model` it calls."""

    reload_weights: Any
    get_model: Any
    model_config: Any
    scheduler_config: Any
    device_config: Any

    def introduce(self, marker: str) -> str:
        """What is served here, how, and whether a file of the trainer is seen from here: JSON for `traits.Served`."""
        config = self.model_config
        served = {
            "protocol": PROTOCOL,
            "sees_marker": os.access(marker, os.R_OK),
            "vllm": import_module("vllm").__version__,
            "model": model_traits(config.hf_config, config.hf_config.architectures),
            "dtype": str(config.dtype).removeprefix("torch."),
            "max_positions": config.max_model_len,
            "logprobs_mode": str(config.logprobs_mode),
            "device": self.device_config.device_type,
            "is_chunked": self.scheduler_config.enable_chunked_prefill,
        }
        return json.dumps(served)

    def receive_weights(self, path: str) -> dict[str, int]:
        """Loads a safetensors file into the model.

        Returns:
            The digest of every tensor that vLLM's loader took, by name.
        """
        from safetensors import safe_open

        def tensors() -> Iterator[tuple[str, Tensor]]:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 -- not a dict: it cannot be iterated
                    yield name, file.get_tensor(name)

        return self._load(tensors())

    def fetch_weights(self, offer: str) -> dict[str, int]:
        """Loads what a `stream.Listener` of the trainer offers, tensor by tensor, as `receive_weights` does."""
        return self._load(fetched(offer))

    def _load(self, tensors: Iterator[tuple[str, Tensor]]) -> dict[str, int]:
        digests: dict[str, int] = {}

        def noted() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in tensors:
                digests[name] = digest(tensor)
                yield name, tensor

        self.reload_weights(weights_iterator=noted())
        _repack_tied_head(self.get_model())
        return digests

    def end_with(self, trainer: str) -> None:
        """Ends vLLM when the process with the id `trainer` is gone: it would not notice that nobody asks any more."""
        trainer_id, parent_id = int(trainer), os.getppid()
        # A worker is a child of vLLM's scheduler, or the scheduler itself, which is a child of the trainer.
        scheduler_id = os.getpid() if parent_id == trainer_id else parent_id

        def watch() -> None:
            select.select([os.pidfd_open(trainer_id)], [], [])
            os.kill(scheduler_id, signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()


def _repack_tied_head(model: Any) -> None:
    """On a CPU vLLM computes with a packed copy of each matrix and renews the copies of what it loaded.

    An output layer that is tied to the embeddings is not loaded itself: its copy would stay that of the old weights.
    """
    head = getattr(model, "lm_head", None)
    if head is not None and getattr(model.config, "tie_word_embeddings", False) and hasattr(head, "quant_method"):
        head.quant_method.process_weights_after_loading(head)
