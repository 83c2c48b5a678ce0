"""Evaluates the runs of a study, and the policy that they began with, on benchmarks, and compares the arms there.

    make benchmarks ARGS="--study runs/ablations/first task=suite_math task.path=FOLDER evaluation.tools=both"

Words without dashes are overrides for `mode=evaluate`: the sets, how many problems, how they are sampled, and the model
as the study had it. Started again with the same --out, what was evaluated stays and the rest goes on.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from turnwise.config.errors import ConfigError, building
from turnwise.config.provenance import leaves
from turnwise.config.stopping import INTERRUPTED
from turnwise.config.sweep import compose_components
from turnwise.study.benchmarks import (
    START,
    Answers,
    ArmOnSet,
    Policy,
    arm_rows,
    compare_arms,
    examples,
    policy_rows,
    read_answers,
)
from turnwise.study.runs import Study, read_study
from turnwise.study.tables import Rows, csv_text, markdown
from turnwise.study.verdicts import skipped_in_words
from turnwise.tracker.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[1]
OWN_KEYS = ("mode", "model.path", "hydra.run", "hydra.sweep", "hydra.mode")
"""What differs between the policies, and is decided here."""
MAY_DIFFER = ("num_threads",)
"""Keys of `model` that change no answer."""
NUM_EXAMPLES = 3
"""Problems of each set whose answers are shown."""
_ON_TERMINAL = (0, 1, 2, 4, 6)
"""Columns of the table: set, arm, accuracy, change, gain by tool."""
ABOUT = """\
An arm's accuracy on a problem is the mean over its seeds; brackets hold 95% intervals over problems, in percent and
points. They say what these policies would do on more problems like these, not what further seeds would: the values by
seed are all that is known of that. *change* is against the policy that every run began with.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates what is missing, compares; exit code 1 when a policy is missing, 2 for a mistake, 130 after Ctrl-C."""
    console = Console()
    options = parse(arguments)
    try:
        with building():
            study = read_study(options.study)
            commands = prepare(study, options)
        codes = run_all(commands, options.jobs, console)
        if INTERRUPTED in codes.values():
            again = f"make benchmarks ARGS={shlex.quote(shlex.join(options.given))}"
            console.print(f"\nstopped; to go on: {again}", soft_wrap=True, highlight=False, markup=False)
            return INTERRUPTED
        with building():
            show([policy for policy in commands if codes[policy.name] == 0], study, options, console)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in skipped_in_words(study.skipped, study.plan.across):
        console.print(f"no policy: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if study.skipped or any(codes.values()) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a mistake in it ends with one line on it and exit code 2, before anything is evaluated."""
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        usage="%(prog)s --study FOLDER [--jobs N] [--out FOLDER] [KEY=VALUE ...]",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--study", type=Path, required=True, help="folder of a study that `make ablations` ran")
    parser.add_argument("--jobs", type=int, default=1, help="how many policies at once (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: benchmarks/ in that of the study)")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides for every evaluation")
    options = parser.parse_intermixed_args(arguments)
    options.given = sys.argv[1:] if arguments is None else list(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs={options.jobs}: expected >= 1")
    for word in options.words:
        key, equals, _ = word.partition("=")
        if not equals:
            parser.error(f"{word!r} is no override: expected KEY=VALUE")
        if any(key.lstrip("+") == own or key.lstrip("+").startswith(f"{own}.") for own in OWN_KEYS):
            parser.error(f"{word}: which policy is evaluated, and where, follows from --study and --out")
    options.study = options.study.expanduser().absolute()
    options.out = (options.out or options.study / "benchmarks").expanduser().absolute()
    return options


def prepare(study: Study, options: argparse.Namespace) -> dict[Policy, list[str]]:
    """The command that evaluates each policy: the start first, then the runs of the study.

    Raises:
        ConfigError: The study has no run, or goes across a key; an override is refused; or the policies would be
            evaluated with another model than they were trained with.
        ValueError: The evaluation sets cannot be read.
    """
    if study.plan.across:
        raise ConfigError(f"--study {study.root}: goes across {study.plan.across}; one without --across is expected")
    if not study.runs:
        raise ConfigError(f"--study {study.root}: no run of it is finished")
    policies = {
        Policy(arm=START, seed=None, folder=options.out / START): study.runs[0].record["config"]["model"]["path"]
    }
    for run in study.runs:
        if not (run.folder / "checkpoints" / "last").is_dir():
            raise ConfigError(f"{run.folder} has no checkpoints/last: the weights are needed to evaluate them")
        own = Policy(arm=run.arm, seed=run.seed, folder=options.out / run.folder.name)
        policies[own] = str(run.folder / "checkpoints" / "last")
    commands = {}
    for policy, path in policies.items():
        place = QuotedString(text=str(path), quote=Quote.single).with_quotes()
        folder = QuotedString(text=str(policy.folder), quote=Quote.single).with_quotes()
        commands[policy] = ["mode=evaluate", *options.words, f"model.path={place}", f"hydra.run.dir={folder}"]
    components = compose_components(next(iter(commands.values())), label=START)
    check_same_model({run.folder.name: run.record["config"]["model"] for run in study.runs}, components.config["model"])
    components.task.start(components.seed).eval_sets(components.evaluation.num_problems)
    return commands


def check_same_model(trained: Mapping[str, Mapping[str, Any]], evaluated: Mapping[str, Any]) -> None:
    """Prompts, worked examples and template must be those of the training, and all runs have begun alike.

    Raises:
        ConfigError: They are not; the key is named.
    """
    here = dict(leaves(evaluated))
    for run, model in trained.items():
        there = dict(leaves(model))
        for key in sorted(here.keys() | there.keys()):
            if key not in MAY_DIFFER and here.get(key) != there.get(key):
                raise ConfigError(
                    f"model.{key} is {there.get(key)!r:.120} in {run} and {here.get(key)!r:.120} here: expected the "
                    f"study's model, as by the same model= or experiment="
                )


def run_all(commands: Mapping[Policy, Sequence[str]], jobs: int, console: Console) -> dict[str, int]:
    """Runs the evaluations, `jobs` at once; their exit codes by the policies' names, `INTERRUPTED` after Ctrl-C."""
    waiting = list(commands.items())
    running: dict[Policy, tuple[subprocess.Popen[bytes], float]] = {}
    codes: dict[str, int] = {}
    is_stopping = False
    while waiting or running:
        try:
            while waiting and len(running) < jobs:
                policy, words = waiting.pop(0)
                running[policy] = _started(words, log_of(policy)), time.monotonic()
            time.sleep(0.2)
            for policy, (process, started) in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[policy]
                    codes[policy.name] = INTERRUPTED if is_stopping else code
                    how = "evaluated" if code == 0 else f"ended with {code}, see {log_of(policy)}"
                    text = f"{policy.name}: {how}, {time.monotonic() - started:.0f} s, {len(codes)} of {len(commands)}"
                    console.print(text, soft_wrap=True, highlight=False, markup=False)
        except KeyboardInterrupt:
            codes |= {policy.name: INTERRUPTED for policy, _ in waiting}
            waiting.clear()
            for process, _ in running.values():
                process.send_signal(signal.SIGKILL if is_stopping else signal.SIGINT)
            is_stopping = True
            console.print("stopping when the evaluations have kept what they have; again: at once", highlight=False)
    return codes


def log_of(policy: Policy) -> Path:
    """What its evaluation prints."""
    return policy.folder.parent / "logs" / f"{policy.folder.name}.log"


def _started(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """`src/main.py` with these overrides, in a session of its own: it hears of Ctrl-C from here, once."""
    paths = filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "src/main.py", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def show(policies: Sequence[Policy], study: Study, options: argparse.Namespace, console: Console) -> None:
    """Writes benchmarks.md, benchmarks.csv and examples.md, and prints the table.

    Raises:
        ValueError: An evaluation is broken, or two are not by the same protocol.
    """
    answers = [one for policy in policies for one in read_answers(policy)]
    if not answers:
        raise ConfigError(f"no policy could be evaluated; the logs are in {options.out / 'logs'}")
    found = compare_arms(answers, study.plan.baseline)
    rows = arm_rows(found, study.plan.baseline)
    texts = {
        "benchmarks.md": report(found, answers, rows, options),
        "benchmarks.csv": csv_text(policy_rows(answers)),
        "examples.md": examples(policies, NUM_EXAMPLES),
    }
    for name, text in texts.items():
        write_atomically(options.out / name, text.encode())
    console.print(
        as_table(rows), "", *(options.out / name for name in texts), sep="\n", soft_wrap=True, highlight=False
    )


def report(found: Sequence[ArmOnSet], answers: Sequence[Answers], rows: Rows, options: argparse.Namespace) -> str:
    """The text of benchmarks.md."""
    protocols = {one.result.name: one.result.protocol for one in answers}
    counts = {one.name: one.accuracy.num_problems for one in found}
    sets = [f"- `{name}`: {counts[name]} problems, protocol {protocol}" for name, protocol in protocols.items()]
    command = f"make benchmarks ARGS={shlex.quote(shlex.join(options.given))}"
    parts = [
        "# The study's policies on benchmarks\n",
        markdown(rows),
        ABOUT,
        "\n".join(sets) + "\n",
        f"    {command}\n",
    ]
    return "\n".join(parts)


def as_table(rows: Rows) -> Table:
    """The most telling columns, for a terminal."""
    header, *body = ([row[place] for place in _ON_TERMINAL] for row in rows)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for place, heading in enumerate(header):
        table.add_column(heading, justify="left" if place < 2 else "right", no_wrap=place > 1, overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))
    return table


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
