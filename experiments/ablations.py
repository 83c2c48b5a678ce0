"""Trains every arm of a study with the same seeds by Hydra multirun, then compares them.

    make ablations ARGS="--arms gtpo,grpo --seeds 3 --steps 30 --out runs/ablations/first"

An arm is a file of conf/ablation. Started again with the same --out, finished runs stay and the others go on; more
arms, seeds or values of --across join the study. Words without dashes are overrides for every run
(`rollout.num_problems=4`) or settings of the launcher (`hydra.launcher.partition=NAME`).
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

from turnwise.config.errors import ConfigError, building
from turnwise.config.multirun import train_missing
from turnwise.config.options import about_option
from turnwise.config.stopping import INTERRUPTED
from turnwise.config.sweep import LAUNCHERS, check_plan, launcher_overrides, read_axis, read_override
from turnwise.study.kept import checked
from turnwise.study.results import write_results
from turnwise.study.runs import Plan, Study, read_plan, read_seeds, read_study, write_plan
from turnwise.study.statistics import Metric, compare
from turnwise.study.tables import comparison_table
from turnwise.study.verdicts import skipped_in_words

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ROOT / "conf/ablation"
ARMS = ("gtpo", "grpo", "no_turn_rewards", "no_discount", "no_shaping")
BASELINE = "gtpo"
NUM_SEEDS = 8
NUM_STEPS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Plans, trains what is missing, compares; exit code 1 when a run is missing, 2 for a mistake, 130 after Ctrl-C."""
    console = Console()
    options = parse(arguments)
    out: Path = options.out
    was_stopped = False
    try:
        with building():
            prepared = prepare(options)
        if prepared is not None:
            plan, overrides = prepared
            was_stopped = not train_missing(plan, out, options.launcher, overrides, console)
        study = checked(read_study(out))
        with building():  # the folder may be no place to write to
            show(study, console)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if was_stopped:
        go_on = f"make ablations ARGS={shlex.quote(f'--out {shlex.quote(str(out))}')}"
        console.print(f"\nstopped; to go on: {go_on}", soft_wrap=True, highlight=False, markup=False)
        return INTERRUPTED
    return 1 if study.skipped else 0


def prepare(options: argparse.Namespace) -> tuple[Plan, list[str]] | None:
    """Checks and writes the plan; returns it with the launcher's overrides, or None where only a report is wanted.

    Raises:
        ConfigError: There is no study to report on, or something of the plan would be refused once its turn came.
    """
    there = plan_in(options.out)
    if options.report_only:
        if there is None:
            raise ConfigError(f"--report-only: there is no study in {options.out}")
        return None
    plan, words = plan_of(options, there), [word for word in options.words if is_for_hydra(word)]
    overrides = launcher_overrides(options.launcher, options.jobs, words)
    check_plan(plan, options.out, overrides)
    write_plan(options.out, plan)
    return plan, overrides


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a mistake in it ends with one line on it and exit code 2, before anything is trained."""
    parser = argparse.ArgumentParser(
        prog="ablations",
        usage="%(prog)s [--arms A,B] [--seeds N] [--steps N] [--across KEY=V1,V2] [--out FOLDER] [KEY=VALUE ...]",
        description=(__doc__ or "").partition("\n")[0],
        epilog="What is not given is taken from the study in --out, where there is one.",
    )
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    parser.add_argument("--arms", help=f"presets of conf/ablation, with commas, or all (default: {','.join(ARMS)})")
    parser.add_argument("--seeds", help=f"how many, or which: 3 means 0,1,2 (default: {NUM_SEEDS}); 7, means seed 7")
    parser.add_argument("--steps", type=int, help=f"steps of a run (default: {NUM_STEPS})")
    parser.add_argument(
        "--across", action="append", help="also run every arm with each of these values, such as task.horizon=2,4,8"
    )
    parser.add_argument("--baseline", help=f"arm that the others are compared with (default: {BASELINE} or the first)")
    parser.add_argument(
        "--launcher", choices=LAUNCHERS, default="joblib", help="what starts the runs (default: joblib)"
    )
    parser.add_argument("--jobs", type=int, help="how many runs at once (default: one a core)")
    parser.add_argument("--out", type=Path, help="folder of the study (default: runs/ablations/<now>)")
    parser.add_argument("--report-only", action="store_true", help="train nothing, write the results of --out again")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides for every run, settings of Hydra")
    options = parser.parse_intermixed_args(arguments)

    if options.arms is not None:
        options.arms = tuple(known if options.arms == "all" else filter(None, options.arms.split(",")))
        unknown = [arm for arm in options.arms if arm not in known]
        if unknown or not options.arms:
            parser.error(f"--arms: {f'unknown {unknown}' if unknown else 'no arm named'}; known: {', '.join(known)}")
    if options.seeds is not None:
        try:
            options.seeds = read_seeds(options.seeds)
        except ValueError as error:
            parser.error(f"--seeds={error}")
    for name in ("arms", "seeds"):
        values = getattr(options, name)
        if values is not None and len(set(values)) < len(values):
            parser.error(f"--{name} names one twice: {','.join(map(str, values))}")
    if options.across is not None:
        *others, options.across = options.across
        if others or not options.across:
            parser.error("--across: expected one KEY=V1,V2; a study goes across one key")
    for name in ("steps", "jobs"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name}={value}: expected >= 1")
    for word in options.words:
        if "=" not in word:
            parser.error(f"{word!r} is no override: expected KEY=VALUE")
    if options.report_only:
        given = [name for name in ("arms", "seeds", "steps", "across", "baseline", "words") if getattr(options, name)]
        if given or options.out is None:
            parser.error("--report-only reads a study as it lies: give --out, and nothing else")
    options.out = (options.out or ROOT / f"runs/ablations/{datetime.now():%Y-%m-%d_%H-%M-%S}").expanduser().absolute()
    return options


def is_for_hydra(word: str) -> bool:
    """Whether an override says how runs are started, not what they are."""
    return word.lstrip("+~").startswith("hydra")


def plan_in(out: Path) -> Plan | None:
    """The study that lies in `out`, if one does.

    Raises:
        ConfigError: Its study.json is broken, or it is a place where no study can be put.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: expected a folder, this is a file")
    try:
        return read_plan(out)
    except FileNotFoundError:
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"--out {out}: expected a study or an empty folder, this holds other files") from None
        return None
    except ValueError as error:
        raise ConfigError(str(error)) from error


