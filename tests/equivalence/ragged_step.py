"""One random step in both layouts: packed for turnwise, right-padded `[B, T]` for TRL and verl.

B runs over the trajectories of all groups, T over the tokens of a completion: turns, the tool tokens between them, and
padding after the last turn. What lies outside the turns is filled with numbers that would spoil every figure if the
masks did not hold. Numbers are drawn in float32 and handed out as float64, so that every side starts from the same
ones and differences are those of the arithmetic alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from builders import group, turn
from turnwise.types import ScoredGroup, StopReason, TokenBatch, Trajectory

SEEDS = range(5)
EQUAL_GROUPS = (8, 8, 8)
UNEQUAL_GROUPS = (7, 3, 9, 5)
NUM_PROMPT_TOKENS = 3
OUTSIDE = 7.0
"""A log-prob or advantage that cannot be: it stands on tool tokens and padding."""


@dataclass(frozen=True)
class RaggedStep:
    """Turn spans (within the completion) and turn rewards of each trajectory, and the group that it belongs to."""

    spans: list[list[tuple[int, int]]]
    rewards: list[list[float]]
    group_index: list[int]
    seed: int

    @classmethod
    def random(cls, seed: int, *, group_sizes: Sequence[int], max_turns: int = 4) -> "RaggedStep":
        """Trajectories of 1 to `max_turns` turns of 1 to 9 tokens, with 0 to 3 tool tokens after each."""
        generator = torch.Generator().manual_seed(seed)

        def integer(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        spans, rewards, group_index = [], [], []
        for p, size in enumerate(group_sizes):
            for _ in range(size):
                row, start = [], 0
                for _ in range(integer(1, max_turns)):
                    row.append((start, start + integer(1, 9)))
                    start = row[-1][1] + integer(0, 3)
                spans.append(row)
                rewards.append(torch.randn(len(row), generator=generator).tolist())
                group_index.append(p)
        return cls(spans, rewards, group_index, seed)

    @property
    def max_completion_length(self) -> int:
        return max(row[-1][1] for row in self.spans) + 2

    @cached_property
    def turn_BT(self) -> Tensor:
        """Turn of each token, -1 on tool tokens and padding."""
        turn_BT = torch.full((len(self.spans), self.max_completion_length), -1)
        for b, row in enumerate(self.spans):
            for k, (start, end) in enumerate(row):
                turn_BT[b, start:end] = k
        return turn_BT

    @property
    def mask_BT(self) -> Tensor:
        """Sampled tokens, as 0.0 and 1.0."""
        return (self.turn_BT >= 0).double()

    @property
    def token_rewards_BT(self) -> Tensor:
        """Each turn's reward on its last token, as verl wants it."""
        rewards_BT = torch.zeros_like(self.mask_BT)
        for b, row in enumerate(self.spans):
            for (_, end), reward in zip(row, self.rewards[b], strict=True):
                rewards_BT[b, end - 1] = reward
        return rewards_BT

    @property
    def trajectory_rewards_B(self) -> Tensor:
        return torch.tensor([sum(row) for row in self.rewards], dtype=torch.float64)

    def with_outcome_rewards(self) -> "RaggedStep":
        """The same step with all rewards but those of last turns at 0."""
        return replace(self, rewards=[[0.0] * (len(row) - 1) + row[-1:] for row in self.rewards])

    def scored_groups(self) -> list[ScoredGroup]:
        """The same step as turnwise's reward would hand it on."""
        scored = []
        for p in range(self.group_index[-1] + 1):
            members = [b for b, own in enumerate(self.group_index) if own == p]
            rewards = tuple(tuple(self.rewards[b]) for b in members)
            correct = tuple(row[-1] > 0 for row in rewards)
            trajectories = group(*(self._trajectory(b) for b in members), id=f"p{p}")
            terms = {"accuracy": rewards}
            scored.append(ScoredGroup(group=trajectories, turn_rewards_GK=rewards, terms=terms, correct_G=correct))
        return scored

    def on_tokens(self, values_PGK: Sequence[Sequence[Sequence[float]]]) -> Tensor:
        """Puts a number per turn on the sampled tokens of that turn; 0 elsewhere."""
        return self._on_tokens([row for values_GK in values_PGK for row in values_GK], outside=0.0)

    def advantages(self, *, per_turn: bool = False) -> Tensor:
        """Random advantages, one for each trajectory or one for each turn."""
        generator = self._generator("advantages")
        counts = [len(row) for row in self.spans]
        rows = [torch.randn(num_turns if per_turn else 1, generator=generator) for num_turns in counts]
        return self._on_tokens([row.expand(num_turns).tolist() for row, num_turns in zip(rows, counts, strict=True)])

    def logprobs(self, name: str) -> Tensor:
        """Log-probs under `proximal`, or under a policy about half a nat per token away from it."""
        proximal_BT = -1 - torch.randn(self.turn_BT.shape, generator=self._generator("proximal")).abs()
        shift_BT = torch.randn(self.turn_BT.shape, generator=self._generator(name)) / 2
        logprobs_BT = proximal_BT if name == "proximal" else (proximal_BT + shift_BT).clamp(max=-1e-3)
        return logprobs_BT.double().where(self.turn_BT >= 0, OUTSIDE)

    def token_batch(self, advantages_BT: Tensor) -> TokenBatch:
        """The step as turnwise packs it: prompt and completion of each trajectory end to end, without padding."""
        lengths = torch.tensor([NUM_PROMPT_TOKENS + row[-1][1] for row in self.spans])
        edges = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        sequence_N = torch.arange(len(lengths)).repeat_interleave(lengths)
        turn_N = self.pack(self.turn_BT, -1)
        logprobs: dict[str, Any] = {
            f"{name}_logprobs": self.pack(self.logprobs(name), 0.0).float()
            for name in ("behaviour", "proximal", "reference")
        }
        return TokenBatch(
            token_ids=torch.full_like(sequence_N, 5),
            position_ids=torch.arange(len(sequence_N)) - edges[sequence_N],
            loss_mask=turn_N >= 0,
            advantages=self.pack(advantages_BT, 0.0).float(),
            turn_index=turn_N,
            sequence_index=sequence_N,
            cu_seqlens=edges.int(),
            num_loss_tokens=int((turn_N >= 0).sum()),
            num_loss_turns=sum(len(row) for row in self.spans),
            num_loss_sequences=len(self.spans),
            temperature=1.0,
            **logprobs,
        )

    def pack(self, values_BT: Tensor, on_prompt: float) -> Tensor:
        """`[B, T]` to packed `[N]`; gradients pass."""
        prompt = values_BT.new_full((NUM_PROMPT_TOKENS,), on_prompt)
        rows = zip(values_BT, self.spans, strict=True)
        return torch.cat([part for values_T, row in rows for part in (prompt, values_T[: row[-1][1]])])

    def _on_tokens(self, rows: Sequence[Sequence[float]], outside: float = OUTSIDE) -> Tensor:
        values_BT = torch.full_like(self.mask_BT, outside)
        for b, row in enumerate(rows):
            for (start, end), value in zip(self.spans[b], row, strict=True):
                values_BT[b, start:end] = value
        return values_BT

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 10_000 + sum(name.encode()))

    def _trajectory(self, b: int) -> Trajectory:
        places = [(NUM_PROMPT_TOKENS + start, end - start) for start, end in self.spans[b]]
        return Trajectory(
            problem_id=f"p{self.group_index[b]}",
            sample_index=self.group_index[:b].count(self.group_index[b]),
            token_ids=tuple(range(NUM_PROMPT_TOKENS + self.spans[b][-1][1])),
            turns=tuple(turn(start, num_tokens) for start, num_tokens in places),
            stop_reason=StopReason.answered,
        )
