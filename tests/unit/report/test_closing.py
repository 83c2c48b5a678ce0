import io
from dataclasses import replace

from rich.console import Console

from turnwise.report.closing import closing_table
from turnwise.report.summary import Outcome, read_summary, summarise_run


def render(run_dir, summary) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(closing_table(run_dir, summary))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(shown: str, start: str) -> list[str]:
    (line,) = [line.split() for line in shown.splitlines() if line.split()[:1] == [start]]
    return line


def test_start_end_and_points_by_family(run_dir):
    (run_dir / "report.html").touch()
    shown = render(run_dir, read_summary(run_dir))
    # families rise by 0.02 a step over 6 steps = 12 points, but for primes; the mean of four: 9 points
    assert row(shown, "arithmetic") == ["arithmetic", "35.0%", "44.0%", "+9.0"]
    assert row(shown, "gcd") == ["gcd", "40.0%", "52.0%", "+12.0"]
    assert row(shown, "primes") == ["primes", "50.0%", "50.0%", "+0.0"]
    assert "Finished after 6 steps, 1:36" in shown
    assert f"In {run_dir}:" in shown.replace("\n", "")
    for name in ("report.html", "metrics.jsonl", "summary.json", "config.json", "groups"):
        assert row(shown, name)
    assert "checkpoints" not in shown  # there are none


def test_names_the_step_of_an_evaluation_that_is_older_than_the_end(run_dir):
    summary = read_summary(run_dir)
    said = "The last evaluation was made after 6 steps:"
    assert said not in render(run_dir, summary)
    assert said in render(run_dir, replace(summary, total_steps=8, outcome=Outcome.stopped))


def test_says_why_a_run_ended(run_dir):
    summary = replace(read_summary(run_dir), outcome=Outcome.failed, why="RuntimeError: [red]no brackets lost[/red]")
    assert "Failed after 6 steps, 1:36: RuntimeError: [red]no brackets lost[/red]" in render(run_dir, summary)


def test_names_the_best_evaluation_when_it_is_not_the_last(run_dir):
    summary = read_summary(run_dir)
    assert summary.final is not None
    assert "best:" not in render(run_dir, summary)
    better = replace(summary.final, step=3, accuracy=0.625)
    assert "best: 62.5% after 3 steps" in render(run_dir, replace(summary, best=better))


def test_a_run_without_evaluations(tmp_path):
    summary = summarise_run(tmp_path, outcome=Outcome.stopped, why="interrupted", wall_s=1.0)
    shown = render(tmp_path, summary)
    assert "Stopped after 0 steps, 0:01: interrupted" in shown
    assert "No evaluation was made." in shown
