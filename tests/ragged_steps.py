"""Steps of ragged groups for the invariance tests: real trajectories of random tokens, turns and rewards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from builders import problem
from tiny_models import VOCAB_SIZE, small_model
from turnwise.model.policy import TorchPolicy
from turnwise.protocols import Metrics, PolicyLoss
from turnwise.types import (
    FinishReason,
    Group,
    ScoredGroup,
    StopReason,
    TokenBatch,
    ToolCall,
    Trajectory,
    Turn,
)


def ragged_step(seed: int, *, num_groups: int = 3, group_size: int = 4, num_excluded: int = 1) -> list[ScoredGroup]:
    """Groups whose trajectories have 1 to 3 turns of 1 to 5 tokens, the last `num_excluded` of a group excluded."""
    random = Random(seed)
    groups = []
    for p in range(num_groups):
        prompt = tuple(random.randrange(20, VOCAB_SIZE) for _ in range(random.randint(1, 6)))
        group = Group(
            problem=problem(id=f"p{p}"),
            trajectories=tuple(
                _trajectory(random, f"p{p}", g, prompt, is_excluded=g >= group_size - num_excluded)
                for g in range(group_size)
            ),
        )
        correct_G = tuple(random.random() < 0.5 and not t.is_excluded for t in group.trajectories)
        accuracy, formats = [], []
        for trajectory, correct in zip(group.trajectories, correct_G, strict=True):
            num_turns, counts = len(trajectory.turns), not trajectory.is_excluded
            accuracy.append((*(0.0,) * (num_turns - 1), float(correct)))
            formats.append(tuple(-0.1 * (counts and random.random() < 0.3) for _ in range(num_turns)))
        rewards = tuple(
            tuple(a + f for a, f in zip(*rows, strict=True)) for rows in zip(accuracy, formats, strict=True)
        )
        groups.append(
            ScoredGroup(
                group=group,
                turn_rewards_GK=rewards,
                terms={"accuracy": tuple(accuracy), "format": tuple(formats)},
                correct_G=correct_G,
                outcome_terms=("accuracy",),
            )
        )
    return groups


def _trajectory(random: Random, problem_id: str, g: int, prompt: tuple[int, ...], *, is_excluded: bool) -> Trajectory:
    token_ids, turns = list(prompt), []
    for k in range(random.randint(1, 3)):
        if k:
            token_ids += [random.randrange(20, VOCAB_SIZE) for _ in range(random.randint(1, 3))]  # tool output
        start, length = len(token_ids), random.randint(1, 5)
        token_ids += [random.randrange(20, VOCAB_SIZE) for _ in range(length)]
        turns.append(
            Turn(
                span=(start, start + length),
                behaviour_logprobs=tuple(-6 * random.random() for _ in range(length)),
                text="",
                tool_calls=(ToolCall(code=f"print({random.randrange(3)})"),),
                tool_result=None,
                finish_reason=FinishReason.stop,
                policy_version=0,
            )
        )
    return Trajectory(
        problem_id=problem_id,
        sample_index=g,
        token_ids=tuple(token_ids),
        turns=tuple(turns),
        stop_reason=StopReason.tool_infrastructure if is_excluded else StopReason.answered,
    )


STEPS = st.builds(
    ragged_step,
    seed=st.integers(0, 10**6),
    num_groups=st.integers(1, 3),
    group_size=st.integers(2, 4),
    num_excluded=st.integers(0, 1),
)
"""Any such step of up to three groups."""


def selected(scored: ScoredGroup, order: Sequence[int]) -> ScoredGroup:
    """The group of the given trajectories only, in that order."""
    return replace(
        scored,
        group=replace(scored.group, trajectories=tuple(scored.group.trajectories[g] for g in order)),
        turn_rewards_GK=tuple(scored.turn_rewards_GK[g] for g in order),
        terms={name: tuple(rows[g] for g in order) for name, rows in scored.terms.items()},
        correct_G=tuple(scored.correct_G[g] for g in order),
    )


@dataclass(frozen=True)
class Update:
    """What one optimiser step did: its gradient before clipping, and its figures without the clock's."""

    gradient: dict[str, Tensor]
    figures: Metrics


def updated(batch: TokenBatch, loss: PolicyLoss, **settings: Any) -> Update:
    """One update on `batch` of a policy of random weights: the same ones every time, and none that the update moves."""
    model = small_model(seed=1)
    policy = tiny_policy(model, **settings)
    figures = policy.update(batch, loss).metrics
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return Update(gradient, {name: value for name, value in figures.items() if not name.startswith("time/")})


def tiny_policy(model: Any, pad_token_id: int = 0, **settings: Any) -> TorchPolicy:
    """`model` as a policy with a learning rate of 0; all that it needs of a renderer is what fills ragged rows."""
    renderer: Any = SimpleNamespace(pad_token_id=pad_token_id)
    defaults: dict[str, Any] = {"token_budget": 64, "logit_chunk": 4096, "learning_rate": 0.0, "weight_decay": 0.0}
    return TorchPolicy(model, renderer, betas=(0.9, 0.95), max_grad_norm=float("inf"), **(defaults | settings))


def off_policy(batch: TokenBatch, shift: float = 0.3) -> TokenBatch:
    """The batch with behaviour, proximal and reference log-probs that differ from the policy's, each in its own way."""
    policy = tiny_policy(small_model(seed=1)).logprobs(batch)
    wave = torch.arange(policy.numel(), dtype=torch.float32)
    mask = batch.loss_mask.float()
    return replace(
        batch,
        behaviour_logprobs=(policy - shift * torch.sin(wave)) * mask,
        proximal_logprobs=(policy - shift * torch.sin(1.7 * wave)) * mask,
        reference_logprobs=(policy - shift * torch.cos(2.3 * wave)) * mask,
    )


def assert_same_gradient(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Equal up to float32 rounding: 1e-5 of the largest entry of each weight's gradient."""
    assert one.keys() == other.keys()
    for name, expected in one.items():
        torch.testing.assert_close(other[name], expected, rtol=0, atol=1e-5 * max(float(expected.abs().max()), 1e-3))
