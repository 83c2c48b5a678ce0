"""The label says which preset ran and what the command line changed against it."""

import pytest

from turnwise.config.label import MAX_LENGTH, run_label

GTPO = {"algo": "gtpo", "ablation": None}
NO_DISCOUNT = {"algo": "gtpo", "ablation": "no_discount"}


@pytest.mark.parametrize(
    ("choices", "overrides", "label"),
    [
        (GTPO, [], "gtpo"),
        ({"algo": "grpo", "ablation": None}, ["algo=grpo"], "grpo"),
        (GTPO, ["algo=gtpo", "reward.shaping=true"], "gtpo+reward.shaping=true"),
        (GTPO, ["algo=gtpo", "advantage=group_norm"], "gtpo+advantage=group_norm"),
        (GTPO, ["reward/similarity=embedding"], "gtpo+reward.similarity=embedding"),
        (GTPO, ["rollout.group_size=4", "loss.clip_low=0.1"], "gtpo+loss.clip_low=0.1+rollout.group_size=4"),
        (GTPO, ["++rollout.group_size=4"], "gtpo+rollout.group_size=4"),
        (GTPO, ["rollout.group_size=4", "rollout.group_size=2"], "gtpo+rollout.group_size=2"),
        (GTPO, ["debug=fast", "task=jsonl"], "gtpo+debug=fast+task=jsonl"),
        (NO_DISCOUNT, ["ablation=no_discount"], "ablation=no_discount"),
        (NO_DISCOUNT, ["ablation=no_discount", "algo=grpo"], "ablation=no_discount+algo=grpo"),
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
    assert dash == "gtpo+model.path=runs-last"
    assert slash.startswith("gtpo+model.path=runs-last-")
    assert len(slash) == len(dash) + 9  # a dash and 8 hexadecimal digits


@pytest.mark.parametrize("value", ["../../etc", "a b", "${x}", "é", "[1,2]", "\\", "x\ny", "a:b*c?"])
def test_labels_are_one_safe_path_component(value: str) -> None:
    label = run_label(GTPO, [f"model.path={value}"])
    assert not set(label) & set("/\\ \n:*?\"<>|${}[]é'")


def test_long_labels_are_cut_and_stay_apart() -> None:
    one, other = (run_label(GTPO, [f"model.path={'x' * 200}{end}"]) for end in "ab")
    assert len(one) == len(other) == MAX_LENGTH
    assert one != other


def test_label_names_the_folder(start, tmp_path) -> None:
    ended = start("algo=gtpo", "advantage=group_norm", "seed=3", "tracker=wandb")
    ((components, run_dir),) = ended.runs
    assert components.label == "gtpo+advantage=group_norm"
    assert run_dir.parent == tmp_path / "runs/gtpo+advantage=group_norm"
    assert run_dir.name.endswith("_seed3")


def test_multirun_has_a_folder_for_every_run(start, tmp_path) -> None:
    ended = start("-m", "algo=grpo,gtpo", "seed=0,1", "debug=fast")
    assert (ended.code, ended.stderr) == (0, "")
    names = [run_dir.name for _, run_dir in ended.runs]
    assert names == [f"{algo}+debug=fast_seed{seed}" for algo in ("grpo", "gtpo") for seed in (0, 1)]
    assert len({run_dir.parent for _, run_dir in ended.runs}) == 1
    assert [components.seed for components, _ in ended.runs] == [0, 1, 0, 1]
    assert (tmp_path / "runs/multirun") in ended.runs[0][1].parents


def test_interpolation_on_the_command_line_is_not_resolved(start) -> None:
    ((components, _),) = start("env.system_prompt=${model.path}").runs
    assert components.env.system_prompt == "package:tiny"
    assert components.label.startswith("gtpo+env.system_prompt=--model.path--")
