"""A policy that several real processes share, against the same policy in one."""

from pathlib import Path

import pytest
import torch

from ranks_at_work import (
    IN_HALF,
    NUM_UPDATES,
    SAVED,
    SETTINGS,
    Trained,
    fail_in_the_loss,
    run_out_of_memory,
    train_and_save,
    train_each_way,
    train_each_way_and_go_on,
    updates,
)
from several_ranks import together
from tiny_models import small_model, small_policy

TOLERANCE = 1e-5
WEIGHTS_TOLERANCE = 1e-4
"""Between one process and several, absolute: the order of sums differs, nothing else. AdamW divides by the size of a
gradient, so where it is almost 0 rounding shows in the weights: by a hundredth of the learning rate at most."""
HALF_TOLERANCE = 5e-2
"""Relative, of figures in bfloat16: dealt out, norms and the residual stream are in it too."""


@pytest.fixture(scope="module")
def alone() -> dict[str, Trained]:
    found = train_each_way(None)
    return found | {"replicas": found["plain"], "adapter replicas": found["adapter"]}


@pytest.fixture(scope="module")
def saved_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    together(train_and_save, 2, folder, str(folder))
    return folder


def assert_alike(found: Trained, expected: Trained, *, cut_alike: bool) -> None:
    for figures, wanted in zip(found[0], expected[0], strict=True):
        assert figures.keys() == wanted.keys()
        for name, value in wanted.items():
            if cut_alike or name not in ("update/num_micro_batches", "update/shared_fraction"):
                assert figures[name] == pytest.approx(value, rel=1e-5, abs=TOLERANCE), name
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=TOLERANCE)
    assert found[2].keys() == expected[2].keys()
    for name, weight in expected[2].items():
        torch.testing.assert_close(found[2][name], weight, rtol=0, atol=WEIGHTS_TOLERANCE)


def assert_alike_in_half(found: Trained, expected: Trained, *, cut_alike: bool) -> None:
    """Loss, entropy and gradient of three updates, and where these have led: closer by far than where they began."""
    for figures, wanted in zip(found[0], expected[0], strict=True):
        for name in ("loss/value", "loss/entropy", "loss/grad_norm"):
            assert figures[name] == pytest.approx(wanted[name], rel=HALF_TOLERANCE), name
    start = small_model().state_dict()
    ways = [torch.cat([(one[2][name] - start[name]).flatten() for name in start]) for one in (found, expected)]
    assert (ways[0] - ways[1]).norm() < 0.2 * ways[1].norm()


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_ranks_train_what_one_process_trains(
    num_ranks: int, alone: dict[str, Trained], saved_by_two: Path, tmp_path: Path
):
    results = together(train_each_way_and_go_on, num_ranks, tmp_path, str(saved_by_two), str(tmp_path / "own"))
    for each_way, gone_on, from_nothing, refusals in results:  # on every rank
        for name, found in each_way.items():
            compare = assert_alike_in_half if name in IN_HALF else assert_alike
            compare(found, alone[name], cut_alike=num_ranks == 1)
        for way, (figures, _, weights) in gone_on.items():  # two updates by two ranks, saved, the third by these
            assert figures[0]["loss/value"] == pytest.approx(alone[way][0][NUM_UPDATES - 1]["loss/value"], abs=1e-5)
            for name, weight in alone[way][2].items():
                torch.testing.assert_close(weights[name], weight, rtol=0, atol=WEIGHTS_TOLERANCE)
        assert_alike(from_nothing, alone["plain"], cut_alike=num_ranks == 1)
        assert "step_2 is of another run: its weights do not fit this model: model.layers.0.mlp" in refusals[0]
        other = "step_2 is of another run: its optimiser is not this one: "
        assert "(4, 32) there, (2, 32) here" in refusals[1], "an adapter of another rank"
        assert "embed_tokens.weight.exp_avg is (293, 32) there, absent here" in refusals[2], "no adapter there"
        assert all(other in refusal for refusal in refusals[1:])
        assert each_way.keys() == alone.keys() - ({"replicas", "adapter replicas"} if num_ranks < 4 else set())
    for each_way, *_ in results:
        for name, weight in results[0][0]["plain"][2].items():
            assert torch.equal(each_way["plain"][2][name], weight), "every rank gathers the same weights"


def test_a_checkpoint_of_two_loads_by_from_pretrained(saved_by_two: Path):
    from transformers import AutoModelForCausalLM

    for name in SAVED:
        expected = updates(small_policy(**SETTINGS[name]), 2)[2]
        found = AutoModelForCausalLM.from_pretrained(saved_by_two / name / "last").state_dict()
        assert found.keys() == expected.keys()
        for weight in expected:
            torch.testing.assert_close(found[weight], expected[weight], rtol=0, atol=WEIGHTS_TOLERANCE)
    parts = sorted(path.name for path in (saved_by_two / "plain" / "last" / "optimiser").iterdir())
    assert parts == [".metadata", "__0_0.distcp", "__1_0.distcp"], "one file of each rank"


def test_a_sharded_update_without_memory_is_not_tried_again(tmp_path: Path):
    assert together(run_out_of_memory, 1, tmp_path) == ["no memory"]


def test_a_loss_that_is_not_finite_on_one_rank_ends_the_update_on_all(tmp_path: Path):
    heard = together(fail_in_the_loss, 2, tmp_path)
    assert heard[0] == heard[1]
    assert heard[0].startswith("optimiser step 1 of 1 was not taken: the loss of sequences [")
    assert heard[0].endswith("is nan")
