"""A study as Hydra multiruns: what is checked before anything trains, the launchers, and the commands."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from turnwise.config.build import build_components
from turnwise.config.errors import ConfigError, building, explain
from turnwise.config.label import register_label
from turnwise.config.options import CONF_DIR, option_groups, register_help
from turnwise.config.parts import Components
from turnwise.config.provenance import check_same_run
from turnwise.config.schema import register_schemas
from turnwise.config.stopping import STOP_FILE
from turnwise.study.alike import Cell
from turnwise.study.runs import Plan


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """What starts the jobs of a multirun."""

    plugin: str
    """Hydra's module for it; empty where Hydra itself brings it."""
    extra: str
    """What of pyproject.toml installs it."""
    jobs: str
    """The override that bounds how many run at once; empty where there is none."""
    outlives: bool
    """Whether jobs go on without the process that submitted them, so that none may be submitted twice."""


LAUNCHERS = {
    "basic": Launcher(plugin="", extra="", jobs="", outlives=False),
    "joblib": Launcher(plugin="hydra_joblib_launcher", extra="sweep", jobs="hydra.launcher.n_jobs={}", outlives=False),
    "ray": Launcher(
        plugin="hydra_ray_launcher", extra="ray", jobs="+hydra.launcher.ray.init.num_cpus={}", outlives=False
    ),
    "submitit_local": Launcher(plugin="hydra_submitit_launcher", extra="sweep", jobs="", outlives=True),
    **dict.fromkeys(
        ("slurm", "submitit_slurm"),  # ours, of conf/hydra/launcher, and the plugin's that it starts from
        Launcher(
            plugin="hydra_submitit_launcher", extra="sweep", jobs="hydra.launcher.array_parallelism={}", outlives=True
        ),
    ),
}
"""By the name of their option in the group `hydra/launcher`."""

_OWN_KEYS = (
    *("seed", "ablation", "algo", "mode", "trainer.num_steps"),
    *("hydra.sweep", "hydra.sweeper", "hydra.run", "hydra.mode", "hydra/launcher"),
)
"""What the plan, its arms and the launcher decide."""


def launcher_overrides(name: str, jobs: int | None, words: Iterable[str]) -> list[str]:
    """The launcher's part of a command: its choice, how many jobs at once, and the user's `words` for it.

    Raises:
        ConfigError: It is not installed, or cannot bound the number of jobs.
    """
    launcher = LAUNCHERS[name]
    if launcher.plugin and find_spec(f"hydra_plugins.{launcher.plugin}") is None:
        raise ConfigError(f"--launcher {name} is not installed: pip install '.[{launcher.extra}]'")
    if jobs is not None and not launcher.jobs:
        can = ", ".join(other for other, one in LAUNCHERS.items() if one.jobs)
        raise ConfigError(f"--jobs: the launcher {name} takes no number of jobs; these do: {can}")
    return [f"hydra/launcher={name}", *([] if jobs is None else [launcher.jobs.format(jobs)]), *words]


def read_override(text: str) -> tuple[str, list[str]]:
    """Key and values of `KEY=V1,V2` as Hydra understands them; several values only where it would sweep over them.

    Raises:
        ConfigError: Hydra cannot read it, or the key is one that the plan decides.
    """
    try:
        override: Override = OverridesParser.create().parse_overrides([text])[0]
    except HydraException as error:
        raise ConfigError(explain(error)) from error
    key = override.get_key_element()
    bare = key.lstrip("+~")
    if not bare:
        raise ConfigError(f"{text!r}: expected KEY=VALUE")
    if any(bare == own or bare.startswith(f"{own}.") for own in _OWN_KEYS):
        raise ConfigError(f"{text}: the study itself decides {bare}")
    try:
        if override.is_discrete_sweep():
            return key, list(override.sweep_string_iterator())
        return key, [str(override.get_value_element_as_str())]
    except HydraException as error:  # an interval, or a pattern of names
        raise ConfigError(f"{text}: expected single values, with commas between them") from error


