"""What a run does about its health: alarms are told, a collapse is rolled back, what is stuck is written down."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from time import perf_counter

from rich.console import Console

from turnwise import checkpoint
from turnwise.config.ending import seconds_before
from turnwise.config.parts import Components
from turnwise.config.stopping import Stop
from turnwise.config.wiring import say
from turnwise.health import Collapsed, Health
from turnwise.health_settings import Action
from turnwise.protocols import Policy, Task
from turnwise.ranks import current
from turnwise.report.page import write_report
from turnwise.report.summary import Outcome, summarise_run, write_summary
from turnwise.rotation import found_steps, path_of
from turnwise.seeding import derive_seed
from turnwise.tracker.bundle import bundle_path, bundle_steps
from turnwise.tracker.files import read_metrics, write_metrics
from turnwise.tracker.health import Alarm, append_alarm, num_roll_backs, read_alarms
from turnwise.trainer_settings import TrainerSettings
from turnwise.watchdog import WATCH, Work, looking_after, tell, write_stacks

ROLLED_BACK = "rolled_back"
"""In a run's folder: the figures and trajectories of steps that it went back behind, time by time."""
NOT_FINITE = "not_finite"


def start_health(components: Components, run_dir: Path, console: Console) -> Health:
    """Follows the run's figures from the lines that metrics.jsonl has of it; the first rank tells of alarms."""

    def tell_of(alarm: Alarm) -> None:
        if current().is_first:
            append_alarm(run_dir, alarm)
            if alarm.action == Action.warn:  # what ends the run is said at its end
                say(console, f"warning: health.{alarm.words}")

    return Health(components.health, read_metrics(run_dir), tell_of)


def after_roll_backs(components: Components, run_dir: Path, console: Console) -> tuple[int, TrainerSettings]:
    """The seed of the samples and the settings of the optimiser of a run that went back so often as its folder says."""
    factors = [alarm.factor for alarm in read_alarms(run_dir) if alarm.to is not None]
    if not (times := len(factors)):
        return components.seed, components.trainer
    learning_rate = components.trainer.learning_rate * prod(factors)
    say(console, f"went back {times} x: other samples, and a learning rate of {learning_rate:g}")
    return derive_seed(components.seed, "roll back", times), replace(components.trainer, learning_rate=learning_rate)


def go_back(
    trouble: Collapsed | FloatingPointError,
    components: Components,
    run_dir: Path,
    policy: Policy,
    task: Task,
    console: Console,
) -> int:
    """Puts policy and task back to the newest checkpoint from before the trouble, where that is what is asked for.

    Every rank calls it. Nothing is given up before that checkpoint was read; then the figures and trajectories of the
    steps behind it move to `rolled_back/<time>/`.

    Returns:
        The step to go on with.

    Raises:
        Collapsed: The run is to stop, has gone back too often, or there is no checkpoint to go back to.
        FloatingPointError: `trouble` itself, where it is to stop the run.
    """
    ranks, health = current(), components.health
    alarm = trouble.alarm if isinstance(trouble, Collapsed) else _not_finite(run_dir, str(health.not_finite))
    if alarm.action != Action.roll_back:
        raise trouble
    folder = run_dir / "checkpoints"
    before = max(alarm.since, 1) if isinstance(trouble, Collapsed) else alarm.step + 1
    broken = [past for past in read_alarms(run_dir) if past.monitor == NOT_FINITE and past.to == past.step]
    tried = {past.to for past in broken}  # where it failed at once
    times = num_roll_backs(run_dir)

    def chosen() -> tuple[Path | None, str]:
        if times >= health.max_roll_backs:
            return None, f"it did so {times} x already"
        earlier = [step for step in reversed(found_steps(folder)) if step < before and step not in tried]
        found, damaged = checkpoint.first_whole(path_of(folder, step) for step in earlier)
        return found, "; ".join(["there is no checkpoint from before", *damaged])

    found, why = ranks.by_first(chosen)
    if found is None:
        if ranks.is_first:
            append_alarm(run_dir, replace(alarm, action=Action.stop.value))
        raise Collapsed(alarm, f"; it was to go back, but {why}") from trouble
    step = checkpoint.restore(found, policy, task)
    kept = Path(ROLLED_BACK) / str(times + 1)

    def tell_of() -> None:
        checkpoint.take_back(folder, found, step)
        _keep_evidence(run_dir, run_dir / kept, step)
        # Last of all: a kill before it repeats the steps that led here.
        append_alarm(run_dir, replace(alarm, to=step, factor=health.learning_rate_factor))
        say(
            console,
            f"warning: health.{alarm.words}: back to the checkpoint of step {step}; what is given up lies in {kept}",
        )

    ranks.by_first(tell_of)
    return step


