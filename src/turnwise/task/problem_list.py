"""A live task over finite lists of problems; where the lists come from is the affair of the task that starts it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from random import Random
from typing import Any

from turnwise.seeding import derive_seed
from turnwise.types import Problem


class ProblemList:
    """Train problems in seeded epochs, eval problems in their given order.

    Every epoch holds each train problem once, shuffled by the seed and the epoch. A batch across the border
    between two epochs never holds a problem twice. With `balanced`, the sources take turns until the smallest
    of them is used up, so that until then a batch does not swing with the sources that it happened to draw.
    """

    def __init__(
        self,
        name: str,
        train: Sequence[Problem],
        held_out: Sequence[Problem],
        seed: int,
        removed: Mapping[str, int] | None = None,
        balanced: bool = False,
    ) -> None:
        self.name = name
        self.removed = removed or {}
        """How many train problems were left out, by the evaluation set that knows them."""
        self._train = train
        self._held_out = held_out
        self._seed = seed
        self._balanced = balanced
        self._start_epoch(0, carried=[])

    def keeping(self, is_kept: Callable[[Problem], bool]) -> "ProblemList":
        """The same lists and seed with only those train problems that are kept, from the beginning."""
        kept = list(filter(is_kept, self._train))
        return ProblemList(self.name, kept, self._held_out, self._seed, self.removed, self._balanced)

    def next_batch(self, num_problems: int) -> list[Problem]:
        """The next problems of the train split; moves the cursor.

        Raises:
            ValueError: The train split holds fewer problems.
        """
        if num_problems > len(self._train):
            raise ValueError(
                f"task {self.name!r}: a batch of {num_problems} problems is more than the {len(self._train)} of the "
                "train split"
            )
        if self._cursor + num_problems > len(self._order):
            self._start_epoch(self._epoch + 1, carried=self._order[self._cursor :])
        start, self._cursor = self._cursor, self._cursor + num_problems
        return [self._train[index] for index in self._order[start : self._cursor]]

    def eval_problems(self, num_problems: int) -> list[Problem]:
        """The first problems of the eval split, all of them when it holds no more than that.

        Raises:
            ValueError: The eval split is empty.
        """
        if not self._held_out:
            raise ValueError(
                f"task {self.name!r}: the eval split is empty: a file of its own, or of all problems by "
                f"task.eval_fraction=1"
            )
        return list(self._held_out[:num_problems])

    def eval_sets(self, num_problems: int) -> dict[str, list[Problem]]:
        """The one evaluation set, under the task's own name."""
        return {self.name: self.eval_problems(num_problems)}

    def state_dict(self) -> dict[str, Any]:
        """Where the cursor stands: the epoch, what it carried over from the epoch before, and the place in it."""
        return {
            "seed": self._seed,
            "num_train": len(self._train),
            "epoch": self._epoch,
            "carried": self._carried,
            "cursor": self._cursor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the cursor back.

        Raises:
            ValueError: The state was saved by a task with another seed or another number of train problems.
        """
        own = self.state_dict()
        for key in ("seed", "num_train"):
            if state[key] != own[key]:
                raise ValueError(f"task {self.name!r}: the saved state has {key}={state[key]}, this task {own[key]}")
        self._start_epoch(int(state["epoch"]), carried=list(state["carried"]))
        self._cursor = int(state["cursor"])

    def _start_epoch(self, epoch: int, carried: list[int]) -> None:
        """Orders an epoch behind the `carried` rest of the one before, whose problems come late in it."""
        size = len(self._train)
        shuffled = Random(derive_seed("problem_list", self.name, self._seed, epoch)).sample(range(size), size)
        if self._balanced:
            shuffled = self._taking_turns(shuffled)
        late = set(carried)
        self._order = carried + [i for i in shuffled if i not in late] + [i for i in shuffled if i in late]
        self._epoch, self._carried, self._cursor = epoch, carried, 0

    def _taking_turns(self, order: Sequence[int]) -> list[int]:
        """The same indices, one of each source after another."""
        by_source: defaultdict[str, list[int]] = defaultdict(list)
        for index in order:
            by_source[self._train[index].source].append(index)
        rounds = zip_longest(*by_source.values())
        return [index for one_of_each in rounds for index in one_of_each if index is not None]
