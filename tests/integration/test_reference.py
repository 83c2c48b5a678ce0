"""The reference policy of a KL term: the starting weights, loaded only when they are needed, in a resumed run too."""

import pytest
import torch
from safetensors.torch import load_file

from integration_runs import IN_PROCESS, Run, lines
from turnwise.model.causal_lm import CausalLM


@pytest.mark.parametrize(("kl_weight", "num_models"), [(0, 2), (0.1, 3)])
def test_a_reference_is_loaded_only_for_a_kl_term(
    run: Run, monkeypatch: pytest.MonkeyPatch, kl_weight: float, num_models: int
):
    loaded = []
    load = CausalLM.load_model
    monkeypatch.setattr(CausalLM, "load_model", lambda *args: loaded.append(args) or load(*args))
    run_dir = run(*IN_PROCESS, f"loss.kl_weight={kl_weight}", "trainer.num_steps=1")
    assert len(loaded) == num_models, "the policy, the engine, and the reference"
    assert ("loss/kl" in lines(run_dir)[1]) == (kl_weight > 0)


def test_the_divergence_begins_at_zero_and_a_resumed_run_equals_an_uninterrupted_one(run: Run):
    overrides = (*IN_PROCESS, "loss.kl_weight=0.5", "trainer.learning_rate=1e-4")
    whole = run(*overrides, folder="whole")
    divergences = [line["loss/kl"] for line in lines(whole) if "loss/kl" in line]
    assert divergences[0] == 0
    assert min(divergences[1:]) > 1e-6, "the policy has left the weights that it started from"
    run(*overrides, "trainer.num_steps=1", folder="parts")
    resumed = run(*overrides, folder="parts")
    assert lines(resumed) == lines(whole)
    left, right = (load_file(one / "checkpoints/last/model.safetensors") for one in (whole, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)
