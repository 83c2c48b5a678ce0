import base64
import gzip
import json
import random
from typing import Any

import pytest

from builders import trajectory
from turnwise.report.payload import MAX_TOKENS, against_outcome, kinds, shown_group
from turnwise.report.trajectories import read_trajectories, spread
from turnwise.types import StopReason
from viewer_runs import log, make_run, mixed_group, right_group, scored, with_gaps, wrong_group


def groups_of(step: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(base64.b64decode(step["gzip"])).splitlines()]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], []),
        ([7], [7]),
        ([3, 4], [3, 4]),
        ([0, 1, 2, 3, 4], [0, 4, 2, 1, 3]),  # ends, middle, then the middles of (0, 2) and (2, 4)
        (list(range(0, 60, 10)), [0, 50, 20, 10, 30, 40]),  # (0 + 5) // 2 = 2; then (0, 2) and (2, 5); then (3, 5)
    ],
)
def test_steps_come_ends_first_and_then_ever_closer(steps, expected):
    assert list(spread(steps)) == expected


def test_every_step_is_spread_once():
    assert sorted(spread(range(1000))) == list(range(1000))


def test_turns_are_against_the_outcome_less_the_share_of_correct_ones():
    # two of the three that count are correct: 1 - 2/3, 0 - 2/3, 1 - 2/3; the excluded one does not count
    assert against_outcome(*mixed_group()) == [[False, False], [False, True], [True, False], [False, False]]
    assert against_outcome(*wrong_group()) == [[False], [False]]  # 0 - 0: no sign to be against


def test_an_advantage_that_rounds_to_zero_is_none():
    group, advantages = mixed_group()
    advantages[1], advantages[2] = [-1.0, 4e-5], [-4e-5, 0.0]
    _, wrong, right, _ = shown_group(group, advantages, advantages)["trajectories"]
    assert [turn["against"] for turn in (*wrong["turns"], *right["turns"])] == [False] * 4
    assert [one["kinds"]["credit"] for one in (wrong, right)] == [["with_outcome"], ["no_credit"]]


def test_kinds_are_what_filters_find():
    group, advantages = mixed_group()
    assert kinds(group, 1, advantages[1], is_against=True) == {
        "outcome": ["wrong"],
        "format": ["error"],
        "tool": ["none"],
        "stop": ["answered"],
        "credit": ["against_outcome"],
    }
    assert kinds(group, 0, advantages[0], is_against=False)["credit"] == ["with_outcome"]
    for advantages_K in (advantages[3], [0.5, 0.0]):  # excluded, whatever it was given
        excluded = kinds(group, 3, advantages_K, is_against=False)
        assert (excluded["outcome"], excluded["credit"]) == (["excluded"], ["no_credit"])
    wrong, advantages = wrong_group()
    assert kinds(wrong, 0, advantages[0], is_against=False)["credit"] == ["equal_outcomes"]
    assert kinds(wrong, 0, advantages[0], is_against=False)["tool"] == ["timeout"]
    assert kinds(wrong, 1, advantages[1], is_against=False)["credit"] == ["no_credit"]


def test_what_a_group_is_shown_with():
    group, advantages = mixed_group()
    shown = shown_group(group, [[9.0, 8.0], [7.0, 6.0], [5.0, 4.0], [3.0, 2.0]], advantages)
    assert (shown["gold"], shown["source"], shown["prompt_end"]) == ("42", "products", 3)
    assert shown["prompt_ids"] == (1, 2, 3)
    wrong = shown["trajectories"][1]
    assert wrong["peers"] == ((0, 0.75), (2, 0.25))
    first, second = wrong["turns"]
    assert (first["reward"], first["terms"], first["return"], first["advantage"]) == (-0.1, {"format": -0.1}, 7.0, -1.0)
    assert (second["reward"], second["terms"], second["against"]) == (0.25, {"shaping": 0.25}, True)
    assert (first["span"], first["ids"], first["reply_ids"]) == ([3, 5, 6], (10, 11), (12,))
    assert (first["logprobs"], first["gaps"]) == ([-0.5, -0.6], [-0.5, -0.5])
    assert shown["trajectories"][3]["turns"][0]["gaps"] is None


