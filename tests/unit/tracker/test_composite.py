import pytest

from turnwise.tracker.composite import CompositeTracker


class Recorder:
    def __init__(self, fails: bool = False) -> None:
        self.calls: list[tuple] = []
        self.fails = fails

    def log(self, metrics, step):
        self.calls.append(("log", dict(metrics), step))

    def log_groups(self, groups, returns, advantages, step):
        self.calls.append(("log_groups", groups, returns, advantages, step))

    def close(self):
        self.calls.append(("close",))
        if self.fails:
            raise OSError("disk full")


def test_hands_everything_to_each():
    first, second = Recorder(), Recorder()
    tracker = CompositeTracker([first, second])
    tracker.log({"a/x": 1.0}, 3)
    tracker.log_groups([], [], [], 3)
    tracker.close()
    assert first.calls == [("log", {"a/x": 1.0}, 3), ("log_groups", [], [], [], 3), ("close",)]
    assert second.calls == first.calls


def test_one_that_fails_to_close_does_not_keep_the_others_open():
    trackers = [Recorder(), Recorder(fails=True), Recorder()]
    with pytest.raises(OSError, match="disk full"):
        CompositeTracker(trackers).close()
    assert [tracker.calls for tracker in trackers] == [[("close",)]] * 3
