"""A policy model from a folder, the hub or this package: checked first, loaded when it is needed."""

import hashlib
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from turnwise.model.attention import Attention, choose_attention
from turnwise.model.chat import ChatRenderer
from turnwise.worked_examples import ExampleMessage

PACKAGE_PREFIX = "package:"
IDENTIFYING = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
"""Endings of the files that make a model what it is."""
PACKAGE_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class CausalLM:
    """Any decoder-only language model that transformers loads, with full attention in every layer.

    Raises:
        ValueError: From `load_model` and `load_renderer`, with the reason in one line.
    """

    path: str
    """A local folder in the Hugging Face layout, a hub name (owner/name), or package:NAME for shipped weights."""
    attention: Attention = Attention.auto
    """Attention kernel; auto takes flash-attention on CUDA where it is installed, else sdpa."""
    chat_template: str = ""
    """Jinja file that replaces the tokenizer's chat template; empty keeps its own."""
    template_options: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template, such as enable_thinking or date_string; what they mean is up to it."""
    num_threads: int = 0
    """Threads of torch on a CPU, in each process; 0: torch's choice, or a part of the machine for each of its ranks.

    A very small model is best off with one.
    """
    missing_hint: str = ""
    """What to do where the folder of `path` is missing, for the message that says so."""
    system_prompt: str = ""
    """Opening system message that suits this model; the environment puts it before every problem, empty: none."""
    examples: list[ExampleMessage] = field(default_factory=list)
    """Worked examples that suit this model, between the system message and the problem."""
    problem_suffix: str = ""
    """What the environment appends to every problem for this model."""
    system_prompt_without_tool: str = ""
    """The system message where there is no tool: `env=no_tool`."""
    examples_without_tool: list[ExampleMessage] = field(default_factory=list)
    """The worked examples where there is no tool."""
    problem_suffix_without_tool: str = ""
    """What is appended to every problem where there is no tool."""

    lora_rank: int = 0
    """Rank of a low-rank adapter that is trained in place of the weights (LoRA, needs peft); 0 trains all weights."""
    lora_alpha: float = 32.0
    """Scale of the adapter: it counts lora_alpha / lora_rank times."""

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ValueError(f"model.lora_rank={self.lora_rank}: expected >= 0")
        if not 0 < self.lora_alpha < inf:
            raise ValueError(f"model.lora_alpha={self.lora_alpha}: expected a finite number > 0")
        if not self.path.strip():
            raise ValueError("model.path is empty: expected a folder, a hub name or package:NAME")
        if self.num_threads < 0:
            raise ValueError(f"model.num_threads={self.num_threads}: expected >= 0")

    def load_renderer(self) -> ChatRenderer:
        """The tokenizer with its chat template."""
        from transformers import AutoTokenizer

        source = self._source()
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(f"model.path={self.path!r}: no tokenizer can be loaded, {_first_line(error)}") from error
        if self.chat_template:
            file = Path(self.chat_template)
            if not file.is_file():
                raise ValueError(f"model.chat_template={self.chat_template!r}: no such file")
            tokenizer.chat_template = file.read_text(encoding="utf-8")
        name = f"model.path={self.path!r}"
        return ChatRenderer(tokenizer, name, options=self.template_options, more_stop_ids=_taught_stops(source))

    def load_model(
        self,
        device: torch.device,
        dtype: torch.dtype,
        compute_dtype: torch.dtype | None = None,
        place: torch.device | None = None,
    ) -> nn.Module:
        """The model in evaluation mode.

        Args:
            device: Where it computes.
            dtype: Of its weights.
            compute_dtype: What attention computes in where autocast makes that differ from `dtype`.
            place: Where its weights are; None: on `device`.
        """
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        attention = choose_attention(self.attention, device, compute_dtype or dtype).kernel
        source = self._source()
        disable_progress_bar()  # a run shows its own progress
        try:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation=str(attention))
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"model.path={self.path!r}: no model can be loaded, {_first_line(error)}") from error
        return cast(nn.Module, model).to(place or device).eval()

    def empty_model(self) -> nn.Module:
        """The model without weights, on the meta device: its shapes cost neither memory nor a download of weights."""
        from transformers import AutoConfig, AutoModelForCausalLM

        source = self._source()
        try:
            config = AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(f"model.path={self.path!r}: no config.json can be read, {_first_line(error)}") from error
        with torch.device("meta"):
            return cast(nn.Module, AutoModelForCausalLM.from_config(config))

    def identity(self) -> str:
        """Words that differ where weights, tokenizer or template do: a hash of the folder, or the commit on the hub.

        Of a large file its size and 256 places are read: training changes every number.
        """
        source = self._source()
        if not Path(source).is_dir():
            from transformers import AutoConfig

            return f"{source}@{getattr(AutoConfig.from_pretrained(source), '_commit_hash', None)}"
        folder = Path(source).resolve()
        digest = hashlib.sha256()
        for path in sorted(path for path in folder.iterdir() if path.suffix in IDENTIFYING):
            digest.update(path.name.encode())
            digest.update(_sampled(path))
        return f"{folder.name}@{digest.hexdigest()[:12]}"

    def _source(self) -> str:
        """What `from_pretrained` takes: a folder that exists, or a hub name."""
        if self.path.startswith(PACKAGE_PREFIX):
            folder = PACKAGE_WEIGHTS / self.path.removeprefix(PACKAGE_PREFIX)
        else:
            folder = Path(self.path).expanduser()
            if not folder.exists() and _is_hub_name(self.path):
                return self.path
        if not folder.is_dir():
            hint = self.missing_hint or "and not a hub name of the form owner/name"
            raise ValueError(f"model.path={self.path!r}: no such folder, {hint}")
        if not (folder / "config.json").is_file():
            raise ValueError(f"model.path={self.path!r}: the folder holds no config.json")
        return str(folder)


def _sampled(path: Path, num_places: int = 256, num_bytes: int = 65536) -> bytes:
    """The size of a file and what stands at so many places, spread evenly; a small file whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= num_places * num_bytes:
            return size.to_bytes(8, "big") + file.read()
        parts = [size.to_bytes(8, "big")]
        for place in range(num_places):
            file.seek(place * (size - num_bytes) // (num_places - 1))
            parts.append(file.read(num_bytes))
    return b"".join(parts)


def _is_hub_name(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 2 and all(part and not part.startswith((".", "~")) for part in parts)


def _taught_stops(source: str) -> list[int]:
    """The tokens at which the model's own settings end a text; chat models name those that end a turn here."""
    from transformers import GenerationConfig

    file = Path(source) / "generation_config.json"
    if file.parent.is_dir() and not file.is_file():
        return []
    try:
        stops: Any = GenerationConfig.from_pretrained(source).eos_token_id
    except OSError as error:
        if file.is_file():
            raise ValueError(f"{file} cannot be read, {_first_line(error)}") from error
        return []  # a model on the hub may lack it too
    return [] if stops is None else [stops] if isinstance(stops, int) else list(stops)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
