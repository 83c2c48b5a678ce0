import json
from dataclasses import replace
from pathlib import Path

import pytest

from made_runs import NUM_STEPS, evaluation, leave_run, made_study, summary
from turnwise.report.summary import Outcome, write_summary
from turnwise.study.runs import Plan, Study, flat, read_plan, read_study, write_plan

PLAN = Plan(arms=("gtpo", "grpo"), seeds=(0, 1), baseline="gtpo", num_steps=NUM_STEPS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A study of two arms and two seeds, all of it finished."""
    write_plan(tmp_path, PLAN)
    for seed, setting, arm in PLAN.cells():
        leave_run(PLAN.folder(tmp_path, arm, setting, seed), arm, seed, final=0.5 + 0.125 * seed)
    return tmp_path


def why(root: Path, arm: str = "grpo", seed: int = 1) -> str:
    """Why the study does without that one run; all others are there."""
    study = read_study(root)
    assert [(one.arm, one.seed) for one in study.skipped] == [(arm, seed)]
    assert len(study.runs) == 3
    return study.skipped[0].why


def test_the_plan_comes_back_as_it_was_written(tmp_path: Path) -> None:
    plan = replace(PLAN, across="task.horizon", settings=("2", "8"), overrides=("rollout.num_problems=4",))
    write_plan(tmp_path / "deep/study", plan)
    assert read_plan(tmp_path / "deep/study") == plan


def test_cells_have_seeds_outermost_and_folders_of_their_own() -> None:
    plan = replace(PLAN, across="task.horizon", settings=("2", "8"))
    cells = list(plan.cells())
    assert cells[:4] == [(0, "2", "gtpo"), (0, "2", "grpo"), (0, "8", "gtpo"), (0, "8", "grpo")]
    assert plan.folder(Path("a"), "grpo", "8", 1) == Path("a/grpo_horizon8_seed1")
    assert PLAN.folder(Path("a"), "grpo", "", 1) == Path("a/grpo_seed1")
    assert len({plan.folder(Path("a"), arm, setting, seed) for seed, setting, arm in cells}) == 8


@pytest.mark.parametrize("content", ["", "[]", '{"arms": ["gtpo"]}', '{"weather": "fine"}', "\xff"])
def test_another_file_is_no_plan(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"study\.json is not the plan of a study"):
        read_plan(tmp_path)


def test_a_folder_without_a_plan_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ()}, r"Plan\.arms=\[\]: expected at least one"),
        ({"seeds": (3, 3)}, r"Plan\.seeds=\[3, 3\]: expected at least one, and none twice"),
        ({"num_steps": 0}, r"Plan\.num_steps=0"),
        ({"across": "task.horizon"}, r"Plan\.settings=\[''\]: expected values of Plan\.across='task\.horizon'"),
        ({"settings": ("2", "4")}, r"Plan\.settings=\['2', '4'\]"),
    ],
)
def test_a_plan_checks_its_content(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **change)


def test_a_study_is_read_whole(root: Path) -> None:
    study = read_study(root)
    assert study.skipped == ()
    assert [(run.arm, run.seed) for run in study.runs] == [("gtpo", 0), ("grpo", 0), ("gtpo", 1), ("grpo", 1)]
    run = study.of("grpo")[1]
    assert (run.start, run.final, run.final_stderr) == (0.25, 0.625, 0.01)
    assert run.area == 0.5  # (0.375 + 0.625) / 2
    assert run.series("rollout/accuracy") == ([0, 1], [0.375, 0.625])
    assert run.series("loss/value") == ([], [])
    assert run.revision == "abc"


def test_pairs_share_their_seed() -> None:
    study = made_study({"gtpo": {0: 0.5, 1: 0.6, 2: 0.7}, "grpo": {2: 0.4, 1: 0.3, 3: 0.9}})
    assert [(own.seed, own.final, other.final) for own, other in study.pairs("grpo", "gtpo")] == [
        (1, 0.3, 0.6),
        (2, 0.4, 0.7),
    ]
    assert study.pairs("grpo", "no_such_arm") == []


def test_the_error_of_several_tasks(root: Path) -> None:
    run = read_study(root).runs[0]
    metrics = {"eval/a/accuracy": 0.5, "eval/a/accuracy_stderr": 0.03, "eval/b/accuracy": 0.5}
    both = replace(evaluation(2, 0.5), metrics=metrics | {"eval/b/accuracy_stderr": 0.04})
    assert replace(run, summary=replace(run.summary, final=both)).final_stderr == pytest.approx(0.025)
    # sqrt(0.03^2 + 0.04^2) / 2: the mean of two independent accuracies
    one = replace(evaluation(2, 0.5), metrics=metrics)
    assert replace(run, summary=replace(run.summary, final=one)).final_stderr is None


def test_a_run_that_was_not_started(root: Path) -> None:
    (root / "grpo_seed1").rename(root / "elsewhere")
    assert why(root) == "not run"


def test_a_run_that_was_killed(root: Path) -> None:
    (root / "grpo_seed1/summary.json").unlink()
    assert why(root) == "has not ended, or was killed"


def test_a_run_that_failed_says_why(root: Path) -> None:
    write_summary(root / "grpo_seed1", summary(0.5, outcome=Outcome.failed, why="RuntimeError: NaN"))
    assert why(root) == "failed after 2 steps: RuntimeError: NaN"


def test_a_run_of_another_length(root: Path) -> None:
    write_summary(root / "grpo_seed1", replace(summary(0.5), total_steps=1))
    assert why(root) == "holds 1 steps, the study has 2"


def test_a_run_without_its_last_evaluation(root: Path) -> None:
    write_summary(root / "grpo_seed1", replace(summary(0.5), final=evaluation(1, 0.5)))
    assert why(root) == "was evaluated first and last after [0, 1] steps, expected [0, 2]"


def test_a_run_without_evaluation(root: Path) -> None:
    write_summary(root / "grpo_seed1", replace(summary(0.5), initial=None, best=None, final=None))
    assert "evaluated" in why(root)


def test_an_accuracy_that_is_no_number(root: Path) -> None:
    path = root / "grpo_seed1/summary.json"
    path.write_text(path.read_text().replace('"accuracy": 0.625', '"accuracy": null'))
    assert "summary.json is not the summary of a run: ValueError('accuracy=None: expected a number')" in why(root)


def test_a_summary_without_figures(root: Path) -> None:
    path = root / "grpo_seed1/summary.json"
    fields = json.loads(path.read_text())
    fields["final"]["metrics"] = None
    path.write_text(json.dumps(fields))
    assert "summary.json is not the summary of a run: ValueError('metrics=None: expected figures by name')" in why(root)


def test_a_figure_that_is_no_number(root: Path) -> None:
    path = root / "grpo_seed1/metrics.jsonl"
    path.write_text(path.read_text().replace("0.375", '"abc"'))
    assert why(root).endswith("metrics.jsonl, line 1: rollout/accuracy='abc': expected a number or null")


def test_a_run_whose_metrics_lack_a_step(root: Path) -> None:
    path = root / "grpo_seed1/metrics.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert why(root) == "metrics.jsonl holds rollout/accuracy of 1 steps, expected 2"
    path.unlink()
    assert why(root) == "metrics.jsonl holds rollout/accuracy of 0 steps, expected 2"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": 3}'])
def test_a_broken_record(root: Path, content: str) -> None:
    (root / "grpo_seed1/config.json").write_text(content)
    assert "config.json is not the record of a run" in why(root)


@pytest.mark.parametrize("part", [{"git": "abc"}, {"git": {"revision": "abc"}}, {"device": [1]}, {"versions": "3.11"}])
def test_a_broken_part_of_a_record(root: Path, part: dict[str, object]) -> None:
    path = root / "grpo_seed1/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | part))
    assert f"config.json is not the record of a run: ValueError('its {next(iter(part))} is " in why(root).replace(
        '"', "'"
    )


def test_a_record_without_git_is_sound(root: Path) -> None:
    path = root / "grpo_seed1/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"git": None}))
    assert "no git checkout" in {run.revision for run in read_study(root).runs}


def test_a_missing_record_is_not_taken_for_a_missing_run(root: Path) -> None:
    (root / "grpo_seed1/config.json").unlink()
    assert "config.json" in why(root)


def test_a_run_of_another_seed_is_not_counted_twice(root: Path) -> None:
    record = json.loads((root / "grpo_seed0/config.json").read_text())
    (root / "grpo_seed1/config.json").write_text(json.dumps(record))
    assert why(root).startswith("has seed=0, but lies where 1 belongs")


def test_arms_may_differ_in_what_makes_an_arm_only(root: Path) -> None:
    leave_run(root / "grpo_seed1", "grpo", 1, trainer={"dtype": "bfloat16"})
    assert why(root) == "has trainer.dtype=bfloat16, but 3 runs have float32, the first of them gtpo, seed 0"


def test_an_odd_run_in_first_place_is_the_one_left_out(root: Path) -> None:
    leave_run(root / "gtpo_seed0", "gtpo", 0, trainer={"dtype": "bfloat16"})
    reason = why(root, "gtpo", 0)
    assert reason == "has trainer.dtype=bfloat16, but 3 runs have float32, the first of them grpo, seed 0"


def test_an_odd_run_in_first_place_of_its_arm_is_the_one_left_out(root: Path) -> None:
    write_plan(root, replace(PLAN, seeds=(0, 1, 2)))
    for arm in PLAN.arms:
        leave_run(root / f"{arm}_seed2", arm, 2)
    leave_run(root / "grpo_seed0", "grpo", 0, reward={"shaping": "other"})
    (odd,) = read_study(root).skipped
    assert (odd.arm, odd.seed) == ("grpo", 0)
    assert odd.why == "has reward.shaping=other, but 2 runs have grpo, the first of them grpo, seed 1"


def test_runs_that_cannot_be_used_stay_in_the_order_of_the_plan(root: Path) -> None:
    leave_run(root / "gtpo_seed0", "gtpo", 0, trainer={"dtype": "bfloat16"})
    (root / "grpo_seed0/summary.json").unlink()
    assert [(one.arm, one.seed) for one in read_study(root).skipped] == [("gtpo", 0), ("grpo", 0)]


def test_a_run_of_another_arm(root: Path) -> None:
    leave_run(root / "grpo_seed1", "gtpo", 1)
    assert why(root).startswith("has ablation=gtpo, but lies where grpo belongs: ")


@pytest.mark.parametrize("choices", [None, {}, "grpo"])
def test_a_run_that_does_not_say_its_arm(root: Path, choices: object) -> None:
    path = root / "grpo_seed1/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"choices": choices}))
    assert why(root).startswith("does not say in config.json which arm it is, under choices.ablation: ")


def test_seeds_of_an_arm_may_differ_in_nothing(root: Path) -> None:
    leave_run(root / "grpo_seed1", "grpo", 1, reward={"shaping": "other"})
    assert why(root) == "has reward.shaping=other, but 1 run has grpo, the first of them grpo, seed 0"


def along_the_horizon(root: Path, settings: tuple[str, str], horizon: float | None = None) -> Study:
    plan = replace(PLAN, seeds=(0,), across="task.horizon", settings=settings)
    write_plan(root, plan)
    for seed, setting, arm in plan.cells():
        task = {"horizon": float(setting) if horizon is None else horizon}
        leave_run(plan.folder(root, arm, setting, seed), arm, seed, task=task)
    return read_study(root)


def test_settings_differ_along_the_axis_and_are_what_they_are_called(tmp_path: Path) -> None:
    assert along_the_horizon(tmp_path / "a", ("2", "8.0")).skipped == ()
    study = along_the_horizon(tmp_path / "b", ("2", "8"), horizon=2)
    assert {one.setting for one in study.skipped} == {"8"}
    assert "has task.horizon=2, but lies where 8 belongs" in study.skipped[0].why


def test_flat_names_nested_keys() -> None:
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": [1]}) == {"a.b": 1, "a.c.d": None, "e": [1]}
