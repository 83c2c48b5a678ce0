from pathlib import Path

from builders import group, trajectory
from turnwise.report.credit import credit_curves
from turnwise.tracker.files import FilesTracker
from turnwise.types import ScoredGroup, StopReason


def write(run_dir: Path, steps, scored: ScoredGroup, advantages) -> None:
    tracker = FilesTracker(run_dir)
    for step in steps:
        tracker.log_groups([scored], [advantages], [advantages], step)
    tracker.close()


def right_and_wrong() -> ScoredGroup:
    return ScoredGroup(
        group=group(trajectory(answer="42", sample_index=0), trajectory(answer="41", sample_index=1)),
        turn_rewards_GK=((0.0, 1.0), (-0.1, 0.0)),
        terms={},
        correct_G=(True, False),
    )


def test_first_middle_and_last_kept_step(tmp_path):
    write(tmp_path, range(0, 20, 2), right_and_wrong(), [[0.5, 1.0], [-1.0, -0.5]])
    curves = credit_curves(tmp_path)
    titles = [curve.title for curve in curves]
    assert titles == ["Reward by turn", "Advantage by turn, correct answers", "Advantage by turn, wrong answers"]
    assert [label for label, _ in curves[0].legend] == ["step 0", "step 10", "step 18"]


def test_one_step_is_first_middle_and_last(tmp_path):
    write(tmp_path, [7], right_and_wrong(), [[0.5, 1.0], [-1.0, -0.5]])
    assert [label for label, _ in credit_curves(tmp_path)[0].legend] == ["step 7"]


def test_nothing_kept(tmp_path):
    assert credit_curves(tmp_path) == []


def test_what_the_infrastructure_failed_does_not_count(tmp_path):
    lost = trajectory(stop_reason=StopReason.engine_abort)
    scored = ScoredGroup(group=group(lost), turn_rewards_GK=((0.0, 0.0),), terms={}, correct_G=(False,))
    write(tmp_path, [0], scored, [[0.0, 0.0]])
    assert credit_curves(tmp_path) == []


def test_a_broken_bundle_draws_nothing(tmp_path):
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups" / "step_0.jsonl.gz").write_bytes(b"not gzip")
    assert credit_curves(tmp_path) == []
