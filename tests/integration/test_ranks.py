"""Whole runs of several processes: they are the run of one, resume with another number, and end together."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from integration_runs import SHARDED, lines, weights
from killed_runs import KillableRun, Starter
from several_ranks import MAIN, environment_of
from turnwise.config.stopping import STOP_FILE
from turnwise.report.summary import Outcome, read_summary
from turnwise.tracker.bundle import bundle_path, read_groups
from turnwise.tracker.evaluations import WITHOUT_TOOL, set_folder

RUN = (
    "trainer=fsdp",
    "trainer.device=cpu",
    "rollout.num_problems=4",
    "rollout.group_size=3",
    "evaluation.num_problems=5",
    "trainer.eval_every=2",
    "trainer.save_every=1",
)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(MAIN))
TOLERANCE = 1e-5
"""Between the weights of runs of different numbers of processes, absolute, after three steps of learning rate 2e-4."""
ROUNDING = 1e-4
"""Between figures of what engine and trainer disagree on: each is rounding alone, and its largest the least alike."""
CUT = ("update/num_micro_batches", "update/shared_fraction")
"""Figures of how a batch was cut."""


def printed(ranks: Sequence[KillableRun]) -> list[str]:
    """What each said, once all have ended well."""
    codes, texts = [one.wait() for one in ranks], [one.output.read_text() for one in ranks]
    assert codes == [0] * len(ranks), texts
    return texts


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Started by torchrun itself."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    command = [*TORCHRUN, *RUN, "trainer.num_steps=3", f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def assert_alike(one: Path, other: Path) -> None:
    for left, right in zip(lines(one), lines(other), strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            if not name.startswith(CUT):
                atol = ROUNDING if name.startswith("mismatch/") else 2e-5
                assert right[name] == pytest.approx(value, rel=1e-3, abs=atol), name
    theirs = weights(other)
    for name, weight in weights(one).items():
        torch.testing.assert_close(theirs[name], weight, rtol=0, atol=TOLERANCE)


def at_step_two(run_dir: Path, folder: Path) -> Path:
    """A copy of a finished run, as if it had been killed behind its second step."""
    shutil.copytree(run_dir, folder, symlinks=True)
    checkpoints = folder / "checkpoints"
    shutil.rmtree(checkpoints / "step_3")
    (checkpoints / "last").unlink()
    (checkpoints / "last").symlink_to("step_2")
    return folder


def test_two_processes_are_the_run_of_one(of_two: Path, start: Starter, tmp_path: Path):
    single = [one for one in RUN if one != "trainer=fsdp"]
    printed([start([*single, "trainer.num_steps=3"], tmp_path / "one")])
    assert_alike(tmp_path / "one", of_two)
    bundles = [sorted(path.name for path in (folder / "groups").iterdir()) for folder in (tmp_path / "one", of_two)]
    assert bundles[0] == bundles[1] == [f"step_{step}.jsonl.gz" for step in range(3)]
    assert read_summary(of_two).outcome is Outcome.finished


@pytest.mark.parametrize("num_ranks", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_checkpoint_of_two_goes_on_with_another_number(num_ranks: int, of_two: Path, start: Starter, tmp_path: Path):
    folder = at_step_two(of_two, tmp_path / "copy")
    first, *others = printed(start.ranks(num_ranks, (*RUN, "trainer.num_steps=3"), folder))
    assert "step 3/3" in first
    assert "goes on after step 2 of 3, from " in first
    assert "step 2/3" not in first
    assert set(others) <= {""}, "only the first speaks"
    assert_alike(of_two, folder)


@pytest.mark.slow
def test_an_adapter_that_two_processes_train_is_that_of_one(start: Starter, tmp_path: Path):
    """Its random beginning too, which each draws by itself."""
    sharded = (*SHARDED, "trainer.num_steps=2", "model.lora_rank=4", "trainer.learning_rate=1e-3")
    printed([start([one for one in sharded if one != "trainer=fsdp"], tmp_path / "one")])
    printed(start.ranks(2, sharded, tmp_path / "two"))
    assert_alike(tmp_path / "one", tmp_path / "two")


def test_a_file_that_tells_the_ranks_to_stop_costs_neither_checkpoint_nor_report(tmp_path: Path):
    """As `experiments/slurm/train.sbatch` does it. torchrun ends those that still live when the first has ended."""
    folder, stop = tmp_path / "run", tmp_path / "stop"
    command = [*TORCHRUN, *SHARDED, "trainer.num_steps=1000", "trainer.save_every=1000", f"hydra.run.dir={folder}"]
    environment = {**os.environ, STOP_FILE: str(stop)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        until = time.monotonic() + 120
        while not (folder / "groups").exists():
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        stop.touch()
        _, errors = run.communicate(timeout=120)
    assert run.returncode == 1, errors
    assert read_summary(folder).outcome is Outcome.stopped
    assert (folder / "report.html").exists()
    assert (folder / "checkpoints" / "last").exists()


def test_an_evaluation_by_two_processes_is_that_of_one(start: Starter, tmp_path: Path):
    """Of five problems, of which one process takes two and the other three, with the tool and without."""
    chosen = ("mode=evaluate", "trainer.device=cpu", "evaluation.num_problems=5", "mode.second_opinion=false")
    chosen = (*chosen, "evaluation.tools=both")
    one, two = tmp_path / "one", tmp_path / "two"
    printed([start(chosen, one)])
    assert printed(start.ranks(2, chosen, two))[1] == "", "only the first speaks"
    (alone,), (together,) = lines(one), lines(two)
    assert together == pytest.approx(alone, rel=1e-5)
    for name in ("arithmetic", f"arithmetic{WITHOUT_TOOL}"):
        found = [read_groups(bundle_path(set_folder(folder, name), 0)) for folder in (one, two)]
        said = [[one.token_ids for scored, _ in groups for one in scored.group.trajectories] for groups in found]
        assert said[0] == said[1], "the same trajectories in the same order"
        assert len(said[0]) == 5
    assert read_summary(two).outcome is Outcome.finished


def test_mistakes_end_all_ranks_with_one_line_of_the_first(start: Starter, tmp_path: Path):
    def refused(*of_ranks: str) -> str:
        folder = tmp_path / "refused"
        ranks = [
            start([*RUN, *filter(None, [word])], folder, environment=environment)
            for word, environment in zip(of_ranks, environment_of(2), strict=True)
        ]
        assert [one.wait(60) for one in ranks] == [2, 2]
        of_first, of_second = (one.output.read_text() for one in ranks)
        assert of_second == "", "it leaves the first to speak"
        assert not folder.exists(), "nothing began"
        assert "Traceback" not in of_first
        (line,) = [line for line in of_first.splitlines() if line.startswith("error: ")]
        return line

    assert "trainer.nonsense: no such key" in refused("trainer.nonsense=1", "trainer.nonsense=1")
    line = refused("rollout.num_problems=5", "rollout.num_problems=5")
    assert "rollout.num_problems=5: 2 processes cannot share them evenly, expected a multiple of 2" in line
    line = refused("", "model.path=nowhere")
    assert "rank 1: model.path='nowhere': no such folder" in line, "what one of them alone meets ends all"
