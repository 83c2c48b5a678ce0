"""What a second scoring changed, as a table for the terminal."""

from collections.abc import Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Figures = Mapping[str, float]

MAX_STEPS = 12
"""Steps that get a row each; of more, the first and the last are shown."""


def changes_table(by_step: Mapping[int, Figures], overall: Figures) -> RenderableType:
    """Two tables of `rescore/` figures: step by step with all of them together below, and turn by turn."""
    steps = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    steps.add_column("step")
    for heading in ("flipped", "to 0", "from 0", "rank r", "change", "groups at 0", "regraded"):
        steps.add_column(heading, justify="right")
    shown = list(by_step.items())
    if len(shown) > MAX_STEPS:
        shown = [*shown[: MAX_STEPS // 2], *shown[-MAX_STEPS // 2 :]]
    for step, figures in shown:
        steps.add_row(str(step), *_cells(figures))
    steps.add_section()
    steps.add_row(f"all {len(by_step)}", *_cells(overall), style="bold")

    turns = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    turns.add_column("turn")
    turns.add_column("flipped", justify="right")
    turns.add_column("change", justify="right")
    for name, flips in overall.items():
        _, found, turn = name.partition("rescore/sign_flips_turn_")
        if found:
            turns.add_row(turn, _percent(flips), f"{overall[f'rescore/abs_change_turn_{turn}']:.3f}")
    note = Text(
        "Advantages as stored against as scored anew, over turns: signs that flipped, went to 0 or came from 0;\n"
        "rank correlation (Spearman); mean absolute change. Groups at 0 have no advantage at all, before and after.",
        style="dim",
    )
    if len(by_step) > MAX_STEPS:
        note.append(f"\n{len(by_step) - len(shown)} steps in between are in metrics.jsonl.")
    return Group("", steps, "", turns, "", note)


def _cells(figures: Figures) -> list[str]:
    value = {name.removeprefix("rescore/"): figure for name, figure in figures.items()}
    return [
        _percent(value["sign_flips"]),
        _percent(value["to_zero"]),
        _percent(value["from_zero"]),
        f"{value['rank_correlation']:.3f}",
        f"{value['abs_change']:.3f}",
        f"{100 * value['zero_groups_stored']:.1f} to {_percent(value['zero_groups'])}",
        _percent(value["regraded"]),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
