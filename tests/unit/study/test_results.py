from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from made_runs import NUM_STEPS, made_study
from turnwise.study.results import command, write_results, write_tables
from turnwise.study.runs import Plan, Run, Skipped, Study
from turnwise.study.statistics import Metric, compare

BASE = {seed: 0.5 + 0.01 * (seed % 3) for seed in range(8)}


def tables_of(study: Study, arms: Mapping[str, str] = MappingProxyType({})) -> list[Path]:
    return write_tables(study, [compare(study, metric) for metric in Metric], arms)


def text_of(study: Study, arms: Mapping[str, str] = MappingProxyType({})) -> str:
    tables_of(study, arms)
    return (study.root / "results.md").read_text()


def test_four_files_are_written(tmp_path: Path) -> None:
    study = made_study(
        {"gtpo": BASE, "grpo": {seed: value + 0.1 + 0.001 * seed for seed, value in BASE.items()}}, root=tmp_path
    )
    paths = tables_of(study)
    assert [path.name for path in paths] == ["results.md", "results.csv", "results.tex", "runs.csv"]
    text = paths[0].read_text()
    for part in (
        "# grpo against gtpo",
        "Does grpo do better or worse than gtpo?",
        "**Above gtpo: grpo.**",
        "- grpo is 10.3 points above gtpo (95% interval",
        "| gtpo | 8/8 | 50.9 |",
        "- **Holm p**:",
        "a standard error of up to 1.0 points",
        "- source: abc\n",
        "- device: cpu (x86_64)\n",
        "- versions: python 3.11, torch 2.13\n",
        "- time: 24:00 (h:mm:ss or m:ss), that of all runs in sum",  # 16 runs of 90 s
    ):
        assert part in text
    assert "missing" not in text
    assert all(len(line) <= 120 or line.startswith(("|", "- ", "    make", "**")) for line in text.splitlines())
    assert paths[2].read_text().count(r"\begin{table}") == 2


def test_what_is_missing_is_named_seed_by_seed(tmp_path: Path) -> None:
    text = text_of(made_study({"gtpo": BASE, "grpo": {0: 0.5, 5: 0.5}}, root=tmp_path))
    assert "6 runs of 16." in text
    assert "- grpo, seeds 1, 2, 3, 4, 6, 7: not run\n" in text


def test_damaged_trajectories_are_named_and_the_figures_stay(tmp_path: Path) -> None:
    study = made_study({"gtpo": BASE, "grpo": BASE}, root=tmp_path)
    damaged = [Skipped(arm="grpo", setting="", seed=seed, why="groups/ holds none") for seed in (0, 3)]
    text = text_of(replace(study, damaged=tuple(damaged)))
    assert "| grpo | 8/8 |" in text
    assert "## What is missing\n\nTrajectories of 2 runs, whose figures count all the same.\n" in text
    assert text.count("- grpo, seeds 0, 3: groups/ holds none\n") == 1
    assert text.count("groups/ holds none") == 1


def test_arms_are_introduced_before_the_first_verdict(tmp_path: Path) -> None:
    study = made_study({"gtpo": BASE, "grpo": BASE}, root=tmp_path)
    text = text_of(study, {"gtpo": "All of it.", "grpo": "Less of it."})
    assert text.index("- **gtpo**, the baseline: All of it.\n- **grpo**: Less of it.\n") < text.index("## Held-out")
    assert "An arm is" not in text_of(study, {"gtpo": ""})


def test_runs_from_several_sources_are_counted(tmp_path: Path) -> None:
    study = made_study({"gtpo": BASE}, root=tmp_path)

    def dirty(run: Run) -> Run:
        return replace(run, record={**run.record, "git": {"revision": "abc", "is_dirty": True}})

    runs = (dirty(study.runs[0]), *study.runs[1:7], replace(study.runs[7], record={"config": {}}))
    text = text_of(replace(study, runs=runs))
    assert "- source: abc (6 runs); abc with changes (1 run); no git checkout (1 run)\n" in text
    assert "- device: cpu (x86_64) (7 runs); not recorded (1 run)\n" in text


def test_every_setting_has_its_section(tmp_path: Path) -> None:
    base = dict.fromkeys(("2", "4"), BASE)
    text = text_of(made_study({"gtpo": base, "grpo": base}, across="task.horizon", root=tmp_path))
    assert text.count("### Along task.horizon") == 2  # once for each metric
    for heading in ("### task.horizon=2", "### task.horizon=4"):
        assert text.count(heading) == 3  # and once for the diagnostics
    assert "grpo ended exactly as gtpo did" in text
    assert "- settings: task.horizon = 2, 4\n" in text


@pytest.mark.parametrize(
    "finals", [{"gtpo": {0: 0.5}}, {"gtpo": {0: 0.5}, "grpo": {0: 0.6}}, {"gtpo": {}, "grpo": BASE}]
)
def test_little_is_still_reported(tmp_path: Path, finals: dict[str, dict[int, float]]) -> None:
    text = text_of(made_study(finals, root=tmp_path))
    assert "| grpo | " in text or "| gtpo | " in text
    assert "Nothing can be compared" in text or "nothing follows from" in text
    assert not any(word in text for word in (" nan", " inf", "None"))


def test_a_study_without_runs_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 2 runs can be used: not run"):
        write_results(made_study({"gtpo": {}, "grpo": {}}, seeds=(0,), root=tmp_path), {})
    assert list(tmp_path.iterdir()) == []


def test_the_command_is_that_of_the_driver() -> None:
    plan = Plan(
        arms=("gtpo", "grpo"),
        seeds=(3,),
        baseline="grpo",
        num_steps=NUM_STEPS,
        across="task.horizon",
        settings=("2", "4"),
        overrides=("task=chain",),
    )
    assert command(plan) == (
        "make ablations ARGS='--arms gtpo,grpo --seeds 3, --steps 2 --baseline grpo"
        " --across task.horizon=2,4 task=chain'"
    )
