"""The process in which math-verify runs, apart from the trainer: it may hang, swallow memory or crash here.

Nothing else of the package is imported, so that a new process is ready in about a second.
"""

import logging
import re
import resource
import signal
from functools import lru_cache
from typing import Any

_MAX_BYTES = 2 << 30
_DOLLAR = re.compile(r"\\?\$")
_PLAIN_PI = re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])")


def start() -> None:
    """Prepares the process: limits its memory, imports math-verify, lets the time limit end it."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_BYTES, hard))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    import math_verify  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.ERROR)


def is_equal(answer: str, gold: str, timeout_s: float) -> bool | None:
    """Whether math-verify takes `answer` for `gold`; None if it cannot read `gold`.

    The limit is of processor time, so that a busy machine changes no grade. When it is reached the kernel ends the
    process, even inside a single long operation on huge integers and even if nobody waits for it any more.
    """
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    try:
        return _verify(answer, gold)
    except Exception:  # the parser may raise anything on hostile text, which is not an answer then
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _verify(answer: str, gold: str) -> bool | None:
    from math_verify import verify

    gold_parsed = _parse(gold)
    if verify(gold_parsed, _parse(answer), timeout_seconds=0):
        return True
    return None if all(isinstance(reading, str) for reading in gold_parsed) else False


@lru_cache(maxsize=64)
def _parse(answer: str) -> list[Any]:
    from math_verify import parse

    latex = _PLAIN_PI.sub(r"\\pi", _DOLLAR.sub("", answer.replace("**", "^")))
    return parse(f"${latex}$", parsing_timeout=0)
