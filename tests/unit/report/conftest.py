"""A made-up run that looks like a real one: four families of problems, every kind of turn, figures that move."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from turnwise.report.summary import Outcome, summarise_run, write_summary
from turnwise.tracker.files import FilesTracker
from turnwise.types import (
    FinishReason,
    Group,
    Message,
    Problem,
    ScoredGroup,
    StopReason,
    ToolCall,
    ToolResult,
    ToolStatus,
    Trajectory,
    Turn,
)

FAMILIES = ("base_conversion", "digit_sums", "gcd", "primes")


def fake_turn(rng: random.Random, start: int, code: str | None, result: ToolResult | None, error: str | None) -> Turn:
    text = "The answer is \\boxed{12}." if code is None else f"Let me compute it.\n```python\n{code}\n```"
    length = len(text) // 4
    return Turn(
        span=(start, start + length),
        behaviour_logprobs=tuple(-rng.expovariate(2.0) for _ in range(length)),
        text=text,
        tool_calls=() if code is None else (ToolCall(code=code, error=error),),
        tool_result=result,
        finish_reason=FinishReason.stop,
        policy_version=0,
    )


def fake_trajectory(rng: random.Random, problem: Problem, sample: int, is_correct: bool) -> Trajectory:
    attempts = [("print(math.gcd(84, 36))", ToolStatus.user_error, "NameError: name 'math' is not defined", None)]
    attempts += [
        (
            "import math  # the greatest common divisor\nfor n in (84, 36):\n    print(n, math.gcd(84, 36))",
            ToolStatus.ok,
            "84 12\n36 12",
            None,
        )
    ]
    if sample % 4 == 3:
        attempts = [("print('no end", None, None, "the code fence is not closed"), *attempts]
    turns, start = [], 24
    for code, status, output, error in attempts[-1:] if is_correct and sample % 2 else attempts:
        result = ToolResult(status=status, output=output, wall_s=rng.uniform(0.01, 0.2)) if status and output else None
        turns.append(fake_turn(rng, start, code, result, error))
        start = turns[-1].span[1] + 9
    turns.append(fake_turn(rng, start, None, None, None))
    return Trajectory(
        problem_id=problem.id,
        sample_index=sample,
        token_ids=(*range(24), *(rng.randrange(512) for _ in range(turns[-1].span[1] - 24))),
        turns=tuple(turns),
        stop_reason=StopReason.answered if is_correct or sample % 3 else StopReason.max_turns,
        answer="12" if is_correct else "84" if sample % 3 else None,
    )


def fake_group(rng: random.Random, family: str, number: int, accuracy: float, size: int) -> tuple[ScoredGroup, list]:
    question = "What is the greatest common divisor of 84 and 36?"
    problem = Problem(
        id=f"{family}/{number}",
        prompt=(Message(role="system", content="You may run Python."), Message(role="user", content=question)),
        answer="12",
        source=family,
    )
    correct = tuple(rng.random() < accuracy for _ in range(size))
    sampled = tuple(fake_trajectory(rng, problem, sample, is_correct) for sample, is_correct in enumerate(correct))
    answers = tuple(
        tuple(float(is_correct and turn is one.turns[-1]) for turn in one.turns)
        for one, is_correct in zip(sampled, correct, strict=True)
    )
    formats = tuple(tuple(-0.1 * turn.has_format_error for turn in one.turns) for one in sampled)
    rewards = tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(answers, formats, strict=True))
    scored = ScoredGroup(
        group=Group(problem=problem, trajectories=sampled),
        turn_rewards_GK=rewards,
        terms={"accuracy": answers, "format": formats},
        correct_G=correct,
    )
    returns = [[sum(0.9**m * reward for m, reward in enumerate(row[j:])) for j in range(len(row))] for row in rewards]
    pool = [value for row in returns for value in row]
    mean = sum(pool) / len(pool)
    std = math.sqrt(sum((value - mean) ** 2 for value in pool) / len(pool)) + 1e-6
    return scored, [[(value - mean) / std for value in row] for row in returns]


def fake_evaluation(rng: random.Random, step: int) -> dict[str, float]:
    families = {family: min(0.2 + 0.1 * i + 0.02 * step * (i != 3), 1.0) for i, family in enumerate(FAMILIES)}
    return {
        "eval/arithmetic/accuracy": sum(families.values()) / len(families),
        "eval/arithmetic/accuracy_stderr": 0.03,
        **{f"eval/arithmetic/accuracy/{name}": value for name, value in families.items()},
    }


def fake_run(run_dir: Path, num_steps: int = 30, num_problems: int = 8, group_size: int = 8) -> Path:
    rng = random.Random(0)
    tracker = FilesTracker(run_dir)
    for step in range(num_steps):
        if step % 10 == 0:
            tracker.log(fake_evaluation(rng, step), step)
        accuracy = 0.3 + 0.45 * (1 - math.exp(-step / 12))
        pairs = [fake_group(rng, rng.choice(FAMILIES), i, accuracy, group_size) for i in range(num_problems)]
        rows = [rows for _, rows in pairs]
        tracker.log_groups([group for group, _ in pairs], rows, rows, step)
        figures = {
            "rollout/accuracy": accuracy + rng.gauss(0, 0.03),
            "rollout/num_turns": 2.7 - 0.02 * step,
            "reward/turn_mean": accuracy / 2.7 - 0.02,
            "advantage/zero_groups": max(0.0, 0.1 + rng.gauss(0.005 * step, 0.03)),
            "tool/ok": 0.6 + 0.01 * step,
            "tool/user_error": 0.3 - 0.007 * step,
            "tool/timeout": 0.1 - 0.003 * step,
            "tool/calls": 1.4,
            "stop/answered": 0.8 + 0.005 * step,
            "stop/max_turns": 0.15 - 0.004 * step,
            "stop/max_tokens": 0.05 - 0.001 * step,
            "loss/value": rng.gauss(-0.02, 0.01),
            "loss/entropy": 0.9 * math.exp(-step / 30),
            "loss/grad_norm": rng.uniform(0.3, 0.7) if step != 4 else math.nan,
            "mismatch/kl": rng.uniform(1e-7, 3e-7),
            "time/step_s": rng.uniform(2.2, 3.0),
            "time/rollout_s": rng.uniform(1.2, 1.5),
            "time/tool_s": rng.uniform(0.2, 0.4),
            "throughput/sampled_tokens_per_s": rng.uniform(3800, 4600),
        }
        tracker.log(figures, step)
    tracker.log(fake_evaluation(rng, num_steps), num_steps)
    tracker.close()
    record = {
        "label": "gtpo-shaping",
        "choices": {"advantage": "turn_return"},
        "overrides": ["algo=gtpo", "reward.shaping=true"],
        "config": {"seed": 3, "trainer": {"num_steps": num_steps}},
        "versions": {"python": "3.11"},
        "device": "cpu",
    }
    (run_dir / "config.json").write_text(json.dumps(record))
    write_summary(run_dir, summarise_run(run_dir, outcome=Outcome.finished, why="", wall_s=96.4))
    return run_dir


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """Makes such a run in a folder."""
    return fake_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A small finished run."""
    return fake_run(tmp_path / "run", num_steps=6, num_problems=2, group_size=4)
