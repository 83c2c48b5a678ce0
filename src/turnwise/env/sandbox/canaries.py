"""Finds out how programs can be kept apart here: by running one that tries to get out."""

import asyncio
import errno
import json
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from turnwise.env.sandbox import attempts
from turnwise.env.sandbox.isolation import Lacking, Tier
from turnwise.env.sandbox.syscalls import HARMLESS_TO_TRY, numbers
from turnwise.types import ToolStatus

if TYPE_CHECKING:
    from turnwise.env.sandbox.local import LocalPool

T = TypeVar("T")
MAX_TOLD_CHARS = 80
"""What is told of a program that ended otherwise."""
MAX_FOLDER_CHARS = 60
"""A folder for temporary files with a longer name has no room for the name of a socket."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bait:
    """What a program that gets out would reach: this process, and what it made for the purpose."""

    trainer: int
    secret: str
    port: int
    socket_name: str
    datagrams: str
    calls: dict[str, int]
    refusal: int = errno.EPERM


def best_tier(start: "Callable[[Tier], LocalPool]", wanted: Sequence[Tier], *, allow_unsafe: bool) -> "LocalPool":
    """A pool in the first of the tiers that are `wanted` in which every attempt to get out fails.

    Raises:
        ValueError: Something gets out of all, and `allow_unsafe` is false; the message says what, or what is missing.
    """
    tiers: dict[str, list[Tier]] = {}  # by what is wrong with them
    for tier in wanted:
        try:
            pool = start(tier)
        except Lacking as error:
            tiers.setdefault(str(error), []).append(tier)
            continue
        except OSError as error:
            raise ValueError(f"env.sandbox: {error}") from error
        try:
            reason = weakness(pool)
        except ValueError:
            pool.end()
            raise
        if not reason:
            if tiers:
                log.warning("sandbox: tier %s, since %s", tier, _told(tiers))
            log.info("sandbox: tier %s, control groups: %s", tier, ", ".join(pool.facts.cgroups) or "none")
            if pool.facts.runs_as_root:
                log.warning("sandbox: programs are root's, without capabilities: no other user reaches the interpreter")
            return pool
        pool.end()
        tiers.setdefault(reason, []).append(tier)
    found = _told(tiers)
    if len(wanted) == 1:
        raise ValueError(
            f"env.sandbox.tier={wanted[0]} cannot be had on this machine ({found}): expected env.sandbox.tier=best, "
            f"which takes what there is, or another machine"
        )
    if not allow_unsafe:
        raise ValueError(
            f"env.sandbox: this machine has no means to isolate the policy's programs ({found}). Run where there are "
            f"libseccomp and Linux 5.13 (6.2 in many containers) with Landlock, or set env.sandbox.allow_unsafe=true: "
            f"programs can then do all that your user can"
        )
    log.warning("sandbox: programs are NOT isolated, env.sandbox.allow_unsafe=true (%s)", found)
    return start(Tier.unsafe)


def _told(tiers: Mapping[str, Sequence[Tier]]) -> str:
    """What is wrong with which tiers."""
    return "; ".join(f"tier {' and '.join(some)}: {reason}" for reason, some in tiers.items())


def weakness(pool: "LocalPool") -> str:
    """What is wrong with a pool: which attempts to get out succeed in it; empty where it holds.

    Raises:
        ValueError: The program that makes them did not come to its end: a limit is too low for any program.
    """
    with _bait() as bait:
        result = _wait_for(pool.run(_program(bait)))
    if result.status is ToolStatus.infrastructure:
        return result.stderr.strip()
    if result.status is not ToolStatus.ok:
        told = " ".join(result.output.split())[-MAX_TOLD_CHARS:]
        raise ValueError(
            f"env.sandbox: the program that tries to get out did not come to its end ({result.status}: {told}): "
            f"expected limits that leave room for a program"
        )
    escapes = json.loads(result.stdout)
    return f"a program got out by {', '.join(escapes)}" if escapes else ""


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, also where the caller has an event loop that runs."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _program(bait: Bait) -> str:
    source = Path(attempts.__file__).read_text(encoding="utf-8")
    return f"{source}\nprint(json.dumps(escapes({asdict(bait)!r})))\n"


@contextmanager
def _bait() -> Iterator[Bait]:
    with ExitStack() as stack:
        place = None if len(tempfile.gettempdir()) <= MAX_FOLDER_CHARS else "/tmp"
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="turnwise-bait-", dir=place))
        secret = Path(folder) / "secret"
        secret.write_text("secret")
        secret.parent.chmod(0o777)  # what keeps a program out must not be the modes
        secret.chmod(0o666)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        hidden = stack.enter_context(socket.socket(socket.AF_UNIX))
        hidden.bind(socket_name := f"\0{folder}")
        hidden.listen()
        datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagrams.bind(path := f"{folder}/datagrams")
        Path(path).chmod(0o666)
        yield Bait(
            trainer=os.getpid(),
            secret=str(secret),
            port=listener.getsockname()[1],
            socket_name=socket_name,
            datagrams=path,
            calls=numbers(*HARMLESS_TO_TRY),
        )
