"""What benchmarks compute from times, and what they say when something is missing."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import peer
import prepared
import run
from flops import attention_flops, decode_flops, layer_weights, update_flops
from made_batch import made_batch
from peer_work import NUM_TOKENS
from turnwise.model.prefix_tree import plant

CONFIG = SimpleNamespace(
    vocab_size=10, hidden_size=4, intermediate_size=6, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=2,
)  # fmt: skip


def test_made_batches_share_prompts_within_a_group_only() -> None:
    shape: dict[str, Any] = {"vocab_size": 1000, "num_groups": 2, "group_size": 3, "prompt_tokens": 5}
    batch = made_batch(**shape, num_turns=2, turn_tokens=4, tool_tokens=2)
    # A row: 5 prompt, 4 sampled, 2 tool, 4 sampled tokens.
    assert batch.turn_index[:15].tolist() == [-1] * 5 + [0] * 4 + [-1] * 2 + [1] * 4
    assert (batch.num_loss_tokens, batch.num_loss_turns, batch.num_loss_sequences) == (2 * 3 * 8, 12, 6)
    assert batch.counted().num_loss_turns == batch.num_loss_turns
    # Each of two groups computes its prompt once: 2 * (5 + 3 * 10) tokens.
    assert plant(batch).token_ids_M.numel() == 70
    assert plant(made_batch(**shape, turn_tokens=4, shares_prompts=False)).token_ids_M.numel() == 6 * 9


def test_flops_of_a_small_llama() -> None:
    # Two layers of 4 x 4 (queries), 2 * 4 x 2 (keys, values), 4 x 4 (outputs), 3 * 4 x 6: 2 * (16 + 16 + 16 + 72).
    assert layer_weights(CONFIG) == 240
    # 2 layers x 2 heads x 2 wide: 2 for the score, 2 for the sum.
    assert attention_flops(CONFIG) == 32
    # Two rows at lengths 5 and 6: 2 * (2 * 2 * (240 + 10 * 4) + 32 * 11).
    assert decode_flops(CONFIG, 2, range(5, 7)) == 2 * (2 * 2 * 280 + 32 * 11)


def test_flops_of_an_update_count_a_shared_prompt_once_in_each_micro_batch() -> None:
    batch = made_batch(vocab_size=10, num_groups=1, group_size=2, prompt_tokens=3, turn_tokens=2)
    # Tree: 3 + 2 + 2 tokens, contexts 1 2 3, 4 5, 4 5; 4 loss tokens.
    whole = 6 * 240 * 7 + 6 * 10 * 4 * 4 + 3 * 32 * 24
    assert update_flops(CONFIG, batch, 100) == whole
    # A sequence each: the prompt a second time, contexts 1 2 3.
    assert update_flops(CONFIG, batch, 5) == whole + 6 * 240 * 3 + 3 * 32 * 6


def step(step_s: float, peak_mib: float, num_tokens: int = NUM_TOKENS, **parts: float) -> dict[str, float]:
    return {"step_s": step_s, "peak_mib": peak_mib, "num_tokens": num_tokens, "num_prompt_tokens": 42, **parts}


def test_the_first_step_and_outliers_do_not_count() -> None:
    ours = [step(s, 100 * s, rollout_s=0.5, update_s=0.25) for s in (50.0, 1.0, 2.0, 9.0)]
    trl = [step(s, 3000.0) for s in (60.0, 6.0, 5.0, 4.0)]
    found = peer.compared([{"trl": one, "ours": other} for one, other in zip(trl, ours, strict=True)])
    assert found["trl_over_ours"] == 5.0 / 2.0
    assert found["trl_over_ours_memory"] == 3000.0 / 900.0  # the last reading is the peak of the whole process
    assert found["ours_update_s"] == 0.25


def test_a_side_that_did_other_work_is_no_comparison() -> None:
    with pytest.raises(AssertionError, match=r"steps of \[7\] tokens"):
        peer.compared([{"trl": step(1.0, 1.0), "ours": step(1.0, 1.0, num_tokens=7)}])
    with pytest.raises(AssertionError, match="prompts of different lengths"):
        peer.compared([{"trl": step(1.0, 1.0), "ours": step(1.0, 1.0) | {"num_prompt_tokens": 431}}])


def test_a_side_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "side.py").write_text("raise ValueError('no such model')")
    monkeypatch.setattr(peer, "HERE", tmp_path)
    side = peer.Side(Path(sys.executable), "side.py")
    with pytest.raises(RuntimeError, match=r"side\.py ended:(.|\n)*no such model"):
        side.step()
    side.close()


def test_a_side_answers_each_line_and_nothing_else(tmp_path: Path) -> None:
    script = tmp_path / "side.py"
    script.write_text(
        "from peer_work import Turns\nturns = Turns()\n"
        "for n in range(9):\n    turns.wait()\n    print('noise')\n    turns.answer(step_s=n)\n"
    )
    env = {"PYTHONPATH": str(Path(peer.__file__).parent)}
    ended = subprocess.run([sys.executable, script], input="a\nb\n", capture_output=True, text=True, env=env)
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [answer["step_s"] for answer in answers] == [0, 1]
    assert all(1 < answer["peak_mib"] < 1000 for answer in answers)
    assert ended.stderr.split() == ["noise", "noise"]


def test_what_is_missing_is_skipped_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepared, "ROOT", tmp_path)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(sys, "argv", ["run.py", "peer", "limits"])
    assert run.main() == 1
    printed = capsys.readouterr().out
    assert "skipped: peer needs models/smollm2_135m/config.json, which `make smollm2` prepares" in printed
    assert "skipped: limits needs" in printed
    assert not run.RESULTS.exists()


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [("a_s", 1.5, "1.5 s"), ("a_mib", 2048.0, "2048 MiB"), ("a_share", 0.61, "61 %"), ("a_over_b", 2.0, "2 x")],
)
def test_figures_have_units(key: str, value: float, shown: str) -> None:
    assert run.shown(key, value) == shown


def test_products_are_counted_as_they_are_done() -> None:
    from rates import product_rate

    assert product_rate(torch.float32, 64, 64, 64) > 1e6
