"""The loss by hand, batches and splits, and learning that stops and goes on exactly."""

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from builders import problem, trajectory
from tiny_models import small_model, small_policy
from turnwise.checkpoint import load_batch
from turnwise.tracker.files import FilesTracker, read_metrics
from turnwise.types import Message, Problem
from turnwise.warmstart.imitation import (
    NLL,
    TRAIN_NLL,
    Example,
    Imitation,
    epochs,
    hold_out,
    imitation_batch,
    imitation_loss,
    mean_nll,
)
from turnwise.warmstart.settings import Recipe


def example(name: str, turn_tokens: int = 2) -> Example:
    prompt = (Message(role="user", content=f"What is {name}?"),)
    asked = Problem(id=name, prompt=prompt, answer="42", source="test")
    return asked, trajectory(["print(1)", None], problem_id=name, turn_tokens=turn_tokens)


def test_loss_is_the_mean_over_the_tokens_of_turns_only():
    # prompt 3, turn 2, tool 1, turn 2
    batch = imitation_batch([(problem(), trajectory(["print(1)", None]))])
    assert batch.loss_mask.tolist() == [False] * 3 + [True] * 2 + [False] + [True] * 2
    logprobs = torch.tensor([-9.0, -9.0, -9.0, -1.0, -2.0, -9.0, -3.0, -6.0], requires_grad=True)
    output = imitation_loss(logprobs, batch)
    assert output.loss.item() == pytest.approx(3.0)  # (1 + 2 + 3 + 6) / 4
    output.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0] * 3 + [-0.25] * 2 + [0.0] + [-0.25] * 2)


def test_epochs_visit_everything_once_each_in_an_order_of_their_own():
    batches = list(islice(epochs(6, 2, seed=0), 6))
    first, second = ([i for batch in part for i in batch] for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == list(range(6))
    assert first != second
    assert batches == list(islice(epochs(6, 2, seed=0), 6))


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "sizes"), [(7, 3, [2, 2, 3]), (3, 8, [3]), (8, 4, [4, 4]), (9, 4, [3, 3, 3])]
)
def test_an_epoch_leaves_nothing_out(num_examples: int, batch_size: int, sizes: list[int]):
    batches = list(islice(epochs(num_examples, batch_size, seed=1), len(sizes)))
    assert [len(batch) for batch in batches] == sizes
    assert sorted(i for batch in batches for i in batch) == list(range(num_examples))


def test_what_answers_one_prompt_is_held_out_together():
    examples = [example(name) for name in "abcdefghij" for _ in range(3)]
    learnt, held_out = hold_out(examples, 0.2)
    assert sorted(Counter(one.id for one, _ in held_out).values()) == [3, 3]  # 0.2 of ten prompts
    assert len(learnt) == 24
    assert not {one.id for one, _ in learnt} & {one.id for one, _ in held_out}
    assert {one.id for one, _ in held_out} == {one.id for one, _ in hold_out(examples[::-1], 0.2)[1]}


@pytest.mark.parametrize(
    ("names", "fraction", "num_held_out"), [("abc", 0.0, 0), ("a", 0.5, 0), ("ab", 0.01, 1), ("ab", 0.99, 1)]
)
def test_of_few_prompts_one_is_held_out_and_never_all(names: str, fraction: float, num_held_out: int):
    learnt, held_out = hold_out([example(name) for name in names], fraction)
    assert (len(learnt), len(held_out)) == (len(names) - num_held_out, num_held_out)


class Interrupted(FilesTracker):
    """Cancels the task that logs to it at the step `at`."""

    def __init__(self, run_dir: Path, first_step: int, at: int) -> None:
        super().__init__(run_dir, first_step)
        self._at = at

    def log(self, metrics, step: int) -> None:
        super().log(metrics, step)
        if step == self._at and "loss/value" in metrics:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()


