import torch

from tiny_models import reference_logprobs, small_model
from turnwise.engine.vllm.handover import WeightNames
from turnwise.engine.vllm.probe import PROBE_LENGTH, Reference, probe_prompt


def test_reference_scores_with_the_weights_that_it_is_given_and_holds_none() -> None:
    own, other, prompt, turn = small_model(seed=0), small_model(seed=1), (5, 6, 7), (8, 1)
    names, reference = WeightNames(own.state_dict()), Reference(own)
    assert {parameter.device.type for parameter in own.parameters()} == {"meta"}
    found = reference.logprobs(names.complete(other.state_dict()), prompt, turn, 0.7)
    expected = reference_logprobs(other, (*prompt, *turn), temperature=0.7)[3:]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_probe_is_the_same_every_time_and_fits_the_context() -> None:
    assert probe_prompt(300, 512) == probe_prompt(300, 512)
    assert len(probe_prompt(300, 512)) == PROBE_LENGTH
    assert len(probe_prompt(300, 96)) == 88  # 96 - 8 tokens of the turn
    assert max(probe_prompt(300, 512)) < 300
