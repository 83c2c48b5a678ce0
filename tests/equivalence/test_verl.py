"""verl's advantages and losses on the same random ragged steps as ours.

What runs is `verl.trainer.ppo.core_algos` as it stands, which needs neither a GPU nor Ray at work: the functions
registered as advantage estimators and as policy losses, with the dataclass `ActorConfig` for their settings. verl takes
rewards per token; each turn's reward lies on the last token of the turn. All of it is computed in float64 but for
`grpo_vectorized`, which casts to float32. verl's guards against a division by zero (1e-8) are within the tolerance.
"""

from typing import Any

import numpy as np
import pytest
from torch import Tensor

from equivalence.comparison import assert_equal, turnwise_loss, with_gradient
from equivalence.ragged_step import SEEDS, UNEQUAL_GROUPS, RaggedStep
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.reinforce_pp import ReinforcePPAdvantage
from turnwise.advantage.rloo import RlooAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.core.correction import Correction
from turnwise.core.group_statistics import StdKind
from turnwise.core.kl import KlEstimator
from turnwise.core.ratios import RatioLevel
from turnwise.core.segments import Reduction
from turnwise.loss.clipped import ClippedLoss
from turnwise.protocols import AdvantageEstimator

NEEDED = "verl is not installed here: run `make test-equivalence`"
core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", reason=NEEDED)
AlgoConfig = pytest.importorskip("verl.trainer.config", reason=NEEDED).AlgoConfig
rollout = pytest.importorskip("verl.trainer.ppo.rollout_corr_helper", reason=NEEDED)
ActorConfig = pytest.importorskip("verl.workers.config", reason=NEEDED).ActorConfig
pytestmark = pytest.mark.slow

TOLERANCE = 1e-9
FLOAT32_TOLERANCE = 1e-5
WHITENING_TOLERANCE = 1e-7
LOSS_TOLERANCE = 1e-8

NO_DUAL_CLIP = 1e9
"""verl's `clip_ratio_c` has no off; this is out of reach."""


def verl_advantages(estimator: str, step: RaggedStep, **settings: Any) -> Tensor:
    """verl's advantages `[B, T]`, 0 outside the turns."""
    advantages_BT, _ = core_algos.get_adv_estimator_fn(estimator)(
        token_level_rewards=step.token_rewards_BT,
        response_mask=step.mask_BT,
        index=np.array([f"p{p}" for p in step.group_index], dtype=object),
        config=AlgoConfig(gamma=1.0),
        **settings,
    )
    return advantages_BT


def verl_loss(
    name: str,
    step: RaggedStep,
    advantages_BT: Tensor,
    reduction: str,
    weights_BT: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    """verl's loss, and its gradient with respect to the log-probs."""
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **settings)

    def loss(logprobs_BT: Tensor) -> Tensor:
        return core_algos.get_policy_loss_fn(name)(
            old_log_prob=step.logprobs("proximal"),
            log_prob=logprobs_BT,
            advantages=advantages_BT,
            response_mask=step.mask_BT,
            loss_agg_mode=reduction,
            config=config,
            rollout_is_weights=weights_BT,
        )[0]

    return with_gradient(step, loss)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "estimator", "settings", "ours", "tolerance"),
    [
        # verl divides by the sample standard deviation plus 1e-6.
        ("GRPO", "grpo", {}, GroupNormAdvantage(std_kind=StdKind.sample), TOLERANCE),
        ("GRPO", "grpo_vectorized", {}, GroupNormAdvantage(std_kind=StdKind.sample), FLOAT32_TOLERANCE),
        ("Dr.GRPO", "grpo", {"norm_adv_by_std_in_grpo": False}, GroupNormAdvantage(scale_by_std=False), TOLERANCE),
        ("RLOO", "rloo", {}, RlooAdvantage(), TOLERANCE),
        ("RLOO", "rloo_vectorized", {}, RlooAdvantage(), TOLERANCE),
    ],
)
def test_group_advantages(
    seed: int, name: str, estimator: str, settings: dict[str, bool], ours: AdvantageEstimator, tolerance: float
):
    step = RaggedStep.random(seed, group_sizes=UNEQUAL_GROUPS)
    ours_BT = step.on_tokens(ours(step.scored_groups()))
    theirs_BT = verl_advantages(estimator, step, **settings)
    assert_equal(f"verl {name} advantages ({estimator})", ours_BT, theirs_BT, tolerance=tolerance)


