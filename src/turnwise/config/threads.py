"""How many threads torch computes with on a CPU."""

import os

import torch

from turnwise.ranks import current


def num_threads(wanted: int) -> int:
    """Those of `model.num_threads`; where that is 0, torch's choice, or a rank's part of the machine's processors.

    torchrun sets OMP_NUM_THREADS to 1 unless the user has set it. What the user set above that stays.
    """
    ranks = current()
    if wanted or ranks.local_count == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return wanted or torch.get_num_threads()
    return ranks.part(len(os.sched_getaffinity(0)))
