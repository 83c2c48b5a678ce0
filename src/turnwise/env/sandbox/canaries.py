"""Finds out how programs can be kept apart here: by running one that tries to get out."""

import errno
import json
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from turnwise.env.sandbox import attempts
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.process import WorkerProcess
from turnwise.env.sandbox.syscalls import HARMLESS_TO_TRY, numbers
from turnwise.types import ToolStatus

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


def best_tier(worker: Callable[[Tier], WorkerProcess], *, allow_unsafe: bool) -> Tier:
    """The first of the tiers A and B in which every attempt to get out fails.

    Raises:
        ValueError: Something gets out of both, and `allow_unsafe` is false; the message says what, or what is missing.
    """
    reasons = []
    for tier in (Tier.A, Tier.B):
        if not (reason := weakness(worker, tier)):
            log.info("sandbox: tier %s", tier)
            return tier
        reasons.append(f"tier {tier}: {reason}")
    found = "; ".join(reasons)
    if not allow_unsafe:
        raise ValueError(
            f"env.sandbox: this machine has no means to isolate the policy's programs ({found}). Run where there are "
            f"libseccomp and Linux 5.13 (6.2 in many containers) with Landlock, or set env.sandbox.allow_unsafe=true: "
            f"programs can then do all that your user can"
        )
    log.warning("sandbox: programs are NOT isolated, env.sandbox.allow_unsafe=true (%s)", found)
    return Tier.unsafe


def weakness(worker: Callable[[Tier], WorkerProcess], tier: Tier) -> str:
    """What is wrong with a tier on this machine: what is missing, or which attempts got out; empty where it holds."""
    try:
        process = worker(tier)
    except OSError as error:
        return str(error)
    try:
        with _bait() as bait:
            result = process.exchange({"code": _program(bait), "is_traceback": True, "shows_value": False})
    except (OSError, EOFError, ValueError, KeyError) as error:
        return str(error)
    finally:
        process.interrupt()
        process.discard()
    if result.status is not ToolStatus.ok:
        return f"a program that tries to get out ended with {result.status}: {result.output.strip()[-200:]}"
    escapes = json.loads(result.output)
    return f"a program got out by {', '.join(escapes)}" if escapes else ""


def _program(bait: Bait) -> str:
    source = Path(attempts.__file__).read_text(encoding="utf-8")
    return f"{source}\nprint(json.dumps(escapes({asdict(bait)!r})))\n"


@contextmanager
def _bait() -> Iterator[Bait]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="turnwise-bait-"))
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