def test_small_gaps_keep_their_digits():
    group = scored(with_gaps(trajectory((None,)), -1.234e-6), correct=(True,))
    gaps = shown_group(group, [[0.0]], [[0.0]])["trajectories"][0]["turns"][0]["gaps"]
    assert gaps == [-1.2e-06, -1.2e-06]


def test_a_long_turn_shows_its_first_tokens():
    group = scored(trajectory((None,), turn_tokens=MAX_TOKENS + 5), correct=(False,))
    turn = shown_group(group, [[0.0]], [[0.0]])["trajectories"][0]["turns"][0]
    assert (len(turn["ids"]), len(turn["logprobs"])) == (MAX_TOKENS, MAX_TOKENS)
    assert turn["span"] == [3, 3 + MAX_TOKENS + 5, 3 + MAX_TOKENS + 5]


def test_a_run_comes_whole_where_it_fits(tmp_path):
    kept = read_trajectories({"gtpo": make_run(tmp_path)})
    (run,) = kept.runs
    assert run["label"] == "gtpo"
    assert [(step["step"], step["size"]) for step in run["steps"]] == [(0, 6), (5, 2)]
    assert [len(group["trajectories"]) for group in groups_of(run["steps"][0])] == [4, 2]
    assert ["outcome", "correct", 4] in run["facets"]
    assert kept.note == "8 trajectories of 2 of 2 kept steps are in this page. All lie whole in groups/."
    assert kept.skipped == []


def test_nothing_kept(tmp_path):
    kept = read_trajectories({"gtpo": tmp_path})
    assert (kept.runs, kept.note, kept.skipped) == ([], "No trajectories were kept.", [])


def test_a_step_without_groups_is_passed_over(tmp_path):
    log(tmp_path, 0)
    assert read_trajectories({"gtpo": tmp_path}).runs == []


def noisy_run(folder, num_steps: int, num_problems: int):
    """Groups of some 2 kB each that do not compress: their texts are random."""
    rng = random.Random(0)
    for step in range(num_steps):
        pairs = []
        for place in range(num_problems):
            text = f"{rng.getrandbits(12_000):x}"
            pairs.append((scored(trajectory((None,)), correct=(True,), question=text, id="p0"), [[float(place)]]))
        log(folder, step, *pairs)
    return folder


def test_size_is_capped_and_told(tmp_path):
    folder = noisy_run(tmp_path, num_steps=9, num_problems=4)
    whole = read_trajectories({"gtpo": folder})
    a_step = len(whole.runs[0]["steps"][0]["gzip"])
    half = read_trajectories({"gtpo": folder}, max_bytes=int(4.6 * a_step))
    assert [step["step"] for step in half.runs[0]["steps"]] == [0, 2, 4, 6, 8]  # two of four are 0.5 < 0.6 steps
    assert half.note.startswith(
        "19 trajectories of 5 of 9 kept steps are in this page, step 6 with 3 of its 4 problems."
    )
    small = read_trajectories({"gtpo": folder}, max_bytes=int(0.6 * a_step))
    assert [step["step"] for step in small.runs[0]["steps"]] == [0, 4, 8]  # a third is less than one problem: one each
    assert all(step["size"] == 1 for step in small.runs[0]["steps"])


def test_runs_share_the_bytes(tmp_path):
    folders = {name: noisy_run(tmp_path / name, num_steps=3, num_problems=2) for name in ("gtpo", "grpo")}
    whole = read_trajectories({"gtpo": folders["gtpo"]})
    size = sum(len(step["gzip"]) for step in whole.runs[0]["steps"])
    both = read_trajectories(folders, max_bytes=size)
    assert [run["label"] for run in both.runs] == ["gtpo", "grpo"]
    assert [sum(step["size"] for step in run["steps"]) for run in both.runs] == [3, 3]  # one problem of each step
    assert both.note == (
        "Of each run: 3 trajectories of 3 of 3 kept steps are in this page, step 0 with 1 of its 2 problems, "
        "step 1 with 1 of its 2 problems, step 2 with 1 of its 2 problems. All lie whole in groups/."
    )


