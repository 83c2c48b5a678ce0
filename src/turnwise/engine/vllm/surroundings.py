"""What the processes of a vLLM find around them: nothing of torchrun, their rank's own device, and their trainer."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker, spawn
from pathlib import Path

from turnwise.ranks import Ranks, current

TORCHRUN = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)
"""Variables that tell a rank of the others, beside those that begin with `TORCHELASTIC`."""
WRAPPER = Path(__file__).with_name("ends_with_trainer.sh")
"""Is started in place of the interpreter."""


def environment(base: Mapping[str, str], ranks: Ranks, num_gpus: int) -> dict[str, str]:
    """The variables of a vLLM that belongs to one of `ranks`, made from those of its trainer.

    vLLM has a group of its own, of one process, and would take the trainer's for it. It takes the first GPU that it
    sees, and on a CPU all processors, unless it is told otherwise; a user who has told it so is obeyed.

    Args:
        base: The trainer's.
        ranks: Its place among the ranks.
        num_gpus: How many the trainer sees.
    """
    own = {key: value for key, value in base.items() if key not in TORCHRUN and not key.startswith("TORCHELASTIC")}
    if ranks.local_count == 1:
        return own
    if ranks.local_index < num_gpus:
        visible = base.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(num_gpus)))
        own["CUDA_VISIBLE_DEVICES"] = visible.split(",")[ranks.local_index].strip()
        return own
    processors = sorted(os.sched_getaffinity(0))
    first = ranks.local_index * len(processors) // ranks.local_count
    bound = processors[first : first + ranks.part(len(processors))]
    return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, bound)), **own}


def of_this_rank() -> dict[str, str]:
    """`environment` of a vLLM that this process starts."""
    import torch

    return environment(os.environ, current(), torch.cuda.device_count())


@contextmanager
def around_children() -> Iterator[None]:
    """What multiprocessing starts meanwhile has `of_this_rank` for its variables, and is killed when this process ends.

    The main thread starts it, since the kernel takes the end of the thread that started a process for that of its
    parent. It begins as a new interpreter: a fork would believe itself in the trainer's process group.
    """
    resource_tracker.ensure_running()  # a process that must outlive this one: it removes what those killed have left
    before, executable = dict(os.environ), os.fsdecode(spawn.get_executable())
    ours = {"TURNWISE_TRAINER": str(os.getpid()), "TURNWISE_PYTHON": executable}
    _replace_environment({**of_this_rank(), **ours, "VLLM_WORKER_MULTIPROC_METHOD": "spawn"})
    spawn.set_executable(str(WRAPPER))
    try:
        yield
    finally:
        spawn.set_executable(executable)
        _replace_environment(before)


def _replace_environment(variables: Mapping[str, str]) -> None:
    for key in os.environ.keys() - variables.keys():
        del os.environ[key]
    os.environ.update(variables)
