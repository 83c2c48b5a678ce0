import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from turnwise.engine.vllm import handover
from turnwise.engine.vllm.handover import WeightNames, in_shared_memory, wire_weights
from turnwise.engine.vllm.process import SOURCE_ROOT
from turnwise.engine.vllm.worker import WeightReceiver, digest
from turnwise.ranks import Ranks


class Worker(WeightReceiver):
    """What vLLM makes of the class: a worker with a model and a loader."""

    def __init__(self, takes: int = 99) -> None:
        self.loaded: dict[str, torch.Tensor] = {}
        self.repacked = 0
        head = SimpleNamespace(quant_method=SimpleNamespace(process_weights_after_loading=self.repack))
        self.model = SimpleNamespace(lm_head=head, config=SimpleNamespace(tie_word_embeddings=True))
        self.takes = takes

    def repack(self, layer: Any) -> None:
        self.repacked += 1

    def get_model(self) -> Any:
        return self.model

    def reload_weights(self, weights_iterator: Any) -> None:
        for _, (name, tensor) in zip(range(self.takes), weights_iterator, strict=False):
            self.loaded[name] = tensor.clone()


def tied_weights() -> dict[str, torch.Tensor]:
    embedding = torch.arange(6.0).reshape(2, 3)
    return {"embed": embedding, "norm": torch.ones(3), "head": embedding}


def test_tied_weights_travel_once_in_the_engines_precision() -> None:
    sent = wire_weights(tied_weights(), torch.bfloat16)
    assert {name: tensor.dtype for name, tensor in sent.items()} == {"embed": torch.bfloat16, "norm": torch.bfloat16}


def test_equal_views_of_one_storage_are_not_mistaken_for_tied_ones() -> None:
    whole = torch.arange(6.0)
    assert set(wire_weights({"whole": whole, "start": whole[:2]}, torch.float32)) == {"whole", "start"}


def test_worker_reads_what_was_sent_and_the_file_is_gone_afterwards(tmp_path: Path) -> None:
    sent, worker = wire_weights(tied_weights(), torch.float32), Worker()
    with in_shared_memory(sent, tmp_path) as path:
        digests = worker.receive_weights(str(path))
    assert digests == {name: digest(tensor) for name, tensor in sent.items()}
    torch.testing.assert_close(worker.loaded, sent, rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == []
    assert worker.repacked == 1  # the tied head is no parameter of its own, but it has a packed copy


def test_digests_name_only_what_the_loader_took(tmp_path: Path) -> None:
    with in_shared_memory(wire_weights(tied_weights(), torch.float32), tmp_path) as path:
        assert len(Worker(takes=1).receive_weights(str(path))) == 1


def test_digest_sees_one_bit_and_no_order() -> None:
    tensor = torch.tensor([1.0, 2.0, 3.0])
    assert digest(tensor) == digest(tensor.flip(0))
    assert digest(tensor) != digest(torch.tensor([1.0, 2.0, 3.0000002]))


WATCHES = """
import sys, time
from turnwise.engine.vllm.worker import WeightReceiver
WeightReceiver().end_with(sys.argv[1])
print("watching", flush=True)
time.sleep(60)
"""


def test_vllm_ends_with_the_trainer(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WATCHES)
    trainer = subprocess.Popen(["sleep", "60"])
    scheduler = subprocess.Popen(
        ["bash", "-c", f"{sys.executable} worker.py {trainer.pid} & trap 'kill %1; exit 7' TERM; wait"],
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert scheduler.stdout is not None
    assert scheduler.stdout.readline() == "watching\n"
    assert scheduler.poll() is None
    trainer.kill()
    trainer.wait()
    assert scheduler.wait(10) == 7


def test_too_little_shared_memory_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover.shutil, "disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    with (
        pytest.raises(RuntimeError, match=r"take 80 MiB, but .* has 64 MiB left"),
        in_shared_memory({"large": torch.zeros(20 << 20)}, tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_ranks_of_a_machine_share_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"one": torch.arange(4.0), "two": torch.ones(2, 2)}
    same, other = {name: weights[name].clone() for name in ("two", "one")}, {**weights, "two": torch.ones(4)}
    with in_shared_memory(weights, tmp_path) as alone, in_shared_memory(same, tmp_path) as too:
        assert alone != too, "a process without others of its run looks for nobody's file"
    monkeypatch.setattr(handover, "current", lambda: Ranks(count=2, local_count=2))
    with in_shared_memory(weights, tmp_path) as first:
        with in_shared_memory(same, tmp_path) as second, in_shared_memory(other, tmp_path) as third:
            assert second.samefile(first)
            assert third != first
            assert len(list(first.parent.iterdir())) == 2
        assert [path.name for path in first.parent.iterdir()] == [first.name], "the other one's user has left"
        torch.testing.assert_close(load_file(first), weights, rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == []


LEFT = """
import os, signal, sys, torch
from turnwise.engine.vllm.handover import in_shared_memory
from pathlib import Path
with in_shared_memory({"weight": torch.zeros(1 << 20)}, Path(sys.argv[1])) as path:
    path.with_suffix(".part").write_text("as if it were killed while it writes")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}
    killed = subprocess.run([sys.executable, "-c", LEFT, str(tmp_path)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / f"turnwise_{os.getuid()}").iterdir())) == 2
    with in_shared_memory({"weight": torch.ones(1)}, tmp_path) as path:
        assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert list(tmp_path.iterdir()) == []


def test_many_that_come_and_go_never_miss_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "current", lambda: Ranks(count=8, local_count=8))
    weights = {"weight": torch.arange(64.0)}

    def hand_over(_: int) -> bool:
        with in_shared_memory(weights, tmp_path) as path:
            return torch.equal(load_file(path)["weight"], weights["weight"])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(hand_over, range(200)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_removes_just_then_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, mkdir = [FileExistsError()], os.mkdir

    def another_was_there(path: Path, mode: int) -> None:
        if answers:
            raise answers.pop()
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", another_was_there)
    with in_shared_memory({"weight": torch.arange(4.0)}, tmp_path) as path:
        assert path.exists()
    assert answers == []


def test_a_tied_weight_may_be_named_once() -> None:
    names, weights = WeightNames(tied_weights()), tied_weights()
    del weights["embed"]
    assert set(names.complete(weights)) == {"embed", "norm", "head"}
    torch.testing.assert_close(names.complete(weights)["embed"], weights["head"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": None}, r"missing=\['norm'\]"),
        ({"other": torch.ones(1)}, r"unknown=\['other'\]"),
        ({"norm": torch.ones(4)}, r"norm has shape \[4\], expected \[3\]"),
    ],
)
def test_wrong_names_and_shapes_are_named(change: dict[str, Any], message: str) -> None:
    weights = {name: tensor for name, tensor in {**tied_weights(), **change}.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        WeightNames(tied_weights()).complete(weights)