def test_what_differs_between_runs_is_said_of_each(tmp_path):
    log(tmp_path / "grpo", 0, right_group(3))
    folders = {"gtpo": make_run(tmp_path / "gtpo"), "grpo": tmp_path / "grpo"}
    said = {
        "gtpo": "gtpo: 8 trajectories of 2 of 2 kept steps are in this page.",
        "grpo": "grpo: 3 trajectories of 1 of 1 kept steps are in this page.",
    }
    assert read_trajectories(folders).note == f"{said['gtpo']} {said['grpo']} All lie whole in groups/."
    (tmp_path / "none").mkdir()
    one_kept = read_trajectories({"none": tmp_path / "none", "grpo": folders["grpo"]})
    assert one_kept.note == f"{said['grpo']} All lie whole in groups/."


def test_whether_the_trainer_is_recorded_is_found_in_every_group_read(tmp_path):
    log(tmp_path / "run", 0, right_group(), mixed_group())  # only the second has log-probs of the trainer
    (run,) = read_trajectories({"gtpo": tmp_path / "run"}, max_bytes=3).runs
    assert [len(groups_of(step)) for step in run["steps"]] == [1]  # and it is not shown
    assert run["has_trainer"]
    log(tmp_path / "other", 0, right_group())
    assert not read_trajectories({"gtpo": tmp_path / "other"}).runs[0]["has_trainer"]


@pytest.mark.parametrize("damage", ["cut", "not gzip", "not json"])
def test_a_broken_bundle_gives_what_it_holds_and_is_named(tmp_path, damage):
    make_run(tmp_path)
    path = tmp_path / "groups" / "step_0.jsonl.gz"
    first_line = gzip.decompress(path.read_bytes()).splitlines(keepends=True)[0]
    contents = {
        "cut": path.read_bytes()[:40],
        "not gzip": b"nothing of the kind",
        "not json": gzip.compress(first_line + b"{]\n"),
    }
    path.write_bytes(contents[damage])
    kept = read_trajectories({"gtpo": tmp_path})
    sizes = {step["step"]: step["size"] for step in kept.runs[0]["steps"]}
    assert sizes == ({0: 4, 5: 2} if damage == "not json" else {5: 2})
    (why,) = kept.skipped
    assert why.startswith("groups/step_0.jsonl.gz")
    assert "not a whole trajectory bundle" in why
    assert "whole" not in kept.note


@pytest.mark.parametrize("value", ["0.5", None, float("nan")])
def test_an_advantage_that_is_no_number_ends_its_step_and_is_named(tmp_path, value):
    make_run(tmp_path)
    path = tmp_path / "groups" / "step_0.jsonl.gz"
    first, second = gzip.decompress(path.read_bytes()).splitlines()
    bad = json.loads(second) | {"advantages": [[value], [0.0]]}
    path.write_bytes(gzip.compress(first + b"\n" + json.dumps(bad).encode()))
    kept = read_trajectories({"gtpo": tmp_path})
    assert {step["step"]: step["size"] for step in kept.runs[0]["steps"]} == {0: 4, 5: 2}
    (why,) = kept.skipped
    assert why.startswith("groups/step_0.jsonl.gz, line 2: not a whole trajectory bundle")
    assert f"advantages: expected finite numbers, got [{value!r}]" in why


def test_tokens_have_texts_where_a_checkpoint_has_a_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models

    folder = tmp_path / "checkpoints" / "last"
    folder.mkdir(parents=True)
    Tokenizer(models.WordLevel({"hello": 10, "world": 11, "?": 0}, unk_token="?")).save(str(folder / "tokenizer.json"))
    lost = scored(trajectory((), stop_reason=StopReason.prompt_too_long), correct=(False,))
    log(tmp_path, 0, right_group(1), (lost, [[]]))
    texts = read_trajectories({"gtpo": tmp_path}).runs[0]["tokens"]
    assert {10: "hello", 11: "world"}.items() <= texts.items()
    assert set(texts) == {1, 2, 3, 10, 11}  # those of the prompt and of the turn, no others
