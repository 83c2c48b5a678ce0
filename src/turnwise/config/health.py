"""What a run does about its health: alarms are told, a collapse is rolled back, what is stuck is written down."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from turnwise import checkpoint
from turnwise.config.checks import find_checkpoint
from turnwise.config.parts import Components
from turnwise.config.wiring import say
from turnwise.health import Collapsed, Health
from turnwise.health_settings import Action
from turnwise.protocols import Policy, Task
from turnwise.ranks import current
from turnwise.rotation import found_steps
from turnwise.seeding import derive_seed
from turnwise.tracker.bundle import bundle_path, bundle_steps
from turnwise.tracker.files import read_metrics, write_metrics
from turnwise.tracker.health import Alarm, append_alarm, num_roll_backs
from turnwise.trainer_settings import TrainerSettings
from turnwise.watchdog import WATCH, Stuck, Work, looking_after, tell, write_stacks

ROLLED_BACK = "rolled_back"
"""In a run's folder: the figures and trajectories of steps that it went back behind, time by time."""
NOT_FINITE = "not_finite"


def start_health(components: Components, run_dir: Path, console: Console) -> Health:
    """Follows the run's figures from the lines that metrics.jsonl has of it; the first rank tells of alarms."""

    def tell_of(alarm: Alarm) -> None:
        if current().is_first:
            append_alarm(run_dir, alarm)
            say(console, f"warning: health.{alarm.words}")

    return Health(components.health, read_metrics(run_dir), tell_of)


def after_roll_backs(components: Components, run_dir: Path) -> tuple[int, TrainerSettings]:
    """The seed of the samples and the settings of the optimiser of a run that went back so often as its folder says."""
    times = num_roll_backs(run_dir)
    if not times:
        return components.seed, components.trainer
    learning_rate = components.trainer.learning_rate * components.health.learning_rate_factor**times
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

    Every rank calls it. Figures and trajectories of the steps that are given up move to `rolled_back/<time>/`.

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
    times = num_roll_backs(run_dir)
    folder = run_dir / "checkpoints"
    before = alarm.since if isinstance(trouble, Collapsed) else alarm.step + 1
    good = max((step for step in found_steps(folder) if step < before), default=None)
    if times >= health.max_roll_backs or good is None:
        why = "there is no checkpoint from before" if good is None else f"it did so {times} times already"
        if ranks.is_first:
            append_alarm(run_dir, replace(alarm, action=Action.stop.value))
        raise Collapsed(alarm, f"; it was to go back, but {why}") from trouble
    if ranks.is_first:
        _keep_evidence(run_dir, run_dir / ROLLED_BACK / str(times + 1), good)
        checkpoint.take_back(folder, good)
    ranks.wait()
    found = find_checkpoint(folder, ranks)
    assert found is not None, f"{folder} lost its checkpoints"
    step = checkpoint.restore(found, policy, task)
    if ranks.is_first:  # last: a kill before it repeats the steps that led here, to the same end
        append_alarm(run_dir, replace(alarm, to=step))
        say(
            console,
            f"warning: health.{alarm.words}: back to the checkpoint of step {step}, with other samples and "
            f"{health.learning_rate_factor ** (times + 1):g} x trainer.learning_rate; what is given up lies in "
            f"{ROLLED_BACK}/{times + 1}",
        )
    ranks.wait()
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
async def watching(components: Components, run_dir: Path, over: threading.Event) -> AsyncIterator[None]:
    """Looks for what is stuck while the block runs in the present task; stacks go to `run_dir`.

    A run that is to stop for it and is not `over` in time, since it does not listen, is ended with its process.

    Raises:
        Stuck: Something is, and `health.watchdog.action` is stop; the block was cancelled for it.
    """
    settings, task, loop = components.health.watchdog, asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    if not settings.timeout_s or settings.action is Action.off:
        yield
        return
    found: list[Stuck] = []
    rank = f"_rank{current().index}" if current().count > 1 else ""

    def act(standing: dict[Work, float]) -> None:
        number = 1 + sum(1 for _ in run_dir.glob(f"stuck_*{rank}.txt"))
        path = run_dir / f"stuck_{number}{rank}.txt"
        stood = ", ".join(f"{kind} for {seconds:.0f} s" for kind, seconds in standing.items())
        text = f"no progress of {stood} (health.watchdog.timeout_s={settings.timeout_s:g})"
        write_stacks(path, text, loop)
        if settings.action is Action.warn:
            tell(f"warning: {text}; stacks are in {path}")
        elif not found:
            found.append(Stuck(f"{text}; stacks are in {path}"))
            threading.Thread(target=_end_in, args=(over, settings.grace_s, found[0]), daemon=True).start()
            loop.call_soon_threadsafe(task.cancel)

    with looking_after(WATCH, settings.timeout_s, act):
        try:
            yield
        except asyncio.CancelledError:
            if found:
                raise found[0] from None
            raise


def _end_in(over: threading.Event, seconds: float, stuck: Stuck) -> None:
    """Ends this process from a thread that does not depend on what hangs, unless the run ends by itself before."""
    if not over.wait(seconds):
        tell(f"error: {stuck}; the run did not end by itself within {seconds:g} s")
        os._exit(1)