@pytest.mark.parametrize("seed", SEEDS)
def test_gtpo_of_one_turn_is_grpo(seed: int):
    step = RaggedStep.random(seed, group_sizes=UNEQUAL_GROUPS, max_turns=1)
    ours = TurnReturnAdvantage(std_kind=StdKind.sample)  # as for GRPO above
    ours_BT = step.on_tokens(ours(step.scored_groups()))
    theirs_BT = verl_advantages("grpo", step)
    assert_equal("verl GRPO advantages, ours GTPO of one turn", ours_BT, theirs_BT, tolerance=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "estimator", "group_baseline"),
    [("REINFORCE++", "reinforce_plus_plus", False), ("REINFORCE++ baseline", "reinforce_plus_plus_baseline", True)],
)
def test_whitened_advantages(seed: int, name: str, estimator: str, group_baseline: bool):
    # verl's return of a token is the sum of the rewards from there on, ours is one number a trajectory: the two meet
    # where the reward lies on the last turn. Both whiten over tokens. verl's 1e-8 stands under the root, so ours needs
    # no eps; it divides by tokens - 1, which no field of ours does, and which makes up the factor below.
    step = RaggedStep.random(seed, group_sizes=UNEQUAL_GROUPS).with_outcome_rewards()
    ours = ReinforcePPAdvantage(group_baseline=group_baseline, weight_by_tokens=True, eps=0)
    factor = (1 - 1 / step.mask_BT.sum()).sqrt()
    ours_BT = step.on_tokens(ours(step.scored_groups())) * factor
    theirs_BT = verl_advantages(estimator, step)
    assert_equal(f"verl {name} advantages", ours_BT, theirs_BT, tolerance=WHITENING_TOLERANCE)


def test_a_group_of_one_differs():
    # No field makes ours equal: verl hands a trajectory without siblings its bare reward, turnwise has nothing to
    # compare it with.
    step = RaggedStep.random(0, group_sizes=(1,), max_turns=1)
    reward = step.rewards[0][0]
    assert verl_advantages("grpo", step).max().item() == pytest.approx(reward, rel=1e-5)
    assert GroupNormAdvantage(std_kind=StdKind.sample)(step.scored_groups()) == [[[0.0]]]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("per_turn", [False, True], ids=["per trajectory", "per turn"])