def read_axis(text: str, overrides: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Key and values of `--across KEY=V1,V2`, each value as the composed configuration writes it: 1 becomes 1.0.

    The key may be one that only the study's `overrides` bring in, such as those of another task.

    Raises:
        ConfigError: Unreadable, of one value twice, or of values that make no name of a folder.
    """
    key, values = read_override(text)
    if not re.fullmatch(r"[\w.]+", key) or key.startswith("hydra."):
        raise ConfigError(f"--across {text}: expected KEY=V1,V2 with a key such as task.horizon")
    if key in option_groups():
        raise ConfigError(f"--across {text}: {key} is a group; runs are compared along a single value")
    settings = [str(OmegaConf.select(_compose([*overrides, f"{key}={value}"]), key)) for value in values]
    if unfit := [setting for setting in settings if not re.fullmatch(r"[\w.+-]+", setting)]:
        raise ConfigError(f"--across {text}: a folder is named after each value, so {unfit[0]!r} cannot be one")
    if len(set(settings)) < len(settings):
        raise ConfigError(f"--across {text} names a value twice: {', '.join(settings)}")
    return key, tuple(settings)


def check_plan(plan: Plan, root: Path, launcher: Sequence[str]) -> None:
    """Composes and builds every arm in every setting; compares it with what a run of it in `root` was made with.

    Raises:
        ConfigError: Something would be refused once its turn came, or an arm is the same as another; the arm is named.
    """
    for setting in plan.settings:
        arm_of: dict[str, str] = {}
        for arm in plan.arms:
            where = " ".join(filter(None, [f"ablation={arm}", setting and f"{plan.across}={setting}"]))
            try:
                components = compose_components([*_overrides(plan, [setting], [arm]), *launcher], label=arm)
                if components.health.rolls_back:
                    raise ConfigError(
                        "health.*.action and health.not_finite: a run that is rolled back trains with other settings "
                        "from there on, so no study counts it; expected none of them to be roll_back"
                    )
                same = arm_of.setdefault(json.dumps(components.config, sort_keys=True), arm)
                if same != arm:
                    raise ConfigError(f"everything is set as with ablation={same}, so there is nothing to compare")
                if arm == plan.arms[0]:
                    with building():  # what the task refuses, it would refuse in every run
                        task = components.task.start(plan.seeds[0])
                        task.eval_sets(components.evaluation.num_problems)
                for seed in plan.seeds:
                    record = {"config": {**components.config, "seed": seed}}
                    check_same_run(plan.folder(root, arm, setting, seed), record)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error


def multiruns(plan: Plan, cells: Iterable[Cell], root: Path, launcher: Sequence[str]) -> Iterator[list[str]]:
    """The commands that run `cells`, into the folders that the plan names: one where they are a full product."""
    setting = f"_{plan.across.split('.')[-1]}${{{plan.across}}}" if plan.across else ""
    for seeds, settings, arms in _full_products(cells):
        yield [
            sys.executable,
            "src/main.py",
            "--multirun",
            f"seed={','.join(map(str, seeds))}",  # first, so that Hydra's product has it outermost
            *_overrides(plan, settings, arms),
            *launcher,
            f"hydra.sweep.dir={QuotedString(text=str(root), quote=Quote.single).with_quotes()}",
            f"hydra.sweep.subdir=${{hydra.runtime.choices.ablation}}{setting}_seed${{seed}}",
        ]


def environment(stop_file: Path) -> dict[str, str]:
    """What the processes of a multirun need: the package on their path, and the file that tells them to stop."""
    paths = [str(CONF_DIR.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), STOP_FILE: str(stop_file)}


def compose_components(overrides: Sequence[str], label: str) -> Components:
    """The parts that `src/main.py` would build from `overrides`.

    Raises:
        ConfigError: Something in them is refused.
    """
    config = _compose(overrides)
    with open_dict(config):
        del config["hydra"]
    return build_components(config, label=label)


def _overrides(plan: Plan, settings: Sequence[str], arms: Sequence[str]) -> list[str]:
    across = [f"{plan.across}={','.join(settings)}"] if plan.across else []
    return [*across, f"ablation={','.join(arms)}", f"trainer.num_steps={plan.num_steps}", *plan.overrides]


def _full_products(cells: Iterable[Cell]) -> list[tuple[list[int], tuple[str, ...], tuple[str, ...]]]:
    """Seeds, settings and arms whose products are together `cells`; a single product where that can be."""
    arms_of: dict[int, dict[str, tuple[str, ...]]] = {}
    for seed, setting, arm in cells:
        arms = arms_of.setdefault(seed, {})
        arms[setting] = (*arms.get(setting, ()), arm)
    seeds_of: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = {}
    for seed, of_setting in arms_of.items():
        settings_of: dict[tuple[str, ...], tuple[str, ...]] = {}
        for setting, arms in of_setting.items():
            settings_of[arms] = (*settings_of.get(arms, ()), setting)
        for arms, settings in settings_of.items():
            seeds_of.setdefault((settings, arms), []).append(seed)
    return [(seeds, settings, arms) for (settings, arms), seeds in seeds_of.items()]


def _compose(overrides: Sequence[str]) -> DictConfig:
    """The whole configuration, Hydra's own part included, as `src/main.py` gets it.

    Raises:
        ConfigError: In place of what Hydra and OmegaConf raise.
    """
    register_label()
    register_help()
    register_schemas()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(explain(error)) from error
