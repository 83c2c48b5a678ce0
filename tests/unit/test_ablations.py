"""The driver of `make ablations`: its command line, the plan it makes of it, and what it says of fake run folders."""

import gzip
import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from turnwise.report.summary import EvaluationRecord, Outcome, Summary, write_summary
from turnwise.study.runs import Plan, read_plan, write_plan

SCRIPT = Path(__file__).parents[2] / "experiments/ablations.py"
spec = importlib.util.spec_from_file_location("ablations", SCRIPT)
assert spec is not None
assert spec.loader is not None
ablations = importlib.util.module_from_spec(spec)
sys.modules["ablations"] = ablations
spec.loader.exec_module(ablations)

SMALL = Plan(arms=("gtpo", "grpo"), seeds=(0, 1), baseline="gtpo", num_steps=2, overrides=("model.num_threads=1",))


def evaluation(step: int, accuracy: float) -> EvaluationRecord:
    return EvaluationRecord(step=step, accuracy=accuracy, metrics={"eval/arithmetic/accuracy": accuracy})


def leave_run(
    out: Path, arm: str, seed: int, accuracies: tuple[float, float], *, outcome: Outcome = Outcome.finished
) -> None:
    """What a run of two steps leaves, as far as the driver reads it."""
    folder = SMALL.folder(out, arm, "", seed)
    folder.mkdir(parents=True)
    first, last = evaluation(0, accuracies[0]), evaluation(2, accuracies[1])
    why = "" if outcome is Outcome.finished else "RuntimeError: no more"
    write_summary(
        folder, Summary(outcome=outcome, why=why, total_steps=2, wall_s=1.0, initial=first, best=last, final=last)
    )
    record = {"choices": {"ablation": arm}, "config": {"seed": seed}, "git": {"revision": "abc", "is_dirty": False}}
    (folder / "config.json").write_text(json.dumps(record))
    lines = [{"step": step, "rollout/accuracy": 0.5} for step in range(2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class Trained:
    """Stands in for the training: remembers what it was asked for."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.launchers: list[tuple[str, list[str]]] = []
        self.reaches_the_end = True

    def __call__(self, plan: Plan, root: Path, launcher: str, overrides: Sequence[str], console: object) -> bool:
        assert read_plan(root) == plan, "study.json is written before anything trains"
        self.plans.append(plan)
        self.launchers.append((launcher, list(overrides)))
        return self.reaches_the_end


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Nothing trains, and nothing is composed; launchers count as installed."""
    stand_in = Trained()
    monkeypatch.setattr(ablations, "train_missing", stand_in)
    monkeypatch.setattr(ablations, "check_plan", lambda plan, out, launcher: None)
    monkeypatch.setattr("turnwise.config.sweep.find_spec", lambda name: object())
    return stand_in


def test_default_study_is_five_arms_with_eight_seeds(tmp_path: Path, trained: Trained) -> None:
    assert ablations.main(["--out", str(tmp_path)]) == 1  # nothing trained, so every run is missing
    (plan,) = trained.plans
    assert plan == Plan(
        arms=("gtpo", "grpo", "no_turn_rewards", "no_discount", "no_shaping"),
        seeds=tuple(range(8)),
        baseline="gtpo",
        num_steps=30,
        overrides=("evaluation.num_problems=1024", "trainer.eval_every=30", "trainer.save_every=10"),
    )
    assert trained.launchers == [("joblib", ["hydra/launcher=joblib"])]


def test_options_and_words_make_the_plan(tmp_path: Path, trained: Trained) -> None:
    words = ["rollout.num_problems=4", "trainer.save_every=5", "hydra.launcher.verbose=1"]
    arguments = ["--arms", "no_discount,grpo", "--seeds", "3,7", "--steps", "8", "--baseline", "grpo", "--jobs", "2"]
    ablations.main([*arguments, "--across", "advantage.discount=0.50,1", "--out", str(tmp_path), *words])
    (plan,) = trained.plans
    assert (plan.arms, plan.seeds, plan.baseline, plan.num_steps) == (("no_discount", "grpo"), (3, 7), "grpo", 8)
    # as the configuration writes them: the field is a float
    assert (plan.across, plan.settings) == ("advantage.discount", ("0.5", "1.0"))
    assert plan.overrides == (
        "evaluation.num_problems=1024",
        "trainer.eval_every=8",
        "trainer.save_every=5",  # the user's in place of the usual 10
        "rollout.num_problems=4",
    )
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.launcher.verbose=1"]
    assert trained.launchers == [("joblib", launcher)]


def test_a_study_is_put_nowhere_but_into_a_folder_of_its_own(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert ablations.main(["--out", str(tmp_path)]) == 2
    assert "expected a study or an empty folder, this holds other files" in capsys.readouterr().err
    assert ablations.main(["--out", str(tmp_path / "notes.txt")]) == 2
    assert "expected a folder, this is a file" in capsys.readouterr().err
    assert (trained.plans, [path.name for path in tmp_path.iterdir()]) == ([], ["notes.txt"])


def test_the_documented_plan_is_the_one_that_is_written(tmp_path: Path, trained: Trained) -> None:
    page = (SCRIPT.parents[1] / "docs/ARCHITECTURE.md").read_text()
    found = re.search(r'`make ablations ARGS="([^"]+)"` leaves[^{]+(\{[^}]+\})', page)
    assert found is not None
    ablations.main([*found[1].split(), "--out", str(tmp_path)])
    assert json.loads((tmp_path / "study.json").read_text()) == json.loads(found[2])


def test_words_may_stand_anywhere(tmp_path: Path, trained: Trained) -> None:
    ablations.main(
        ["rollout.num_problems=4", "--seeds", "2", "task=chain", "--out", str(tmp_path), "rollout.group_size=4"]
    )
    (plan,) = trained.plans
    assert plan.seeds == (0, 1)
    assert {"rollout.num_problems=4", "task=chain", "rollout.group_size=4"} <= set(plan.overrides)


def test_an_axis_may_be_a_key_that_only_another_word_brings_in(tmp_path: Path, trained: Trained) -> None:
    ablations.main(["--across", "task.horizon=2,8", "--out", str(tmp_path), "experiment=chain"])
    (plan,) = trained.plans
    assert (plan.across, plan.settings) == ("task.horizon", ("2", "8"))


@pytest.mark.parametrize(("text", "seeds"), [("3", (0, 1, 2)), ("3,7", (3, 7)), ("3,", (3,)), ("0,", (0,))])
def test_seeds_are_a_count_or_a_list(tmp_path: Path, trained: Trained, text: str, seeds: tuple[int, ...]) -> None:
    ablations.main(["--seeds", text, "--out", str(tmp_path)])
    assert trained.plans[0].seeds == seeds


def test_all_arms_are_the_presets(tmp_path: Path, trained: Trained) -> None:
    ablations.main(["--arms", "all", "--out", str(tmp_path)])
    (plan,) = trained.plans
    assert set(plan.arms) == {path.stem for path in (ablations.ROOT / "conf/ablation").iterdir()}
    assert len(plan.arms) >= 20
    assert plan.baseline == "gtpo"


def test_first_arm_is_the_baseline_where_gtpo_takes_no_part(tmp_path: Path, trained: Trained) -> None:
    ablations.main(["--arms", "no_shaping,grpo", "--out", str(tmp_path)])
    assert trained.plans[0].baseline == "no_shaping"


def test_a_study_goes_on_as_it_was_planned(tmp_path: Path, trained: Trained) -> None:
    write_plan(tmp_path, SMALL)
    ablations.main(["--out", str(tmp_path)])
    assert trained.plans == [SMALL]


def test_arms_and_seeds_join_a_study(tmp_path: Path, trained: Trained) -> None:
    write_plan(tmp_path, SMALL)
    ablations.main(["--arms", "no_discount,gtpo", "--seeds", "3", "--out", str(tmp_path)])
    assert trained.plans == [replace(SMALL, arms=("gtpo", "grpo", "no_discount"), seeds=(0, 1, 2))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "3"], "is another study: steps 2 there, 3 here"),
        (["--across", "rollout.group_size=2,4"], "is another study: across none there, rollout.group_size here"),
        (
            ["trainer.save_every=1", "trainer.eval_every=2", "evaluation.num_problems=9"],
            "is another study: overrides model.num_threads=1 there, "
            "evaluation.num_problems=9 trainer.eval_every=2 trainer.save_every=1 here",
        ),
        (["--baseline", "no_discount"], "--baseline no_discount: expected one of the arms: gtpo, grpo"),
    ],
)
def test_another_study_is_refused(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write_plan(tmp_path, SMALL)
    assert ablations.main([*arguments, "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert message in printed
    assert (trained.plans, read_plan(tmp_path)) == ([], SMALL)


def test_the_words_of_a_study_may_come_in_another_order(tmp_path: Path, trained: Trained) -> None:
    there = replace(SMALL, overrides=("trainer.save_every=1", "evaluation.num_problems=9", "trainer.eval_every=2"))
    write_plan(tmp_path, there)
    ablations.main(["--out", str(tmp_path), "evaluation.num_problems=9", "trainer.save_every=1"])
    assert trained.plans == [there]


def test_an_axis_takes_the_place_of_the_usual_value(tmp_path: Path, trained: Trained) -> None:
    ablations.main(["--across", "evaluation.num_problems=64,128", "--out", str(tmp_path)])
    (plan,) = trained.plans
    assert plan.settings == ("64", "128")
    assert plan.overrides == ("trainer.eval_every=30", "trainer.save_every=10")


@pytest.mark.parametrize("out", ["/dev/null/study", "/proc/no_such_folder/study"])
def test_a_place_where_nothing_can_be_written(out: str, trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablations.main(["--out", out]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert out.rpartition("/")[0] in printed
    assert trained.plans == []


def test_broken_plan_is_refused(tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.json").write_text('{"arms": ["gt')
    assert ablations.main(["--out", str(tmp_path)]) == 2
    assert "study.json is not the plan of a study" in capsys.readouterr().err
    assert trained.plans == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", ""], "no arm named; known: alpha_0_25, "),
        (["--arms", "gtpo,gtpq"], "unknown ['gtpq']; known: alpha_0_25, "),
        (["--arms", "gtpo,gtpo"], "--arms names one twice: gtpo,gtpo"),
        (["--seeds", "0,x"], "--seeds=0,x: expected a count"),
        (["--seeds", ""], "--seeds=: expected a count"),
        (["--seeds", "0"], "--seeds=0: expected >= 1"),
        (["--seeds", "1,1"], "--seeds names one twice: 1,1"),
        (["--steps", "0"], "--steps=0: expected >= 1"),
        (["--jobs", "0"], "--jobs=0: expected >= 1"),
        (["--launcher", "lsf"], "invalid choice: 'lsf'"),
        (["--report-only"], "--report-only reads a study as it lies"),
        (["--report-only", "--out", "x", "--seeds", "3"], "--report-only reads a study as it lies"),
        (["gtpo"], "'gtpo' is no override: expected KEY=VALUE"),
        (["--baseline", "no_turn"], "--baseline no_turn: expected one of the arms: gtpo, grpo, "),
        (["--across", "trainer.learning_rate=1,1.0"], "names a value twice: 1.0, 1.0"),
        (["--across", "trainer.learning_rat=1,2"], "trainer.learning_rat: no such key"),
        (["--across", "model.path=a/b,c"], "a folder is named after each value, so 'a/b' cannot be one"),
        (["--across", "task=arithmetic,jsonl"], "task is a group"),
        (["--across", "seed=1,2"], "seed=1,2: the study itself decides seed"),
        (["trainer.num_steps=3"], "trainer.num_steps=3: the study itself decides trainer.num_steps"),
        (["rollout.group_size=[1"], "cannot read the override 'rollout.group_size=[1'"),
        (["rollout.group_size=4,8"], "asked for by --across rollout.group_size=4,8"),
        (["--across", ""], "--across: expected one KEY=V1,V2"),
        (["--across", "rollout.group_size=4,8", "--across", "rollout.max_turns=2,4"], "a study goes across one key"),
        (
            ["--across", "rollout.group_size=4,8", "rollout.group_size=2"],
            "goes across rollout.group_size, so no single",
        ),
        (["--across", "rollout.group_size=range(2,4)", "rollout.group_size=2"], "goes across rollout.group_size"),
        (["--across", "trainer.learning_rate=interval(0,1)"], "expected single values, with commas between them"),
        (["rollout.group_size=glob(*)"], "expected single values, with commas between them"),
        (["--across", "hydra.verbose=true,false"], "expected KEY=V1,V2 with a key such as task.horizon"),
        (["=4"], "'=4': expected KEY=VALUE"),
        (["algo=grpo"], "algo=grpo: the study itself decides algo"),
        (["hydra.run.dir=elsewhere"], "hydra.run.dir=elsewhere: the study itself decides hydra.run.dir"),
        (["--launcher", "basic", "--jobs", "2"], "--jobs: the launcher basic takes no number of jobs"),
    ],
)
def test_mistakes_end_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
    trained: Trained,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ablations, "ROOT", tmp_path)  # where the default study would lie
    monkeypatch.setattr(ablations, "PRESETS", SCRIPT.parents[1] / "conf/ablation")
    try:
        code = ablations.main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert trained.plans == []
    assert list(tmp_path.iterdir()) == []


def test_launcher_that_is_not_installed(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("turnwise.config.sweep.find_spec", lambda name: None)
    assert ablations.main(["--launcher", "ray", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: --launcher ray is not installed: pip install '.[ray]'\n"


def test_results_are_written_and_what_is_missing_is_named(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(tmp_path, SMALL)
    leave_run(tmp_path, "gtpo", 0, (0.25, 0.75))
    leave_run(tmp_path, "gtpo", 1, (0.25, 0.5))
    leave_run(tmp_path, "grpo", 0, (0.25, 0.9), outcome=Outcome.failed)

    assert ablations.main(["--out", str(tmp_path)]) == 1

    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith("no result:")]
    assert len(lines) == 2
    assert lines[0] == "no result: grpo, seed 0: failed after 2 steps: RuntimeError: no more"
    assert lines[1] == "no result: grpo, seed 1: not run"
    row = next(line.split() for line in printed if line.split()[:1] == ["gtpo"])
    assert row[1] == "62.5"  # (0.75 + 0.5) / 2
    assert str(tmp_path / "results.md") in printed
    assert (tmp_path / "results.md").exists()


def test_trajectories_that_are_gone_are_named_once_and_the_figures_stay(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(tmp_path, SMALL)
    for arm in SMALL.arms:
        for seed in SMALL.seeds:
            leave_run(tmp_path, arm, seed, (0.25, 0.75))
    folder = tmp_path / "grpo_seed1"
    record = json.loads((folder / "config.json").read_text())
    for run in (path.parent for path in tmp_path.glob("*/config.json")):
        record["config"] = {"seed": int(run.name[-1]), "tracker": {"save_groups_every": 2}}
        record["choices"] = {"ablation": run.name.partition("_")[0]}
        (run / "config.json").write_text(json.dumps(record))
        (run / "groups").mkdir()
        (run / "groups/step_0.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    (folder / "groups/step_0.jsonl.gz").write_bytes(gzip.compress(b"{}\n")[:-4])

    assert ablations.main(["--report-only", "--out", str(tmp_path)]) == 0

    printed = [line for line in capsys.readouterr().out.splitlines() if "seed 1" in line]
    assert printed == ["damaged trajectories: grpo, seed 1: groups/ is broken at step 0"]
    text = (tmp_path / "results.md").read_text()
    assert "- grpo, seed 1: groups/ is broken at step 0\n" in text
    assert "| grpo | 2/2 |" in text


def test_results_say_what_each_arm_is(tmp_path: Path, trained: Trained) -> None:
    write_plan(tmp_path, SMALL)
    leave_run(tmp_path, "gtpo", 0, (0.25, 0.75))
    ablations.main(["--report-only", "--out", str(tmp_path)])
    text, _, _ = (tmp_path / "results.md").read_text().partition("## ")
    for arm in SMALL.arms:
        about = (SCRIPT.parents[1] / f"conf/ablation/{arm}.yaml").read_text().splitlines()[1].removeprefix("# ")
        assert f": {about}\n" in text


def test_ctrl_c_is_followed_by_the_command_that_goes_on(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.reaches_the_end = False
    assert ablations.main(["--out", str(tmp_path)]) == 130
    assert f"stopped; to go on: make ablations ARGS='--out {tmp_path}'" in capsys.readouterr().out


def test_report_only_trains_nothing(tmp_path: Path, trained: Trained) -> None:
    write_plan(tmp_path, replace(SMALL, arms=("gtpo",), seeds=(0,)))
    leave_run(tmp_path, "gtpo", 0, (0.25, 0.75))
    assert ablations.main(["--report-only", "--out", str(tmp_path)]) == 0
    assert trained.plans == []
    assert (tmp_path / "results.md").exists()


def test_report_of_a_folder_without_a_study(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablations.main(["--report-only", "--out", str(tmp_path)]) == 2
    assert "--report-only: there is no study in" in capsys.readouterr().err
