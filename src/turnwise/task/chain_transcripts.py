"""Demonstrations of chains for the warm start: each operation goes wrong with the same probability.

So the share of right answers falls with the horizon, as p^n, and every turn leaves something to learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import NamedTuple

from turnwise.task.families.family import RESULT, Draft
from turnwise.task.transcripts import Demonstration, check_flaws, final_turn, guess_like

LABELS = "ABCDEFGH"
"""What the steps of a chain are called. A turn names the step that it takes, so that a small policy finds its place."""


class ChainFlaw(StrEnum):
    """What can go wrong at an operation of a chain."""

    wrong_operand = "wrong_operand"
    wrong_operation = "wrong_operation"
    skipped = "skipped"
    stopped_early = "stopped_early"
    guess = "guess"
    malformed = "malformed"


@dataclass(frozen=True, kw_only=True)
class ChainFlaws:
    """How often an operation goes wrong, and how: each `ChainFlaw` has a weight, taken among those that fit there."""

    rate: float = 0.25
    """Probability that an operation goes wrong; 0 gives flawless demonstrations only."""
    repair: float = 0.5
    """Probability that a malformed call is repaired in the next turn; otherwise a guess ends the transcript."""
    wrong_operand: float = 1.0
    """Weight of an operand that stands elsewhere in the expression; fits where there is another one."""
    wrong_operation: float = 1.0
    """Weight of another sign than the one that was asked for."""
    skipped: float = 1.0
    """Weight of going on with the operation after; fits all but the last."""
    stopped_early: float = 1.0
    """Weight of giving the result so far for the answer; fits all but the first."""
    guess: float = 1.0
    """Weight of giving a guess for the answer; fits every operation, so it stays above 0."""
    malformed: float = 1.0
    """Weight of a call that the tool does not take: broken fence, wrong language, not one operation."""

    def __post_init__(self) -> None:
        check_flaws(self, ChainFlaw)


class Step(NamedTuple):
    """One operation of a chain; `left` is a number or stands for the result before."""

    label: str
    left: str
    sign: str
    operand: str


def demonstrate(draft: Draft, flaws: ChainFlaws, rng: Random) -> Demonstration:
    """A demonstration of `draft`, whose programs are the operations in order; several of them may go wrong."""
    answer, give_up = final_turn(RESULT, rng), final_turn(guess_like(draft.answer, rng), rng)
    steps = [Step(label, *program.split()) for label, program in zip(LABELS, draft.programs, strict=False)]
    turns: list[str] = []
    seen: list[ChainFlaw] = []
    for index, step in enumerate(steps):
        if rng.random() >= flaws.rate:
            turns.append(tool_call(step))
            continue
        seen.append(_choose(steps, index, flaws, rng))
        match seen[-1]:
            case ChainFlaw.wrong_operand:
                turns.append(tool_call(step._replace(operand=rng.choice(_other_operands(steps, index)))))
            case ChainFlaw.wrong_operation:
                turns.append(tool_call(step._replace(sign=rng.choice([sign for sign in "+-*" if sign != step.sign]))))
            case ChainFlaw.skipped:
                steps[index + 1] = steps[index + 1]._replace(left=step.left)
            case ChainFlaw.stopped_early:
                return Demonstration([*turns, answer], give_up, seen)
            case ChainFlaw.guess:
                return Demonstration([*turns, give_up], give_up, seen)
            case ChainFlaw.malformed:
                turns.append(_malformed(step, steps[index + 1 :], rng))
                if rng.random() >= flaws.repair:
                    return Demonstration([*turns, give_up], give_up, seen)
                turns.append(tool_call(step))
    return Demonstration([*turns, answer], give_up, seen)


def tool_call(step: Step, more: str = "") -> str:
    """A turn that asks for one operation, and for `more` in the same breath."""
    return f"{step.label}\n```calculator\n{step.left} {step.sign} {step.operand}{more}\n```"


def _choose(steps: Sequence[Step], index: int, flaws: ChainFlaws, rng: Random) -> ChainFlaw:
    """One of the flaws that fit step `index`, by weight."""
    unfit = set()
    if not _other_operands(steps, index):
        unfit.add(ChainFlaw.wrong_operand)
    if index == 0:
        unfit.add(ChainFlaw.stopped_early)
    if index == len(steps) - 1:
        unfit.add(ChainFlaw.skipped)
    fitting = [flaw for flaw in ChainFlaw if flaw not in unfit]
    return rng.choices(fitting, [getattr(flaws, flaw) for flaw in fitting])[0]


def _other_operands(steps: Sequence[Step], index: int) -> list[str]:
    """Operands that step `index` could be given by mistake."""
    return [step.operand for step in steps if step.operand != steps[index].operand]


def _malformed(step: Step, rest: Sequence[Step], rng: Random) -> str:
    """A turn that asks for `step` in a way that the tool does not take."""
    turn = tool_call(step)
    broken = [turn.removesuffix("\n```"), turn.replace("calculator", "calc"), turn.replace(f" {step.operand}\n", "\n")]
    if rest:
        broken.append(tool_call(step, f" {rest[0].sign} {rest[0].operand}"))
    return rng.choice(broken)
