"""health.jsonl: alarms as they were written, and which of them a run that goes on takes back."""

from pathlib import Path

import pytest

from turnwise.tracker.health import FILE, Alarm, append_alarm, num_roll_backs, read_alarms, take_back


def alarm(step: int, to: int | None = None) -> Alarm:
    action = "warn" if to is None else "roll_back"
    return Alarm(
        step=step, monitor="entropy", figure="loss/entropy", value=0.5, bound="min=1", since=step, action=action, to=to
    )


def filled(folder: Path, *alarms: Alarm) -> Path:
    (folder / FILE).unlink(missing_ok=True)
    for one in alarms:
        append_alarm(folder, one)
    return folder


def test_alarms_are_read_as_they_were_written(tmp_path: Path):
    there = [alarm(3), alarm(7, to=5)]
    assert list(read_alarms(filled(tmp_path, *there))) == there
    assert num_roll_backs(tmp_path) == 1


def test_no_file_is_no_alarm(tmp_path: Path):
    assert list(read_alarms(tmp_path)) == []
    take_back(tmp_path, 0)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("first_step", "left"),
    [
        # warned at 2; trouble at 8, back to 5; warned at 6; trouble at 19, back to 15; warned at 16
        (16, [0, 1, 2, 3]),
        (17, [0, 1, 2, 3, 4]),
        (15, [0, 1, 2, 3]),
        (14, [0, 1, 2]),  # a checkpoint from between the two ways back
        (5, [0, 1]),
        (4, [0]),  # one from before the first of them: all of it will come again
        (0, []),
    ],
)
def test_what_will_come_again_is_taken_back(tmp_path: Path, first_step: int, left: list[int]):
    there = [alarm(2), alarm(8, to=5), alarm(6), alarm(19, to=15), alarm(16)]
    take_back(filled(tmp_path, *there), first_step)
    assert list(read_alarms(tmp_path)) == [there[number] for number in left]


def test_a_torn_last_line_is_passed_over_and_another_one_named(tmp_path: Path):
    filled(tmp_path, alarm(3))
    path = tmp_path / FILE
    path.write_text(path.read_text() + '{"step": 4, "mon')
    assert list(read_alarms(tmp_path)) == [alarm(3)]
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(ValueError, match=r"health\.jsonl, line 1: not an alarm: 'nonsense'"):
        list(read_alarms(tmp_path))
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"health\.jsonl, line 1: not an alarm: "):
        list(read_alarms(tmp_path))
