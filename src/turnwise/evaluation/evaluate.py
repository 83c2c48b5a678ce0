"""Accuracy on held-out problems: the one path to every number, in training and in `mode=evaluate`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from turnwise.evaluation.figures import by_source, by_turns, questions, rates_of, shares_of
from turnwise.evaluation.kept import KeptEvaluation
from turnwise.evaluation.opinions import judge, opinion_rates, write_disagreements
from turnwise.evaluation.protocol import EvaluationProtocol
from turnwise.evaluation.settings import EvaluationSettings
from turnwise.evaluation.shares import paired_difference
from turnwise.protocols import Reward
from turnwise.ranks import ALONE, Ranks
from turnwise.reward.grading import Grader
from turnwise.rollout.sampler import Sampler
from turnwise.rollout.scoring import score
from turnwise.seeding import derive_seed
from turnwise.tracker.evaluations import WITHOUT_TOOL, Difference, SetResult, set_folder
from turnwise.types import Problem, ScoredGroup
from turnwise.watchdog import Work, under_way


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to answer a set: with the tool, or without."""

    suffix: str
    """Ends the names of its results: nothing with the tool, `WITHOUT_TOOL` without."""
    rollouts: Sampler
    protocol: Callable[[Sequence[Problem]], EvaluationProtocol]
    """That of this arm for some problems."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of all sets at one moment, by their names."""

    results: Mapping[str, SetResult]

    @property
    def metrics(self) -> dict[str, float]:
        """Every figure as `eval/<set>/...`."""
        return {key: value for result in self.results.values() for key, value in result.metrics().items()}


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Samples every problem `num_samples` times, grades the answers, and says what they come to.

    The draws depend on the problem and the sample alone, not on the run's seed or step, so two evaluations of the same
    weights agree and differences between weights are not blurred by fresh noise. A trajectory that met an
    infrastructure failure leaves every mean; it is neither right nor wrong.
    """

    settings: EvaluationSettings
    arms: Sequence[Arm]
    reward: Reward
    """Says which trajectories are right."""
    grader: Grader
    """What it compares answers by."""
    run_dir: Path
    """Where records and trajectories are kept."""
    second_opinion: bool = False
    """Grade every answer by exact numbers with sympy, and by math-verify alone, too, and say where they disagree."""
    weights: str = ""
    """Whose weights they are, where that is known and an interrupted evaluation may go on; empty in training."""
    say: Callable[[str], None] = lambda _: None
    """Told in words what a person should know."""
    tells_progress: bool = False
    """Whether that is, after every wave, how far it is."""
    ranks: Ranks = ALONE
    """The processes that evaluate together: each samples and grades its share of every wave, the first keeps it all."""

    async def __call__(self, eval_sets: Mapping[str, Sequence[Problem]], step: int) -> Evaluation:
        """Evaluates the weights that the engine holds, which have seen `step` steps of training.

        Raises:
            RuntimeError: The infrastructure failed on every problem of a set.
            ValueError: The run's folder holds trajectories of another evaluation at this place.
        """
        results: dict[str, SetResult] = {}
        for name, problems in eval_sets.items():
            answered = {f"{name}{arm.suffix}": await self._answered(name, problems, arm, step) for arm in self.arms}
            found = {full_name: self._result(full_name, kept, step) for full_name, kept in answered.items()}
            without = answered.get(f"{name}{WITHOUT_TOOL}")
            if name in answered and without is not None:
                gain = difference(answered[name].scored_groups, without.scored_groups)
                found[name] = replace(found[name], tool_gain=gain)
            for full_name, kept in answered.items():
                kept.finish(found[full_name])
            results |= found
        return Evaluation(results=results)

    async def _answered(self, name: str, problems: Sequence[Problem], arm: Arm, step: int) -> KeptEvaluation:
        """Samples and grades what is not kept from an earlier start, in waves."""
        protocol = arm.protocol(problems)
        full_name, settings = f"{name}{arm.suffix}", self.settings
        kept = KeptEvaluation(
            set_folder(self.run_dir, full_name),
            step,
            protocol,
            self.weights,
            problems=problems,
            keeps_groups=settings.save_groups,
            writes=self.ranks.is_first,
        )
        if self.tells_progress:
            known = f", {len(kept.scored_groups)} of them kept earlier" if kept.scored_groups else ""
            self.say(f"{full_name}: {len(problems)} problems x {settings.num_samples} samples{known}")
        for wave in _waves(problems[len(kept.scored_groups) :], max(1, settings.wave_size // settings.num_samples)):
            rollout = await arm.rollouts.sample(
                wave,
                group_size=settings.num_samples,
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                seed=derive_seed("evaluation"),
            )
            answers = [
                (trajectory.answer, group.problem.answer)
                for group in rollout.groups[self.ranks.share(len(rollout.groups))]
                for trajectory in group.trajectories
                if not group.problem.tests
            ]
            with under_way(Work.reward):  # all at once and on every core: the reward then finds the verdicts known
                self.grader.grade_all(answers)
            kept.append(score(rollout.groups, self.reward, self.ranks))
            if self.tells_progress and len(problems) > len(wave):
                self.say(_progress(full_name, kept.scored_groups, len(problems)))
        return kept

    def _result(self, full_name: str, kept: KeptEvaluation, step: int) -> SetResult:
        scored_groups, settings = kept.scored_groups, self.settings
        asked = questions(scored_groups)
        if not asked:
            raise RuntimeError(
                f"evaluation of {full_name}: the infrastructure failed on all {len(scored_groups)} problems"
            )
        rates = rates_of(scored_groups, asked)
        if rates["excluded"]:
            self.say(
                f"warning: {full_name}: infrastructure failed in {rates['excluded']:.1%} of the trajectories, which "
                f"count neither as right nor as wrong; {len(asked)} of {len(scored_groups)} problems are left"
            )
        if self.second_opinion and self.ranks.is_first:
            judged = judge(scored_groups, self.grader)
            rates |= opinion_rates(judged, asked)
            write_disagreements(kept.folder / f"disagreements_step_{step}.jsonl", judged)
        shares_at_turns, turn_counts = by_turns(asked)
        return SetResult(
            name=full_name,
            step=step,
            protocol=kept.protocol.digest,
            num_samples=settings.num_samples,
            shares=shares_of(asked, settings.chosen_ks),
            rates=rates,
            by_source=by_source(asked),
            by_turns=shares_at_turns,
            turn_counts=turn_counts,
            change=difference(scored_groups, kept.first()),
        )


def difference(groups: Sequence[ScoredGroup], others: Sequence[ScoredGroup]) -> Difference | None:
    """How much more accurate the same problems are in `groups`; None where no problem counts on both sides."""
    accuracies = [{one.problem_id: one.accuracy for one in questions(side)} for side in (groups, others)]
    ids = [problem_id for problem_id in accuracies[0] if problem_id in accuracies[1]]
    if not ids:
        return None
    return paired_difference(*([side[problem_id] for problem_id in ids] for side in accuracies))


def _waves(problems: Sequence[Problem], size: int) -> Iterator[Sequence[Problem]]:
    return (problems[start : start + size] for start in range(0, len(problems), size))


def _progress(full_name: str, scored_groups: Sequence[ScoredGroup], num_problems: int) -> str:
    asked = questions(scored_groups)
    accuracy = f"{fmean(one.accuracy for one in asked):.1%} right so far" if asked else "none counts so far"
    return f"{full_name}: {len(scored_groups)} of {num_problems} problems, {accuracy}"
