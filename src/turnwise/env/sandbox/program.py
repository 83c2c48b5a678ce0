"""The program itself: what a child of a sandbox's worker does once it is cut off and limited."""

import ast
import atexit
import contextlib
import errno
import linecache
import os
import random
import signal
import sys
import threading
import traceback
import types

PROGRAM = "program.py"
"""What a program is called in its own frames."""
USER_ERROR_EXIT, MEMORY_EXIT, BLOCKED_EXIT = 1, 86, 87
"""Exit codes of a program that raised: anything, MemoryError, or what the sandbox refused it."""
REFUSALS = (errno.EPERM, errno.EACCES, errno.EROFS)
ERROR_FD = 3
"""A second way to the output: an exception is told even where the program closed the first."""


def run_program(source: str, is_traceback: bool, shows_value: bool = False) -> int:
    """Runs `source` as a fresh `__main__` and returns the exit code; ends the output with an uncaught exception.

    Where it `shows_value`, an expression that stands last is printed as an interactive interpreter prints it.
    """
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = [PROGRAM]
    linecache.cache[PROGRAM] = (len(source), None, source.splitlines(keepends=True), PROGRAM)
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:  # as the worker imported it, all programs had one state
        numpy.random.seed(0)
    # What a thread or a destructor raises is told like any other error: without the files of this machine.
    threading.excepthook = lambda error: _tell(error.exc_value, is_traceback)
    sys.unraisablehook = lambda error: _tell(error.exc_value, is_traceback)
    code, message = 0, ""
    try:
        body, last = _split(source) if shows_value else (source, None)
        exec(compile(body, PROGRAM, "exec", dont_inherit=True), module.__dict__)
        if last is not None:
            sys.displayhook(eval(compile(last, PROGRAM, "eval", dont_inherit=True), module.__dict__))
    except MemoryError:
        code = MEMORY_EXIT
    except BaseException as error:
        if not (isinstance(error, SystemExit) and error.code in (None, 0)):
            is_refused = isinstance(error, OSError) and error.errno in REFUSALS
            code, message = BLOCKED_EXIT if is_refused else USER_ERROR_EXIT, _describe(error, is_traceback)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(Exception):  # the program may have closed or replaced them
            stream.flush()  # pyright: ignore[reportOptionalMemberAccess]
    with contextlib.suppress(OSError):  # or the second way to the output
        os.write(ERROR_FD, message.encode("utf-8", "backslashreplace"))
    return code


def _tell(error: BaseException | None, is_traceback: bool) -> None:
    if error is not None and not isinstance(error, SystemExit):
        sys.stderr.write(_describe(error, is_traceback))


def _split(source: str) -> tuple[ast.Module, ast.Expression | None]:
    """A program, and the expression that stands last in it apart."""
    tree = ast.parse(source, PROGRAM)
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
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == PROGRAM]
    places = traceback.StackSummary.from_list([(f.filename, f.lineno or 0, f.name, f.line) for f in frames])
    return "".join(["Traceback (most recent call last):\n", *places.format(), last_line])


def classify(wait_status: int, output: str) -> tuple[str, str]:
    """Status and output of a program that ended by itself, or by a signal that the worker did not send."""
    code = os.waitstatus_to_exitcode(wait_status)
    if code == 0:
        return "ok", output
    if code == BLOCKED_EXIT:
        return "blocked", output
    if code == -signal.SIGXCPU:
        return "timeout", output
    if code in (MEMORY_EXIT, -signal.SIGKILL):  # nobody but the kernel, out of memory, kills like this
        return "memory", output
    if code < 0:
        return "user_error", f"{output}Error: killed by signal {-code}\n"
    return "user_error", output or f"Error: exit code {code}\n"
