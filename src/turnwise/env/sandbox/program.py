"""The program itself: what a process of the sandbox does once it is cut off and limited."""

import ast
import atexit
import contextlib
import errno
import linecache
import random
import signal
import sys
import threading
import traceback
import types
from typing import NamedTuple

PROGRAM = "program.py"
"""What a program is called in its own frames."""
USER_ERROR_EXIT, MEMORY_EXIT, BLOCKED_EXIT = 1, 86, 87
"""Exit codes of a program that raised: anything, MemoryError, or what the sandbox refused it."""
REFUSALS = (errno.EPERM, errno.EACCES, errno.EROFS)


class Ending(NamedTuple):
    """How a program came to its own end."""

    exit_code: int
    value: str
    """The value of the expression that stood last, as an interactive interpreter prints it; or nothing."""
    error: str
    """The exception that nobody caught; or nothing."""


def fresh_main() -> types.ModuleType:
    """An empty `__main__`, with Python's generator of random numbers at its start: every program has the same."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = [PROGRAM]
    random.seed(0)
    return module


def execute(
    source: str, module: types.ModuleType, is_traceback: bool, shows_value: bool, name: str = PROGRAM
) -> Ending:
    """Runs `source` in `module`; its frames say that it is the file `name`."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    # What a thread or a destructor raises is told like any other error: without the files of this machine.
    threading.excepthook = lambda error: _tell(error.exc_value, is_traceback)
    sys.unraisablehook = lambda error: _tell(error.exc_value, is_traceback)
    code, shown, message = 0, "", ""
    try:
        body, last = _split(source, name) if shows_value else (source, None)
        exec(compile(body, name, "exec", dont_inherit=True), module.__dict__)
        if last is not None:
            value = eval(compile(last, name, "eval", dont_inherit=True), module.__dict__)
            shown = "" if value is None else f"{value!r}\n"
    except MemoryError:
        code = MEMORY_EXIT
    except BaseException as error:
        if not (isinstance(error, SystemExit) and error.code in (None, 0)):
            is_refused = isinstance(error, OSError) and error.errno in REFUSALS
            code, message = BLOCKED_EXIT if is_refused else USER_ERROR_EXIT, _describe(error, is_traceback)
    return Ending(code, shown, message)


def flush() -> None:
    """Brings on its way what the program printed; it may have closed or replaced the streams."""
    for stream in (sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__):
        with contextlib.suppress(Exception):
            stream.flush()  # pyright: ignore[reportOptionalMemberAccess]


def run_program(source: str, is_traceback: bool, shows_value: bool) -> Ending:
    """Runs `source` as an interpreter runs a script: waits for its threads, does what it registered for the exit."""
    ending = execute(source, fresh_main(), is_traceback, shows_value)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    flush()
    return ending


def _tell(error: BaseException | None, is_traceback: bool) -> None:
    if error is not None and not isinstance(error, SystemExit):
        sys.stderr.write(_describe(error, is_traceback))


def _split(source: str, name: str) -> tuple[ast.Module, ast.Expression | None]:
    """A program, and the expression that stands last in it apart."""
    tree = ast.parse(source, name)
    if not tree.body or not isinstance(last := tree.body[-1], ast.Expr):
        return tree, None
    return ast.Module(tree.body[:-1], tree.type_ignores), ast.Expression(last.value)


def _describe(error: BaseException, is_traceback: bool) -> str:
    """The error as Python prints it, with the program's own frames alone, or only the last line.

    Made here and not by `traceback`, whose suggestions ("Did you mean ...?") and markers differ between versions.
    """
    name = type(error).__qualname__
    if type(error).__module__ not in ("builtins", "__main__"):
        name = f"{type(error).__module__}.{name}"
    try:
        text = str(error)
    except Exception:
        text = "<exception str() failed>"
    last_line = f"{name}: {text}\n" if text else f"{name}\n"
    if not is_traceback:
        return last_line
    stem = PROGRAM.removesuffix(".py")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(stem)]
    places = traceback.StackSummary.from_list([(f.filename, f.lineno or 0, f.name, f.line) for f in frames])
    return "".join(["Traceback (most recent call last):\n", *places.format(), last_line])


def classify(exit_code: int, told: str) -> tuple[str, str]:
    """Status of a program that ended by itself or by a signal that the sandbox did not send (a negative code).

    Also a line for the end of its output, where it `told` nothing itself.
    """
    if exit_code == 0:
        return "ok", ""
    if exit_code == BLOCKED_EXIT:
        return "blocked", ""
    if exit_code == -signal.SIGXCPU:
        return "timeout", ""
    if exit_code in (MEMORY_EXIT, -signal.SIGKILL):  # nobody but the kernel, out of memory, kills like this
        return "memory", ""
    if exit_code < 0:
        return "user_error", f"Error: killed by signal {-exit_code}\n"
    return "user_error", "" if told else f"Error: exit code {exit_code}\n"
