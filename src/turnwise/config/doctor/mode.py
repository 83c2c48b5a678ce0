"""`mode=doctor`: checks what can be checked of a configuration before step 1, and says what to mend."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import ClassVar

from turnwise.config.doctor.configured import (
    check_gold,
    check_problems,
    check_prompt_lengths,
    eval_problems,
    eval_sets,
    prompt_lengths,
)
from turnwise.config.doctor.findings import Findings
from turnwise.config.doctor.live import NUM_PROBLEMS, check_live
from turnwise.config.doctor.sizing import Device, Seen, check_memory, check_step_time, fits_here, writes
from turnwise.config.parts import Components
from turnwise.config.wiring import announce, choose_device
from turnwise.env.python_tool import PythonToolPool
from turnwise.model.template_report import describe_template
from turnwise.preflight.disk import check_disk
from turnwise.preflight.programs import check_programs
from turnwise.preflight.splits import check_splits
from turnwise.preflight.trackers import check_tracker
from turnwise.preflight.workers import check_workers, made_group
from turnwise.protocols import Task
from turnwise.types import Problem


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Checks a configuration part by part, by a little of a step with the real ones; trains nothing that stays."""

    takes_ranks: ClassVar[bool] = False
    looks_at_steps: ClassVar[bool] = True

    loads_model: bool = True
    """Load the model, where it fits, and prove what needs it; false: only what its shapes say."""
    device_gib: float = 0.0
    """Memory of the GPU that the run is meant for, in GiB, where trainer.dtype=auto is bfloat16; 0: this machine's."""
    num_devices: int = 1
    """Devices that weights, gradients and optimiser are to be sharded over, for the estimates alone."""
    device_tflops: float = 0.0
    """Products that such a device computes, in 1e12 FLOP/s, in the precision of the passes; 0: measured here."""
    device_gb_per_s: float = 0.0
    """Rate at which it reads its memory, in 1e9 bytes/s; 0: measured here."""

    def __post_init__(self) -> None:
        for name in ("device_gib", "device_tflops", "device_gb_per_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"mode.{name}={getattr(self, name)}: expected a finite number >= 0")
        if self.num_devices < 1:
            raise ValueError(f"mode.num_devices={self.num_devices}: expected >= 1")

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Prints every finding and leaves them in doctor.json; exit code 1 if one failed."""
        findings = Findings(announce(components, run_dir))
        meant = Device(
            gib=self.device_gib, count=self.num_devices, tflops=self.device_tflops, gb_per_s=self.device_gb_per_s
        )
        renderer = task = environments = None
        with findings.checking("chat template") as finding:
            renderer = components.model.load_renderer()
            finding.lines += describe_template(renderer).lines()
        with findings.checking("problems") as finding:
            task = components.task.start(components.seed)
            check_problems(components, task, finding)
        if task is not None:
            with findings.checking("gold answers") as finding:
                check_gold(components, task, finding)
            if components.task.has_train:
                with findings.checking("splits") as finding:
                    held_out = eval_sets(components, task)
                    check_splits(task, held_out, components.rollout.num_problems, finding)
            if renderer is not None:
                with findings.checking("prompts") as finding:
                    check_prompt_lengths(components, task, renderer, finding)
            with findings.checking("reward in threads and processes") as finding:
                group = made_group(eval_problems(components, task)[0])
                check_workers(components.reward, components.reward.grader, group, finding)
        with findings.checking("tracker") as finding:
            check_tracker(components.tracker, label=components.label, config=components.config, finding=finding)
        with findings.checking("disk") as finding:
            check_disk(run_dir, writes(components), finding, is_here=not self.device_gib)
        with findings.checking("memory") as finding:
            check_memory(components, meant, finding)
        with asyncio.Runner() as runner:
            with findings.checking("tool") as finding:
                environments = components.env.start()
                if isinstance(environments, PythonToolPool):
                    rollout = components.rollout
                    num_turns = rollout.num_problems * rollout.group_size * rollout.max_turns
                    runner.run(check_programs(environments.programs, num_turns, finding))
                else:
                    finding.note("no programs are run")
            seen = Seen()
            try:
                if (
                    task is not None
                    and renderer is not None
                    and environments is not None
                    and (self._loads(components, findings))
                ):
                    live = check_live(
                        components,
                        renderer=renderer,
                        environments=environments,
                        device=choose_device(components),
                        problems=_problems(components, task),
                        findings=findings,
                    )
                    seen = runner.run(live)
            finally:
                if environments is not None:
                    runner.run(environments.close())
        with findings.checking("step time") as finding:
            prompt_tokens = 0.0
            if task is not None and renderer is not None:
                prompt_tokens = fmean(prompt_lengths(components.env, eval_problems(components, task), renderer))
            check_step_time(components, meant, prompt_tokens=prompt_tokens, seen=seen, finding=finding)
        findings.close(run_dir)

    def _loads(self, components: Components, findings: Findings) -> bool:
        """Whether the model is to be loaded; says why not."""
        reason = "mode.loads_model=false"
        if self.loads_model:
            try:
                reason = fits_here(components)
            except (ValueError, OSError):  # the estimate of the memory has said so
                reason = "nothing is known of the model"
        if not reason:
            return True
        with findings.checking("live checks") as finding:
            finding.skip(
                f"{reason}: token in and out, groups, agreement, hand-over and the longest update are not seen"
            )
        return False


def _problems(components: Components, task: Task) -> list[Problem]:
    """A few to sample: the first of training, or those that are evaluated on where there is no training."""
    count = min(components.rollout.num_problems, NUM_PROBLEMS)
    if not components.task.has_train:
        return eval_problems(components, task)[:count]
    cursor = task.state_dict()
    problems = task.next_batch(count)
    task.load_state_dict(cursor)
    return problems
