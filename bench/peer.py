"""A step of GRPO on SmolLM2-135M beside TRL's: 4 problems x 8 samples x 48 tokens of one turn, one AdamW step."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import IO, Any

from peer_work import NUM_TOKENS
from prepared import peer_python, smollm2

HERE = Path(__file__).parent
COUNTED_STEPS = 3
"""Of each side and dtype, after one that does not count."""


class Side:
    """A process that does a step when it is asked to, and waits in between."""

    def __init__(self, python: Path, script: str, *words: str) -> None:
        self._name = script
        self._errors: IO[str] = TemporaryFile("w+")  # noqa: SIM115
        paths = os.pathsep.join([str(HERE), str(HERE.parent / "src")])
        self._process = subprocess.Popen(
            [str(python), str(HERE / script), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def step(self) -> dict[str, float]:
        """The figures of one step.

        Raises:
            RuntimeError: The process has ended; the message holds its last lines.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self._errors.seek(0)
            raise RuntimeError(f"{self._name} ended: {self._errors.read()[-2000:]}") from None

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        self._errors.close()


def measure() -> dict[str, float]:
    """Median seconds of a step, ours and TRL's, which take turns; the one over the other, and so for the peak memory.

    `ours_rollout` and `ours_update` are parts of our step. In bfloat16 TRL holds everything in bfloat16, the moments of
    its optimiser too; ours keeps all that it trains in float32, and computes passes and samples in bfloat16.

    Raises:
        NotPrepared: The model or TRL's environment is missing.
    """
    model, trl_python = str(smollm2()), peer_python()
    figures: dict[str, float] = {}
    for dtype in ("float32", "bfloat16"):
        words = (model, dtype, str(COUNTED_STEPS + 1))
        sides = {
            "trl": Side(trl_python, "peer_trl.py", *words),
            "ours": Side(Path(sys.executable), "peer_ours.py", *words),
        }
        try:
            steps = [{name: side.step() for name, side in sides.items()} for _ in range(COUNTED_STEPS + 1)]
        finally:
            for side in sides.values():
                side.close()
        figures |= {f"{dtype}_{name}": value for name, value in compared(steps).items()}
    return figures


def compared(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Figures of one dtype from the alternating steps, the first of which does not count.

    Raises:
        AssertionError: A side did not sample and train the tokens that it should.
    """
    wrong = [step[side]["num_tokens"] for step in steps for side in step if step[side]["num_tokens"] != NUM_TOKENS]
    assert not wrong, f"steps of {wrong} tokens: expected {NUM_TOKENS}"
    prompts = {side: {step[side]["num_prompt_tokens"] for step in steps} for side in ("trl", "ours")}
    assert len(prompts["trl"]) == 1 and prompts["trl"] == prompts["ours"], f"prompts of different lengths: {prompts}"  # noqa: PT018
    middle = {
        (side, key): median(step[side][key] for step in steps[1:]) for side in ("trl", "ours") for key in steps[0][side]
    }
    peak = {side: steps[-1][side]["peak_mib"] for side in ("trl", "ours")}
    return {
        "trl_over_ours": middle["trl", "step_s"] / middle["ours", "step_s"],
        "trl_over_ours_memory": peak["trl"] / peak["ours"],
        "trl_step_s": middle["trl", "step_s"],
        "ours_step_s": middle["ours", "step_s"],
        "ours_rollout_s": middle["ours", "rollout_s"],
        "ours_update_s": middle["ours", "update_s"],
        "trl_peak_mib": peak["trl"],
        "ours_peak_mib": peak["ours"],
    }
