import json

from builders import group, trajectory
from turnwise.report.credit import MAX_TURN_TOKENS, read_credit
from turnwise.tracker.bundle import read_groups
from turnwise.tracker.files import FilesTracker
from turnwise.types import ScoredGroup, StopReason


def write(run_dir, steps, scored, advantages):
    tracker = FilesTracker(run_dir)
    for step in steps:
        tracker.log_groups([scored], [advantages], [advantages], step)
    tracker.close()


def two_turns() -> tuple[ScoredGroup, list[list[float]]]:
    """A right and a wrong trajectory, and one that the sandbox failed and that must not count."""
    sampled = (
        trajectory(answer="42", sample_index=0),
        trajectory(answer="41", sample_index=1),
        trajectory(sample_index=2, stop_reason=StopReason.tool_infrastructure),
    )
    scored = ScoredGroup(
        group=group(*sampled),
        turn_rewards_GK=((0.0, 1.0), (-0.1, 0.0), (0.0, 0.0)),
        terms={"accuracy": ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0)), "format": ((0.0, 0.0), (-0.1, 0.0), (0.0, 0.0))},
        correct_G=(True, False, False),
    )
    return scored, [[0.5, 1.0], [-1.0, -0.5], [0.0, 0.0]]


def test_first_middle_and_last_kept_step(tmp_path):
    write(tmp_path, range(0, 20, 2), *two_turns())
    credit = read_credit(tmp_path)
    assert [step["step"] for step in credit.steps] == [0, 10, 18]
    assert credit.note == (
        "In this page: step 0 (1 of 1 problems, 3 trajectories), step 10 (1 of 1 problems, 3 trajectories), "
        "step 18 (1 of 1 problems, 3 trajectories). All 10 kept steps lie whole in groups/."
    )


def test_one_step_is_first_middle_and_last(tmp_path):
    write(tmp_path, [7], *two_turns())
    assert [step["step"] for step in read_credit(tmp_path).steps] == [7]


def test_nothing_kept(tmp_path):
    credit = read_credit(tmp_path)
    assert (credit.curves, credit.steps, credit.note) == ([], [], "No trajectories were kept.")


def test_a_step_without_groups_is_passed_over(tmp_path):
    tracker = FilesTracker(tmp_path)
    tracker.log_groups([], [], [], 0)
    tracker.close()
    assert read_credit(tmp_path).steps == []


def test_what_the_viewer_gets(tmp_path):
    scored, advantages = two_turns()
    write(tmp_path, [0], scored, advantages)
    ((shown,),) = [step["groups"] for step in read_credit(tmp_path).steps]
    assert (shown["gold"], shown["source"], shown["size"]) == ("42", "test", 3)
    wrong = shown["trajectories"][1]
    assert (wrong["sample"], wrong["correct"], wrong["excluded"], wrong["answer"]) == (1, False, False, "41")
    assert shown["trajectories"][2]["excluded"]
    first, second = wrong["turns"]
    assert (first["reward"], first["terms"], first["advantage"]) == (-0.1, {"format": -0.1}, -1.0)
    assert (second["reward"], second["terms"], second["advantage"]) == (0.0, {}, -0.5)
    assert first["result"] == ["ok", "1", 0.01]
    assert second["result"] is None
    assert first["span"] == (3, 5)  # after a prompt of three tokens
    assert first["tokens"] == [[10, "", -0.5], [11, "", -0.6]]  # the builder counts them from 10 and -0.5


def test_curves_leave_out_what_the_infrastructure_failed(tmp_path):
    write(tmp_path, [0], *two_turns())
    curves = read_credit(tmp_path).curves
    titles = [curve.title for curve in curves]
    assert titles == ["Reward by turn", "Advantage by turn, correct answers", "Advantage by turn, wrong answers"]
    lost = trajectory(stop_reason=StopReason.engine_abort)
    scored = ScoredGroup(group=group(lost), turn_rewards_GK=((0.0, 0.0),), terms={}, correct_G=(False,))
    write(tmp_path, [0], scored, [[0.0, 0.0]])
    assert read_credit(tmp_path).curves == []


def test_size_is_capped_and_told(run_dir):
    whole = read_credit(run_dir)
    capped = read_credit(run_dir, max_bytes=15_000)
    one_trajectory = max(len(json.dumps(t)) for s in whole.steps for g in s["groups"] for t in g["trajectories"])
    assert len(json.dumps(whole.steps)) > 45_000
    assert len(json.dumps(capped.steps)) < 15_000 + 3 * one_trajectory + 3_000
    assert all(step["groups"][0]["trajectories"] for step in capped.steps)  # something of each
    assert "(1 of 2 problems" in capped.note
    assert [curve.svg for curve in capped.curves] == [curve.svg for curve in whole.curves]  # means are over all


def test_a_long_turn_shows_its_first_tokens(tmp_path):
    long = trajectory(codes=(None,), turn_tokens=MAX_TURN_TOKENS + 5)
    scored = ScoredGroup(group=group(long), turn_rewards_GK=((0.0,),), terms={}, correct_G=(False,))
    tracker = FilesTracker(tmp_path)
    tracker.log_groups([scored], [[[0.0]]], [[[0.0]]], 0)
    tracker.close()
    ((read, _),) = read_groups(tmp_path / "groups" / "step_0.jsonl.gz")
    assert read == scored
    turn = read_credit(tmp_path).steps[0]["groups"][0]["trajectories"][0]["turns"][0]
    assert len(turn["tokens"]) == MAX_TURN_TOKENS
    assert turn["span"] == (3, 3 + MAX_TURN_TOKENS + 5)


def test_tokens_are_shown_as_text_where_a_checkpoint_has_a_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models

    folder = tmp_path / "checkpoints" / "last"
    folder.mkdir(parents=True)
    Tokenizer(models.WordLevel({"hello": 10, "world": 11, "?": 0}, unk_token="?")).save(str(folder / "tokenizer.json"))
    write(tmp_path, [0], *two_turns())
    turn = read_credit(tmp_path).steps[0]["groups"][0]["trajectories"][0]["turns"][0]
    assert [text for _, text, _ in turn["tokens"]] == ["hello", "world"]
