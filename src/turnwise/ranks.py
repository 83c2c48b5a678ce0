"""The processes of one run: each samples its share of a step's groups and holds its shard of the policy."""

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Timer
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
_PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others, whose rollouts may take longer; one that has died is noticed at once."""
_MEETING = timedelta(minutes=10)
"""How long it waits for them to start."""
_SILENT_S = 10.0
"""After this time it says that it waits."""


class RankFailed(RuntimeError):
    """Another rank failed in what all of them were at; its own traceback says more."""


class RankLost(RuntimeError):
    """Another rank has ended without a word to this one, as one that is killed does."""


_LOST = re.compile(
    r"gloo/transport/.*(Connection closed by peer|Connection reset by peer|Broken pipe)"
    r"|NCCL.*remote process exited",
    re.DOTALL,
)
"""What gloo and NCCL say, in a plain RuntimeError the one and a DistBackendError the other, when a peer is gone."""
_SPOKEN = "turnwise/spoken"
_LETTING_GO_S = 0.1
"""What gloo's threads are left to let go of the last tensors. They need the interpreter for it, and abort without."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place among those that train one policy together. By default it is alone.

    What the ranks tell one another here goes through the CPU. Every rank must come to each `gather`, `total` and
    `wait`, and to all of them in the same order.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0
    """Place among the ranks of this machine, which is the number of its GPU."""
    local_count: int = 1
    """Ranks of this machine, which share its processors and memory."""
    started: float = 0.0
    """When the first rank started, in seconds since the epoch; the same number on every rank."""

    @property
    def is_first(self) -> bool:
        """Whether it is this rank that writes files and speaks to the user."""
        return self.index == 0

    def share(self, size: int) -> slice:
        """Which of `size` things are this rank's: consecutive ones, and as many as any other's, or one more."""
        return slice(self.index * size // self.count, (self.index + 1) * size // self.count)

    def part(self, amount: int) -> int:
        """How many of `amount` things of this machine are this rank's: as many as any other's, or one more, or one."""
        return max(
            1, (self.local_index + 1) * amount // self.local_count - self.local_index * amount // self.local_count
        )

    def gather(self, value: T) -> list[T]:
        """What each rank gave, in their order."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def together(self, work: Callable[[], T]) -> list[T]:
        """What `work` gave on each rank; where it fails on one it fails on all.

        Raises:
            RankFailed: Another rank met an exception. One of this rank's own is raised as it is.
        """
        if self.count == 1:
            return [work()]
        done: list[T] = []
        error = None
        try:
            done.append(work())
        except Exception as met:
            error = met
        results = self.gather((done, described(error)))
        if error is not None:
            raise error
        check_all_well([failure for _, failure in results])
        return [result for of_rank, _ in results for result in of_rank]

    def by_first(self, work: Callable[[], T]) -> T:
        """What `work` gave on the first rank, which alone does it and meets no other in it; its failure is that of all.

        Raises:
            RankFailed: The first met an exception. There it is raised as it is.
        """
        given, *_ = self.together(lambda: [work()] if self.is_first else [])
        return given[0]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks of tensors of one shape, on the device of this one's."""
        if self.count == 1:
            return tensor
        import torch.distributed as dist

        summed = tensor.detach().cpu().clone()
        dist.all_reduce(summed)
        return summed.to(tensor.device)

    def wait(self) -> None:
        """Returns when every rank has come here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()


def described(error: Exception | None) -> str:
    """An exception in a line, for other ranks to hear of; empty for none."""
    return "" if error is None else "".join(traceback.format_exception_only(error)).strip()


def check_all_well(failures: Sequence[str]) -> None:
    """Raises RankFailed for the first rank that has described an exception."""
    for rank, failure in enumerate(failures):
        if failure:
            raise RankFailed(f"rank {rank}: {failure}")


ALONE = Ranks()
_current = ALONE
_store: "Store | None" = None
"""Where they met, if that is torchrun's own process: it outlives them."""


def current() -> Ranks:
    """The ranks that `joined` met; otherwise this process is alone."""
    return _current


@contextmanager
def noticing_loss(remedy: Callable[[], str]) -> Iterator[None]:
    """Has what breaks because another rank has ended be a RankLost, whichever library meets it; all else passes.

    Args:
        remedy: What to do then.

    Raises:
        RankLost: A connection between ranks was closed at its other end.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise RankLost(f"another process of this run has ended; {remedy()}") from error


def _is_loss(error: RuntimeError) -> bool:
    if isinstance(error, RankLost | RankFailed):
        return False
    from torch.distributed import DistNetworkError

    return _LOST.search(str(error)) is not None or (_current.count > 1 and isinstance(error, DistNetworkError))


def is_first_to_speak() -> bool:
    """Whether no rank has asked this before, so that of those that end one alone says why.

    It is torchrun that keeps count; where another program started the ranks, or it is gone, each is the first.
    """
    try:
        return _store is None or _store.add(_SPOKEN, 1) == 1
    except RuntimeError:  # torchrun has ended before its ranks
        return True


def has_torchrun() -> bool:
    """Whether torchrun started this process, and is there: it keeps the place of meeting, and passes signals on."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meets the processes that torchrun started together with this one, and leaves them at the end of this process.

    Raises:
        ValueError: torchrun's environment is incomplete or nobody is met.
    """
    global _current
    alone = replace(ALONE, started=time.time())
    _current = _meet(alone) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else alone
    try:
        yield _current
    finally:
        if _current.count > 1:
            import torch.distributed as dist

            time.sleep(_LETTING_GO_S)
            dist.destroy_process_group()  # which leaves the threads there as long as any DeviceMesh is


def _meet(alone: Ranks) -> Ranks:
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    global _store
    has_gpu = torch.cuda.is_available()
    local_index, local_count = (int(os.environ.get(*one)) for one in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")))
    if has_gpu and local_index < torch.cuda.device_count():  # `config.checks` refuses what needs more than there are
        torch.cuda.set_device(local_index)
    try:
        with _waiting(speaks=local_index == 0):
            store, index, count = next(rendezvous("env://", timeout=_MEETING))
            meeting = PrefixStore("turnwise", store)
            meeting.set(f"here/{index}", "")
            meeting.wait([f"here/{rank}" for rank in range(count)], _MEETING)  # torchrun's store is there before them
            store.set_timeout(_PATIENCE)
            backends = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
            dist.init_process_group(backends, store=meeting, rank=index, world_size=count, timeout=_PATIENCE)
            met = Ranks(index=index, count=count, local_index=local_index, local_count=local_count)
            met = replace(met, started=met.gather(alone.started)[0])
    except (RuntimeError, ValueError) as error:
        if _LOST.search(str(error)):
            raise
        raise ValueError(f"the other processes of torchrun cannot be met: {error}") from error
    if has_torchrun():
        _store = store
    return met


@contextmanager
def _waiting(*, speaks: bool) -> Iterator[None]:
    """Says what is waited for when it takes long. Meanwhile Ctrl-C is the kernel's: torch waits outside Python."""
    place = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    line = f"rank {os.environ['RANK']} waits for the others of WORLD_SIZE={os.environ['WORLD_SIZE']} at {place}"
    told = Timer(_SILENT_S, print, [line], {"file": sys.stderr, "flush": True})
    told.daemon = True
    before = signal.getsignal(signal.SIGINT)
    if speaks:
        told.start()
    if callable(before):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        told.cancel()
        if callable(before):
            signal.signal(signal.SIGINT, before)
