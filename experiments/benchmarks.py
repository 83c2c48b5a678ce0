"""Evaluates the runs of a study, and the policy that they began with, on benchmarks, and compares the arms there.

    make benchmarks ARGS="--study runs/ablations/first task=suite_math task.path=FOLDER evaluation.tools=both"

Words without dashes are overrides for `mode=evaluate`: the sets, how many problems, how they are sampled, and the model
as the study had it. Started again with the same --out, what was evaluated stays and the rest goes on.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from rich.console import Console

from turnwise.config.errors import ConfigError, building
from turnwise.config.evaluating import HOW_IT_RUNS, SAMPLING_FIELDS
from turnwise.config.launch import alone_in
from turnwise.config.provenance import check_same_run, leaves
from turnwise.config.stopping import INTERRUPTED
from turnwise.config.sweep import compose_components, environment, read_override
from turnwise.report.summary import Outcome, read_summary
from turnwise.study.benchmark_tables import arm_rows, examples, policy_rows, report, terminal_table
from turnwise.study.benchmarks import START, Policy, compare_arms, read_answers
from turnwise.study.runs import Run, Study, read_seeds, read_study
from turnwise.study.tables import csv_text
from turnwise.study.verdicts import skipped_in_words
from turnwise.tracker.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[1]
STOP_NAME = ".stop"
"""In the folder of the results: tells the evaluations to keep what they have, and end."""
MAY_DIFFER = ("model.num_threads", "model.missing_hint", *(f"env.{key}" for key in HOW_IT_RUNS))
"""Keys that change no answer."""
REFUSED = ("model", "env._target_")
"""Keys in which an evaluation must not differ from the training."""
NOTED = ("env", "rollout.max_turns", "rollout.max_tokens", *(f"evaluation.{name}" for name in SAMPLING_FIELDS))
"""Keys in which it may, and says so."""
NUM_EXAMPLES = 3
"""Problems of each set whose answers are shown."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be evaluated, and what a reader should know of it."""

    commands: Mapping[Policy, Sequence[str]]
    """The overrides of each policy's `mode=evaluate`: the start first, then the runs of the study."""
    notes: Sequence[str]
    """Where the evaluation differs from the training, and which runs have no policy."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates what is missing, compares; exit code 1 when a policy is missing, 2 for a mistake, 130 after Ctrl-C."""
    console = Console()
    options = parse(arguments)
    try:
        with building():
            study = _study_in(options.study, options.seeds)
            plan = prepare(study, options)
        for note in plan.notes:
            console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
        with alone_in(options.out):
            codes = run_all(plan.commands, options.jobs, options.out / STOP_NAME, console)
            if INTERRUPTED in codes.values():
                console.print(f"\nstopped; to go on: {command(options)}", soft_wrap=True, highlight=False, markup=False)
                return INTERRUPTED
            failed = [f"{policy.name} is missing: {_last_line(log_of(policy))}" for policy in codes if codes[policy]]
            if evaluated := [policy for policy in codes if codes[policy] == 0]:
                with building():
                    show(evaluated, [*plan.notes, *failed], study, options, console)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in failed:
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if study.skipped or failed else 0


def command(options: argparse.Namespace) -> str:
    """What a reader types to have the same, or to go on."""
    return f"make benchmarks ARGS={shlex.quote(shlex.join(options.given))}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a mistake in it ends with one line on it and exit code 2, before anything is evaluated."""
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        usage="%(prog)s --study FOLDER [--seeds N] [--jobs N] [--out FOLDER] [KEY=VALUE ...]",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--study", type=Path, required=True, help="folder of a study that `make ablations` ran")
    parser.add_argument("--seeds", help="how many, or which: 3 means 0,1,2; 7, means seed 7 (default: the study's)")
    parser.add_argument("--jobs", type=int, default=1, help="how many policies at once (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: benchmarks/ in that of the study)")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides for every evaluation")
    options = parser.parse_intermixed_args(arguments)
    options.given = sys.argv[1:] if arguments is None else list(arguments)
    if options.seeds is not None:
        try:
            options.seeds = read_seeds(options.seeds)
        except ValueError as error:
            parser.error(f"--seeds={error}")
    if options.jobs < 1:
        parser.error(f"--jobs={options.jobs}: expected >= 1")
    for word in options.words:
        if "=" not in word and not word.startswith("~"):
            parser.error(f"{word!r} is no override: expected KEY=VALUE")
    options.study = options.study.expanduser().absolute()
    options.out = (options.out or options.study / "benchmarks").expanduser().absolute()
    return options


