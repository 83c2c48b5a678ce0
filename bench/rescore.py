"""Seconds that `mode=rescore` takes for 100,000 trajectories of four turns, as a whole command, and for a quarter."""

import random
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from turnwise.protocols import PGK
from turnwise.tracker.bundle import bundle_path, write_groups
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

MAIN = Path(__file__).parents[1] / "src" / "main.py"
NUM_TRAJECTORIES = 100_000
GROUP_SIZE = 8
GROUPS_A_STEP = 64
NUM_TURNS = 4
TURN_TOKENS = 20
TOOL_TOKENS = 8
PROMPT_TOKENS = 40
DISTINCT_STEPS = 8
"""Steps that are made; the others are copies of them, which nothing that reads them can know."""


def measure() -> dict[str, float]:
    """Seconds for all trajectories and a quarter; four times the quarter over the whole, 1 or more if linear."""
    with TemporaryDirectory() as folder:
        whole = synthetic_run(Path(folder) / "whole", NUM_TRAJECTORIES)
        quarter = synthetic_run(Path(folder) / "quarter", NUM_TRAJECTORIES // 4)
        figures = {"rescore_s": rescore_seconds(whole), "rescore_quarter_s": rescore_seconds(quarter)}
        figures["rescore_shaped_quarter_s"] = rescore_seconds(quarter, "reward.shaping=true")
    return {**figures, "linear_over_measured": 4 * figures["rescore_quarter_s"] / figures["rescore_s"]}


def rescore_seconds(run_dir: Path, *overrides: str) -> float:
    """Wall clock of one command in a process of its own, its start included."""
    with TemporaryDirectory() as out:
        command = ["mode=rescore", f"mode.path={run_dir}", f"hydra.run.dir={out}/rescored", *overrides]
        started = perf_counter()
        subprocess.run([sys.executable, str(MAIN), *command], check=True, stdout=subprocess.DEVNULL)
        return perf_counter() - started


def synthetic_run(run_dir: Path, num_trajectories: int, seed: int = 0) -> Path:
    """A folder with the bundles of at least `num_trajectories` made-up trajectories."""
    rng = random.Random(seed)
    for step in range(-(-num_trajectories // (GROUP_SIZE * GROUPS_A_STEP))):
        path = bundle_path(run_dir, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        if step < DISTINCT_STEPS:
            groups = [synthetic_group(rng, f"{step}/{number}") for number in range(GROUPS_A_STEP)]
            rows: PGK = [scored.turn_rewards_GK for scored in groups]
            write_groups(path, groups, rows, rows)
        else:
            shutil.copyfile(bundle_path(run_dir, step % DISTINCT_STEPS), path)
    return run_dir


def synthetic_group(rng: random.Random, id: str) -> ScoredGroup:
    """A problem with siblings that are right about half the time, one call in ten of which is malformed."""
    problem = Problem(id=id, prompt=(Message(role="user", content="How many?"),), answer="42", source="made up")
    prompt_ids = tuple(rng.randrange(50_000) for _ in range(PROMPT_TOKENS))
    trajectories = tuple(synthetic_trajectory(rng, problem, prompt_ids, sample) for sample in range(GROUP_SIZE))
    correct_G = tuple(one.answer == problem.answer for one in trajectories)
    rewards = tuple((*(0.0,) * (NUM_TURNS - 1), float(is_correct)) for is_correct in correct_G)
    return ScoredGroup(
        group=Group(problem=problem, trajectories=trajectories),
        turn_rewards_GK=rewards,
        terms={"accuracy": rewards},
        correct_G=correct_G,
    )


def synthetic_trajectory(
    rng: random.Random, problem: Problem, prompt_ids: tuple[int, ...], sample_index: int
) -> Trajectory:
    """Three calls with their results, then an answer."""
    starts = [PROMPT_TOKENS + turn * (TURN_TOKENS + TOOL_TOKENS) for turn in range(NUM_TURNS)]
    num_new_tokens = starts[-1] + TURN_TOKENS - PROMPT_TOKENS
    return Trajectory(
        problem_id=problem.id,
        sample_index=sample_index,
        token_ids=prompt_ids + tuple(rng.randrange(50_000) for _ in range(num_new_tokens)),
        turns=tuple(synthetic_turn(rng, start, calls=start != starts[-1]) for start in starts),
        stop_reason=StopReason.answered,
        answer=str(42 + rng.randrange(2)),
    )


def synthetic_turn(rng: random.Random, start: int, *, calls: bool) -> Turn:
    """A turn with a call of three lines, or without one."""
    code = f"total = {rng.randrange(100)}\nfor n in range({rng.randrange(9)}):\n    total += n\nprint(total)"
    call = ToolCall(code=code, error="the code fence is not closed" if rng.random() < 0.1 else None)
    return Turn(
        span=(start, start + TURN_TOKENS),
        behaviour_logprobs=tuple(-rng.expovariate(2.0) for _ in range(TURN_TOKENS)),
        text=f"Let me compute it.\n```python\n{code}\n```" if calls else "It is \\boxed{42}.",
        tool_calls=(call,) if calls else (),
        tool_result=ToolResult(status=ToolStatus.ok, output="17", wall_s=0.01) if calls and not call.error else None,
        finish_reason=FinishReason.stop,
        policy_version=0,
    )
