"""Evaluations of real models: killed and resumed, with and without the tool, and a suite from files."""

import json
import signal
import time
from pathlib import Path

import pytest

from integration_runs import IN_PROCESS, SMALL, Run, lines
from killed_runs import Starter
from turnwise.config.errors import ConfigError
from turnwise.tracker.bundle import bundle_path, read_groups
from turnwise.tracker.evaluations import read_results, set_folder

LONG = ("mode=evaluate", "evaluation.num_problems=24", "evaluation.num_samples=2", "evaluation.wave_size=16")


def test_a_killed_evaluation_goes_on_and_gives_the_figures_of_a_whole_one(run: Run, start: Starter, tmp_path: Path):
    killed = tmp_path / "killed"
    bundle = bundle_path(set_folder(killed, "arithmetic"), 0)
    process = start([*SMALL, *LONG], killed)
    while not bundle.exists():
        assert process.code is None, process.output.read_text()
        time.sleep(0.02)
    assert process.kill() == -signal.SIGKILL
    kept = [scored.group.problem.id for scored, _ in read_groups(bundle)]
    assert 0 < len(kept) < 24
    assert len(kept) % 8 == 0, "waves are kept whole"
    kept_bytes = bundle.read_bytes()
    resumed, whole = run(*LONG, folder="killed"), run(*LONG, folder="whole")
    assert bundle.read_bytes().startswith(kept_bytes)
    assert lines(resumed) == lines(whole)


def test_what_the_tool_is_worth(run: Run):
    both = run("mode=evaluate", "evaluation.tools=both", "evaluation.num_problems=16")
    results = {result.name: result for result in read_results(both)}
    gain = results["arithmetic"].tool_gain
    assert gain is not None
    without = results["arithmetic_without_tool"]
    assert gain.value == pytest.approx(results["arithmetic"].accuracy.value - without.accuracy.value)
    assert without.rates["tool_use"] == 0.0
    assert set(without.turn_counts) == {1}
    off = run("mode=evaluate", "evaluation.tools=off", "evaluation.num_problems=16", folder="off")
    assert [result.name for result in read_results(off)] == ["arithmetic_without_tool"]
    assert {k: v for k, v in lines(off)[0].items() if k != "step"}.items() <= lines(both)[0].items()
    assert json.loads((off / "summary.json").read_text())["final"]["accuracy"] == without.accuracy.value


def test_other_weights_are_not_mixed_in(run: Run):
    trained = run(
        *IN_PROCESS, "trainer.num_steps=2", "trainer.save_every=1", "trainer.keep_checkpoints=0", folder="trained"
    )
    model = trained / "model"
    model.symlink_to(trained / "checkpoints" / "step_1")
    run(*IN_PROCESS, "mode=evaluate", f"model.path={model}", folder="evaluated")
    model.unlink()
    model.symlink_to(trained / "checkpoints" / "step_2")
    with pytest.raises(ConfigError, match=r"other weights.*name another hydra\.run\.dir"):
        run(*IN_PROCESS, "mode=evaluate", f"model.path={model}", folder="evaluated")
