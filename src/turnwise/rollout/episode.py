"""One trajectory in the making: the only place that joins messages and tokens, and that knows the limits."""

from dataclasses import dataclass, replace

from turnwise.protocols import Environment, Renderer
from turnwise.types import Completion, FinishReason, Problem, StopReason, Trajectory, Turn


@dataclass(frozen=True, kw_only=True)
class RolloutLimits:
    """What bounds a trajectory."""

    max_turns: int
    max_tokens: int


class Episode:
    """Grows a transcript by appending: sampled ids as they were sampled, replies as the template renders them.

    Nothing is ever decoded and encoded again, so the ids that are trained are the ids that were sampled.
    """

    def __init__(
        self, problem: Problem, sample_index: int, environment: Environment, renderer: Renderer, limits: RolloutLimits
    ) -> None:
        self.problem = problem
        self.sample_index = sample_index
        self.stop_reason: StopReason | None = None
        self.turns: list[Turn] = []
        self._environment = environment
        self._renderer = renderer
        self._limits = limits
        self._answer: str | None = None
        self._passed: bool | None = None
        self.token_ids: list[int] = list(renderer.prompt_ids(environment.initial_messages()))
        if len(self.token_ids) >= limits.max_tokens:
            self.stop_reason = StopReason.prompt_too_long

    @property
    def num_tokens_left(self) -> int:
        """How many tokens the next turn may sample."""
        return self._limits.max_tokens - len(self.token_ids)

    async def advance(self, completion: Completion) -> None:
        """Appends the sampled turn, lets the environment answer it, and decides whether the trajectory goes on."""
        if completion.finish_reason is FinishReason.abort:
            self.stop_reason = StopReason.engine_abort
            return
        start = len(self.token_ids)
        self.token_ids.extend(completion.token_ids)
        text = self._renderer.text(completion.token_ids)
        turn = Turn(
            span=(start, len(self.token_ids)),
            behaviour_logprobs=completion.logprobs,
            text=text,
            tool_calls=(),
            tool_result=None,
            finish_reason=completion.finish_reason,
            policy_version=completion.policy_version,
        )
        if completion.finish_reason is FinishReason.length:
            self.turns.append(turn)
            self.stop_reason = StopReason.max_tokens
            return
        result = await self._environment.step(text)
        self._answer, self._passed = result.answer, result.passed
        self.turns.append(replace(turn, tool_calls=result.tool_calls, tool_result=result.tool_result))
        self.stop_reason = result.stop_reason
        if self.stop_reason is None and len(self.turns) == self._limits.max_turns:
            self.stop_reason = StopReason.max_turns
        if self.stop_reason is None:
            reply = self._renderer.continuation_ids(result.messages)
            if len(self.token_ids) + len(reply) >= self._limits.max_tokens:
                self.stop_reason = StopReason.max_tokens
            else:
                self.token_ids.extend(reply)

    def trajectory(self) -> Trajectory:
        """The finished trajectory."""
        assert self.stop_reason is not None, "the episode has not ended"
        return Trajectory(
            problem_id=self.problem.id,
            sample_index=self.sample_index,
            token_ids=tuple(self.token_ids),
            turns=tuple(self.turns),
            stop_reason=self.stop_reason,
            answer=self._answer,
            passed=self._passed,
        )

    async def close(self) -> None:
        """Ends the environment's episode."""
        await self._environment.close()
