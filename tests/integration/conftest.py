"""Starts small runs, in this process or in others."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from integration_runs import SMALL, Run
from killed_runs import Starter, starter
from turnwise.config.build import build_components, build_mode
from turnwise.config.label import register_label
from turnwise.config.options import CONF_DIR, register_help
from turnwise.config.parts import Components
from turnwise.config.provenance import describe_run, write_config
from turnwise.config.schema import register_schemas


def run_in(run_dir: Path, overrides: Sequence[str]) -> Path:
    register_label()
    register_help()
    register_schemas()
    run_dir.mkdir(exist_ok=True)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("config", [*SMALL, *overrides])
    components = build_components(config, label="test")
    write_config(run_dir, describe_run(components, choices={}, overrides=overrides))
    build_mode(config)(components, run_dir)
    return run_dir


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a mode in the named folder below the test's own and returns that folder."""
    return lambda *overrides, folder="run": run_in(tmp_path / folder, overrides)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The folder of a run from its beginning to its end, made once for all tests, which only read it."""

    @cache
    def made(*overrides: str) -> Path:
        return run_in(tmp_path_factory.mktemp("whole"), overrides)

    return made


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts runs as processes of their own, which a test may kill."""
    with starter(tmp_path_factory.mktemp("started")) as runs:
        yield runs


@pytest.fixture
def components() -> Components:
    """Those of a small run with every default."""
    register_label()
    register_help()
    register_schemas()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return build_components(compose("config", list(SMALL)), label="test")
