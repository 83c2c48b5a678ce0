"""A model sampled on the train problems of its task, wave by wave; a wave that is finished is on disk."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from turnwise.env.opening import Opening, opening_messages
from turnwise.protocols import Renderer, Reward, Task, Tracker
from turnwise.rollout.sampler import RolloutSettings, Sampler
from turnwise.rollout.summary import summarise
from turnwise.seeding import derive_seed
from turnwise.tracker.atomic import write_atomically
from turnwise.tracker.bundle import bundle_path, read_groups, write_groups
from turnwise.types import Problem, ScoredGroup
from turnwise.warmstart.selection import Tally, Verdict, judge, transcript_line

TRANSCRIPTS_FILE = "transcripts.jsonl"


def plan_waves(task: Task, num_problems: int, wave_size: int) -> list[list[Problem]]:
    """Distinct train problems in the task's order, in waves; fewer where the task has no more.

    Raises:
        ValueError: The task holds fewer problems than a wave.
    """
    waves: list[list[Problem]] = []
    seen: set[str] = set()
    while len(seen) < num_problems:
        drawn = [problem for problem in task.next_batch(wave_size) if problem.id not in seen]
        drawn = drawn[: num_problems - len(seen)]
        if not drawn:
            break
        waves.append(drawn)
        seen.update(problem.id for problem in drawn)
    return waves


@dataclass(frozen=True, kw_only=True)
class Waves:
    """What is sampled, how, and where it is kept: a bundle a wave in `groups/`, what is kept in `transcripts.jsonl`."""

    plan: Sequence[Sequence[Problem]]
    settings: RolloutSettings
    keep_per_problem: int
    reward: Reward
    renderer: Renderer
    opening: Opening
    seed: int
    run_dir: Path

    def finished(self) -> int:
        """Waves that lie on disk, from the first on.

        Raises:
            ValueError: One of them is broken or holds other problems than are planned.
        """
        number = 0
        while number < len(self.plan) and bundle_path(self.run_dir, number).exists():
            self._read(number)
            number += 1
        return number

    def groups(self, num_waves: int) -> Iterator[ScoredGroup]:
        """The groups of the first waves."""
        return (scored for number in range(num_waves) for scored in self._read(number))

    def tally(self, num_waves: int) -> Tally:
        """What is kept of the first waves, and why the rest is not."""
        tally = Tally()
        for number in range(num_waves):
            tally.add(self._read(number), self.keep_per_problem)
        return tally

    async def sample(self, rollouts: Sampler, tracker: Tracker, first_wave: int) -> None:
        """Samples the waves from `first_wave` on, each logged as a step."""
        self._write_transcripts(first_wave)
        tally = self.tally(first_wave)
        for number in range(first_wave, len(self.plan)):
            started = time.perf_counter()
            rollout = await rollouts.sample(
                self.plan[number],
                group_size=self.settings.group_size,
                temperature=self.settings.temperature,
                top_k=self.settings.top_k,
                top_p=self.settings.top_p,
                seed=derive_seed(self.seed, "warmstart", number),
            )
            scored = [self.reward(group) for group in rollout.groups]
            tally.add(scored, self.keep_per_problem)
            lines = self._lines(scored)
            timing = {
                "time/step_s": time.perf_counter() - started,
                "time/rollout_s": rollout.wall_s,
                "time/tool_s": rollout.tool_s,
                "throughput/sampled_tokens_per_s": rollout.num_sampled_tokens / rollout.wall_s,
            }
            tracker.log({**summarise(scored, []), **tally.figures, **timing}, number)
            with (self.run_dir / TRANSCRIPTS_FILE).open("a", encoding="utf-8") as file:
                file.write(lines)
            zeros = [[[0.0] * len(row) for row in one.turn_rewards_GK] for one in scored]
            write_groups(bundle_path(self.run_dir, number), scored, zeros, zeros)  # last: with it the wave is finished

    def _read(self, number: int) -> list[ScoredGroup]:
        path = bundle_path(self.run_dir, number)
        groups = [scored for scored, _ in read_groups(path)]
        if [one.group.problem for one in groups] != list(self.plan[number]):
            raise ValueError(f"{path} holds other problems than wave {number} has: was the task's file changed?")
        return groups

    def _write_transcripts(self, num_waves: int) -> None:
        lines = "".join(self._lines([scored]) for scored in self.groups(num_waves))
        write_atomically(self.run_dir / TRANSCRIPTS_FILE, lines.encode())

    def _lines(self, groups: Sequence[ScoredGroup]) -> str:
        """What is kept of some groups, as lines of a file of transcripts."""
        return "".join(
            transcript_line(
                f"{scored.group.problem.id}/{trajectory.sample_index}",
                opening_messages(self.opening, scored.group.problem),
                trajectory,
                self.renderer,
            )
            for scored in groups
            for trajectory, verdict in zip(scored.group.trajectories, judge(scored, self.keep_per_problem), strict=True)
            if verdict is Verdict.kept
        )
