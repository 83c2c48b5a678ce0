"""Trains every ablation arm over matched seeds as one Hydra multirun, then tabulates held-out accuracy.

    make ablations ARGS="--arms gtpo,grpo --seeds 0,1,2 --steps 30 --out runs/ablations/first"

An arm is a file of conf/ablation. Started again with the same --out, finished runs stay and the others go on. Words
without dashes are overrides for every arm: `rollout.num_problems=4`.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from turnwise.report.summary import Outcome, read_summary

ROOT = Path(__file__).resolve().parents[1]
ARMS = ("gtpo", "grpo", "no_turn_rewards", "no_discount", "no_shaping")
TITLE = "Held-out accuracy after the last step"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run: held-out accuracy before the first step and after the last, and the state of the source."""

    arm: str
    seed: int
    start: float
    final: float
    source: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, reads back, prints and writes the table; the exit code is 1 when a run is missing, 2 for a mistake."""
    options = parse(arguments)
    out: Path = options.out
    command = multirun_command(options.arms, options.seeds, options.steps, out, options.overrides)
    console = Console()
    console.print(f"{len(options.arms)} arms x {len(options.seeds)} seeds into {out}", soft_wrap=True, highlight=False)
    exit_code = run_to_the_end(command)
    if exit_code == 2:  # refused as the user's mistake: what lies in the folder is not this command's
        return exit_code

    runs, missing = read_runs(out, options.arms, options.seeds, options.steps)
    if runs:
        rows = table_rows(runs, options.arms, options.seeds)
        print_table(rows, console)
        write_results(out, rows, own_command(options), {run.source for run in runs})
        console.print(f"\n{out / 'results.md'}\n{out / 'results.csv'}", soft_wrap=True, highlight=False)
    for line in missing:
        console.print(f"no result: {line}", style="red", markup=False, soft_wrap=True)
    return 1 if missing or exit_code else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a mistake in it ends with one line on it and exit code 2, before anything is trained."""
    parser = argparse.ArgumentParser(
        prog="ablations",
        usage="%(prog)s [--arms A,B] [--seeds 0,1] [--steps N] [--out FOLDER] [KEY=VALUE ...]",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--arms", default=",".join(ARMS), help="presets of conf/ablation, separated by commas")
    parser.add_argument("--seeds", default="0,1", help="seeds that every arm runs with, separated by commas")
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps of a run")
    parser.add_argument("--out", type=Path, help="folder of the runs and the table (default: runs/ablations/<now>)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides for every arm")
    options = parser.parse_args(arguments)

    known = sorted(path.stem for path in (ROOT / "conf/ablation").glob("*.yaml"))
    options.arms = [arm for arm in options.arms.split(",") if arm]
    unknown = [arm for arm in options.arms if arm not in known]
    if unknown or not options.arms:
        parser.error(f"--arms: {f'unknown {unknown}' if unknown else 'no arm named'}; known: {', '.join(known)}")
    if not all(seed.isdecimal() for seed in options.seeds.split(",")):
        parser.error(f"--seeds={options.seeds}: expected non-negative integers separated by commas")
    options.seeds = [int(seed) for seed in options.seeds.split(",")]
    for name in ("arms", "seeds"):
        if len(set(getattr(options, name))) < len(getattr(options, name)):
            parser.error(f"--{name} names one twice: {getattr(options, name)}")
    if options.steps < 1:
        parser.error(f"--steps={options.steps}: expected >= 1")
    for override in options.overrides:
        if "=" not in override:
            parser.error(f"{override!r} is no override: expected KEY=VALUE")
    options.out = (options.out or ROOT / f"runs/ablations/{datetime.now():%Y-%m-%d_%H-%M-%S}").absolute()
    return options


def multirun_command(
    arms: Sequence[str], seeds: Sequence[int], steps: int, out: Path, overrides: Sequence[str]
) -> list[str]:
    """The one Hydra multirun of all arms and seeds; its folders are those of `run_folder`."""
    return [
        sys.executable,
        "src/main.py",
        "--multirun",
        f"ablation={','.join(arms)}",
        f"seed={','.join(map(str, seeds))}",
        f"trainer.num_steps={steps}",
        *overrides,
        f"hydra.sweep.dir='{out}'",
        "hydra.sweep.subdir=${hydra.runtime.choices.ablation}_seed${seed}",
    ]


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Where the multirun leaves a run's files."""
    return out / f"{arm}_seed{seed}"


def run_to_the_end(command: Sequence[str]) -> int:
    """Runs `command` with live output. Ctrl-C reaches it too: it saves a checkpoint first, so wait for it."""
    process = subprocess.Popen(command, cwd=ROOT)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def read_runs(out: Path, arms: Sequence[str], seeds: Sequence[int], steps: int) -> tuple[list[Run], list[str]]:
    """The finished runs below `out`, and one line for each that is missing or ended otherwise."""
    runs: list[Run] = []
    missing: list[str] = []
    for arm, seed in product(arms, seeds):
        folder = run_folder(out, arm, seed)
        try:
            summary = read_summary(folder)
            record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            missing.append(f"{arm}, seed {seed}: {error}")
            continue
        if summary.outcome is not Outcome.finished or summary.initial is None or summary.final is None:
            missing.append(f"{arm}, seed {seed}: {summary.outcome} {summary.why} ({folder})")
        elif summary.total_steps != steps:
            missing.append(f"{arm}, seed {seed}: holds {summary.total_steps} steps, not {steps} ({folder})")
        else:
            start, final = summary.initial.accuracy, summary.final.accuracy
            runs.append(Run(arm=arm, seed=seed, start=start, final=final, source=source_of(record)))
    return runs, missing


def source_of(record: Mapping[str, Any]) -> str:
    """The state of the source that a run's config.json names."""
    git = record["git"]
    return "no git checkout" if git is None else git["revision"] + (" with changes" if git["is_dirty"] else "")


def table_rows(runs: Sequence[Run], arms: Sequence[str], seeds: Sequence[int]) -> list[list[str]]:
    """The table, header first: an arm a row, means over its finished seeds, then each seed's own accuracy."""
    rows = [["arm", "seeds", "mean accuracy", "mean gain", *(f"seed {seed}" for seed in seeds)]]
    for arm in arms:
        finished = {run.seed: run for run in runs if run.arm == arm}
        if not finished:
            rows.append([arm, "0", *[""] * (2 + len(seeds))])
            continue
        accuracy = fmean(run.final for run in finished.values())
        gain = fmean(run.final - run.start for run in finished.values())
        own = [f"{finished[seed].final:.4f}" if seed in finished else "" for seed in seeds]
        rows.append([arm, str(len(finished)), f"{accuracy:.4f}", f"{gain:+.4f}", *own])
    return rows


def print_table(rows: Sequence[Sequence[str]], console: Console) -> None:
    """Shows the table on a terminal."""
    table = Table(title=TITLE, title_justify="left")
    for index, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if index else "left")
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def own_command(options: argparse.Namespace) -> str:
    """What a reader types to get the same table."""
    lists = ["--arms", ",".join(options.arms), "--seeds", ",".join(map(str, options.seeds))]
    return f"make ablations ARGS={shlex.quote(shlex.join([*lists, '--steps', str(options.steps), *options.overrides]))}"


def write_results(out: Path, rows: Sequence[Sequence[str]], command: str, sources: Collection[str]) -> None:
    """Writes the table to `out`: results.csv, and results.md with the command and the source behind it."""
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|---|{'---:|' * (len(rows[0]) - 1)}")
    table = "\n".join(lines)
    text = f"""\
# {TITLE}

{table}

`mean gain` is the accuracy after the last step minus that before the first. Means are over the finished seeds; a
difference that is small beside the spread over seeds says nothing about the arms.

    {command}

Source: {", ".join(sorted(sources))}
"""
    (out / "results.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