def plan_of(options: argparse.Namespace, there: Plan | None) -> Plan:
    """What to run: the study that is there, with the arms, seeds and settings that the options add to it.

    Raises:
        ConfigError: An option is no good, or asks for another study than the one that is there.
    """
    own = {read_override(word)[0]: word for word in options.words if not is_for_hydra(word)}
    if several := [word for word in options.words if len(read_override(word)[1]) > 1]:
        raise ConfigError(f"{several[0]}: runs with several values of a key are asked for by --across {several[0]}")
    others = tuple(own.values()) if own or not there else there.overrides
    across, settings = read_axis(options.across, others) if options.across else ("", ("",))
    axis = across or (there.across if there else "")
    if word := own.get(axis):
        raise ConfigError(f"{word}: this study goes across {axis}, so no single value of it holds for all runs")
    steps = options.steps or (there.num_steps if there else NUM_STEPS)
    usual = {
        "evaluation.num_problems": "evaluation.num_problems=1024",
        "trainer.eval_every": f"trainer.eval_every={steps}",  # before the first step and after the last
        "trainer.save_every": "trainer.save_every=10",
    }
    usual.pop(axis, None)
    plan = Plan(
        arms=options.arms or (there.arms if there else ARMS),
        seeds=options.seeds or (there.seeds if there else tuple(range(NUM_SEEDS))),
        baseline=options.baseline or (there.baseline if there else ""),
        num_steps=steps,
        across=axis,
        settings=settings if across or not there else there.settings,
        overrides=tuple((usual | own).values()) if own or not there else there.overrides,
    )
    if there is not None:
        plan = grown(there, plan, options.out)
    if not plan.baseline:
        plan = replace(plan, baseline=BASELINE if BASELINE in plan.arms else plan.arms[0])
    if plan.baseline not in plan.arms:
        raise ConfigError(f"--baseline {plan.baseline}: expected one of the arms: {', '.join(plan.arms)}")
    return plan


def grown(there: Plan, wanted: Plan, out: Path) -> Plan:
    """The study that is there, joined by the arms, seeds and settings that are wanted besides.

    Raises:
        ConfigError: They differ in more than that.
    """
    words, own = set(there.overrides), set(wanted.overrides)
    for name, old, new in (
        ("steps", there.num_steps, wanted.num_steps),
        ("across", there.across, wanted.across),
        ("overrides", " ".join(sorted(words - own)), " ".join(sorted(own - words))),
    ):
        if old != new:
            raise ConfigError(f"{out} is another study: {name} {old or 'none'} there, {new or 'none'} here")
    both = {name: getattr(there, name) for name in ("arms", "seeds", "settings")}
    joined = {name: old + tuple(one for one in getattr(wanted, name) if one not in old) for name, old in both.items()}
    return replace(there, baseline=wanted.baseline, **joined)


def show(study: Study, console: Console) -> None:
    """Writes the results of what there is, prints their main table, and names what is missing."""
    if study.runs:
        paths = write_results(study, {arm: about_option("ablation", arm) for arm in study.plan.arms})
        console.print(comparison_table(compare(study, Metric.final).overall, study.plan.across))
        console.print("", *paths, sep="\n", soft_wrap=True, highlight=False)
    for what, ones, style in (("no result", study.skipped, "red"), ("damaged trajectories", study.damaged, "yellow")):
        for line in skipped_in_words(ones, study.plan.across):
            console.print(f"{what}: {line}", style=style, markup=False, highlight=False, soft_wrap=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
