"""How likely the policy finds the gold answer when each turn begins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from turnwise.protocols import Policy
from turnwise.types import Group, TokenBatch, Trajectory


class TextEncoder(Protocol):
    """A renderer that can also encode text that no message holds."""

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of text inside a turn."""
        ...


@dataclass(frozen=True, kw_only=True)
class GoldProbe:
    """Scores the gold answer as if each turn were to give it at once; fulfils `Probe`.

    For turn k of every trajectory that is not excluded, the policy scores

        transcript up to the turn's first token + prefix + gold answer

    at temperature 1, and `gold_logprobs[k]` is the mean log-prob of the answer's tokens. Prefix and answer are encoded
    apart, so that it is known which tokens are the answer's. What siblings share up to some turn, the prompt above all,
    is scored once. One group is scored at a time, in micro-batches of the policy's own size.
    """

    policy: Policy
    renderer: TextEncoder
    prefix: str
    """What stands between the transcript and the answer."""
    max_answer_tokens: int
    """Tokens of the answer that are scored; of a longer answer, the first ones."""

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with the `gold_logprobs` of every trajectory that is not excluded.

        Raises:
            ValueError: A gold answer has no tokens.
        """
        return [self._probed(group) for group in groups]

    def _probed(self, group: Group) -> Group:
        answer = self.renderer.text_ids(group.problem.answer)[: self.max_answer_tokens]
        if not answer:
            raise ValueError(f"problem {group.problem.id!r}: the gold answer {group.problem.answer!r} has no tokens")
        starts = list(dict.fromkeys(start for one in group.trajectories for start in _starts_K(one)))
        if not starts:
            return group
        ending = (*self.renderer.text_ids(self.prefix), *answer)
        batch = _ending_in_answers([(*start, *ending) for start in starts], len(answer))
        logprobs = self.policy.logprobs(batch)[batch.loss_mask].view(len(starts), len(answer)).double().mean(1)
        scores = dict(zip(starts, logprobs.tolist(), strict=True))
        trajectories = (
            one if one.is_excluded else replace(one, gold_logprobs=tuple(scores[start] for start in _starts_K(one)))
            for one in group.trajectories
        )
        return replace(group, trajectories=tuple(trajectories))


def _starts_K(trajectory: Trajectory) -> list[tuple[int, ...]]:
    """The transcript up to where each turn begins; none of an excluded trajectory."""
    return [] if trajectory.is_excluded else [trajectory.token_ids[: turn.span[0]] for turn in trajectory.turns]


def _ending_in_answers(sequences: Sequence[Sequence[int]], num_answer_tokens: int) -> TokenBatch:
    """Packs the sequences with their last tokens, the answer's, as the ones to score."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    ends = lengths.cumsum(0)
    sequence_index = torch.arange(len(sequences)).repeat_interleave(lengths)
    token_ids = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.int64)
    places = torch.arange(len(token_ids))
    is_answer = places >= (ends - num_answer_tokens)[sequence_index]
    return TokenBatch(
        token_ids=token_ids,
        position_ids=places - (ends - lengths)[sequence_index],
        loss_mask=is_answer,
        advantages=torch.zeros(len(token_ids)),
        behaviour_logprobs=torch.zeros(len(token_ids)),
        turn_index=is_answer.long() - 1,
        sequence_index=sequence_index,
        cu_seqlens=torch.cat([ends.new_zeros(1), ends]).to(torch.int32),
        num_loss_tokens=len(sequences) * num_answer_tokens,
        num_loss_turns=len(sequences),
        num_loss_sequences=len(sequences),
        temperature=1.0,
    )
