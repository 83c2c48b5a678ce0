"""`mode=doctor`: checks what can be checked of a configuration before step 1, and says what to mend."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console
from rich.text import Text

from turnwise.config.checks import listed
from turnwise.config.evaluating import without_tool
from turnwise.config.parts import Components
from turnwise.config.wiring import (
    announce,
    choose_device,
    compute_dtype,
    num_positions,
    say,
)
from turnwise.engine.hf import MIB, HFEngine
from turnwise.env.opening import Opening, opening_messages
from turnwise.evaluation.settings import Tools
from turnwise.model.adapter import add_adapter
from turnwise.model.chat import ChatRenderer
from turnwise.model.memory import GIB, ModelShape, estimate_memory
from turnwise.model.template_report import describe_template
from turnwise.protocols import Task
from turnwise.reward.grading import ungradable
from turnwise.tracker.atomic import write_atomically
from turnwise.trainer_settings import Precision
from turnwise.types import Isolation, Problem


class Verdict(StrEnum):
    """What a check comes to."""

    passed = "pass"
    warning = "warn"
    failed = "fail"


_STYLES = {Verdict.passed: "bold green", Verdict.warning: "bold yellow", Verdict.failed: "bold red"}


@dataclass
class Finding:
    """One check: its verdict, what was found in words, and what would mend it."""

    check: str
    verdict: Verdict = Verdict.passed
    lines: list[str] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Something worth knowing."""
        self.lines.append(line)

    def warn(self, line: str, remedy: str) -> None:
        """Something that need not be wrong."""
        self.lines.append(line)
        self.remedies.append(remedy)
        if self.verdict is Verdict.passed:
            self.verdict = Verdict.warning

    def fail(self, line: str, remedy: str = "") -> None:
        """Something with which the run would end, or mean nothing."""
        self.lines.append(line)
        if remedy:
            self.remedies.append(remedy)
        self.verdict = Verdict.failed


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Checks template, problems, gold answers, prompts, tool and memory of a configuration; trains nothing."""

    takes_ranks: ClassVar[bool] = False

    device_gib: float = 0.0
    """Memory of the GPU that the run is meant for, in GiB, where trainer.dtype=auto is bfloat16; 0: this machine's."""
    num_devices: int = 1
    """Devices that weights, gradients and optimiser are to be sharded over, for the estimate alone."""

    def __post_init__(self) -> None:
        if not 0 <= self.device_gib < float("inf"):
            raise ValueError(f"mode.device_gib={self.device_gib}: expected a finite number >= 0")
        if self.num_devices < 1:
            raise ValueError(f"mode.num_devices={self.num_devices}: expected >= 1")

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Prints every finding and leaves them in doctor.json; exit code 1 if one failed."""
        console = announce(components, run_dir)
        findings: list[Finding] = []

        @contextmanager
        def checking(name: str) -> Iterator[Finding]:
            finding = Finding(name)
            try:
                yield finding
            except (ValueError, OSError, ImportError) as error:  # what `building` would refuse the run for
                finding.fail(str(error))
            findings.append(finding)
            show(console, finding)

        renderer = task = None
        with checking("chat template") as finding:
            renderer = components.model.load_renderer()
            finding.lines += describe_template(renderer).lines()
        with checking("problems") as finding:
            task = components.task.start(components.seed)
            check_problems(components, task, finding)
        if task is not None:
            with checking("gold answers") as finding:
                check_gold(components, task, finding)
            if renderer is not None:
                with checking("prompts") as finding:
                    check_prompt_lengths(components, task, renderer, finding)
        with checking("tool") as finding:
            check_tool(components, finding)
        with checking("memory") as finding:
            check_memory(components, finding, device_gib=self.device_gib, num_devices=self.num_devices)
        text = json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False) + "\n"
        write_atomically(run_dir / "doctor.json", text.encode("utf-8", "surrogatepass"))
        failed = [finding.check for finding in findings if finding.verdict is Verdict.failed]
        if failed:
            say(console, f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")
            raise SystemExit(1)
        warned = [finding.check for finding in findings if finding.verdict is Verdict.warning]
        but = f", but {len(warned)} warned ({', '.join(warned)})" if warned else ""
        say(console, f"{len(findings)} checks, none failed{but}; findings in {run_dir / 'doctor.json'}")


def show(console: Console, finding: Finding) -> None:
    """Prints a finding: its verdict, then its lines, then what would mend it."""
    verdict = Text(f"{finding.verdict.value:4} ", style=_STYLES[finding.verdict])
    console.print(verdict + Text(finding.check, style="bold"), highlight=False)
    for line in finding.lines:
        say(console, f"     {line}")
    for remedy in finding.remedies:
        say(console, f"     remedy: {remedy}")


def check_problems(components: Components, task: Task, finding: Finding) -> None:
    """Both splits can be drawn, and what overlapped was taken out."""
    for name, problems in task.eval_sets(components.evaluation.num_problems).items():
        finding.note(f"evaluation set {name}: {len(problems)} problems")
        wanted = components.evaluation.num_problems
        if len(problems) < wanted:
            finding.note(f"    fewer than evaluation.num_problems={wanted}: all that there are")
    if not components.task.has_train:
        finding.note("nothing to train on: for mode=evaluate")
        return
    cursor = task.state_dict()
    try:
        first = task.next_batch(components.rollout.num_problems)
    except ValueError as error:
        finding.warn(f"nothing could be trained on: {error}", "mode=evaluate alone, or another split of the problems")
        return
    task.load_state_dict(cursor)
    finding.note(f"training: steps of {len(first)} problems x {components.rollout.group_size} trajectories")
    for name, count in task.removed.items():
        finding.note(f"    {count} train problems were removed that overlap with {name}")
    if not task.removed:
        finding.note("    no train problem overlaps with an evaluation set, as far as was read")


def check_gold(components: Components, task: Task, finding: Finding) -> None:
    """Every gold answer of the evaluation sets is right by the grader's own measure."""
    problems = _eval_problems(components, task)
    compared = [problem for problem in problems if not problem.tests]
    dubious = ungradable(compared, components.reward.grader)
    wrong = [problem for problem in dubious if not components.reward.grader(problem.answer, problem.answer)]
    finding.note(f"{len(compared)} gold answers are compared, {len(problems) - len(compared)} problems are tested")
    if wrong:
        finding.fail(
            f"{len(wrong)} of {len(compared)} do not grade themselves correct: {listed(wrong)}",
            "mend these answers in the file of the problems; an answer that nobody can give right lowers every number",
        )
    if as_text := [problem for problem in dubious if problem not in wrong]:
        finding.warn(
            f"{len(as_text)} of {len(compared)} are right only word for word: {listed(as_text)}",
            "see whether they are meant as words; else write them as mathematics that math-verify reads",
        )


