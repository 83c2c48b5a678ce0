r"""Demonstrations of tool use for the warm start: good on purpose only part of the time.

A flawless policy would leave reinforcement learning nothing to do. So a share of the demonstrations that each
family fixes (`Family.skill`) is flawless, and every other one shows exactly one flaw; some flaws are noticed and
repaired in the next turn, some end in a guess, some pass unnoticed into a wrong answer.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

from turnwise.task.families.family import RESULT, Draft, Family

OPENINGS = ("", "", "Use Python.\n", "Let me compute.\n")
CLOSINGS = ("{}", "The answer is {}.")


class Flaw(StrEnum):
    """What a demonstration can get wrong."""

    guess = "guess"
    missing_import = "missing_import"
    not_printed = "not_printed"
    malformed_fence = "malformed_fence"
    wrong_operation = "wrong_operation"
    miscopied = "miscopied"
    stopped_early = "stopped_early"


@dataclass(frozen=True, kw_only=True)
class Flaws:
    """How often demonstrations go wrong, and how: each `Flaw` has a weight, taken among those that fit the problem."""

    rate: float = 1.0
    """Multiplies every family's flaw rate, which is 1 - `Family.skill`; 0 gives flawless demonstrations only."""
    repair: float = 0.4
    """Probability that a failed call is repaired in the next turn; otherwise a guess ends the transcript."""
    guess: float = 2.0
    """Weight of answering at once with a guess, without any call; fits every problem, so it stays above 0."""
    missing_import: float = 1.5
    """Weight of leaving an import out, which raises NameError."""
    not_printed: float = 1.5
    """Weight of computing the result without printing it."""
    malformed_fence: float = 1.5
    """Weight of a code block that is not closed or names the wrong language."""
    wrong_operation: float = 2.0
    """Weight of one of the family's slips: the program runs and prints a wrong number."""
    miscopied: float = 0.3
    """Weight of one wrong digit in a number of the program."""
    stopped_early: float = 2.0
    """Weight of answering after the first of two calls."""

    def __post_init__(self) -> None:
        check_flaws(self, Flaw)


def check_flaws(flaws: Any, kinds: Iterable[str]) -> None:
    """Raises ValueError unless `rate` and `repair` are probabilities and the weights of all `kinds` fit."""
    for name in ("rate", "repair"):
        if not 0 <= getattr(flaws, name) <= 1:
            raise ValueError(f"{name}={getattr(flaws, name)}: expected a number in [0, 1]")
    for kind in kinds:
        if not 0 <= getattr(flaws, kind) < math.inf:
            raise ValueError(f"{kind}={getattr(flaws, kind)}: expected a finite number >= 0")
    if flaws.guess == 0:
        raise ValueError("guess=0: expected > 0, for a guess is the only flaw that always fits")


class Demonstration:
    """One transcript of assistant turns, told turn by turn because later turns quote what the tool really printed."""

    def __init__(self, turns: Sequence[str], give_up: str, flaws: Sequence[StrEnum] = ()) -> None:
        self.flaws = tuple(flaws)
        """What the transcript gets wrong, in order; none when it is flawless."""
        self._turns = list(turns)
        self._give_up = give_up
        self._result: str | None = None

    def next_turn(self, tool_output: str | None) -> str | None:
        """The next assistant turn, None when the transcript is over.

        A turn that should quote a result gives up with a guess when the tool has not printed any number yet.

        Args:
            tool_output: What the tool replied to the turn before; None at the start.
        """
        if tool_output is not None and re.fullmatch(r"-?\d+", tool_output.strip()):
            self._result = tool_output.strip()
        if not self._turns:
            return None
        turn = self._turns.pop(0)
        if RESULT not in turn:
            return turn
        if self._result is None:
            self._turns.clear()
            return self._give_up
        return turn.replace(RESULT, self._result)


