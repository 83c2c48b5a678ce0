import io
import math

import pytest
from rich.console import Console

from turnwise.tracker.progress import ProgressTracker, curve, duration

FIGURES = {
    "rollout/accuracy": 0.5,
    "rollout/num_turns": 2.25,
    "reward/turn_mean": 0.125,
    "tool/ok": 0.75,
    "tool/user_error": 0.25,
    "tool/timeout": 0.0,
    "tool/calls": 1.5,
    "advantage/zero_groups": 0.25,
    "loss/entropy": 1.5,
    "loss/grad_norm": 0.5,
    "time/step_s": 1.3125,
    "throughput/sampled_tokens_per_s": 4321.4,
}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def pipe() -> Console:
    return Console(file=io.StringIO(), width=80)


def terminal(width: int = 120) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def render(tracker: ProgressTracker, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(tracker.panel())
    return text_of(console)


def test_a_pipe_gets_one_line_a_step():
    console, clock = pipe(), Clock()
    tracker = ProgressTracker(10, console, clock=clock)
    clock.now += 2
    tracker.log(FIGURES, 0)
    clock.now += 4
    tracker.log(FIGURES, 1)
    tracker.log_groups([], [], [], 1)
    tracker.close()
    first, second = text_of(console).splitlines()
    # one step took 2 s, 9 are left: 18 s; two took 6 s, 8 are left: 24 s
    assert first == (
        "step 1/10  accuracy 50.0%  reward +0.125  turns 2.25  tools ok 75%  entropy 1.500  "
        "4,321 tokens/s  1.31 s  left 0:18"
    )
    assert second == first.replace("1/10", "2/10").replace("0:18", "0:24")
    assert "\x1b" not in text_of(console)


IMITATED = {
    "loss/value": 0.25,
    "loss/entropy": 1.5,
    "loss/grad_norm": 0.5,
    "time/step_s": 2.0,
    "throughput/trained_tokens_per_s": 1234.5,
}


def test_a_step_of_imitation_shows_its_loss_and_the_held_out_one():
    console, clock = pipe(), Clock()
    tracker = ProgressTracker(10, console, clock=clock)
    tracker.log({"eval/warmstart/nll": 0.5, "eval/warmstart/train_nll": 0.25}, 0)
    clock.now += 2
    tracker.log(IMITATED, 0)
    assert text_of(console).splitlines() == [
        "held-out loss 0.5000 after 0 steps",
        "step 1/10  loss 0.2500  entropy 1.500  gradient norm 0.5  1,234 tokens/s  2.00 s  left 0:18",
    ]
    panel = render(tracker)
    assert "loss 0.5000 after 0 steps" in panel
    assert "accuracy" not in panel


def test_evaluations_are_lines_of_their_own_and_say_what_was_gained():
    console = pipe()
    tracker = ProgressTracker(10, console)
    tracker.log({"eval/arithmetic/accuracy": 0.25, "eval/arithmetic/accuracy/gcd": 0.9}, 0)
    tracker.log({"eval/arithmetic/accuracy": 0.75, "eval/arithmetic/accuracy/gcd": 0.1}, 10)
    assert text_of(console).splitlines() == [
        "held-out accuracy 25.0% after 0 steps",
        "held-out accuracy 75.0% after 10 steps, +50.0 points",
    ]


@pytest.mark.parametrize(
    ("num_turns", "tool_use", "warning"),
    [
        (0.0, 0.0, "warning: no prompt of the evaluation leaves room for a turn: raise rollout.max_tokens"),
        (1.0, 0.0, "warning: no trajectory of the evaluation calls the tool: does the model's prompt say how"),
        (1.0, 0.01, "held-out accuracy 0.0% after 0 steps"),
    ],
)
def test_a_run_with_nothing_to_learn_from_says_so_once(num_turns: float, tool_use: float, warning: str):
    console = pipe()
    tracker = ProgressTracker(10, console)
    for step in range(2):
        figures = {"eval/a/accuracy": 0.0, "eval/a/num_turns": num_turns, "eval/a/tool_use": tool_use}
        tracker.log(figures, step)
    lines = text_of(console).splitlines()
    assert lines[0].startswith(warning)
    assert sum("warning" in line for line in lines) == ("warning" in warning)


def test_a_run_without_a_tool_is_not_asked_to_call_it():
    console = pipe()
    tracker = ProgressTracker(10, console, has_tool=False)
    tracker.log({"eval/a/accuracy": 0.5, "eval/a/num_turns": 1.0, "eval/a/tool_use": 0.0}, 0)
    assert text_of(console) == "held-out accuracy 50.0% after 0 steps\n"


@pytest.mark.parametrize(
    "figures", [{}, {"loss/value": 1.0}, {"rollout/accuracy": math.nan, "reward/turn_mean": math.inf}]
)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_missing_and_non_finite_figures_are_shown_without_fuss(figures, width):
    tracker = ProgressTracker(10, pipe())
    tracker.log(figures, 0)
    assert "turns –" in tracker.line()
    assert "step 1/10" in render(tracker, width)


def test_panel_shows_the_figures_that_matter():
    clock = Clock()
    tracker = ProgressTracker(10, pipe(), clock=clock)
    tracker.log({"eval/arithmetic/accuracy": 0.25}, 0)
    clock.now += 65
    tracker.log(FIGURES, 0)
    shown = render(tracker)
    for part in ("step 1/10", "1:05 gone, 9:45 left", "50.0%", "+0.125", "2.25", "75% ok, 25% user error", "25%"):
        assert part in shown  # 65 s a step, 9 left: 585 s = 9:45
    for part in ("25.0% after 0 steps", "1.500", "0.5", "1.31 s", "4,321 tokens/s", "▅"):
        assert part in shown
    assert "timeout" not in shown  # a share of zero is left out
    assert "calls" not in shown  # not a status


def test_a_terminal_gets_a_live_panel_and_no_lines():
    console = terminal()
    tracker = ProgressTracker(10, console)
    tracker.log(FIGURES, 0)
    tracker.close()
    tracker.close()
    assert "╭─ turnwise" in text_of(console)
    assert "tools ok 75%" not in text_of(console)
    assert text_of(console).endswith("\x1b[?25h")  # the cursor is back


def test_a_resumed_run_counts_from_its_first_step():
    clock = Clock()
    tracker = ProgressTracker(30, pipe(), first_step=20, clock=clock)
    assert "step 20/30" in render(tracker)
    clock.now += 3
    tracker.log(FIGURES, 20)
    assert tracker.line().startswith("step 21/30")
    assert tracker.line().endswith("left 0:27")  # 3 s a step, 9 left


@pytest.mark.parametrize(
    ("values", "drawn"),
    [((), ""), ((0.0, 0.5, 1.0), "▁▅█"), ((3.0,), "▁"), ((2.0, 2.0), "▁▁"), ((-1.0, 0.0), "▁█")],
)
def test_curve(values, drawn):
    assert curve(values) == drawn


def test_curve_between_fixed_ends():
    assert curve((0.5, 1.0), 0.0, 1.0) == "▅█"  # 0.5 of 8 blocks: the fifth


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (200, "3:20"), (3723, "1:02:03")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