@pytest.mark.parametrize(
    ("name", "policy_loss", "reduction", "settings", "ours"),
    [
        # verl's loss_agg_mode is our reduction, its clip_ratio_c our dual_clip.
        (
            "GRPO",
            "vanilla",
            "seq-mean-token-mean",
            {"clip_ratio_c": 1.5},
            ClippedLoss(reduction=Reduction.sequence, dual_clip=1.5),
        ),
        (
            "DAPO",
            "vanilla",
            "token-mean",
            {"clip_ratio_high": 0.28, "clip_ratio_c": NO_DUAL_CLIP},
            ClippedLoss(clip_high=0.28, reduction=Reduction.token),
        ),
        # verl's loss_scale_factor is our constant_length.
        (
            "Dr.GRPO",
            "vanilla",
            "seq-mean-token-sum-norm",
            {"clip_ratio_c": NO_DUAL_CLIP, "global_batch_info": {"loss_scale_factor": 50}},
            ClippedLoss(reduction=Reduction.constant, constant_length=50),
        ),
        # A trust region that some sequences stay within; verl has no dual clipping here.
        (
            "GSPO",
            "gspo",
            "seq-mean-token-mean",
            {"clip_ratio_low": 0.03, "clip_ratio_high": 0.04},
            ClippedLoss(ratio_level=RatioLevel.sequence, reduction=Reduction.sequence, clip_low=0.03, clip_high=0.04),
        ),
    ],
)
def test_losses(
    seed: int,
    per_turn: bool,
    name: str,
    policy_loss: str,
    reduction: str,
    settings: dict[str, Any],
    ours: ClippedLoss,
):
    step = RaggedStep.random(seed, group_sizes=UNEQUAL_GROUPS)
    advantages_BT = step.advantages(per_turn=per_turn)
    loss, slope_BT = turnwise_loss(ours, step, advantages_BT)
    their_loss, their_slope_BT = verl_loss(policy_loss, step, advantages_BT, reduction, **settings)
    assert_equal(f"verl {name} loss", loss, their_loss, tolerance=LOSS_TOLERANCE)
    assert_equal(f"verl {name} loss, gradient", slope_BT, their_slope_BT, tolerance=LOSS_TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("estimator", list(KlEstimator))
def test_kl(seed: int, estimator: KlEstimator):
    # verl's actor adds kl_loss_coef times this mean to its policy loss; with advantages of 0 ours is the KL term alone.
    step = RaggedStep.random(seed, group_sizes=UNEQUAL_GROUPS)

    def their_kl(logprobs_BT: Tensor) -> Tensor:
        kl_BT = core_algos.kl_penalty(logprobs_BT, step.logprobs("reference"), estimator.value)
        return core_algos.agg_loss(kl_BT, step.mask_BT, "token-mean")

    ours = turnwise_loss(ClippedLoss(kl_weight=1, kl_estimator=estimator), step, step.mask_BT * 0)
    theirs = with_gradient(step, their_kl)
    for quantity, mine, their in zip(("", ", gradient"), ours, theirs, strict=True):
        assert_equal(f"verl KL {estimator}{quantity}", mine, their, tolerance=LOSS_TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", [RatioLevel.token, RatioLevel.sequence])
@pytest.mark.parametrize(
    ("threshold", "correction"),
    [(2.0, Correction.truncate), ("0.5_2.0", Correction.mask)],  # one bound truncates, two mask
)
def test_correction(seed: int, level: RatioLevel, threshold: float | str, correction: Correction):
    step = RaggedStep.random(seed, group_sizes=UNEQUAL_GROUPS)
    weights_BT, _ = rollout.compute_rollout_correction_weights(
        step.logprobs("proximal") - step.logprobs("behaviour"), step.mask_BT, level.value, threshold
    )
    ours = ClippedLoss(correction=correction, correction_level=level, correction_low=0.5, correction_high=2.0)
    compare_corrected(f"verl {correction} {level}", step, ours, weights_BT)


@pytest.mark.parametrize("seed", SEEDS)
def test_rejection_by_geometric_mean(seed: int):
    # verl bounds behaviour / proximal where we bound proximal / behaviour: our bounds are the reciprocals of its own.
    # It would also take rejected tokens out of the counts that it averages with; ours stay those of the step.
    step = RaggedStep.random(seed, group_sizes=UNEQUAL_GROUPS)
    kept_BT, _ = rollout.compute_rollout_rejection_mask(
        step.logprobs("proximal") - step.logprobs("behaviour"), step.mask_BT, "seq_mean_k1", "0.9_1.05"
    )
    ours = ClippedLoss(
        correction=Correction.geometric,
        correction_level=RatioLevel.sequence,
        correction_low=1 / 1.05,
        correction_high=1 / 0.9,
    )
    compare_corrected("verl geometric sequence", step, ours, kept_BT)


def compare_corrected(name: str, step: RaggedStep, ours: ClippedLoss, weights_BT: Tensor) -> None:
    assert weights_BT[step.turn_BT >= 0].unique().numel() > 1
    advantages_BT = step.advantages(per_turn=True)
    loss, slope_BT = turnwise_loss(ours, step, advantages_BT)
    their_loss, their_slope_BT = verl_loss(
        "vanilla", step, advantages_BT, "token-mean", weights_BT, clip_ratio_c=NO_DUAL_CLIP
    )
    # We subtract behaviour log-probs as they are stored, in float32.
    assert_equal(f"{name} loss", loss, their_loss, tolerance=FLOAT32_TOLERANCE)
    assert_equal(f"{name} loss, gradient", slope_BT, their_slope_BT, tolerance=FLOAT32_TOLERANCE)


def test_the_fields_are_needed():
    step = RaggedStep.random(0, group_sizes=UNEQUAL_GROUPS)
    ours_BT = step.on_tokens(GroupNormAdvantage()(step.scored_groups()))
    assert float((ours_BT - verl_advantages("grpo", step)).abs().max()) > 0.01  # population
