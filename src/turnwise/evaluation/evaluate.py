"""Accuracy on held-out problems: the same sampler, tools, limits and grader that training uses."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P, check_truncation
from turnwise.protocols import Reward
from turnwise.rollout.sampler import RolloutSampler
from turnwise.rollout.summary import summarise
from turnwise.seeding import derive_seed
from turnwise.types import Problem, ScoredGroup


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How many held-out problems, how often each, and how sampled."""

    num_problems: int = 256
    """Problems of the eval split; the same ones at every evaluation of every seed."""
    num_samples: int = 1
    """Trajectories per problem; accuracy is their mean (avg@k)."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    top_k: int = NO_TOP_K
    """Only the so many likeliest tokens can be sampled; 0: all."""
    top_p: float = NO_TOP_P
    """Only the likeliest tokens that together have this probability can be sampled; 1: all."""

    def __post_init__(self) -> None:
        for name in ("num_problems", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name}={getattr(self, name)}: expected >= 1")
        if not self.temperature >= 0:
            raise ValueError(f"evaluation.temperature={self.temperature}: expected >= 0 (0 is greedy)")
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(f"evaluation.num_samples={self.num_samples}: greedy samples are equal, expected 1")
        check_truncation(top_k=self.top_k, top_p=self.top_p, prefix="evaluation.")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of one evaluation and the trajectories behind them."""

    metrics: dict[str, float]
    scored_groups: list[ScoredGroup]


async def evaluate(
    rollouts: RolloutSampler, reward: Reward, problems: Sequence[Problem], settings: EvaluationSettings, task_name: str
) -> Evaluation:
    """Samples every problem `num_samples` times and grades the answers.

    The draws depend on the problem and the sample alone, not on the run's seed or step, so two evaluations of the
    same weights agree and differences between weights are not blurred by fresh noise. A trajectory that met an
    infrastructure failure leaves the mean; it is neither right nor wrong. `accuracy_stderr` is clustered by problem.
    """
    rollout = await rollouts.sample(
        problems,
        group_size=settings.num_samples,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=derive_seed("evaluation"),
    )
    scored = [reward(group) for group in rollout.groups]
    by_source: dict[str, list[float]] = defaultdict(list)
    for one in scored:
        graded = [
            correct
            for correct, trajectory in zip(one.correct_G, one.group.trajectories, strict=True)
            if not trajectory.has_infrastructure_failure
        ]
        if graded:
            by_source[one.group.problem.source].append(fmean(graded))
    accuracies = [accuracy for rows in by_source.values() for accuracy in rows]
    if not accuracies:
        raise RuntimeError(f"evaluation of {task_name}: the infrastructure failed on all {len(problems)} problems")
    prefix = f"eval/{task_name}"
    figures = summarise(scored, [])
    metrics = {
        f"{prefix}/accuracy": fmean(accuracies),
        f"{prefix}/accuracy_stderr": stdev(accuracies) / sqrt(len(accuracies)) if len(accuracies) > 1 else 0.0,
        f"{prefix}/num_problems": len(accuracies),
        f"{prefix}/num_turns": figures["rollout/num_turns"],
        f"{prefix}/tool_use": figures["rollout/tool_use"],
        f"{prefix}/excluded": figures["rollout/excluded"],
    }
    metrics |= {f"{prefix}/accuracy/{source}": fmean(rows) for source, rows in sorted(by_source.items())}
    return Evaluation(metrics=metrics, scored_groups=scored)
