"""Composes configurations as the command line does, and runs `main` inside this process."""

import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from omegaconf import DictConfig, open_dict

import main
from turnwise.config import launch
from turnwise.config.build import build_mode
from turnwise.config.label import register_label
from turnwise.config.options import CONF_DIR, register_help
from turnwise.config.parts import Components, Mode
from turnwise.config.schema import register_schemas


@pytest.fixture(scope="session", autouse=True)
def registered() -> None:
    register_label()
    register_help()
    register_schemas()


@cache
def compose_all(*overrides: str) -> DictConfig:
    """The whole configuration, Hydra's own part included."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


@pytest.fixture
def composed() -> Callable[..., DictConfig]:
    """`composed("algo=grpo", "seed=1")`: the configuration that a run would get."""

    def run_config(*overrides: str) -> DictConfig:
        config = deepcopy(compose_all(*overrides))
        with open_dict(config):
            del config["hydra"]
        return config

    return run_config


@pytest.fixture
def composed_whole() -> Callable[..., DictConfig]:
    """The same with Hydra's own part."""
    return lambda *overrides: compose_all(*overrides)


@pytest.fixture
def choices() -> Callable[..., dict[str, str | None]]:
    """`choices("algo=grpo")`: the option that each config group ended up with."""
    return lambda *overrides: dict(compose_all(*overrides).hydra.runtime.choices)


class Ended(NamedTuple):
    """How a start of `main` ended."""

    code: int
    stdout: str
    stderr: str
    runs: list[tuple[Components, Path]]
    """What the mode was called with, job by job."""


class Instead:
    """What is known of one mode, and what another one does."""

    def __init__(self, mode: Mode, act: Callable[[Components, Path], None]) -> None:
        self.takes_ranks, self.looks_at_steps = mode.takes_ranks, mode.looks_at_steps
        self._act = act

    def __call__(self, components: Components, run_dir: Path) -> None:
        self._act(components, run_dir)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """`start("algo=grpo")` runs `main` in `tmp_path`; another mode takes the place of the one that is built."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # main changes it; this brings back what was there

    def run(*arguments: str, mode: Mode | None = None) -> Ended:
        runs: list[tuple[Components, Path]] = []

        def built(config: DictConfig) -> Mode:
            def act(components: Components, run_dir: Path) -> None:
                runs.append((components, run_dir))

            return cast(Mode, Instead(build_mode(config), mode or act))

        monkeypatch.setattr(launch, "build_mode", built)
        # Hydra composes everything once more beforehand, just to look for hydra.mode: half the time of these tests.
        monkeypatch.setattr(Hydra, "get_mode", lambda self, config_name, overrides: None)
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
        code = 0
        try:
            main.main()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err, runs)

    return run
