"""The label says which preset ran and what the command line changed against it."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from turnwise.config.label import MAX_LENGTH, run_label

GTPO = {"algo": "gtpo", "ablation": None}
NO_DISCOUNT = {"algo": "gtpo", "ablation": "no_discount"}


@pytest.mark.parametrize(
    ("choices", "overrides", "label"),
    [
        (GTPO, [], "gtpo"),
        ({"algo": "grpo", "ablation": None}, ["algo=grpo"], "grpo"),
        (GTPO, ["algo=gtpo", "reward.shaping=true"], "gtpo+reward.shaping-true"),
        (GTPO, ["algo=gtpo", "advantage=group_norm"], "gtpo+advantage-group_norm"),
        (GTPO, ["reward/similarity=embedding"], "gtpo+reward.similarity-embedding"),
        (GTPO, ["rollout.group_size=4", "loss.clip_low=0.1"], "gtpo+loss.clip_low-0.1+rollout.group_size-4"),
        (GTPO, ["++rollout.group_size=4"], "gtpo+rollout.group_size-4"),
        (GTPO, ["rollout.group_size=4", "rollout.group_size=2"], "gtpo+rollout.group_size-2"),
        (GTPO, ["debug=fast", "task=jsonl"], "gtpo+debug-fast+task-jsonl"),
        (NO_DISCOUNT, ["ablation=no_discount"], "ablation-no_discount"),
        (NO_DISCOUNT, ["ablation=no_discount", "algo=grpo"], "ablation-no_discount+algo-grpo"),
        ({**GTPO, "mode": "evaluate"}, ["mode=evaluate", "algo=gtpo"], "evaluate+algo-gtpo"),
        # not another experiment: which seed, what is done with it, where its figures go
        (GTPO, ["seed=3", "mode=evaluate", "mode.out=x", "tracker=wandb", "tracker.project=p"], "gtpo"),
        (GTPO, ["hydra.run.dir=/tmp/x"], "gtpo"),
    ],
)
def test_labels(choices, overrides: list[str], label: str) -> None:
    assert run_label(choices, overrides) == label


def test_order_of_overrides_does_not_matter() -> None:
    changes = ["reward.shaping=true", "advantage.discount=0.5", "rollout.max_turns=3"]
    assert run_label(GTPO, changes) == run_label(GTPO, changes[::-1])


def test_replaced_characters_bring_a_digest() -> None:
    slash, dash = (run_label(GTPO, [f"model.path=runs{mark}last"]) for mark in "/-")
    assert dash == "gtpo+model.path-runs-last"
    assert slash.startswith("gtpo+model.path-runs-last-")
    assert len(slash) == len(dash) + 9  # a dash and 8 hexadecimal digits


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["model.path=a+task.seed-1"], ["model.path=a", "task.seed=1"]),
        (["task.options.a-b=1"], ["task.options.a=b-1"]),
        (["model.path=a=b"], ["model.path=a-b"]),
    ],
)
def test_no_two_command_lines_share_a_label(one: list[str], other: list[str]) -> None:
    assert run_label(GTPO, one) != run_label(GTPO, other)


@pytest.mark.parametrize(
    ("choices", "overrides"),
    [
        (GTPO, ["reward.shaping=true"]),
        (GTPO, ["loss.clip_low=-0.1", "trainer.learning_rate=1e-05", "model.path=null"]),
        (GTPO, ["task=reasoning_gym", "task.options={gcd:{max_value:9}}", "task.datasets=[gcd,lcm]"]),
        (GTPO, ["model.path='/a b/é~x,y=z'", "~tracker.project", "+env.system_prompt=${model.path}"]),
        (GTPO, [f"model.path={'x/' * 100}"]),
        (NO_DISCOUNT, ["ablation=no_discount", "rollout.group_size=4"]),
        ({**GTPO, "mode": "evaluate"}, ["mode=evaluate", "model.path=runs/a+b.c-true/x"]),
    ],
)
@pytest.mark.parametrize("every", [False, True])
def test_folders_of_labels_can_be_typed_back(choices, overrides: list[str], every: bool) -> None:
    folder = f"/r/{run_label(choices, overrides, every=every)}/2026-01-01_10-00-00_seed0"
    for key, value in (("hydra.run.dir", folder), ("model.path", f"{folder[1:]}/checkpoints/last")):
        override = OverridesParser.create().parse_override(f"{key}={value}")
        assert override.value() == value


@pytest.mark.parametrize("value", ["../../etc", "a b", "${x}", "é", "[1,2]", "\\", "x\ny", "a:b*c?", "a=b"])
def test_labels_are_one_safe_path_component(value: str) -> None:
    label = run_label(GTPO, [f"model.path={value}"])
    assert not set(label) & set("/\\ \n:*?\"<>|${}[]=,~é'")


def test_long_labels_are_cut_and_stay_apart() -> None:
    one, other = (run_label(GTPO, [f"model.path={'x' * 200}{end}"]) for end in "ab")
    assert len(one) == len(other) == MAX_LENGTH
    assert one != other


def test_label_names_the_folder(start, tmp_path) -> None:
    ended = start("algo=gtpo", "advantage=group_norm", "seed=3", "tracker=wandb")
    ((components, run_dir),) = ended.runs
    assert components.label == "gtpo+advantage-group_norm"
    assert run_dir.parent == tmp_path / "runs/gtpo+advantage-group_norm"
    assert run_dir.name.endswith("_seed3")


def test_multirun_has_a_folder_for_every_run(start, tmp_path) -> None:
    ended = start("-m", "algo=grpo,gtpo", "seed=0,1", "debug=fast")
    assert (ended.code, ended.stderr) == (0, "")
    names = [run_dir.name for _, run_dir in ended.runs]
    assert names == [f"{algo}+debug-fast_seed{seed}" for algo in ("grpo", "gtpo") for seed in (0, 1)]
    assert len({run_dir.parent for _, run_dir in ended.runs}) == 1
    assert [components.seed for components, _ in ended.runs] == [0, 1, 0, 1]
    assert (tmp_path / "runs/multirun") in ended.runs[0][1].parents


@pytest.mark.parametrize(
    "sweep",
    [
        ["tracker.save_groups_every=0,1"],
        ["tracker=files,wandb"],
        ["mode=evaluate", "algo=gtpo,grpo"],
        ["mode=warmstart", "warmstart.batch_size=16,32"],
    ],
    ids=" ".join,
)
def test_jobs_of_a_multirun_share_no_folder(start, sweep: list[str]) -> None:
    command = ["-m", *sweep, "hydra.sweep.dir=sweep"]
    first, second = ([run_dir for _, run_dir in start(*command).runs] for _ in range(2))
    assert len(set(first)) == 2
    assert second == first  # each job finds its own folder again


def test_interpolation_on_the_command_line_is_not_resolved(start) -> None:
    ((components, _),) = start("env.system_prompt=${model.path}").runs
    assert components.env.system_prompt == "package:tiny"
    assert components.label.startswith("gtpo+env.system_prompt---model.path--")
