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
from turnwise.env.sandbox.interface import ErrorDetail, ProgramResult
from turnwise.env.sandbox.program import classify, run_program
from turnwise.env.sandbox.settings import SHOWN_FOLDER
from turnwise.types import ToolStatus

READY = "ready "
"""How output begins once the program is about to run: a failure before is not the program's."""
UNDECODABLE = "[DecodeError]"
"""What the server puts in place of output that is not UTF-8."""


class ServerFailure(Exception):
    """A request that failed through no fault of the program; where it `is_final`, sending it again is of no use."""

    def __init__(self, text: str, *, is_final: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.is_final = is_final
        self.retry_after_s = retry_after_s


def read_answer(body: bytes | None, max_capture_bytes: int, elapsed_s: float) -> ProgramResult:
    """What the server's answer says of the program; None for an answer that was too long.

    `elapsed_s` is taken for the program's seconds where the server does not say them. A value that is shown is the end
    of `stdout`.

    Raises:
        ServerFailure: The answer is no answer, or says that the server failed and not the program.
    """
    if body is None:
        return ProgramResult(status=ToolStatus.output_limit, stdout="", stderr="", wall_s=elapsed_s)
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
    first, _, printed = stdout.partition("\n")
    if not first.startswith(READY):
        if not has_timed_out and not stdout.startswith(UNDECODABLE):
            raise ServerFailure(f"the program did not begin: exit code {code}: {' '.join((stdout + stderr).split())}")
        first, printed = READY, "Error: the output is not UTF-8\n" if stdout.startswith(UNDECODABLE) else stdout
    out = printed.encode(errors="replace")[:max_capture_bytes]
    err = stderr.encode(errors="replace")[: max_capture_bytes - len(out)]
    is_cut = len(out) + len(err) < len((printed + stderr).encode(errors="replace"))
    if is_cut or has_timed_out:
        status, note = ToolStatus.output_limit if is_cut else ToolStatus.timeout, ""
    else:  # a shell says 128 + n for signal n
        told = classify(128 - code if 128 < code < 128 + signal.NSIG else code, printed + stderr)
        status, note = ToolStatus(told[0]), told[1]
    stdout, stderr = (_masked(part.decode(errors="replace"), first.removeprefix(READY)) for part in (out, err))
    return ProgramResult(status=status, stdout=stdout, stderr=stderr + note, wall_s=wall_s)


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
    kept = os.dup(1), os.dup(2)  # what the end says is told even where the program closed the streams
    os.write(1, f"ready {folder}\n".encode())
    exit_code, *words = run_program(code, is_traceback, shows_value)
    for fd, text in zip(kept, words, strict=True):
        os.write(fd, text.encode("utf-8", "backslashreplace"))
    os._exit(exit_code)