def _study_in(folder: Path, seeds: Sequence[int] | None) -> Study:
    """The study, or the part of it that has these seeds."""
    try:
        study = read_study(folder)
    except OSError as error:
        raise ConfigError(
            f"--study {folder}: expected a folder that make ablations wrote ({error.strerror})"
        ) from error
    if seeds is None:
        return study
    if unknown := [seed for seed in seeds if seed not in study.plan.seeds]:
        raise ConfigError(f"--seeds: {unknown} are none of the study's, which are {list(study.plan.seeds)}")
    runs, skipped = (tuple(one for one in ones if one.seed in seeds) for ones in (study.runs, study.skipped))
    return replace(study, runs=runs, skipped=skipped)


def prepare(study: Study, options: argparse.Namespace) -> Plan:
    """Everything that can be refused is refused here, before the first policy is loaded.

    Raises:
        ConfigError: The study has no run, or goes across a key; an override is refused; the policies would be evaluated
            with another model than they were trained with; or another evaluation lies in `options.out`.
        ValueError, OSError: The evaluation sets cannot be read, or there is no place for the results.
    """
    if study.plan.across:
        raise ConfigError(f"--study {study.root}: goes across {study.plan.across}; one without --across is expected")
    if not study.runs:
        why = "; ".join(sorted({one.why for one in study.skipped}))
        raise ConfigError(f"--study {study.root}: none of its runs can be evaluated: {why}")
    for word in options.words:
        key, values = read_override(word)
        if key.lstrip("+~") == "model.path":
            raise ConfigError(f"{word}: which policies are evaluated follows from --study")
        if len(values) > 1:
            raise ConfigError(f"{word}: expected a single value")
    start = Policy(arm=START, seed=None, folder=options.out / START)
    weights = {start: study.runs[0].record["config"]["model"]["path"]}
    for run in study.runs:
        folder = run.folder / "checkpoints" / "last"
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder} holds no weights: they are needed to evaluate them")
        weights[Policy(arm=run.arm, seed=run.seed, folder=options.out / run.folder.name)] = str(folder)
    commands = {
        policy: ["mode=evaluate", *options.words, _set("model.path", path), _set("hydra.run.dir", policy.folder)]
        for policy, path in weights.items()
    }
    composed = {policy: compose_components(words, label=policy.name) for policy, words in commands.items()}
    for policy, components in composed.items():
        try:
            check_same_run(policy.folder, {"config": components.config})
        except ConfigError as error:
            raise ConfigError(f"{error}: choose another --out, or remove that folder") from error
    components = composed[start]
    notes = differences(study.runs, components.config)
    if not components.evaluation.save_groups:
        raise ConfigError("evaluation.save_groups=false: the answers are needed, to compare them by problem")
    components.task.start(components.seed).eval_sets(components.evaluation.num_problems)
    log_of(start).parent.mkdir(parents=True, exist_ok=True)
    lacking = [f"no policy: {line}" for line in skipped_in_words(study.skipped, study.plan.across)]
    return Plan(commands=commands, notes=[*notes, *lacking])


def _set(key: str, place: object) -> str:
    """The override that sets `key` to a path, whatever characters that has."""
    return f"{key}={QuotedString(text=str(place), quote=Quote.single).with_quotes()}"


def differences(runs: Sequence[Run], config: Mapping[str, Any]) -> list[str]:
    """What the evaluation has otherwise than the training, in words; what only one of the two knows is passed over.

    Raises:
        ConfigError: That is something of the model: its prompts, worked examples, template or first weights.
    """
    here = dict(leaves(json.loads(json.dumps(config))))
    found: dict[str, str] = {}
    for run in runs:
        there = dict(leaves(run.record["config"]))
        for key in (key for key in here if key in there and key not in MAY_DIFFER and here[key] != there[key]):
            told = f"{key} is {_differing(there[key], here[key])}"
            if _is_among(key, REFUSED):
                raise ConfigError(f"{told}: the policies in {run.folder} want what they were trained with")
            is_same_task = config["task"]["_target_"] == run.record["config"].get("task", {}).get("_target_")
            if _is_among(key, NOTED) or (is_same_task and _is_among(key, ("task",))):
                found[key] = f"not as in the training: {told}"
    return list(found.values())


