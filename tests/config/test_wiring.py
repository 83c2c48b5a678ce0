"""What the live parts of a run say and record as they start."""

import json
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from turnwise.config.provenance import CONFIG_FILE, write_config
from turnwise.config.wiring import start_environments
from turnwise.types import Isolation


@pytest.mark.parametrize(
    ("isolation", "recorded", "said"),
    [
        (Isolation.A, "A", "isolation of the policy's programs: tier A: namespaces, Landlock, seccomp, limits\n"),
        (Isolation.remote, "remote", "isolation of the policy's programs: that of the server of env.sandbox.url\n"),
        (Isolation.unsafe, "unsafe", "the policy's programs are not isolated: they can do all that you can\n"),
        (None, None, ""),
    ],
)
def test_isolation_is_said_and_recorded_with_the_newest_start(
    tmp_path: Path, isolation: Isolation | None, recorded: str | None, said: str
) -> None:
    write_config(tmp_path, {"config": {}, "starts": [{"git": "first"}, {"git": "second"}]})
    pool = SimpleNamespace(isolation=isolation)
    console = Console(file=StringIO(), width=200)
    components = cast(Any, SimpleNamespace(env=SimpleNamespace(start=lambda: pool)))
    assert start_environments(components, tmp_path, console) is pool
    starts = json.loads((tmp_path / CONFIG_FILE).read_text())["starts"]
    assert starts == [{"git": "first"}, {"git": "second", "isolation": recorded}]
    assert cast(StringIO, console.file).getvalue() == said