def check_prompt_lengths(components: Components, task: Task, renderer: ChatRenderer, finding: Finding) -> None:
    """The prompts, as the environment opens them, leave room for turns."""
    limit = components.rollout.max_tokens
    if limit > (positions := num_positions(components.model.empty_model())):
        finding.fail(f"rollout.max_tokens={limit}, but the model has {positions} positions", "less, or another model")
    openings: dict[str, Opening] = {"with the tool": components.env}
    if components.evaluation.tools is not Tools.on:
        openings["without the tool"] = without_tool(components)
    for name, opening in openings.items():
        lengths = [
            len(renderer.prompt_ids(opening_messages(opening, problem))) for problem in _eval_problems(components, task)
        ]
        too_long = sum(length >= limit for length in lengths)
        remedy = f"rollout.max_tokens={max(lengths) + max(lengths) // 2} or more, or shorter prompts or examples"
        finding.note(f"{name}: {min(lengths)} to {max(lengths)} tokens of rollout.max_tokens={limit}")
        if too_long == len(lengths):
            finding.fail("no prompt leaves room for a turn", remedy)
        elif too_long:
            finding.warn(
                f"{too_long} of {len(lengths)} prompts leave no room for a turn and count as wrong",
                remedy,
            )


def check_tool(components: Components, finding: Finding) -> None:
    """The environment starts, with the isolation that this machine allows."""
    environments = components.env.start()
    isolation = environments.isolation
    asyncio.run(environments.close())
    if isolation is Isolation.unsafe:
        finding.warn("programs of the policy are not isolated", "see env.sandbox in docs/ARCHITECTURE.md")
    elif isolation is not None:
        finding.note(f"isolation of the policy's programs: {isolation.words}")
    else:
        finding.note("no programs are run")


def check_memory(components: Components, finding: Finding, *, device_gib: float, num_devices: int) -> None:
    """An estimate of what training takes on each device, against what such a device has.

    Args:
        components: The run's.
        finding: Where to say it.
        device_gib: What a device has; 0: this machine's.
        num_devices: Devices that what is trained is sharded over.
    """
    device = choose_device(components)
    model, rank = components.model.empty_model(), components.model.lora_rank
    shape = ModelShape.of(model)
    num_trained = None
    if rank:
        add_adapter(model, rank=rank, alpha=components.model.lora_alpha)
        num_trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    engine = components.engine
    is_elsewhere = device_gib > 0 and components.trainer.dtype is Precision.auto
    dtype = torch.bfloat16 if is_elsewhere else compute_dtype(components, device)
    estimate = estimate_memory(
        shape,
        dtype=dtype,
        token_budget=components.trainer.token_budget,
        logit_chunk=components.trainer.logit_chunk,
        cache_bytes=engine.cache_mib * MIB if isinstance(engine, HFEngine) else 0,
        has_reference=components.loss.kl_weight > 0,
        gradient_checkpointing=components.trainer.gradient_checkpointing,
        num_trained=num_trained,
    )
    finding.note(f"{shape.num_parameters / 1e6:,.1f} million parameters, passes in {str(dtype).removeprefix('torch.')}")
    if num_trained is not None:
        finding.note(f"{num_trained / 1e6:,.2f} million of an adapter are trained in their place")
    finding.note(f"GiB: {', '.join(f'{name} {size / GIB:.2f}' for name, size in estimate.parts.items() if size)}")
    if not isinstance(engine, HFEngine):
        finding.note("the memory of vLLM is a setting of its own and is not counted")
    needed = estimate.sharded(num_devices)
    each = f" on each of {num_devices} devices" if num_devices > 1 else ""
    finding.note(f"{needed / GIB:.2f} GiB together{each} (activations estimated)")
    has = device_gib * GIB or _device_bytes(device)
    finding.note(f"{'such a device' if device_gib else f'this {device.type}'} has {has / GIB:.1f} GiB")
    if needed > has:
        finding.fail(
            f"{needed / GIB:.1f} GiB do not fit on it",
            "smaller trainer.token_budget or engine.cache_mib, trainer.gradient_checkpointing=true, model.lora_rank, "
            "or a larger device",
        )


def _device_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _eval_problems(components: Components, task: Task) -> list[Problem]:
    return list(chain.from_iterable(task.eval_sets(components.evaluation.num_problems).values()))