def _is_among(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _differing(there: Any, here: Any) -> str:
    """Both values, each from a little before the first place in which they differ."""
    texts = repr(there), repr(here)
    places = enumerate(zip(*texts, strict=False))
    start = max(0, next((place for place, (one, other) in places if one != other), min(map(len, texts))) - 20)
    first, second = (f"{'...' if start else ''}{text[start : start + 60]}" for text in texts)
    return f"{first} in the study and {second} here"


def run_all(
    commands: Mapping[Policy, Sequence[str]], jobs: int, stop_file: Path, console: Console
) -> dict[Policy, int]:
    """Runs the evaluations, `jobs` at once; their exit codes, `INTERRUPTED` for those that Ctrl-C stopped."""
    stop_file.unlink(missing_ok=True)
    codes = dict.fromkeys(commands, INTERRUPTED)
    waiting = list(commands)
    running: dict[Policy, tuple[subprocess.Popen[bytes], float]] = {}
    try:
        while running or (waiting and not stop_file.exists()):
            try:
                if waiting and len(running) < jobs and not stop_file.exists():
                    policy = waiting.pop(0)
                    running[policy] = _started(commands[policy], log_of(policy), stop_file), time.monotonic()
                    continue
                time.sleep(0.2)
                for policy, (process, started) in list(running.items()):
                    if (code := process.poll()) is not None:
                        code = INTERRUPTED if code == 0 and _was_preempted(policy) else code
                        codes[policy] = code
                        del running[policy]
                        how = "done" if code == 0 else f"ended with {code}"
                        num_ended = len(commands) - len(waiting) - len(running)
                        took = f"{time.monotonic() - started:.0f} s, {num_ended} of {len(commands)}"
                        text = f"{policy.name}: {how}, {took}"
                        console.print(text, soft_wrap=True, highlight=False, markup=False)
            except KeyboardInterrupt:
                if stop_file.exists():
                    break
                stop_file.touch()
                console.print("stopping when the evaluations have kept what they have; again: at once", highlight=False)
    finally:
        for process, _ in running.values():
            os.killpg(process.pid, signal.SIGKILL)
        stop_file.unlink(missing_ok=True)
    return codes


def _was_preempted(policy: Policy) -> bool:
    """Whether its evaluation was told to stop by SIGTERM, after which it ends with 0 and can go on."""
    try:
        return read_summary(policy.folder).outcome is Outcome.stopped
    except FileNotFoundError:
        return False


def log_of(policy: Policy) -> Path:
    """What its evaluation prints."""
    return policy.folder.parent / "logs" / f"{policy.folder.name}.log"


def _started(words: Sequence[str], log: Path, stop_file: Path) -> subprocess.Popen[bytes]:
    """`src/main.py` with these overrides, in a session of its own: it hears of Ctrl-C through the file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "src/main.py"), *words],
            env=environment(stop_file),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _last_line(log: Path) -> str:
    """The reason why an evaluation ended, as it says it last, and where the rest is."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it said nothing'} (log: {log})"


def show(
    policies: Sequence[Policy], notes: Sequence[str], study: Study, options: argparse.Namespace, console: Console
) -> None:
    """Writes benchmarks.md, benchmarks.csv and examples.md, and prints the table.

    Raises:
        ConfigError: An evaluation is broken.
        ValueError: Two are not by the same protocol.
    """
    answers = []
    for policy in policies:
        try:
            answers += read_answers(policy)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{error}; without the folder {policy.folder} it is evaluated again") from error
    found = compare_arms(answers, study.plan.baseline)
    rows = arm_rows(found, study.plan.baseline)
    counted = {one.name: one.accuracy.num_problems for one in found}
    texts = {
        "benchmarks.md": report(rows, answers, counted, notes, command(options)),
        "benchmarks.csv": csv_text(policy_rows(answers)),
        "examples.md": examples(policies, NUM_EXAMPLES),
    }
    for name, text in texts.items():
        write_atomically(options.out / name, text.encode())
    paths = [options.out / name for name in texts]
    console.print(terminal_table(rows), "", *paths, sep="\n", soft_wrap=True, highlight=False)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
