"""What the figures of training say about the ways in which arms came to where they ended."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

from turnwise.study.courses import runs_by_arm
from turnwise.study.runs import Run, Study
from turnwise.study.tables import Rows


@dataclass(frozen=True, kw_only=True)
class Diagnostic:
    """A figure of training: where it stands in metrics.jsonl, how it is shown, and what it tells."""

    metric: str
    form: Callable[[float], str]
    meaning: str


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _plain(value: float) -> str:
    return f"{value:.2f}"


FELL = "fell"
DIAGNOSTICS = {
    "turns": Diagnostic(metric="rollout/num_turns", form=_plain, meaning="turns of a trajectory"),
    "format errors": Diagnostic(
        metric="rollout/format_errors", form=_share, meaning="turns with a malformed tool call"
    ),
    "one reward": Diagnostic(
        metric="reward/zero_variance_groups",
        form=_share,
        meaning="groups whose trajectories all have one reward, which say nothing about which was better",
    ),
    "no advantage": Diagnostic(
        metric="advantage/zero_groups",
        form=_share,
        meaning="groups without any advantage, from which nothing is learnt",
    ),
    "first turn": Diagnostic(
        metric="advantage/turn_1", form=_signed, meaning="mean advantage of first turns, right and wrong ones together"
    ),
    "place": Diagnostic(
        metric="advantage/turn_correlation",
        form=_signed,
        meaning="correlation of advantage and place of the turn; above 0 too where long trajectories are better",
    ),
    "entropy": Diagnostic(metric="loss/entropy", form=_plain, meaning="of a sampled token, in nats"),
    "gradient": Diagnostic(metric="loss/grad_norm", form=_plain, meaning="norm of a step's gradient before clipping"),
}
"""By heading."""


def diagnostic_rows(study: Study, setting: str) -> Rows:
    """An arm a row: runs that fell, and each diagnostic's mean over the last fifth of the steps, then over the runs.

    A diagnostic that no run of the setting logged has no column.
    """
    by_arm = runs_by_arm(study, setting)
    first = _first_late_step(study.plan.num_steps)
    figures = {
        heading: {arm: _late_means(runs, one.metric, first) for arm, runs in by_arm.items()}
        for heading, one in DIAGNOSTICS.items()
    }
    logged = {heading: of_arm for heading, of_arm in figures.items() if any(of_arm.values())}
    rows = [["arm", FELL, *logged]]
    for arm, runs in by_arm.items():
        fell = f"{sum(run.final < run.start for run in runs)}/{len(runs)}"
        shown = [DIAGNOSTICS[name].form(fmean(own)) if (own := of_arm[arm]) else "" for name, of_arm in logged.items()]
        rows.append([arm, fell, *shown])
    return rows


def meanings(tables: Iterable[Rows]) -> dict[str, str]:
    """What the headings of tables of `diagnostic_rows` mean."""
    headings = {heading for header, *_ in tables for heading in header}
    known = {FELL: "runs that ended with a lower held-out accuracy than they began with, of those finished"}
    known |= {heading: one.meaning for heading, one in DIAGNOSTICS.items()}
    return {heading: text for heading, text in known.items() if heading in headings}


def late_steps(num_steps: int) -> str:
    """The steps that diagnostics are means over, in words."""
    first = _first_late_step(num_steps)
    return f"steps {first} to {num_steps - 1}" if first < num_steps - 1 else f"step {first}"


def _first_late_step(num_steps: int) -> int:
    return num_steps - max(1, num_steps // 5)


def _late_means(runs: list[Run], metric: str, first: int) -> list[float]:
    found = []
    for run in runs:
        pairs = zip(*run.series(metric), strict=True)
        if values := [value for step, value in pairs if step >= first]:
            found.append(fmean(values))
    return found