def _not_finite(run_dir: Path, action: str) -> Alarm:
    """The alarm about the step behind the last one that has figures."""
    steps = [int(line["step"] or 0) for line in read_metrics(run_dir) if "loss/num_tokens" in line]
    step = max(steps, default=-1) + 1
    return Alarm(
        step=step,
        monitor=NOT_FINITE,
        figure="a logit, the loss or the gradient",
        value=None,
        bound="expected finite numbers",
        since=step,
        action=action,
    )


def _keep_evidence(run_dir: Path, folder: Path, step: int) -> None:
    """Copies what the run wrote of steps from `step` on, before that is taken back."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "groups").mkdir(parents=True)
    write_metrics(folder, [line for line in read_metrics(run_dir) if (line["step"] or 0) >= step])
    for number in bundle_steps(run_dir):
        if number >= step:
            shutil.copyfile(bundle_path(run_dir, number), bundle_path(folder, number))


@asynccontextmanager
async def watching(components: Components, run_dir: Path, stop: Stop, over: threading.Event) -> AsyncIterator[None]:
    """Looks for what is stuck while the block runs; stacks go to `run_dir`, and `stop` is called if that is wanted.

    A run that does not hear it, or is not `over` in time, is ended with its process.
    """
    settings, loop = components.health.watchdog, asyncio.get_running_loop()
    if not settings.timeout_s or settings.action is Action.off:
        yield
        return
    rank = f"_rank{current().index}" if current().count > 1 else ""
    heard, started = threading.Event(), perf_counter() - seconds_before(run_dir)

    def stop_for_it() -> None:
        heard.set()
        stop()

    def act(standing: dict[Work, float]) -> None:
        number = 1 + sum(1 for _ in run_dir.glob(f"stuck_*{rank}.txt"))
        path = run_dir / f"stuck_{number}{rank}.txt"
        stood = ", ".join(f"{kind} for {seconds:.{1 if seconds < 10 else 0}f} s" for kind, seconds in standing.items())
        text = f"no progress of {stood} (health.watchdog.timeout_s={settings.timeout_s:g})"
        if current().count > 1:
            text += f" in rank {current().index}, or in one that it waits for"
        try:
            write_stacks(path, text, loop)
            text += f"; stacks are in {path}"
        except Exception as error:  # whatever it is, such as a full disk, it must not keep a run that is stuck
            text += f"; stacks cannot be written to {path}: {error}"
        if settings.action is Action.warn:
            tell(f"warning: {text}")
        elif not stop.why:
            stop.why = text
            limits = {heard: settings.grace_s, over: settings.timeout_s}
            threading.Thread(target=_end_in, args=(limits, run_dir, text, started), daemon=True).start()
            loop.call_soon_threadsafe(stop_for_it)

    with looking_after(WATCH, settings.timeout_s, act):
        yield


def _end_in(limits: Mapping[threading.Event, float], run_dir: Path, text: str, started: float) -> None:
    """Ends this process, and with it a multirun, from a thread that does not depend on what hangs.

    Unless each of the events comes within its seconds: the run hears that it is to stop, and then ends by itself.
    """
    if all(event.wait(seconds) for event, seconds in limits.items()):
        return
    tell(f"error: {text}; the run did not end by itself")
    try:
        if current().is_first:
            why, wall_s = f"Stuck: {text}", perf_counter() - started
            write_summary(run_dir, summarise_run(run_dir, outcome=Outcome.failed, why=why, wall_s=wall_s))
            write_report(run_dir)
    finally:
        os._exit(1)
