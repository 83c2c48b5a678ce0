"""A process of the sandbox from its fork to its end: cut off, limited, and then at the disposal of programs."""

import contextlib
import itertools
import math
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnwise.env.sandbox.isolation import (
    Tier,
    become,
    die_with_parent,
    enter_user_namespace,
    go_first_when_memory_runs_out,
    limit,
    mount_own,
    restrict_calls,
    restrict_files,
)
from turnwise.env.sandbox.messages import encode, take
from turnwise.env.sandbox.program import (
    MEMORY_EXIT,
    PROGRAM,
    USER_ERROR_EXIT,
    Ending,
    execute,
    flush,
    fresh_main,
    run_program,
)
from turnwise.env.sandbox.settings import Settings

READY = b"\0"
"""What a child writes once it is set up: a failure before is not the program's."""
MAX_DESCRIPTORS = 1 << 16
"""Descriptors of a process of the sandbox at most."""
MAX_SIGNALS = 256
"""Signals under way and timers of a process; the kernel counts those of all processes of a user."""
CONTROL_FD = 3
"""Programs come in here, and what became of them goes out. What a program writes here itself concerns it alone."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a child runs, and as whom."""

    home: str
    user: int | None
    may_enter: bool
    """Whether the interpreter lies in a folder that is shut to other users."""
    num_tasks: int
    """Processes and threads that its user has already."""
    address_space: int
    """Bytes that the interpreter takes with what it has imported beforehand: a program's limit comes on top."""
    parent: int
    """The process that forked it; 0 where that has no number in the child's namespace."""


def live(settings: Settings, place: Place, descriptors: list[int], *, once: bool) -> int:
    """Serves one program, or those of a session one after the other; the exit code of the process.

    Args:
        settings: The limits.
        place: Where it runs.
        descriptors: The control socket, and where the two streams of output go.
        once: Whether it serves one program alone.
    """
    _enter(settings, place, descriptors, once=once)
    os.write(CONTROL_FD, READY)
    try:
        return _serve_one(settings) if once else _serve_session(settings)
    except MemoryError:
        return MEMORY_EXIT
    except Exception:  # what a program has broken: the way to its end is its own affair
        return USER_ERROR_EXIT


def _enter(settings: Settings, place: Place, descriptors: list[int], *, once: bool) -> None:
    """Cuts this process off from its parent, limits it and takes its rights away."""
    is_isolated, is_first = settings.tier != Tier.unsafe, settings.tier == Tier.A
    os.setsid()
    _keep(descriptors)
    num_tasks = place.num_tasks if place.user is None else 0
    if is_first:
        mount_own(place.home, scratch_mb=settings.scratch_mb, user=place.user)
        if place.user is None and Path("/proc/self/uid_map").exists():
            enter_user_namespace()  # its threads are then counted apart from those of others
            num_tasks = 0
    go_first_when_memory_runs_out()
    os.chdir(place.home)
    os.environ["HOME"] = os.environ["TMPDIR"] = place.home
    limit(resource.RLIMIT_AS, place.address_space + (settings.memory_mb << 20))
    if once:  # the broker looks at the clock, too, and more closely
        limit(resource.RLIMIT_CPU, math.ceil(settings.cpu_s) + 1)
    limit(resource.RLIMIT_FSIZE, settings.file_mb << 20)
    limit(resource.RLIMIT_NOFILE, settings.max_open_files)
    limit(resource.RLIMIT_NPROC, num_tasks + 1 + settings.max_processes)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_SIGPENDING, MAX_SIGNALS)
    if is_isolated:
        become(place.user, may_enter=place.may_enter)
        restrict_files(place.home, sees_processes=is_first)
    die_with_parent()
    if os.getppid() != place.parent:
        raise ProcessLookupError("the zygote is gone")
    if is_isolated:
        restrict_calls(bytes.fromhex(settings.forbidden))


def _keep(descriptors: list[int]) -> None:
    """Closes every descriptor but an empty input, the two streams of output and the control socket."""
    control, output, error = (os.dup2(one, 100 + place) for place, one in enumerate(descriptors))  # out of the way
    empty = os.open(os.devnull, os.O_RDONLY)  # one of its own: flags and locks of another's would be shared
    for place, one in enumerate((empty, output, error, control)):
        os.dup2(one, place)
    os.closerange(CONTROL_FD + 1, MAX_DESCRIPTORS)


def _serve_one(settings: Settings) -> int:
    if (request := _receive()) is None:
        return 0
    ending = run_program(request["code"], request["is_traceback"], request["shows_value"])
    with contextlib.suppress(Exception):  # the program may have closed the way, or broken what leads to it
        _send(ending, settings)
    return ending.exit_code


def _serve_session(settings: Settings) -> int:
    module = fresh_main()
    for number in itertools.count(1):
        if (request := _receive()) is None:
            break
        name = PROGRAM if number == 1 else f"program_{number}.py"
        ending = execute(request["code"], module, request["is_traceback"], request["shows_value"], name)
        flush()
        _send(ending, settings)
    return 0


def _receive() -> dict[str, Any] | None:
    """The next request; None where no other will come."""
    received = bytearray()
    while (message := take(received)) is None:
        if not (chunk := os.read(CONTROL_FD, 1 << 16)):
            return None
        received += chunk
    return message


def _send(ending: Ending, settings: Settings) -> None:
    kept = slice(settings.max_capture_bytes + 1)  # one more, by which the broker sees that it is too much
    message = encode({"exit_code": ending.exit_code, "value": ending.value[kept], "error": ending.error[kept]})
    while message:
        message = message[os.write(CONTROL_FD, message) :]
