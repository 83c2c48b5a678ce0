"""Processes forked from one that has the imports behind it, where a new interpreter would take seconds for them."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest.mock import patch

TESTS = Path(__file__).parent
PRELOADED = (
    "broken_rewards",
    "ranks_at_work",
    "two_processes",
    "turnwise.preflight.workers",
    "turnwise.reward.information_gain",
    "turnwise.reward.turn_level",
    "transformers.models.llama.modeling_llama",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
)
"""What that process imports before it forks."""


@contextmanager
def forking() -> Iterator[ForkServerContext]:
    """Starts processes by forks of one that lasts as long as this one, and has nothing but imports behind it.

    They have the environment in which the first of them was started. What cannot be
    imported is passed over.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])):
        yield context
