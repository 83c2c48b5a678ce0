"""What must be the same on both sides of a server: the model, its precision, and how it is served."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin, get_type_hints

from turnwise.engine.vllm.heads import head_size

PROTOCOL = 1
"""Of what `worker.WeightReceiver` is asked for; it grows when an older turnwise cannot answer a newer one."""
OLDEST_VLLM = (0, 32)
LOGPROBS_MODE = "processed_logprobs"
"""vLLM's name for log-probs after temperature, top-k and top-p."""
_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


def model_traits(config: Any, architectures: Sequence[str]) -> dict[str, Any]:
    """What makes two configurations of transformers take the same weights."""
    text = config.get_text_config()
    fields = {name: getattr(text, name, None) for name in _FIELDS}
    is_tied = bool(getattr(config, "tie_word_embeddings", False))
    return {"architectures": [*architectures], **fields, "head_dim": head_size(text), "tie_word_embeddings": is_tied}


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a worker of a server says of itself."""

    protocol: int
    sees_marker: bool
    vllm: str
    model: Mapping[str, Any]
    dtype: str
    max_positions: int
    logprobs_mode: str
    device: str
    is_chunked: bool

    @classmethod
    def read(cls, answer: str) -> "Served":
        """Reads the answer of `WeightReceiver.introduce`.

        Raises:
            ValueError: Another version of turnwise gave it.
            JSONDecodeError, TypeError: No turnwise gave it.
        """
        match json.loads(answer):
            case {"protocol": int(protocol)} if protocol != PROTOCOL:
                raise ValueError(f"its turnwise speaks version {protocol} of the hand-over, this one {PROTOCOL}")
            case {"protocol": int(), **told}:
                served = cls(protocol=PROTOCOL, **told)
            case _:
                raise TypeError(f"{answer!r} is no answer of WeightReceiver.introduce")
        for name, kind in get_type_hints(cls).items():
            if not isinstance(value := getattr(served, name), get_origin(kind) or kind):
                raise TypeError(f"{name}={value!r} of {answer!r}: expected {kind}")
        return served


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run needs of a server; `vllm` is the version of the run's other servers, None for the first."""

    model: Mapping[str, Any]
    dtype: str
    max_tokens: int
    vllm: str | None = None

    def differences(self, served: Served) -> Iterator[str]:
        """What a server has or does otherwise, each with what is expected."""
        for name, value in self.model.items():
            if (found := served.model.get(name)) != value:
                yield f"{name}={found}, expected {value}"
        if served.dtype != self.dtype:
            yield f"dtype={served.dtype}, expected {self.dtype} (trainer.dtype)"
        if served.max_positions < self.max_tokens:
            yield f"max_model_len={served.max_positions}, expected >= rollout.max_tokens={self.max_tokens}"
        if served.logprobs_mode != LOGPROBS_MODE:
            yield f"logprobs_mode={served.logprobs_mode}, expected {LOGPROBS_MODE}"
        if served.device == "cpu" and served.is_chunked:
            yield "chunked prefill, under which seeds do not hold on a CPU, expected --no-enable-chunked-prefill"
        if self.vllm not in (None, served.vllm):
            yield f"vLLM {served.vllm}, expected {self.vllm} as on the other servers"
        elif _release(served.vllm) < OLDEST_VLLM:
            yield f"vLLM {served.vllm}, expected {'.'.join(map(str, OLDEST_VLLM))} or newer"


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version; none in a version without numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
