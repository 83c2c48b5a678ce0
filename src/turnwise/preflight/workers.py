"""Reward and grader give the same in a thread and in a process as they do here."""

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

from turnwise.preflight.finding import Finding
from turnwise.protocols import Reward
from turnwise.types import FinishReason, Group, Problem, ScoredGroup, StopReason, ToolCall, Trajectory, Turn

MAX_WAIT_S = 120.0
ALGEBRA = (r"\frac{x+x}{4}", r"\frac{1}{2}x", r"\frac{1}{3}x")
"""An answer that only algebra can grade, a gold answer that it equals, and one that it does not."""


class Grades(Protocol):
    """Whether an answer equals a gold answer."""

    def __call__(self, answer: str | None, gold: str) -> bool:
        """The verdict."""
        ...


def made_group(problem: Problem) -> Group:
    """Three trajectories of `problem` that nobody sampled: one answers right, one wrong after a call, one is cut."""

    def trajectory(index: int, answer: str | None, num_turns: int) -> Trajectory:
        turns = tuple(
            Turn(
                span=(1 + 2 * k, 2 + 2 * k),
                behaviour_logprobs=(-1.0,),
                text=f"print({index})" if k < num_turns - 1 else str(answer),
                tool_calls=(ToolCall(code=f"print({index})"),) if k < num_turns - 1 else (),
                tool_result=None,
                finish_reason=FinishReason.stop,
                policy_version=0,
            )
            for k in range(num_turns)
        )
        return Trajectory(
            problem_id=problem.id,
            sample_index=index,
            token_ids=tuple(range(2 * num_turns)),
            turns=turns,
            stop_reason=StopReason.max_turns if answer is None else StopReason.answered,
            answer=answer,
            passed=index == 0,
            gold_logprobs=tuple(-1.0 / (k + 1) for k in range(num_turns)),
        )

    answers = ((problem.answer, 2), ("none of these", 2), (None, 1))
    return Group(problem=problem, trajectories=tuple(trajectory(i, *answer) for i, answer in enumerate(answers)))


def check_workers(
    reward: Reward, grader: Grades, group: Group, finding: Finding, max_wait_s: float = MAX_WAIT_S
) -> None:
    """Scores a group and grades an answer here, in a thread and in a process that is started for it.

    Steps that are sampled ahead score in a thread; launchers of multiruns have processes of their own.

    Args:
        reward: The run's.
        grader: Its grader.
        group: To score; its first trajectory is right and its second wrong.
        finding: Where to say it.
        max_wait_s: Seconds until thread or process is given up.
    """
    try:
        here = scored(reward, grader, group)
    except Exception as error:  # whatever a reward raises is what is to be found out
        finding.fail(f"the reward fails on a made-up group: {_named(error)}", "see the reward, or the problem's answer")
        return
    rewards, correct, graded = here
    if graded != (True, False):
        finding.fail(
            f"the grader says {graded[0]} of {ALGEBRA[0]} against {ALGEBRA[1]} and {graded[1]} against {ALGEBRA[2]}",
            "expected True and False: see reward.grader, and whether its processes can start here",
        )
    if correct != (True, False, False):
        finding.fail(
            f"of a right, a wrong and an unfinished trajectory {correct} are taken for right",
            "see reward.grader and the problem's gold answer",
        )
    remedies = {
        "a thread": "no signals or alarms, which belong to the main thread, and nothing that is tied to one thread",
        "a process": "it must be importable and picklable, and start nothing when it is imported",
    }
    ways: dict[str, Callable[..., Any]] = {"a thread": _in_thread, "a process": _in_process}
    for name, way in ways.items():
        try:
            there = way((reward, grader, group), max_wait_s)
        except Exception as error:  # it comes from the reward, or from pickling it
            finding.fail(f"in {name} reward or grader fail: {_named(error)}", remedies[name])
            continue
        if there != here:
            finding.fail(f"in {name} they give {there}, here {here}", remedies[name])
    finding.note(f"rewards of a made-up group: {[list(row) for row in rewards]}")
    if not finding.remedies:
        finding.note("the same in a thread and in a process of its own; the grader reads algebra there too")


Scored = tuple[tuple[tuple[float, ...], ...], tuple[bool, ...], tuple[bool, bool]]


def scored(reward: Reward, grader: Grades, group: Group) -> Scored:
    """Rewards of every turn, which trajectories are right, and two verdicts of the grader."""
    found: ScoredGroup = reward(group)
    answer, equal, other = ALGEBRA
    return found.turn_rewards_GK, found.correct_G, (grader(answer, equal), grader(answer, other))


def _in_thread(work: tuple[Reward, Grades, Group], max_wait_s: float) -> Scored:
    found: list[Scored | Exception] = []

    def run() -> None:
        try:
            found.append(scored(*work))
        except Exception as error:  # raised again where it is waited for
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max_wait_s)
    return _result(found[0] if found else None, max_wait_s)


def _in_process(work: tuple[Reward, Grades, Group], max_wait_s: float) -> Scored:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, *work))
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(max_wait_s) else None
    except EOFError:
        process.join()
        raise RuntimeError(f"the process ended with exit code {process.exitcode}") from None
    finally:
        process.join(10)
        process.kill()
        process.join()
    return _result(found, max_wait_s)


def _serve(connection: Connection, reward: Reward, grader: Grades, group: Group) -> None:
    try:
        connection.send(scored(reward, grader, group))
    except Exception as error:  # goes to who waits
        connection.send(RuntimeError(_named(error)))


def _result(found: Scored | Exception | None, max_wait_s: float) -> Scored:
    if found is None:
        raise TimeoutError(f"no result within {max_wait_s:g} seconds")
    if isinstance(found, Exception):
        raise found
    return found


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
