"""The probe's scores are those of a plain forward pass over transcript, prefix and gold answer."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from builders import group, problem, trajectory, turn
from tiny_models import reference_logprobs, renderer, small_model
from turnwise.model.policy import TorchPolicy
from turnwise.rollout.gold import GoldProbe
from turnwise.types import Group, StopReason, Trajectory

PREFIX = "The answer is \\boxed{"


class CountingPolicy(TorchPolicy):
    """Remembers the batches that it was asked to score."""

    def logprobs(self, batch):
        self.batches = [*getattr(self, "batches", ()), batch]
        return super().logprobs(batch)


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


def probe(model: Any, token_budget: int = 4096, **fields: Any) -> GoldProbe:
    policy = CountingPolicy(
        model,
        renderer(),
        learning_rate=1e-3,
        weight_decay=0.0,
        betas=(0.9, 0.95),
        max_grad_norm=1.0,
        token_budget=token_budget,
        logit_chunk=64,
    )
    return GoldProbe(**{"policy": policy, "renderer": renderer(), "prefix": PREFIX, "max_answer_tokens": 8, **fields})


def other(one: Trajectory, shift: int = 7) -> Trajectory:
    """A sibling: the same prompt, other sampled tokens."""
    start = one.turns[0].span[0]
    sampled = tuple(token + shift for token in one.token_ids[start:])
    return replace(one, sample_index=one.sample_index + 1, token_ids=one.token_ids[:start] + sampled)


def expected(model: Any, one: Trajectory, answer: str) -> list[float]:
    ids = renderer().text_ids(answer)
    means = []
    for turn_ in one.turns:
        sequence = one.token_ids[: turn_.span[0]] + renderer().text_ids(PREFIX) + ids
        means.append(reference_logprobs(model, sequence)[-len(ids) :].mean().item())
    return means


def gold(one: Trajectory) -> tuple[float, ...]:
    assert one.gold_logprobs is not None
    return one.gold_logprobs


@pytest.mark.parametrize("token_budget", [4096, 40])
def test_scores_are_those_of_a_forward_pass(model, token_budget):
    members = group(first := trajectory(("a", "b", None)), other(first), answer="46")
    [found] = probe(model, token_budget)([members])
    for before, after in zip(members.trajectories, found.trajectories, strict=True):
        assert replace(after, gold_logprobs=None) == before
        assert gold(after) == pytest.approx(expected(model, before, "46"), abs=1e-5)
    assert gold(found.trajectories[0])[0] == gold(found.trajectories[1])[0], "the prompt is all that turn 1 knows"
    assert gold(found.trajectories[0])[1] != pytest.approx(gold(found.trajectories[1])[1], abs=1e-3)


def test_what_siblings_share_is_scored_once(model):
    asked = probe(model)
    twins = group(first := trajectory(("a", "b", None)), replace(first, sample_index=1), other(first), answer="46")
    [found] = asked([twins])
    [batch] = asked.policy.batches  # pyright: ignore[reportAttributeAccessIssue]
    # the prompt; two later turns of the twins; two of the third: 5 of 9
    assert batch.num_sequences == 5
    assert gold(found.trajectories[0]) == gold(found.trajectories[1])


def test_only_the_tokens_of_the_answer_are_scored_at_temperature_one(model):
    asked = probe(model)
    asked([group(trajectory(("a", None)), answer="46")])
    [batch] = asked.policy.batches  # pyright: ignore[reportAttributeAccessIssue]
    num_prefix = len(renderer().text_ids(PREFIX))
    # 3 and 6 tokens of transcript, the prefix, then "4" and "6"
    lengths = [3 + num_prefix + 2, 6 + num_prefix + 2]
    assert batch.cu_seqlens.tolist() == [0, lengths[0], sum(lengths)]
    assert batch.position_ids.tolist() == [*range(lengths[0]), *range(lengths[1])]
    answer_places = [lengths[0] - 2, lengths[0] - 1, sum(lengths) - 2, sum(lengths) - 1]
    assert batch.loss_mask.nonzero().flatten().tolist() == answer_places
    assert batch.token_ids[batch.loss_mask].tolist() == [*renderer().text_ids("46")] * 2
    assert (batch.temperature, batch.num_loss_tokens, batch.num_loss_sequences) == (1.0, 4, 2)


def test_excluded_trajectories_are_left_alone(model):
    broken = trajectory(("a", None), stop_reason=StopReason.tool_infrastructure)
    silent = trajectory((), stop_reason=StopReason.engine_abort)
    asked = probe(model)
    members = group(broken, silent, other(trajectory(("a", None))), answer="46")
    [found] = asked([members])
    assert found.trajectories[:2] == (broken, silent)
    assert len(gold(found.trajectories[2])) == 2
    assert asked([group(broken, silent)]) == [group(broken, silent)]
    assert len(asked.policy.batches) == 1, "the policy is not asked about nothing"  # pyright: ignore


def test_groups_keep_their_order_and_their_answers(model):
    groups = [group(trajectory(problem_id=id), answer=answer, id=id) for id, answer in (("a", "46"), ("b", "7"))]
    found = probe(model)(groups)
    assert [one.problem.id for one in found] == ["a", "b"]
    assert gold(found[0].trajectories[0]) == pytest.approx(expected(model, groups[0].trajectories[0], "46"), abs=1e-5)
    assert gold(found[1].trajectories[0]) == pytest.approx(expected(model, groups[1].trajectories[0], "7"), abs=1e-5)


def test_of_a_long_answer_the_first_tokens_are_scored(model):
    [long] = probe(model, max_answer_tokens=2)([group(trajectory(), answer="4612")])
    [short] = probe(model)([group(trajectory(), answer="46")])
    assert gold(long.trajectories[0]) == gold(short.trajectories[0])


def test_an_answer_that_is_sure_to_come_has_probability_one(model):
    """A turn whose answer the policy knows: with all weight on one token the mean log-prob is 0."""

    class Certain(CountingPolicy):
        def logprobs(self, batch):
            return torch.zeros_like(batch.advantages)

    asked = probe(model)
    asked.policy.__class__ = Certain
    [found] = asked([group(trajectory(("a", None)))])
    assert found.trajectories[0].gold_logprobs == (0.0, 0.0)


def test_control_tokens_of_an_answer_are_not_encoded(model):
    with pytest.raises(ValueError, match=r"problem 'p0': the gold answer '<\|end\|>' has no tokens"):
        probe(model)([group(trajectory(), answer="<|end|>")])


def test_a_trajectory_that_begins_with_its_turn(model):
    """Without a prompt the prefix is all that the first turn's answer follows."""
    bare = replace(trajectory((None,)), token_ids=(5, 6), turns=(turn(0),))
    [found] = probe(model)([Group(problem=problem("46"), trajectories=(bare,))])
    assert gold(found.trajectories[0]) == pytest.approx(expected(model, bare, "46"), abs=1e-5)
