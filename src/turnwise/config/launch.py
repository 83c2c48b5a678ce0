"""One run, from its composed configuration to its end."""

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from turnwise.config.build import build_components, build_mode
from turnwise.config.errors import ConfigError, JobEnded, building
from turnwise.config.label import given_overrides, label_of
from turnwise.config.parts import Mode
from turnwise.config.provenance import CONFIG_FILE, check_same_run, describe_run, write_config
from turnwise.config.stopping import INTERRUPTED, is_told_to_stop, tell_launcher
from turnwise.engine.vllm.backend import NoVLLMLeft
from turnwise.env.breaker import BrokenToolError
from turnwise.health import Collapsed
from turnwise.ranks import ALONE, Ranks, current
from turnwise.report.summary import Outcome, summarise_run, write_summary
from turnwise.tracker.atomic import write_atomically
from turnwise.watchdog import Stuck


def launch(config: DictConfig) -> None:
    """Builds what `config` names, records it in the run's folder and runs its mode.

    Raises:
        ConfigError: The user's mistake. A folder that this start made for nothing is gone again, and the record of
            an earlier start is as it was; so too when the user interrupts it before it has begun.
        BrokenToolError: The tool fails too often to go on.
        NoVLLMLeft: No server samples any more.
        JobEnded: In a multirun, where the other jobs go on: the mode refused what is asked of it or its tool broke,
            which the folder's summary.json then says, or the run was told to stop by the file of `stopping.STOP_FILE`.
    """
    hydra = cast(DictConfig, HydraConfig.get())
    try:
        _launch(config, hydra)
    except (KeyboardInterrupt, SystemExit):
        tell_launcher()
        if hydra.mode is RunMode.MULTIRUN and is_told_to_stop():
            raise JobEnded("stopped; the same command goes on from here", INTERRUPTED) from None
        raise


def _launch(config: DictConfig, hydra: DictConfig) -> None:
    run_dir, label, ranks = Path(hydra.runtime.output_dir), label_of(hydra), current()
    if not ranks.is_first:
        logging.disable(logging.WARNING)  # the first rank says the same
    try:
        if is_told_to_stop():
            raise KeyboardInterrupt
        with ExitStack() as held:
            with building():
                components = build_components(config, label)
                mode = build_mode(config)
                _check_ranks(ranks, mode, hydra)
                _check_monitors(mode, hydra)
                record = describe_run(components, choices=hydra.runtime.choices, overrides=given_overrides(hydra))
                if ranks.is_first:
                    held.enter_context(alone_in(run_dir, ranks))
                    check_same_run(run_dir, record)
                    held.enter_context(recorded(run_dir, record))
            with building():
                if not ranks.is_first:
                    held.enter_context(alone_in(run_dir, ranks))
            try:
                mode(components, run_dir)
            except ConfigError as error:
                if hydra.mode is not RunMode.MULTIRUN:
                    raise
                write_summary(run_dir, summarise_run(run_dir, outcome=Outcome.failed, why=str(error), wall_s=0.0))
                raise JobEnded(f"{label}: {error}", 2) from error
            except (BrokenToolError, Collapsed, NoVLLMLeft, Stuck) as error:
                if hydra.mode is not RunMode.MULTIRUN:
                    raise
                raise JobEnded(f"{label}: {error}", 1) from error
    except FolderInUse:
        raise
    except (ConfigError, KeyboardInterrupt):
        if ranks.is_first:
            _remove_if_empty(run_dir, label)
        raise


def _check_ranks(ranks: Ranks, mode: Mode, hydra: DictConfig) -> None:
    """Refuses what torchrun's processes cannot do together.

    Raises:
        ConfigError: The mode is for one process, or there are several jobs.
    """
    if ranks.count > 1 and hydra.mode is RunMode.MULTIRUN:
        raise ConfigError(f"--multirun under torchrun, which started {ranks.count} processes: expected one run a start")
    if ranks.count > 1 and not mode.takes_ranks:
        raise ConfigError(
            f"mode={hydra.runtime.choices.mode} is for one process, and torchrun started {ranks.count}: expected "
            f"python src/main.py without torchrun"
        )


def _check_monitors(mode: Mode, hydra: DictConfig) -> None:
    """Refuses a monitor on the command line of a mode in which it would look at nothing; a preset may set one.

    Raises:
        ConfigError: There is one.
    """
    keys = [override.partition("=")[0].lstrip("+") for override in given_overrides(hydra)]
    asked = [key for key in keys if f"{key}.".startswith("health.") and not key.startswith("health.watchdog.")]
    if asked and not mode.looks_at_steps:
        raise ConfigError(
            f"{asked[0]}: the monitors look at the steps of mode=train, and mode={hydra.runtime.choices.mode} has none "
            f"of these; expected nothing of health but health.watchdog.NAME=VALUE"
        )


class FolderInUse(ConfigError):
    """Another process works in the run's folder."""


@contextmanager
def alone_in(run_dir: Path, ranks: Ranks = ALONE) -> Iterator[None]:
    """Holds the folder for this process; of several ranks for each, the first before the others.

    So no run begins there as long as one of them may still write.

    Raises:
        FolderInUse: A process of another run works in it.
    """
    descriptor = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ranks.is_first:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if ranks.count > 1:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FolderInUse(
            f"hydra.run.dir={run_dir}: another process works in this folder; wait for it, end it or name another"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def recorded(run_dir: Path, record: Mapping[str, Any]) -> Iterator[None]:
    """Writes the record of the run, which is as it was before where nothing comes of this start."""
    path = run_dir / CONFIG_FILE
    before = path.read_bytes() if path.exists() else None
    write_config(run_dir, record)
    try:
        yield
    except (ConfigError, KeyboardInterrupt):
        if before is not None:
            write_atomically(path, before)
        elif [found.name for found in run_dir.iterdir()] == [CONFIG_FILE]:
            path.unlink()
        raise


def _remove_if_empty(run_dir: Path, label: str) -> None:
    """Takes back an output folder in which nothing happened, and the label's folder above it when that is empty."""
    with suppress(OSError):
        run_dir.rmdir()
        if run_dir.parent.name == label:
            run_dir.parent.rmdir()
