"""The name of a run: its preset, and what the command line changed against it."""

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import cast

from omegaconf import DictConfig, OmegaConf

MAX_LENGTH = 120
_DIGEST_LENGTH = 8
_NOT_A_CHANGE = ("seed", "mode", "tracker", "hydra")
"""Top-level keys that do not make another experiment."""


def run_label(choices: Mapping[str, str | None], overrides: Sequence[str], *, every: bool = False) -> str:
    """Names a run by preset and drift: `gtpo+reward.shaping-true`, `ablation-no_discount+rollout.group_size-4`.

    A folder of this name can be typed in an override without quotes, where Hydra allows no second `=`.

    Args:
        choices: The option chosen in each config group.
        overrides: The command line's overrides, in Hydra's syntax.
        every: Name all overrides but the seed, also those that do not make another experiment.

    Returns:
        A single path component of at most `MAX_LENGTH` characters. Where characters had to be replaced or cut, or
        where key and value cannot be told apart, it ends with a digest of the full text, so that different runs keep
        different names.
    """
    preset = "ablation" if choices.get("ablation") else "algo"
    head = ("ablation=" if preset == "ablation" else "") + str(choices.get(preset))
    if (mode := choices.get("mode", "train")) != "train":
        preset, head = "mode", str(mode)
    changes: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+").replace("/", ".")
        ignored = key in ("seed", "mode") if every else key.partition(".")[0] in _NOT_A_CHANGE
        if key != preset and not ignored:
            changes[key] = f"{key}={value}"
    parts = [head, *(changes[key] for key in sorted(changes))]
    text = "+".join(parts)
    safe = re.sub(r"[^\w.+-]", "-", text, flags=re.ASCII)
    if len(text) <= MAX_LENGTH and all(re.fullmatch(r"([\w.]+=)?[\w.-]*", part, flags=re.ASCII) for part in parts):
        return safe
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{safe[: MAX_LENGTH - _DIGEST_LENGTH - 1]}-{digest}"


def label_of(hydra: DictConfig) -> str:
    """The label of the run that Hydra's own configuration describes."""
    return run_label(hydra.runtime.choices, given_overrides(hydra))


def given_overrides(hydra: DictConfig) -> list[str]:
    """The command line's overrides as they were typed: an interpolation in one of them is not resolved."""
    return cast(list[str], OmegaConf.to_container(hydra.overrides.task, resolve=False))


def register_label(started: float | None = None) -> None:
    """Lets folders be named: `${run_label:}`, and `${job_label:}` where all jobs of a sweep need their own.

    `${started:%H-%M}` is the moment `started`, by default this one, in local time by the pattern of `strftime`: unlike
    Hydra's own `now` the same in all processes of a run.
    """
    moment = time.localtime(started)

    def run(*, _root_: DictConfig) -> str:
        return label_of(_root_.hydra)

    def job(*, _root_: DictConfig) -> str:
        return run_label(_root_.hydra.runtime.choices, given_overrides(_root_.hydra), every=True)

    def when(pattern: str) -> str:
        return time.strftime(pattern, moment)

    OmegaConf.register_new_resolver("started", when, replace=True)
    OmegaConf.register_new_resolver("run_label", run, replace=True)
    OmegaConf.register_new_resolver("job_label", job, replace=True)
