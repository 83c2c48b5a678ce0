import errno
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from turnwise import checkpoint, rotation
from turnwise.rotation import found_steps
from turnwise.seeding import seed_everything


class FakePolicy:
    """One weight matrix with AdamW; `fails_with` is raised after the weights are half written."""

    def __init__(self, fails_with: BaseException | None = None) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(2, 2))
        self.optimiser = torch.optim.AdamW([self.weight], lr=0.1)
        self.fails_with = fails_with

    def train_step(self) -> None:
        self.optimiser.zero_grad()
        (self.weight - torch.randn(2, 2)).square().sum().backward()
        self.optimiser.step()

    def save_pretrained(self, folder):
        torch.save(self.weight.detach(), folder / "model.pt")
        if self.fails_with is not None:
            raise self.fails_with
        (folder / "config.json").write_text("{}")

    def load_pretrained(self, folder):
        with torch.no_grad():
            self.weight.copy_(torch.load(folder / "model.pt", weights_only=True))

    def state_dict(self):
        return self.optimiser.state_dict()

    def load_state_dict(self, state):
        self.optimiser.load_state_dict(state)

    def update(self, batch, loss):
        raise NotImplementedError

    def set_learning_rate(self, learning_rate: float) -> None:
        raise NotImplementedError

    def logprobs(self, batch):
        raise NotImplementedError

    def weights(self):
        return {"weight": self.weight.detach()}


class FakeTask:
    name = "fake"

    def __init__(self) -> None:
        self.removed = {}
        self.cursor = 0

    def next_batch(self, num_problems):
        self.cursor += num_problems
        return []

    def eval_sets(self, num_problems):
        return {}

    def state_dict(self):
        return {"cursor": self.cursor}

    def load_state_dict(self, state):
        self.cursor = state["cursor"]


def save(folder, step, keep=0, policy=None, task=None):
    return checkpoint.save(folder, step, policy=policy or FakePolicy(), task=task or FakeTask(), keep=keep)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def draws() -> list[float]:
    values = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()]
    return [float(value) for value in values]


def train(policy: FakePolicy, task: FakeTask, steps: int) -> list[float]:
    for _ in range(steps):
        task.next_batch(3)
        policy.train_step()
    return [*policy.weight.detach().flatten().tolist(), task.cursor, *draws()]


def test_a_restored_run_goes_on_exactly(tmp_path):
    seed_everything(0)
    policy, task = FakePolicy(), FakeTask()
    train(policy, task, 2)
    random.gauss(0, 1)  # leaves half a pair behind, as does the next: both belong to the state
    np.random.randn()
    path = save(tmp_path, 2, policy=policy, task=task)
    uninterrupted = train(policy, task, 3)

    seed_everything(99)
    policy, task = FakePolicy(), FakeTask()
    assert checkpoint.restore(path, policy, task) == 2
    assert train(policy, task, 3) == uninterrupted


def test_saving_draws_no_random_number(tmp_path):
    seed_everything(5)
    expected = draws()
    seed_everything(5)
    save(tmp_path, 0)
    assert draws() == expected


