"""The name of a run: its preset, and what the command line changed against it."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import cast

from omegaconf import DictConfig, OmegaConf

MAX_LENGTH = 120
_DIGEST_LENGTH = 8
_NOT_A_CHANGE = ("seed", "mode", "tracker", "hydra")
"""Top-level keys that do not make another experiment."""


def run_label(choices: Mapping[str, str | None], overrides: Sequence[str]) -> str:
    """Names a run by preset and drift: `gtpo+reward.shaping=true`, `ablation=no_discount+rollout.group_size=4`.

    Args:
        choices: The option chosen in each config group.
        overrides: The command line's overrides, in Hydra's syntax.

    Returns:
        A single path component of at most `MAX_LENGTH` characters. Where characters had to be replaced or cut, it
        ends with a digest of the full text, so that different runs keep different names.
    """
    preset = "ablation" if choices.get("ablation") else "algo"
    head = f"ablation={choices['ablation']}" if preset == "ablation" else str(choices.get("algo"))
    if (mode := choices.get("mode", "train")) != "train":
        head = str(mode)
    changes: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+").replace("/", ".")
        if key != preset and key.partition(".")[0] not in _NOT_A_CHANGE:
            changes[key] = f"{key}={value}"
    text = "+".join([head, *(changes[key] for key in sorted(changes))])
    safe = re.sub(r"[^\w.=+~,-]", "-", text, flags=re.ASCII)
    if safe == text and len(text) <= MAX_LENGTH:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{safe[: MAX_LENGTH - _DIGEST_LENGTH - 1]}-{digest}"


def label_of(hydra: DictConfig) -> str:
    """The label of the run that Hydra's own configuration describes."""
    return run_label(hydra.runtime.choices, given_overrides(hydra))


def given_overrides(hydra: DictConfig) -> list[str]:
    """The command line's overrides as they were typed: an interpolation in one of them is not resolved."""
    return cast(list[str], OmegaConf.to_container(hydra.overrides.task, resolve=False))


def register_label() -> None:
    """Lets `hydra.run.dir` name folders by it: `${run_label:}`."""

    def resolver(*, _root_: DictConfig) -> str:
        return label_of(_root_.hydra)

    OmegaConf.register_new_resolver("run_label", resolver, replace=True)
