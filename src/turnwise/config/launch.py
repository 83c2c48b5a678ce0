"""One run, from its composed configuration to its end."""

from contextlib import suppress
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from turnwise.config.build import build_components, build_mode
from turnwise.config.errors import ConfigError
from turnwise.config.label import given_overrides, label_of
from turnwise.config.provenance import CONFIG_FILE, check_same_run, describe_run, write_config
from turnwise.tracker.atomic import write_atomically


def launch(config: DictConfig) -> None:
    """Builds what `config` names, records it in the run's folder and runs its mode.

    Raises:
        ConfigError: The user's mistake. A folder that this start made for nothing is gone again, and the record of
            an earlier start is as it was; so too when the user interrupts it before it has begun.
    """
    hydra = cast(DictConfig, HydraConfig.get())
    run_dir, label = Path(hydra.runtime.output_dir), label_of(hydra)
    path = run_dir / CONFIG_FILE
    before = path.read_bytes() if path.exists() else None
    try:
        components = build_components(config, label)
        mode = build_mode(config)
        record = describe_run(components, choices=hydra.runtime.choices, overrides=given_overrides(hydra))
        check_same_run(run_dir, record)
        write_config(run_dir, record)
        mode(components, run_dir)
    except (ConfigError, KeyboardInterrupt):
        if before is None:
            _remove_if_unused(run_dir, label)
        elif path.read_bytes() != before:
            write_atomically(path, before)
        raise


def _remove_if_unused(run_dir: Path, label: str) -> None:
    """Takes back an output folder in which nothing happened, and the label's folder above it when that is empty."""
    if [path.name for path in run_dir.iterdir()] == [CONFIG_FILE]:
        (run_dir / CONFIG_FILE).unlink()
    with suppress(OSError):
        run_dir.rmdir()
        if run_dir.parent.name == label:
            run_dir.parent.rmdir()
