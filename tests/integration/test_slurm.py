"""The batch script for Slurm, with stand-ins for Slurm's commands: when it stops a run, and when it queues it again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "slurm" / "train.sbatch"
SCONTROL = """
case $1 in
    show) echo first; sleep 0.1; echo second ;; # who reads the first line alone would have it killed
    *) echo "$@" >> requeued ;;
esac
"""
SRUN = """
echo "$@" > arguments
while [[ ! -e $TURNWISE_STOP_FILE && ! -e end ]]; do sleep 0.05; done
exit "$(cat code)"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with the commands; what they were told is left in it."""
    for name, program in {"scontrol": SCONTROL, "srun": SRUN}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{program}")
        path.chmod(0o755)
    return tmp_path


def submitted(cluster: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    allocation = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "first,second", "SLURM_JOB_NUM_NODES": "2"}
    environment = {"PATH": f"{cluster / 'bin'}:{os.environ['PATH']}", **allocation, **variables}
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments],
        cwd=cluster,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_it_runs(job: subprocess.Popen[str], cluster: Path) -> None:
    until = time.monotonic() + 60
    while not (cluster / "arguments").exists():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(("code", "requeued"), [(1, True), (0, False)])
def test_before_its_time_is_over_the_run_is_stopped_and_queued_again_unless_it_has_finished(
    cluster: Path, code: int, requeued: bool
) -> None:
    (cluster / "code").write_text(str(code))
    (cluster / "run.stop").touch()  # of an earlier start, which must not stop this one
    job = submitted(cluster, "run", "algo=grpo", "task.path=my problems.jsonl", SLURM_GPUS_ON_NODE="8")
    wait_until_it_runs(job, cluster)
    assert not (cluster / "run.stop").exists()
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == code
    assert (cluster / "requeued").exists() == requeued
    assert not (cluster / "run.stop").exists()
    arguments = (cluster / "arguments").read_text()
    assert "--nnodes=2 --nproc-per-node=8" in arguments
    assert "--rdzv-endpoint=first:29500" in arguments
    assert arguments.endswith("src/main.py trainer=fsdp hydra.run.dir=run algo=grpo task.path=my problems.jsonl\n")
    if requeued:
        assert (cluster / "requeued").read_text() == "requeue 7\n"


def test_a_run_that_fails_or_is_cancelled_is_not_queued_again(cluster: Path) -> None:
    (cluster / "code").write_text("3")
    job = submitted(cluster, "run", NPROC="2")
    wait_until_it_runs(job, cluster)
    job.send_signal(signal.SIGTERM)  # which Slurm sends to the run as well; the script waits for its end
    time.sleep(0.3)
    assert job.poll() is None
    job.send_signal(signal.SIGUSR1)  # too late
    (cluster / "end").touch()
    assert job.wait(60) == 3
    assert not (cluster / "requeued").exists()


def test_what_is_missing_is_named(cluster: Path) -> None:
    for arguments, said in (([], "expected the folder of the run"), (["run"], "no GPU is allocated: set NPROC")):
        job = submitted(cluster, *arguments)
        _, errors = job.communicate(timeout=60)
        assert job.returncode != 0
        assert said in errors