def imitation(run_dir: Path, examples: list[Example], **settings) -> Imitation:
    learnt, held_out = hold_out(examples, 0.25)
    recipe = Recipe(learning_rate=1e-2, eval_fraction=0.25, num_epochs=2)
    fields = {"recipe": recipe, "batch_size": 2, "seed": 0, "save_every": 2, "keep_checkpoints": 1, "offset": 5}
    return Imitation(
        policy=small_policy(small_model(), learning_rate=1e-2),
        examples=learnt,
        held_out=held_out,
        checkpoints=run_dir / "checkpoints",
        **{**fields, **settings},
    )


def start(run_dir: Path, learning: Imitation, interrupted_at: int | None = None) -> int:
    first_step = learning.restore()
    tracker = Interrupted(run_dir, learning.offset + first_step, -1 if interrupted_at is None else interrupted_at)
    try:
        asyncio.run(learning.run(tracker, first_step))
    finally:
        tracker.close()
    return first_step


def figures(run_dir: Path) -> list[dict[str, float | None]]:
    clocks = ("time/", "throughput/")
    return [{k: v for k, v in line.items() if not k.startswith(clocks)} for line in read_metrics(run_dir)]


def test_learning_makes_the_turns_likelier_and_is_measured_before_every_epoch_and_at_the_end(tmp_path: Path):
    learning = imitation(tmp_path, [example(name) for name in "abcdefgh"])
    before = mean_nll(learning.policy, learning.held_out)
    start(tmp_path, learning)
    measured = [(line["step"], line[NLL], line[TRAIN_NLL]) for line in read_metrics(tmp_path) if NLL in line]
    # 8 prompts, 2 of them held out, 6 in batches of 2, two epochs, after 5 earlier steps of the run
    assert [step for step, *_ in measured] == [5, 8, 11]
    assert measured[0][1] == pytest.approx(before)
    assert measured[-1][1] == pytest.approx(mean_nll(learning.policy, learning.held_out))
    assert (measured[-1][1] or 0) < before / 2  # all of them have the same tokens
    steps = [line for line in read_metrics(tmp_path) if "loss/value" in line]
    assert [line["step"] for line in steps] == [5, 6, 7, 8, 9, 10]
    assert not any(name.startswith("mismatch/") for line in steps for name in line)


@pytest.mark.parametrize("interrupted_at", [5, 6, 8, 10])
def test_interrupted_learning_goes_on_exactly(tmp_path: Path, interrupted_at: int):
    examples = [example(name, turn_tokens=2 + n % 3) for n, name in enumerate("abcdefgh")]
    (whole := tmp_path / "whole").mkdir()
    (parts := tmp_path / "parts").mkdir()
    one = imitation(whole, examples)
    start(whole, one)
    with pytest.raises(asyncio.CancelledError):
        start(parts, imitation(parts, examples), interrupted_at)
    other = imitation(parts, examples)
    assert start(parts, other) == interrupted_at - 5 + 1
    assert figures(parts) == figures(whole)
    left, right = one.policy.weights(), other.policy.weights()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_checkpoint_of_other_trajectories_is_refused(tmp_path: Path):
    start(tmp_path, imitation(tmp_path, [example(name) for name in "abcdefgh"]))
    with pytest.raises(ValueError, match=r"the checkpoint has learnt other trajectories .* was their file changed"):
        imitation(tmp_path, [example(name) for name in "abcdefg"]).restore()


def test_what_is_not_finite_ends_it_and_leaves_the_batch(tmp_path: Path):
    learning = replace(imitation(tmp_path, [example(name) for name in "abcdefgh"]), held_out=[])
    with torch.no_grad():
        for weight in learning.policy.weights().values():
            weight.mul_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"^step 5: optimiser step 1 of 1 was not taken: .*its batch is in"):
        start(tmp_path, learning)
    assert load_batch(tmp_path / "failed_batch_step_5.pt").num_sequences == 2
    assert not (tmp_path / "checkpoints").exists()