def demonstrate(family: Family, draft: Draft, flaws: Flaws, rng: Random) -> Demonstration:
    """A demonstration of `draft`, which `family` drew; flawed with probability `flaws.rate * (1 - family.skill)`."""
    calls = [tool_call(program, rng) for program in draft.programs]
    answer, give_up = final_turn(RESULT, rng), final_turn(guess_like(draft.answer, rng), rng)
    if rng.random() >= flaws.rate * (1 - family.skill):
        return Demonstration([*calls, answer], give_up)

    options: dict[Flaw, list[str]] = {Flaw.guess: [give_up]}
    if len(calls) > 1:
        options[Flaw.stopped_early] = [calls[0], answer]
    spot = rng.choice([i for i in range(len(calls)) if not is_refused(draft, i)])
    before, program, after = calls[:spot], draft.programs[spot], [*calls[spot + 1 :], answer]
    for flaw, spoil in SILENT.items():
        if (spoilt := spoil(program, family, rng)) != program:
            options[flaw] = [*before, tool_call(spoilt, rng), *after]
    for flaw, failed in failing_calls(program, rng).items():
        is_repaired = rng.random() < flaws.repair
        options[flaw] = [*before, failed, *([calls[spot], *after] if is_repaired else [give_up])]

    flaw = rng.choices(list(options), [getattr(flaws, flaw) for flaw in options])[0]
    return Demonstration(options[flaw], give_up, [flaw])


def is_refused(draft: Draft, index: int) -> bool:
    """Whether the program fails by nature: the one after it repairs it instead of using its output."""
    return index + 1 < len(draft.programs) and RESULT not in draft.programs[index + 1]


def tool_call(program: str, rng: Random) -> str:
    """A turn that calls the tool, with a few words in front or none."""
    return f"{rng.choice(OPENINGS)}```python\n{program}\n```"


def final_turn(answer: str, rng: Random) -> str:
    """A turn that ends the transcript with `answer`."""
    return rng.choice(CLOSINGS).format(f"\\boxed{{{answer}}}")


def guess_like(answer: str, rng: Random) -> str:
    """A random number as long as `answer`."""
    length = len(answer.lstrip("-"))
    return str(rng.randrange(10 ** (length - 1), 10**length))


def failing_calls(program: str, rng: Random) -> dict[Flaw, str]:
    """Turns whose failure the policy gets to see, by flaw; only those that fit `program`."""
    turn = tool_call(program, rng)
    failing = {Flaw.malformed_fence: rng.choice([turn.removesuffix("\n```"), turn.replace("```python", "```py")])}
    lines = program.split("\n")
    if "import" in lines[0]:
        failing[Flaw.missing_import] = tool_call("\n".join(lines[1:]), rng)
    if match := re.fullmatch(r"print\((.*)\)", lines[-1]):
        failing[Flaw.not_printed] = tool_call("\n".join([*lines[:-1], match[1]]), rng)
    return failing


def wrong_operation(program: str, family: Family, rng: Random) -> str:
    """The program with one of the family's slips, unchanged when none fits."""
    slips = [slip for slip in family.slips if re.search(slip[0], program)]
    return re.sub(*rng.choice(slips), program) if slips else program


def miscopied(program: str, family: Family, rng: Random) -> str:
    """The program with one digit of one of its longest numbers changed."""
    numbers = list(re.finditer(r"\d{2,}", program))
    if not numbers:
        return program
    longest = rng.choice([m for m in numbers if len(m[0]) == max(len(m[0]) for m in numbers)])
    place = rng.randrange(longest.start(), longest.end())
    digit = rng.choice([d for d in "123456789" if d != program[place]])
    return program[:place] + digit + program[place + 1 :]


SILENT: dict[Flaw, Callable[[str, Family, Random], str]] = {
    Flaw.wrong_operation: wrong_operation,
    Flaw.miscopied: miscopied,
}
"""Flaws that no reply of the tool gives away."""
