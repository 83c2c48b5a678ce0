"""The table of evaluations: cells by hand, what is left out, and the file."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from turnwise.report.evaluations import figures_table, interval, last_results, terminal_table, turns_table, write_table
from turnwise.tracker.evaluations import Difference, SetRecord, SetResult, Share, set_folder, write_record

RESULT = SetResult(
    name="toy",
    step=0,
    protocol="0123456789ab",
    num_samples=2,
    shares={
        "accuracy": Share(value=0.5, low=0.2514, high=0.7486, num_problems=8),
        "pass@2": Share(value=0.75, low=0.4, high=0.93, num_problems=7),
    },
    rates={"num_turns": 1.5, "tool_use": 0.25, "truncated": 0.0, "excluded": 0.0, "tokens_per_answer": 12.6},
    by_source={"gcd": Share(value=1.0, low=0.5, high=1.0, num_problems=4)},
    by_turns={2: Share(value=0.25, low=0.1, high=0.5, num_problems=8)},
    turn_counts={2: 16},
)


def kept(run_dir, *results: SetResult) -> None:
    for result in results:
        record = SetRecord(protocol={}, weights="", result=result)
        write_record(set_folder(run_dir, result.name), result.step, record)


def test_a_row_holds_what_was_measured_and_no_column_is_empty():
    table = figures_table([RESULT])
    assert dict(zip(table.headings, table.rows[0], strict=True)) == {
        "set": "toy",
        "problems": "8",
        "samples": "2",
        "accuracy": "50.0 [25.1, 74.9]",
        "pass@2": "75.0 [40.0, 93.0] of 7",
        "turns": "1.50",
        "tool use": "25.0%",
        "cut": "0.0%",
        "tokens/answer": "13",
        "protocol": "0123456789ab",
    }


def test_a_figure_of_one_set_alone_leaves_a_dash_in_the_others():
    gained = replace(RESULT, name="b", tool_gain=Difference(value=-0.1, low=-0.3, high=0.1, num_problems=8))
    table = figures_table([RESULT, gained])
    place = table.headings.index("gain by tool")
    assert [row[place] for row in table.rows] == ["–", "-10.0 [-30.0, +10.0]"]


def test_steps_are_told_where_there_are_several():
    table = figures_table([RESULT, replace(RESULT, step=40)])
    assert [row[table.headings.index("steps")] for row in table.rows] == ["0", "40"]
    assert "steps" not in figures_table([RESULT]).headings


def test_turns():
    table = turns_table([RESULT, replace(RESULT, name="b", by_turns={1: RESULT.by_turns[2]}, turn_counts={1: 3})])
    assert table.headings == ["set", "1 turn", "2 turns"]
    assert table.rows == [["toy", "–", "25.0 [10.0, 50.0] of 16"], ["b", "25.0 [10.0, 50.0] of 3", "–"]]


def test_an_interval_that_is_not_there():
    assert interval(None) == "–"


def test_the_last_evaluation_of_each_set():
    results = [replace(RESULT, step=20), RESULT, replace(RESULT, name="b", step=5)]
    assert sorted((one.name, one.step) for one in last_results(results)) == [("b", 5), ("toy", 20)]


def test_the_file_holds_every_evaluation_and_the_names_of_sets_break_no_table(tmp_path):
    kept(tmp_path, RESULT, replace(RESULT, step=20), replace(RESULT, name="a|b"))
    assert [one.step for one in write_table(tmp_path)] == [0, 20]
    text = (tmp_path / "evaluation.md").read_text()
    assert "| a\\|b | 0 | 8 | 2 | 50.0 [25.1, 74.9] |" in text
    assert "| toy | 20 | 8 |" in text
    assert "| toy | 25.0 [10.0, 50.0] of 16 |" in text


def test_without_an_evaluation_there_is_no_file(tmp_path):
    assert write_table(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_the_terminal_shows_few_sets_whole_and_many_in_lines():
    console = Console(width=80, record=True, file=StringIO())
    console.print(terminal_table([RESULT]))
    few = console.export_text()
    assert [line.split()[0] for line in few.splitlines() if "50.0 [25.1, 74.9]" in line] == ["accuracy"]
    console.print(terminal_table([replace(RESULT, name=f"set{index}") for index in range(9)]))
    many = console.export_text()
    assert sum("50.0 [25.1, 74.9]" in line and "0123456789ab" in line for line in many.splitlines()) == 9