def test_layout(tmp_path):
    path = save(tmp_path, 4)
    assert path == tmp_path / "step_4"
    assert names(path) == ["config.json", "files.json", "model.pt", "optimiser.pt", "rng.pt", "state.json"]
    state = json.loads((path / "state.json").read_text())
    assert state["step"] == 4
    assert state["task"] == {"cursor": 0}
    assert state["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    files = json.loads((path / "files.json").read_text())
    assert list(files) == ["config.json", "model.pt", "optimiser.pt", "rng.pt", "state.json"]
    # What `printf {} | sha256sum` prints.
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert files["config.json"] == {"bytes": 2, "sha256": digest}
    assert str((tmp_path / "last").readlink()) == "step_4"  # relative: the folder can be moved


def test_last_follows_and_old_ones_go(tmp_path):
    for step in (2, 4, 10):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["last", "step_10", "step_4"]  # by number: 10 is newer than 4
    assert checkpoint.latest(tmp_path) == (tmp_path / "step_10").resolve()


def test_those_of_a_run_that_was_stopped_push_none_out(tmp_path):
    def saved(step, left):
        path = checkpoint.save(tmp_path, step, policy=FakePolicy(), task=FakeTask(), keep=2, every=8)
        assert checkpoint.latest(tmp_path) == path.resolve()
        assert found_steps(tmp_path) == left

    saved(8, [8])
    saved(16, [8, 16])
    saved(17, [8, 16, 17])  # stopped
    saved(18, [8, 16, 17, 18])  # and again
    saved(19, [8, 16, 18, 19])
    saved(24, [16, 19, 24])
    checkpoint.note_accuracy(tmp_path, 24, 0.9, keep=2, every=8)
    saved(32, [24, 32])
    saved(40, [24, 32, 40])


def test_where_none_is_regular_there_is_another_one_to_fall_back_to(tmp_path):
    for step in (17, 25):
        checkpoint.save(tmp_path, step, policy=FakePolicy(), task=FakeTask(), keep=2, every=1000)
    assert found_steps(tmp_path) == [17, 25]


def test_keep_zero_keeps_all(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=0)
    assert names(tmp_path) == ["last", "step_1", "step_2", "step_3"]


def test_steps_that_were_taken_back_go_when_the_first_is_written_anew(tmp_path):
    for step in (3, 8, 9):
        save(tmp_path, step)
    (tmp_path / "last").unlink()
    (tmp_path / "last").symlink_to("step_3")
    assert checkpoint.latest(tmp_path) == (tmp_path / "step_3").resolve()
    save(tmp_path, 4)
    assert names(tmp_path) == ["last", "step_3", "step_4"]
    assert checkpoint.latest(tmp_path) == (tmp_path / "step_4").resolve()


def test_a_kill_before_the_link_was_in_its_place_costs_nothing(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / ".tmp-last").symlink_to("step_1")
    checkpoint.take_back(tmp_path, tmp_path / "step_1", 1)
    assert names(tmp_path) == ["last", "step_1"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_copy_in_place_of_the_link_gets_its_name_back(tmp_path, is_there):
    """As `cp -rL` leaves it; what bears its name may be damaged."""
    path = save(tmp_path, 3)
    (tmp_path / "last").unlink()
    shutil.copytree(path, tmp_path / "last")
    if is_there:
        (path / "rng.pt").write_bytes(b"torn")
    else:
        shutil.rmtree(path)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.name == "last"
    checkpoint.take_back(tmp_path, found, 3)
    assert names(tmp_path) == ["last", "step_3"]
    assert (tmp_path / "last").is_symlink()
    assert checkpoint.latest(tmp_path) == path.resolve()


def test_a_checkpoint_holds_the_record_of_its_run(tmp_path):
    (tmp_path / "config.json").write_text('{"config": {"seed": 3}}')
    path = save(tmp_path / "checkpoints", 1)
    assert json.loads((path / checkpoint.RECORD).read_text()) == {"config": {"seed": 3}}
    assert checkpoint.RECORD in json.loads((path / "files.json").read_text())


def note(folder, step, accuracy, keep=1):
    checkpoint.note_accuracy(folder, step, accuracy, keep=keep)


def test_the_best_is_kept_and_named(tmp_path):
    for step, accuracy in enumerate([0.2, 0.6, 0.4, 0.6, 0.5], start=1):
        save(tmp_path, step, keep=1)
        note(tmp_path, step, accuracy)
    assert names(tmp_path) == ["best", "last", "step_2", "step_5"]
    assert str((tmp_path / "best").readlink()) == "step_2"  # the earliest of equals
    save(tmp_path, 6, keep=1)
    note(tmp_path, 6, 0.7)
    assert names(tmp_path) == ["best", "last", "step_6"]


def test_an_evaluation_away_from_a_checkpoint_makes_no_best(tmp_path):
    save(tmp_path, 2)
    note(tmp_path, 3, 0.9)
    note(tmp_path, 2, None)
    assert names(tmp_path) == ["last", "step_2"]


def test_the_best_of_a_step_that_is_made_anew_is_forgotten(tmp_path):
    for step, accuracy in [(1, 0.3), (2, 0.9)]:
        save(tmp_path, step)
        note(tmp_path, step, accuracy, keep=0)
    (tmp_path / "step_2" / "rng.pt").write_bytes(b"")  # so the run goes on from 1
    save(tmp_path, 2)
    assert str((tmp_path / "best").readlink()) == "step_1"
    note(tmp_path, 2, 0.2, keep=0)
    assert str((tmp_path / "best").readlink()) == "step_1"


def test_a_broken_note_of_the_accuracy_costs_the_mark_and_not_the_run(tmp_path):
    save(tmp_path, 1)
    note(tmp_path, 1, 0.9)
    (tmp_path / "step_1" / "evaluation.json").write_text("{")
    save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["last", "step_2"]


def test_a_folder_that_was_copied_without_links_goes_on(tmp_path):
    save(tmp_path / "there", 1)
    note(tmp_path / "there", 1, 0.5)
    shutil.copytree(tmp_path / "there", tmp_path / "here")  # which follows links
    found = checkpoint.latest(tmp_path / "here")
    assert found is not None
    assert checkpoint.restore(found, FakePolicy(), FakeTask()) == 1
    save(tmp_path / "here", 2, keep=1)
    assert names(tmp_path / "here") == ["best", "last", "step_1", "step_2"]
    assert all((tmp_path / "here" / link).is_symlink() for link in ("best", "last"))


def test_saving_the_last_step_again_leaves_the_whole_checkpoint_alone(tmp_path):
    written = (save(tmp_path, 1, keep=1) / "state.json").stat()
    again = (save(tmp_path, 1, keep=1) / "state.json").stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert names(tmp_path) == ["last", "step_1"]


def test_taking_back_points_at_the_step_and_removes_later_ones(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
        checkpoint.note_accuracy(tmp_path, step, step / 10, keep=0)
    checkpoint.take_back(tmp_path, tmp_path / "step_2", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "step_1", "step_2"]
    assert [(tmp_path / link).resolve().name for link in ("last", "best")] == ["step_2", "step_2"]


def test_saving_a_step_that_is_torn_or_not_the_last_replaces_it(tmp_path):
    task = FakeTask()
    save(tmp_path, 1, keep=2, task=task)
    save(tmp_path, 2, keep=2, task=task)
    task.cursor = 7
    path = save(tmp_path, 1, keep=2, task=task)
    assert json.loads((path / "state.json").read_text())["task"] == {"cursor": 7}
    (path / "rng.pt").write_bytes(b"")
    task.cursor = 8
    path = save(tmp_path, 1, keep=2, task=task)
    assert json.loads((path / "state.json").read_text())["task"] == {"cursor": 8}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_while_writing_leaves_the_previous_one(tmp_path, error):
    save(tmp_path, 1, keep=1)
    with pytest.raises(type(error)):
        save(tmp_path, 2, keep=1, policy=FakePolicy(fails_with=error))
    assert names(tmp_path) == ["last", "step_1"]
    assert checkpoint.latest(tmp_path) == (tmp_path / "step_1").resolve()
    assert checkpoint.restore(tmp_path / "last", FakePolicy(), FakeTask()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_as_such(tmp_path):
    class OnFullDisk(FakePolicy):
        def save_pretrained(self, folder):
            super().save_pretrained(folder)
            (folder / "optimiser.pt").symlink_to("/dev/full")

    save(tmp_path, 1)
    with pytest.raises(OSError, match=r"No space left on device: .*/step_2'") as refused:
        save(tmp_path, 2, policy=OnFullDisk())
    assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(tmp_path / "step_2"))
    assert names(tmp_path) == ["last", "step_1"]


def test_a_kill_before_the_rename_leaves_the_previous_one(tmp_path, monkeypatch):
    save(tmp_path, 1)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda path: None)  # a killed process tidies nothing
        with pytest.raises(SystemExit):
            save(tmp_path, 2, policy=FakePolicy(fails_with=SystemExit()))
    assert names(tmp_path) == [".tmp-step_2", "last", "step_1"]
    assert checkpoint.latest(tmp_path) == (tmp_path / "step_1").resolve()

    save(tmp_path, 2)
    assert names(tmp_path) == ["last", "step_1", "step_2"]


def events_below(folder, act):
    """Has `act` called before every change of a file in `folder`, for as long as this process lives."""
    changes = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.truncate", "os.chmod")

    def hook(event, arguments):
        if event in changes and arguments and str(folder) in str(arguments[0]):
            act()

    sys.addaudithook(hook)


def test_a_kill_at_any_moment_of_saving_leaves_a_whole_one_and_no_trace(tmp_path):
    whole = tmp_path / "whole"
    for step, accuracy in [(1, 0.5), (2, 0.4)]:
        save(whole, step, keep=1)
        note(whole, step, accuracy)
    assert names(whole) == ["best", "last", "step_1", "step_2"]
    first_steps, moment, was_killed = [], 0, True
    while was_killed:
        moment += 1
        folder = tmp_path / f"killed_{moment}"
        shutil.copytree(whole, folder, symlinks=True)
        if (pid := os.fork()) == 0:
            left = iter(range(moment - 1))
            events_below(folder, lambda left=left: next(left, None) is None and os.kill(os.getpid(), signal.SIGKILL))
            save(folder, 3, keep=1)
            os._exit(0)
        was_killed = os.waitpid(pid, 0)[1] == signal.SIGKILL
        found = checkpoint.latest(folder)
        assert found is not None
        first_steps.append(checkpoint.restore(found, FakePolicy(), FakeTask()))
        save(folder, 3, keep=1)
        assert names(folder) == ["best", "last", "step_1", "step_3"]
    assert len(first_steps) > 20
    assert first_steps == sorted(first_steps), "from some moment on it is the new one"
    assert set(first_steps) == {2, 3}


def test_a_kill_between_rename_and_link_still_finds_a_whole_one(tmp_path, monkeypatch):
    save(tmp_path, 1)
    with monkeypatch.context() as patched:
        patched.setattr(rotation, "point", lambda folder, name, target: None)
        save(tmp_path, 2)
    assert str((tmp_path / "last").readlink()) == "step_1"
    latest = checkpoint.latest(tmp_path)
    assert latest is not None
    assert checkpoint.restore(latest, FakePolicy(), FakeTask()) == 1


@pytest.mark.parametrize("harm", ["truncated", "missing", "no_manifest", "torn_manifest", "empty_manifest"])
def test_a_torn_checkpoint_is_never_picked_and_is_named(tmp_path, harm):
    save(tmp_path, 1)
    torn = save(tmp_path, 2)
    if harm == "truncated":
        content = (torn / "optimiser.pt").read_bytes()
        (torn / "optimiser.pt").write_bytes(content[:-1])
        reason = f"optimiser.pt has {len(content) - 1} bytes of {len(content)}"
    elif harm == "missing":
        (torn / "model.pt").unlink()
        reason = "model.pt: No such file"
    elif harm == "no_manifest":
        (torn / "files.json").unlink()
        reason = "files.json: No such file"
    elif harm == "torn_manifest":
        (torn / "files.json").write_text('{"config.json": {"byt')
        reason = "files.json is torn"
    else:
        (torn / "files.json").write_text("{}")
        reason = "files.json is torn"

    assert checkpoint.latest(tmp_path) == tmp_path / "step_1"
    with pytest.raises(ValueError, match=f"step_2: .*{reason}"):
        checkpoint.restore(torn, FakePolicy(), FakeTask())


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.pt", "optimiser.pt", "rng.pt", "state.json", "config.json"])
def test_a_flipped_bit_is_noticed_and_named_once(tmp_path, caplog, name):
    save(tmp_path, 1)
    flip_a_bit(save(tmp_path, 2) / name)
    assert checkpoint.latest(tmp_path) == tmp_path / "step_1"
    (record,) = caplog.records
    assert f"step_2: {name} is not as it was written; going on from {tmp_path / 'step_1'}" in record.getMessage()


def test_where_no_checkpoint_is_whole_nothing_begins_in_silence(tmp_path):
    for step in (1, 2):
        flip_a_bit(save(tmp_path, step) / "model.pt")
    with pytest.raises(ValueError, match=r"no checkpoint is whole: .*step_2: model\.pt is .*step_1: .* or remove"):
        checkpoint.latest(tmp_path)


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    class OtherTask(FakeTask):
        def state_dict(self):
            return {"epoch": 0, "cursor": self.cursor}

    path = save(tmp_path, 1)
    with pytest.raises(ValueError, match=r"step_1: its task keeps \['cursor'\], this one keeps \['cursor', 'epoch'\]"):
        checkpoint.restore(path, FakePolicy(), OtherTask())


def test_damage_that_keeps_the_size_is_named_too(tmp_path):
    path = save(tmp_path, 1)
    size = (path / "optimiser.pt").stat().st_size
    (path / "optimiser.pt").write_bytes(b"x" * size)
    policy = FakePolicy()
    policy.weight.data.fill_(3.0)
    with pytest.raises(ValueError, match=r"optimiser\.pt cannot be read"):
        checkpoint.restore(path, policy, FakeTask())
    assert policy.weight.detach().tolist() == [[3.0, 3.0], [3.0, 3.0]]  # nothing was half restored


def test_nothing_to_resume(tmp_path):
    assert checkpoint.latest(tmp_path / "none") is None
    (tmp_path / "last").symlink_to("step_7")
    assert checkpoint.latest(tmp_path) is None
    with pytest.raises(ValueError, match=r"none: .*No such file"):
        checkpoint.restore(tmp_path / "none", FakePolicy(), FakeTask())


def test_refuses_negative_numbers(tmp_path):
    with pytest.raises(ValueError, match=r"step=-1, keep=0: expected both >= 0"):
        save(tmp_path, -1)
    with pytest.raises(ValueError, match=r"step=1, keep=-1"):
        save(tmp_path, 1, keep=-1)
