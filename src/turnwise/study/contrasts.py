"""What differs between the arms of a study, found from the configurations of its runs."""

from collections.abc import Mapping
from typing import Any

from turnwise.study.runs import Study, flat

DISCOUNT, POOL = "advantage.discount", "advantage.pool"


def arm_options(study: Study) -> dict[str, dict[str, Any]]:
    """The configuration of each arm with a finished run, by flat keys, without the seed and the study's axis."""
    found: dict[str, dict[str, Any]] = {}
    for run in study.runs:
        if run.arm not in found:
            options = flat(run.record["config"])
            found[run.arm] = {key: value for key, value in options.items() if key not in ("seed", study.plan.across)}
    return found


def differing_options(study: Study) -> dict[str, dict[str, Any]]:
    """For each key in which arms differ, its value by arm; an arm without the key is left out."""
    options = arm_options(study)
    keys = dict.fromkeys(key for own in options.values() for key in own)
    by_key = {key: {arm: own[key] for arm, own in options.items() if key in own} for key in keys}
    return {
        key: values
        for key, values in by_key.items()
        if len(values) < len(options) or any(value != next(iter(values.values())) for value in values.values())
    }


def alike_but_for(study: Study, *keys: str) -> list[dict[str, tuple[Any, ...]]]:
    """Arms that have all of `keys` and differ from one another in nothing else: each set, with their values of them."""
    sets: dict[str, dict[str, tuple[Any, ...]]] = {}
    for arm, options in arm_options(study).items():
        if all(key in options for key in keys):
            rest = str({key: value for key, value in sorted(options.items()) if key not in keys})
            sets.setdefault(rest, {})[arm] = tuple(options[key] for key in keys)
    return [arms for arms in sets.values() if len(arms) > 1]


def discount_sweeps(study: Study) -> list[dict[str, float]]:
    """Sets of arms that differ from one another in gamma alone: gamma by arm, rising."""
    return [
        {arm: float(discount) for arm, (discount,) in sorted(arms.items(), key=lambda one: one[1])}
        for arms in alike_but_for(study, DISCOUNT)
    ]


def discount_pool_grids(study: Study) -> list[Mapping[tuple[str, str], str]]:
    """Sets of arms that differ in gamma and pool alone and vary both: the arm at each (gamma, pool), in order."""
    grids = []
    for arms in alike_but_for(study, DISCOUNT, POOL):
        discounts, pools = ({values[place] for values in arms.values()} for place in range(2))
        if len(discounts) > 1 and len(pools) > 1:
            at = {values: arm for arm, values in arms.items()}
            places = [(discount, pool) for pool in sorted(pools) for discount in sorted(discounts)]
            grids.append({(f"{place[0]:g}", str(place[1])): at[place] for place in places if place in at})
    return grids
