"""`make bench-gpu`: what it counts, what it says without a GPU, and all of it on a CPU with a small model."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import arms
import run
from flops import decode_bytes, layer_weights
from gpu_decode import measure_decode
from gpu_step import RandomTokens, measure_step
from gpu_update import made_batches, measure_update, usable_kernels
from made_batch import made_batch, shortened
from padded import PaddedUpdate, padded_parts
from random_qwen import SIZES, qwen_config, random_model
from rates import copy_rate, published_tflops
from turnwise.config.sweep import compose_components
from turnwise.config.wiring import start_policy
from turnwise.model.attention import Attention
from turnwise.model.prefix_tree import micro_batches, plant
from turnwise.model.token_logprobs import Scoring
from turnwise.model.tree_attention import use_tree_attention
from turnwise.types import Message

CPU = torch.device("cpu")
in_half_precision = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor does not compute in bfloat16"
)
SMALL: Any = qwen_config(
    vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip


def test_the_shapes_are_those_of_the_published_models() -> None:
    # Qwen2.5's model cards: 0.36 and 1.31 billion weights without embeddings, rounded to two digits.
    sizes = {size: qwen_config(**shape) for size, shape in SIZES.items()}
    assert [round(layer_weights(sizes[size]) / 1e9, 2) for size in ("0.5b", "1.5b")] == [0.36, 1.31]
    assert [sizes[size].head_dim for size in ("0.5b", "1.5b")] == [64, 128]
    assert all(config.tie_word_embeddings and config.vocab_size == 151936 for config in sizes.values())
    assert all(config.rope_parameters["rope_theta"] == 1e6 for config in sizes.values())


def test_bytes_of_decoding_are_weights_once_and_keys_and_values_of_every_row() -> None:
    config = SimpleNamespace(
        vocab_size=10, hidden_size=4, intermediate_size=6, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=2,
    )  # fmt: skip
    # 240 + 10 * 4 weights a pass; a token leaves 2 layers x 2 x 1 head x 2 numbers; three rows at lengths 5 and 6.
    assert decode_bytes(config, 3, range(5, 7)) == 2 * (2 * 280 + 3 * 8 * 11)


def test_packed_rows_are_full_and_a_group_with_its_prompt_fills_one() -> None:
    rows, ragged, shared, own = made_batches(512, token_budget=64, num_rows=4)
    assert [plant(rows.select(part)).token_ids_M.numel() for part in micro_batches(rows, 64)] == [64] * 4
    assert [plant(shared.select(part)).token_ids_M.numel() for part in micro_batches(shared, 64)] == [64] * 2
    assert own.num_loss_tokens == shared.num_loss_tokens == 16 * 6
    assert plant(own).token_ids_M.numel() == own.token_ids.numel() == 16 * (16 + 6)
    lengths = ragged.cu_seqlens.diff()
    assert (int(lengths.min()), int(lengths.max())) == (5, 16)  # of them 4 tokens are prompt
    assert ragged.num_loss_tokens == int((lengths - 4).sum())


def test_a_shortened_batch_is_a_step_of_its_own() -> None:
    batch = made_batch(vocab_size=9, num_groups=1, group_size=3, prompt_tokens=2, turn_tokens=4, shares_prompts=False)
    short = shortened(batch, [3, 6, 4])
    assert short.cu_seqlens.tolist() == [0, 3, 9, 13]
    assert short.token_ids.tolist() == [n for row, end in ((0, 3), (1, 6), (2, 4)) for n in rows_of(batch)[row][:end]]
    assert (short.num_loss_tokens, short.num_loss_sequences) == (1 + 4 + 2, 3)


def rows_of(batch: Any) -> list[list[int]]:
    return batch.token_ids.view(batch.num_sequences, -1).tolist()


def test_padded_parts_stay_within_the_budget_with_their_padding() -> None:
    batch = made_batch(vocab_size=9, num_groups=1, group_size=5, prompt_tokens=2, turn_tokens=6, shares_prompts=False)
    # 2 x 4, then 3 x 8 would be too much for 20: 2 x 8; a fifth of 8 stands alone.
    assert padded_parts(shortened(batch, [4, 3, 8, 5, 8]), 20) == [[0, 1], [2, 3], [4]]
    assert padded_parts(shortened(batch, [4, 3, 8, 5, 8]), 1) == [[0], [1], [2], [3], [4]]


def test_the_padded_update_has_the_gradient_of_the_packed_one() -> None:
    components = compose_components(
        ["trainer.device=cpu", "trainer.dtype=float32", "trainer.token_budget=64"], label=""
    )
    ragged = made_batches(512, token_budget=64, num_rows=2)[1]
    model = random_model(SMALL, CPU, torch.float32)
    policy = start_policy(components, components.model.load_renderer(), model)
    expected = policy.gradient(ragged, components.loss)
    padded = PaddedUpdate(model, components.loss, token_budget=40, scoring=Scoring(chunk=7, dtype=torch.float32))
    padded.differentiate(ragged)
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert expected.norm() > 1e-3
    use_tree_attention(model)  # the policy goes on as it was
    torch.testing.assert_close(policy.gradient(ragged, components.loss), expected, rtol=0, atol=0)


def test_an_arm_without_memory_is_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def too_large() -> None:
        calls.append("large")
        raise torch.OutOfMemoryError("CUDA out of memory")

    taken = arms.in_turns({"large": too_large, "small": lambda: calls.append("small")}, CPU, rounds=3)
    assert calls == ["large", "small", "small", "small"]
    assert list(taken) == ["small"]
    assert taken["small"].seconds >= 0
    assert taken["small"].peak_mib > 1
    assert capsys.readouterr().out == "  without large: out of memory\n"


@in_half_precision
def test_an_update_with_another_budget_than_was_asked_for_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_update.micro_batches", lambda batch, budget: [[0]])
    # Two rows and two sequences a row without sharing are more than one part; a shared group is one.
    figures = measure_update(SMALL, CPU, 1e9, token_budget=64, num_rows=2)
    assert figures.keys() == {"shared_peak_mib", "padded_peak_mib"}


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L4", None),
    ],
)
def test_published_rates_by_name(name: str, tflops: float | None) -> None:
    assert published_tflops(name) == tflops


def test_bytes_copied_are_counted_twice() -> None:
    assert 1e7 < copy_rate(1 << 20) < 1e13


def test_kernels_that_are_missing_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert usable_kernels(CPU, torch.bfloat16) == [Attention.sdpa]
    printed = capsys.readouterr().out
    assert "without flash_attention_2: model.attention=flash_attention_2: cannot be had here" in printed


def test_every_random_prompt_is_as_long_as_the_others() -> None:
    renderer = RandomTokens(100, 7)
    one, other = (renderer.prompt_ids([Message(role="user", content=content)]) for content in ("a", "b"))
    assert len(one) == len(other) == 7
    assert one != other
    assert one == renderer.prompt_ids([Message(role="user", content="a")])
    assert renderer.text((3, 14)) == "3 14"


@in_half_precision
def test_the_update_is_measured_with_every_kernel_that_is_here() -> None:
    figures = measure_update(SMALL, CPU, 1e9, token_budget=64, num_rows=2)
    assert {"sdpa_share", "sdpa_s", "sdpa_peak_mib", "padded_over_packed", "own_prompts_over_shared"} <= figures.keys()
    assert all(value > 0 for value in figures.values())


@in_half_precision
def test_decoding_is_measured_by_batch() -> None:
    figures = measure_decode(SMALL, CPU, 1e9, batches=(1, 3), prompt_tokens=6, num_tokens=32)
    assert figures.keys() == {
        f"{batch}_launched_{what}" for batch in (1, 3) for what in ("rate", "over_bound", "peak_mib")
    }
    # Times are positive when the longer rollout takes longer; bound and rate are of the same seconds.
    bound_s = [decode_bytes(SMALL, batch, range(22, 54)) / 1e9 for batch in (1, 3)]
    for batch, bound in zip((1, 3), bound_s, strict=True):
        seconds = batch * 32 / figures[f"{batch}_launched_rate"]
        assert figures[f"{batch}_launched_over_bound"] == pytest.approx(seconds / bound)


@in_half_precision
def test_a_whole_step_is_measured() -> None:
    sizes = {"num_problems": 2, "group_size": 2, "prompt_tokens": 6, "new_tokens": 5, "token_budget": 64}
    figures = measure_step(SMALL, CPU, **sizes)
    assert figures["step_s"] > figures["rollout_s"] > 0
    assert figures["rollout_rate"] == pytest.approx(2 * 2 * 5 / figures["rollout_s"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a CUDA device")
def test_without_a_gpu_it_says_so_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(sys, "argv", ["run.py", "gpu"])
    assert run.main() == 0
    assert "skipped: gpu needs a CUDA device" in capsys.readouterr().out
    assert not run.RESULTS.exists()
