"""What a run says at an end that is not its own."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from turnwise.config.build import build_components
from turnwise.config.ending import closing
from turnwise.config.provenance import describe_run, write_config
from turnwise.ranks import RankLost

LOSS = "[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1"


@pytest.mark.parametrize(
    ("has_checkpoints", "step", "words"),
    [
        (True, 3, "the same command with this hydra.run.dir goes on after step 3"),
        (True, None, "there is no checkpoint yet: the same command with this hydra.run.dir begins anew"),
        (False, None, "the same command with this hydra.run.dir goes on"),  # an evaluation, by what it keeps
    ],
)
def test_a_run_that_loses_a_rank_says_how_it_goes_on(
    composed, tmp_path: Path, has_checkpoints: bool, step: int | None, words: str
) -> None:
    components = build_components(composed(), label="test")
    write_config(tmp_path, describe_run(components, choices={}, overrides=[]))
    if step is not None:
        (tmp_path / "checkpoints" / f"step_{step}").mkdir(parents=True)
        (tmp_path / "checkpoints" / "last").symlink_to(f"step_{step}")
    with (
        pytest.raises(RankLost, match=f"^another process of this run has ended; {words}$"),
        closing(tmp_path, ExitStack(), Console(quiet=True), has_checkpoints=has_checkpoints),
    ):
        raise RuntimeError(LOSS)
