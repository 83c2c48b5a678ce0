"""The processes in which answers are read and compared as mathematics: one for each core, started when there is work.

Each process (`turnwise.reward.grading_worker`) has a thread here that hands it one question after another. Processes
start with the first questions that wait for one, live until this process ends or calls `close`, and are replaced
after an answer has ended them. The ranks of a machine share its cores out.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Pipe
from multiprocessing.util import Finalize
from pathlib import Path
from typing import NamedTuple

from turnwise.ranks import current

logger = logging.getLogger(__name__)

_ENDED_BY_ANSWER = (-signal.SIGPROF, -signal.SIGSEGV, -signal.SIGABRT)
_MAX_PROCESSES = 8
_STALL_S = 120.0  # of wall clock, the start of a process included
_MAX_REMEMBERED = 65536
_SOURCE_ROOT = str(Path(__file__).parents[2])
_PROGRAM = "from turnwise.reward.grading_worker import serve; serve({descriptor})"
# torch and numpy would start a thread for each core, and no question needs more than one.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


class Question(NamedTuple):
    """What a process is asked: whether `answer` equals `gold`, by one of `grading_worker.JUDGES`."""

    judge: str
    answer: str
    gold: str
    timeout_s: float


Verdict = bool | None
"""None: the judge cannot read what it was asked about."""


class _Process:
    """One grading process; belongs to the thread that made it."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        command = [sys.executable, "-P", "-c", _PROGRAM.format(descriptor=theirs.fileno())]
        path = os.pathsep.join(filter(None, (_SOURCE_ROOT, *sys.path)))
        self.popen = subprocess.Popen(
            command,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()

    def ask(self, question: Question) -> Verdict:
        """Raises OSError or EOFError if the process has ended, TimeoutError if it stands still."""
        self.connection.send_bytes(json.dumps(question).encode())
        if not self.connection.poll(_STALL_S):
            raise TimeoutError(f"no verdict within {_STALL_S:g} s")
        return json.loads(self.connection.recv_bytes())

    def end(self) -> int:
        """The exit code, after the process has been killed if it still ran."""
        self.connection.close()
        try:
            code = self.popen.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            code = self.popen.wait()
        return code


class _Pool:
    """Threads with a process each, and the verdicts that they found."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.threads: ThreadPoolExecutor | None = None
        self.processes: dict[int, _Process] = {}
        self.verdicts: OrderedDict[Question, Verdict] = OrderedDict()
        self.has_finalizer = False

    def submit(self, questions: Sequence[Question]) -> list[Future[Verdict]]:
        """A verdict to come for each question."""
        with self.lock:
            if self.threads is None:
                cores = min(current().part(len(os.sched_getaffinity(0))), _MAX_PROCESSES)
                self.threads = ThreadPoolExecutor(cores, thread_name_prefix="grading")
                if not self.has_finalizer:
                    # Not atexit: a process that multiprocessing started waits for its children before it comes to that.
                    Finalize(None, close, exitpriority=0)
                    self.has_finalizer = True
            return [self.threads.submit(self.ask, question) for question in questions]

    def ask(self, question: Question) -> Verdict:
        """The verdict of this thread's process; runs in the threads.

        An answer that ends the process is wrong. After any other failure it is asked once more of a new process.

        Raises:
            RuntimeError: The process failed twice for a reason that is not the answer's.
        """
        try:
            return self._ask_once(question)
        except RuntimeError as error:
            logger.warning("%s; trying once more in a new process", error)
            return self._ask_once(question)

    def _ask_once(self, question: Question) -> Verdict:
        me = threading.get_ident()
        process = self.processes.get(me)
        try:
            if process is None:
                process = self.processes[me] = _Process()
            return process.ask(question)
        except (OSError, EOFError) as error:
            code = self.processes.pop(me).end() if process is not None else None
            if code in _ENDED_BY_ANSWER:
                logger.warning("graded wrong, for it ended the grading process: %.80r", question.answer)
                return False
            failure = f"{type(error).__name__}: {error}, exit code {code}"
            raise RuntimeError(f"the grading process failed on {question.answer[:80]!r} ({failure})") from error

    def close(self) -> None:
        """Ends threads and processes."""
        with self.lock:
            threads, self.threads = self.threads, None
        if threads is not None:
            threads.shutdown(cancel_futures=True)
            for me in list(self.processes):
                self.processes.pop(me).end()


_pool = _Pool()


def _start_anew() -> None:
    """A forked process has none of its parent's threads, and its parent's processes are not its own."""
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_start_anew)


def ask_all(questions: Sequence[Question]) -> list[Verdict]:
    """The verdicts, in order; equal questions are asked once, and verdicts are remembered.

    Raises:
        RuntimeError: A process failed twice for a reason that is not the answer's. Such an answer is never scored as
            wrong.
    """
    pool = _pool
    with pool.lock:
        found = {question: pool.verdicts[question] for question in questions if question in pool.verdicts}
    asked = [question for question in dict.fromkeys(questions) if question not in found]
    with _cancelled_at_last(pool.submit(asked) if asked else []) as futures:
        for question, future in zip(asked, futures, strict=True):
            found[question] = future.result()
    with pool.lock:
        for question in asked:
            pool.verdicts[question] = found[question]
        while len(pool.verdicts) > _MAX_REMEMBERED:
            pool.verdicts.popitem(last=False)
    return [found[question] for question in questions]


@contextmanager
def _cancelled_at_last(futures: list[Future[Verdict]]) -> Iterator[list[Future[Verdict]]]:
    """What has not begun when the block is left, by an interruption say, is not done any more."""
    try:
        yield futures
    finally:
        for future in futures:
            future.cancel()


def close() -> None:
    """Ends the grading processes; the next answer that needs one starts another. Safe to call twice."""
    _pool.close()
