"""Which runs of a study are configured otherwise than the others."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

Cell = tuple[int, str, str]
"""A run's place in a plan: seed, setting, arm."""

_OF_ARM = ("advantage", "loss", "reward", "seed")
"""Sections of a configuration in which arms may differ; the others decide what is solved, and how it is judged."""


def odd_ones(configs: Mapping[Cell, Mapping[str, Any]], across: str) -> dict[Cell, str]:
    """Runs configured otherwise than most: of the study in what all arms share, or of their arm in what makes it.

    Args:
        configs: The configuration of each run, nested, in the plan's order.
        across: The key that the study goes across; like the seed, it may differ.

    Returns:
        Why each is odd: a key, its value and that of the others.
    """
    own: dict[Cell, dict[str, Any]] = {}
    shared: dict[Cell, dict[str, Any]] = {}
    for cell, config in configs.items():
        values = {key: value for key, value in flat(config).items() if key not in ("seed", across)}
        own[cell] = {key: value for key, value in values.items() if key.split(".")[0] in _OF_ARM}
        shared[cell] = {key: value for key, value in values.items() if key not in own[cell]}
    odd = _unlike_most(shared)
    for arm in dict.fromkeys(arm for _, _, arm in configs):
        odd |= _unlike_most({cell: values for cell, values in own.items() if cell[2] == arm and cell not in odd})
    return odd


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as `{"reward.shaping": True, ...}`."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _unlike_most(configs: Mapping[Cell, Mapping[str, Any]]) -> dict[Cell, str]:
    """What sets runs apart from the configuration that most have; where several have most, from the earliest."""
    texts = {cell: json.dumps(config, sort_keys=True) for cell, config in configs.items()}
    odd: dict[Cell, str] = {}
    for text, count in Counter(texts.values()).most_common(1):
        model = next(cell for cell in configs if texts[cell] == text)
        theirs, (seed, _, arm) = configs[model], model
        for cell, own in configs.items():
            differing = (key for key in sorted(own.keys() | theirs.keys()) if own.get(key) != theirs.get(key))
            if (key := next(differing, None)) is not None:
                others = f"{count} {'runs have' if count > 1 else 'run has'} {theirs.get(key)}"
                odd[cell] = f"has {key}={own.get(key)}, but {others}, the first of them {arm}, seed {seed}"
    return odd
