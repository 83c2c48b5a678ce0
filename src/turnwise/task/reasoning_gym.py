"""The task `reasoning_gym`: procedural problems of the package reasoning-gym (arXiv 2505.24760), graded by comparing.

Its own scorers are never called: some of them execute what the model wrote.
"""

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, ClassVar

from turnwise.seeding import derive_seed
from turnwise.task.problem_list import ProblemList
from turnwise.types import Message, Problem

COMPARABLE = (
    "aiw",
    "base_conversion",
    "basic_arithmetic",
    "binary_alternation",
    "calendar_arithmetic",
    "chain_sum",
    "count_bits",
    "count_primes",
    "decimal_chain_sum",
    "dice",
    "gcd",
    "gsm_symbolic",
    "largest_island",
    "lcm",
    "leg_counting",
    "letter_counting",
    "products",
    "rectangle_count",
    "rotten_oranges",
    "self_reference",
    "simple_equations",
    "simple_geometry",
    "spell_backward",
)
"""Data sets whose answer is one number or word that no other answer equals."""

EXECUTES = "its scorer executes the model's text"
IRREPRODUCIBLE = "the same seed does not give the same problems"
REFUSED = {
    **dict.fromkeys(
        (
            "binary_matrix",
            "countdown",
            "intermediate_integration",
            "n_queens",
            "polynomial_multiplication",
            "puzzle24",
            "simple_integration",
            "spiral_matrix",
            "string_insertion",
        ),
        EXECUTES,
    ),
    "codeio": IRREPRODUCIBLE,
    "game_of_life_halting": "its scorer accepts any text",
    "list_functions": IRREPRODUCIBLE,
    "fraction_simplification": "the unsimplified fraction equals the answer",
    "prime_factorization": "the number itself equals the product that is asked",
}
"""Data sets that must not be used, and why."""

EVAL_SEED = 0
TRAIN_SEED = 2**20
"""Item i of a data set is drawn with its seed + i, so train seeds start here, above every eval seed."""


@dataclass(frozen=True, kw_only=True)
class ReasoningGym:
    """Problems of several reasoning-gym data sets, which take turns; needs the extra `turnwise[reasoning-gym]`."""

    tool_language: ClassVar[None] = None
    """Any tool may serve."""
    has_train: ClassVar[bool] = True
    """It can be trained on."""

    datasets: list[str] = field(
        default_factory=lambda: [
            "base_conversion",
            "basic_arithmetic",
            "chain_sum",
            "count_bits",
            "count_primes",
            "gcd",
            "lcm",
            "products",
        ]
    )
    """Names of the data sets, each with an answer that can be compared."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of reasoning-gym by data set, `{"gcd": {"max_value": 5000}}`; the others keep the package's defaults."""
    num_train: int = 1000
    """Train problems drawn from each data set; those that are also eval problems are then dropped."""
    num_eval: int = 100
    """Eval problems drawn from each data set."""

    def __post_init__(self) -> None:
        for name in self.datasets:
            if name in REFUSED:
                raise ValueError(f"task.datasets holds {name!r}, which is refused: {REFUSED[name]}")
            if name not in COMPARABLE:
                raise ValueError(f"task.datasets holds {name!r}: expected one of {', '.join(COMPARABLE)}")
        if not self.datasets or len(set(self.datasets)) < len(self.datasets):
            raise ValueError(f"task.datasets={list(self.datasets)}: expected at least one, each once")
        for name in self.options:
            if name not in self.datasets:
                raise ValueError(f"task.options holds {name!r}: expected one of task.datasets={list(self.datasets)}")
        for name in ("num_train", "num_eval"):
            if not 1 <= getattr(self, name) <= TRAIN_SEED:
                raise ValueError(f"task.{name}={getattr(self, name)}: expected 1 to {TRAIN_SEED}")

    def start(self, seed: int) -> ProblemList:
        """Draws every problem; `seed` draws and orders the train split, the eval split has a seed of its own.

        Raises:
            ImportError: reasoning-gym is not installed.
            ValueError: reasoning-gym refuses an option.
        """
        first = TRAIN_SEED + derive_seed("reasoning_gym", seed) % 2**30
        held_out = [self._draw(name, "eval", EVAL_SEED, self.num_eval) for name in self.datasets]
        statements = {problem.prompt for problems in held_out for problem in problems}
        train = [
            problem
            for name in self.datasets
            for problem in self._draw(name, "train", first, self.num_train)
            if problem.prompt not in statements
        ]
        by_turns = [problem for one_of_each in zip_longest(*held_out) for problem in one_of_each if problem is not None]
        return ProblemList("reasoning_gym", train, by_turns, seed, balanced=True)

    def _draw(self, name: str, split: str, seed: int, size: int) -> list[Problem]:
        """The problems of one data set, each statement once; base_conversion writes 0 without digits: left out."""
        try:
            import reasoning_gym
        except ImportError as error:
            raise ImportError("task=reasoning_gym needs its extra: pip install reasoning-gym==0.1.25") from error
        options = self.options.get(name, {})
        try:
            items = list(reasoning_gym.create_dataset(name, seed=seed, size=size, **options))
        except (AssertionError, TypeError, ValueError) as error:
            raise ValueError(f"task.options.{name}={options}: {error}") from error
        answers = {item["question"].strip(): item["answer"].strip() for item in items}
        return [
            Problem(
                id=f"{name}/{split}/{index}",
                prompt=(Message(role="user", content=question),),
                answer=answer,
                source=name,
            )
            for index, (question, answer) in enumerate(answers.items())
            if answer
        ]
