from rich.console import Console

from turnwise.report.changes import MAX_STEPS, changes_table

FIGURES = {
    "rescore/sign_flips": 0.125,
    "rescore/abs_change": 0.5,
    "rescore/to_zero": 0.0,
    "rescore/from_zero": 0.25,
    "rescore/rank_correlation": 0.875,
    "rescore/zero_groups_stored": 0.5,
    "rescore/zero_groups": 0.25,
    "rescore/regraded": 0.0,
    "rescore/sign_flips_turn_1": 0.0,
    "rescore/abs_change_turn_1": 0.375,
    "rescore/sign_flips_turn_2": 0.25,
    "rescore/abs_change_turn_2": 0.625,
}


def shown(num_steps: int) -> list[list[str]]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(changes_table(dict.fromkeys(range(num_steps), FIGURES), FIGURES))
    return [line.split() for line in capture.get().splitlines()]


def test_steps_overall_and_turns_fit_a_narrow_terminal():
    lines = shown(2)
    cells = ["12.5%", "0.0%", "25.0%", "0.875", "0.500", "50.0", "to", "25.0%", "0.0%"]
    for head in (["0"], ["1"], ["all", "2"]):
        assert head + cells in lines
    assert ["1", "0.0%", "0.375"] in lines
    assert ["2", "25.0%", "0.625"] in lines


def test_of_many_steps_the_first_and_the_last_are_shown():
    lines = shown(100)
    steps = [line[0] for line in lines if len(line) == 10 and line[0].isdecimal()]
    assert steps == [*map(str, range(6)), *map(str, range(94, 100))]
    assert len(steps) == MAX_STEPS
    assert ["88", "steps", "in", "between", "are", "in", "metrics.jsonl."] in lines
