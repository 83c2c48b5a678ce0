"""Decides whether an answer equals the gold answer: text first, then exact numbers, then math-verify."""

import logging
import multiprocessing
import signal
import threading
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.util import Finalize

from pebble import ProcessExpired, ProcessPool

from turnwise.reward import grading_worker
from turnwise.reward.answers import compare, last_box

logger = logging.getLogger(__name__)

_ENDED_BY_ANSWER = (-signal.SIGPROF, -signal.SIGSEGV, -signal.SIGABRT)
_MAX_TIMEOUT_S = 30.0
_STALL_S = 120.0  # of wall clock, the start of a process included

_pool: ProcessPool | None = None
_lock = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class Grader:
    """Compares a final answer with the gold answer; safe against hanging and hostile answers, and in any thread.

    Equal text and plain numbers are decided at once and exactly (`turnwise.reward.answers`). Only the rest goes to
    math-verify, in a process of its own that starts with the first such answer, starts anew after an answer has
    ended it, and ends with this process. A script that grades such answers needs the usual
    `if __name__ == "__main__":` guard, because the new process imports the main module.
    """

    timeout_s: float = 2.0
    """Processor time, in seconds, that one comparison may take; an answer that needs more is wrong."""
    max_characters: int = 2000
    """Length beyond which only equal text makes an answer correct."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= _MAX_TIMEOUT_S:
            raise ValueError(f"timeout_s={self.timeout_s}: expected > 0 and <= {_MAX_TIMEOUT_S:g} seconds")
        if not 1 <= self.max_characters <= 4000:
            raise ValueError(f"max_characters={self.max_characters}: expected 1 to 4000")

    def __call__(self, answer: str | None, gold: str) -> bool:
        """Whether `answer` equals `gold`; a missing answer does not.

        Raises:
            RuntimeError: The grading process failed twice for a reason that is not the answer's. Such an answer is
                never scored as wrong.
        """
        if answer is None:
            return False
        if max(len(answer), len(gold)) > self.max_characters:
            return answer.strip() == gold.strip()
        answer, gold = last_box(answer), last_box(gold)
        verdict = compare(answer, gold)
        return _math_verify(answer, gold, self.timeout_s) if verdict is None else verdict


def close() -> None:
    """Ends the grading process; the next answer that needs one starts another. Safe to call twice."""
    global _pool
    with _lock:
        if _pool is not None:
            _pool.stop()
            _pool.join()
            _pool = None


@lru_cache(maxsize=16384)
def _math_verify(answer: str, gold: str, timeout_s: float) -> bool:
    with _lock:
        try:
            verdict = _ask_process(answer, gold, timeout_s)
        except RuntimeError as error:
            logger.warning("%s; trying once more in a new process", error)
            verdict = _ask_process(answer, gold, timeout_s)
    if verdict is None:
        logger.warning("math-verify cannot read the gold answer %.80r: only equal text is correct", gold)
    return bool(verdict)


def _ask_process(answer: str, gold: str, timeout_s: float) -> bool | None:
    """The verdict of math-verify; an answer that ends the process is wrong, any other failure is an error."""
    global _pool
    if _pool is None:
        if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
            # A new process is told this one's default, and the one of joblib's workers is known to joblib alone.
            multiprocessing.set_start_method("spawn", force=True)
        context = multiprocessing.get_context("spawn")
        _pool = ProcessPool(max_workers=1, initializer=grading_worker.start, context=context)
        # Not atexit: a process that multiprocessing started waits for its children before it comes to that.
        Finalize(None, close, exitpriority=0)
    try:
        return _pool.schedule(grading_worker.is_equal, args=(answer, gold, timeout_s)).result(timeout=_STALL_S)
    except (OSError, RuntimeError) as error:
        if isinstance(error, ProcessExpired) and error.exitcode in _ENDED_BY_ANSWER:
            logger.warning("graded wrong, for it ended the grading process: %.80r", answer)
            return False
        close()
        raise RuntimeError(f"the grading process failed on {answer[:80]!r} ({error!r})") from error
