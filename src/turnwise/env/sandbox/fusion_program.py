"""What is sent to a server of SandboxFusion for a program, and what its answer says of it.

A program is sent in a script that runs it by the rules of the local sandbox (`turnwise.env.sandbox.program`), so that
the same program gives the same text in both. The API is SandboxFusion's `POST /run_code`:
https://github.com/bytedance/SandboxFusion, `sandbox/server/sandbox_api.py`.
"""

import functools
import inspect
import json
import re
import signal
from pathlib import Path

from turnwise.env.sandbox import program
from turnwise.env.sandbox.interface import ErrorDetail
from turnwise.env.sandbox.program import ERROR_FD, run_program
from turnwise.types import ToolResult, ToolStatus

READY = "ready "
"""How output begins once the program is about to run: a failure before is not the program's."""
UNDECODABLE = "[DecodeError]"
"""What the server puts in place of output that is not UTF-8."""
SHOWN_FOLDER = "/tmp/sandbox"
"""What the random folder of a program is called in output."""


class ServerFailure(Exception):
    """A request that failed through no fault of the program; where it `is_final`, sending it again is of no use."""

    def __init__(self, text: str, *, is_final: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.is_final = is_final
        self.retry_after_s = retry_after_s


def read_answer(body: bytes | None, max_capture_bytes: int, elapsed_s: float) -> ToolResult:
    """What the server's answer says of the program; None for an answer that was too long.

    `elapsed_s` is taken for the program's seconds where the server does not say them.

    Raises:
        ServerFailure: The answer is no answer, or says that the server failed and not the program.
    """
    if body is None:
        return ToolResult(status=ToolStatus.output_limit, output="", wall_s=elapsed_s)
    try:
        answer = json.loads(body)
        is_failure, message, ran = answer["status"] == "SandboxError", answer["message"], answer["run_result"]
        if is_failure or ran is None or ran["status"] == "Error":
            raise ServerFailure(f"SandboxError: {' '.join(str(message).split())}")
        has_timed_out = ran["status"] == "TimeLimitExceeded"
        code = 0 if has_timed_out else int(ran["return_code"])
        stdout, stderr = str(ran["stdout"] or ""), str(ran["stderr"] or "")
        wall_s = float(ran["execution_time"] or elapsed_s)
    except (ValueError, KeyError, TypeError) as error:
        raise ServerFailure(f"not an answer of SandboxFusion: {type(error).__name__}: {error}") from error
    first, _, output = stdout.partition("\n")
    if not first.startswith(READY):
        if not has_timed_out and not stdout.startswith(UNDECODABLE):
            raise ServerFailure(f"the program did not begin: exit code {code}: {' '.join((stdout + stderr).split())}")
        first, output = READY, "Error: the output is not UTF-8\n" if stdout.startswith(UNDECODABLE) else stdout
    encoded = output.encode(errors="replace")
    output = _masked(encoded[:max_capture_bytes].decode(errors="replace"), first.removeprefix(READY))
    if len(encoded) > max_capture_bytes:
        return ToolResult(status=ToolStatus.output_limit, output=output, wall_s=wall_s)
    status, output = (ToolStatus.timeout, output) if has_timed_out else _classify(code, output)
    return ToolResult(status=status, output=output, wall_s=wall_s)


def _classify(code: int, output: str) -> tuple[ToolStatus, str]:
    """Status and output of a program that ended before its time; a shell says 128 + n for signal n."""
    killed_by = -code if code < 0 else code - 128
    match code:
        case 0:
            return ToolStatus.ok, output
        case program.MEMORY_EXIT:
            return ToolStatus.memory, output
        case program.BLOCKED_EXIT:
            return ToolStatus.blocked, output
    if killed_by == signal.SIGKILL:  # nobody but the kernel, out of memory, kills like this
        return ToolStatus.memory, output
    if 0 < killed_by < signal.NSIG:
        return ToolStatus.user_error, f"{output}Error: killed by signal {killed_by}\n"
    return ToolStatus.user_error, output or f"Error: exit code {code}\n"


def _masked(output: str, folder: str) -> str:
    """`output` without what differs from run to run: the addresses of objects and the program's `folder`."""
    output = re.sub(r" at 0x[0-9a-f]+", " at 0x...", output)
    return output.replace(folder, SHOWN_FOLDER) if folder else output


def wrapped(code: str, error_detail: ErrorDetail, *, shows_value: bool = False) -> str:
    """What is sent: a script that runs `code` by the rules of the local sandbox; plain ASCII, whatever `code` is."""
    return f"{_wrapper()}\n\n_launch({code!a}, {error_detail is ErrorDetail.traceback}, {shows_value})\n"


@functools.cache
def _wrapper() -> str:
    return f"{Path(program.__file__).read_text(encoding='utf-8')}\n\n{inspect.getsource(_launch)}"


def _launch(code: str, is_traceback: bool, shows_value: bool) -> None:
    """Runs on the server, as a script, behind the source of `turnwise.env.sandbox.program`."""
    import os
    import resource
    import sys
    from pathlib import Path

    if len(sys.argv) == 1:  # once more, with the settings that only a new interpreter takes
        # The server sets the stack of a thread to all of the memory, and then no thread can start.
        resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX", "PYTHONUTF8", "PYTHONSAFEPATH")
        environment = {**os.environ, **dict.fromkeys(names, "1"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        os.execve(sys.executable, [sys.executable, "-s", str(Path(__file__).resolve()), "again"], environment)
    folder, home = Path.cwd(), Path.cwd() / "home"  # an empty one: the script lies in the other
    home.mkdir()
    os.chdir(home)
    os.environ["HOME"] = os.environ["TMPDIR"] = str(home)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for fd in (2, ERROR_FD):
        os.dup2(1, fd)
    os.write(1, f"ready {folder}\n".encode())
    os._exit(run_program(code, is_traceback, shows_value))
