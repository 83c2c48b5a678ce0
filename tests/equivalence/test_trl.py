"""TRL's advantages and losses on the same random ragged steps as ours.

What runs is TRL's own code, in a real GRPOTrainer and RLOOTrainer around the tiny policy that turnwise ships:

- advantages: `_generate_and_score_completions` as it stands; it samples two tokens a completion, and the reward
  function returns the rewards of the step;
- losses: `compute_loss` as it stands; in place of a model's forward pass, `_get_per_token_logps_and_entropies` returns
  the log-probs of the step, and their negatives for entropies. The completion mask has holes where tool tokens lie.

TRL computes advantages in float32, losses in the type of the log-probs, here float64. Its groups are of one size.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equivalence.comparison import assert_equal, turnwise_loss, with_gradient
from equivalence.ragged_step import EQUAL_GROUPS, SEEDS, RaggedStep
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.rloo import RlooAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.core.group_statistics import StdKind
from turnwise.core.kl import KlEstimator
from turnwise.core.ratios import RatioLevel
from turnwise.core.segments import Reduction
from turnwise.loss.clipped import ClippedLoss
from turnwise.protocols import AdvantageEstimator

trl = pytest.importorskip("trl", reason="TRL is not installed here: run `make test-equivalence`")
datasets = pytest.importorskip("datasets", reason="TRL is not installed here: run `make test-equivalence`")
pytestmark = pytest.mark.slow

TINY = Path(__file__).parents[2] / "src" / "turnwise" / "model" / "weights" / "tiny"
ADVANTAGE_TOLERANCE = 1e-5  # float32 on TRL's side
LOSS_TOLERANCE = 1e-8  # the bound of the dual clip is float32 on our side; all else agrees to 1e-16

NOMINAL_LENGTH = 50


def build_trainer(kind: str, folder: Path, step: RaggedStep, **settings: Any) -> Any:
    """A GRPOTrainer or RLOOTrainer whose one batch is the step."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(TINY)
    arguments = getattr(trl, f"{kind}Config")(
        output_dir=str(folder),
        per_device_train_batch_size=len(step.spans),
        num_generations=EQUAL_GROUPS[0],
        use_cpu=True,
        bf16=False,
        report_to="none",
        **settings,
    )
    trainer = getattr(trl, f"{kind}Trainer")(
        model=model,
        reward_funcs=lambda completions, **_: step.trajectory_rewards_B.tolist(),
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["1 + 1"]}),
        processing_class=AutoTokenizer.from_pretrained(TINY),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def trl_advantages(kind: str, folder: Path, step: RaggedStep, **settings: Any) -> Tensor:
    """TRL's advantage of each trajectory, on its sampled tokens."""
    trainer = build_trainer(kind, folder, step, max_completion_length=2, **settings)
    scored = trainer._generate_and_score_completions([{"prompt": f"{p} + 1"} for p in step.group_index])
    return scored["advantages"].unsqueeze(1) * step.mask_BT


def trl_loss(
    kind: str, folder: Path, step: RaggedStep, advantages_BT: Tensor, at: str = "policy", **settings: Any
) -> tuple[Tensor, Tensor]:
    """TRL's loss, and its gradient with respect to the log-probs."""
    trainer = build_trainer(kind, folder, step, max_completion_length=NOMINAL_LENGTH, **settings)
    mask_BT, proximal_BT = step.mask_BT, step.logprobs("proximal")
    prompt = torch.ones(len(mask_BT), 1, dtype=torch.int64)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.ones_like(step.turn_BT),
        "completion_mask": mask_BT,
        "num_items_in_batch": mask_BT.sum(),
        "advantages": advantages_BT[:, 0],  # every trajectory begins with a sampled token
        "old_per_token_logps": proximal_BT,  # GRPOTrainer
        "old_logps": (proximal_BT * mask_BT).sum(1),  # RLOOTrainer
        "ref_per_token_logps": step.logprobs("reference"),
    }

    def loss(logprobs_BT: Tensor) -> Tensor:
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs_BT, -logprobs_BT, None)
        return trainer.compute_loss(trainer.model, inputs)

    return with_gradient(step, loss, at)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "kind", "settings", "ours"),
    [
        # TRL divides by the sample standard deviation plus 1e-4.
        ("GRPO", "GRPO", {"scale_rewards": "group"}, GroupNormAdvantage(std_kind=StdKind.sample, eps=1e-4)),
        ("Dr.GRPO", "GRPO", {"scale_rewards": "none"}, GroupNormAdvantage(scale_by_std=False)),
        # TRL's RLOO would take a KL penalty off the rewards; beta turns it off.
        ("RLOO", "RLOO", {"beta": 0.0}, RlooAdvantage()),
    ],
)
def test_advantages(
    seed: int, name: str, kind: str, settings: dict[str, Any], ours: AdvantageEstimator, tmp_path: Path
):
    step = RaggedStep.random(seed, group_sizes=EQUAL_GROUPS)
    ours_BT = step.on_tokens(ours(step.scored_groups()))
    theirs_BT = trl_advantages(kind, tmp_path, step, **settings)
    assert_equal(f"TRL {name} advantages", ours_BT, theirs_BT, tolerance=ADVANTAGE_TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_gtpo_of_one_turn_is_grpo(seed: int, tmp_path: Path):
    step = RaggedStep.random(seed, group_sizes=EQUAL_GROUPS, max_turns=1)
    ours = TurnReturnAdvantage(std_kind=StdKind.sample, eps=1e-4)  # as for GRPO above
    ours_BT = step.on_tokens(ours(step.scored_groups()))
    theirs_BT = trl_advantages("GRPO", tmp_path, step, scale_rewards="group")
    assert_equal("TRL GRPO advantages, ours GTPO of one turn", ours_BT, theirs_BT, tolerance=ADVANTAGE_TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "settings", "ours"),
    [
        # Each of TRL's loss types is one of our reductions; epsilon and epsilon_high are clip_low and clip_high.
        ("GRPO", {"loss_type": "grpo"}, ClippedLoss(reduction=Reduction.sequence)),
        ("BNPO", {"loss_type": "bnpo"}, ClippedLoss(reduction=Reduction.token)),
        ("DAPO", {"loss_type": "dapo", "epsilon_high": 0.28}, ClippedLoss(clip_high=0.28, reduction=Reduction.token)),
        # TRL's nominal length is max_completion_length.
        (
            "Dr.GRPO",
            {"loss_type": "dr_grpo"},
            ClippedLoss(reduction=Reduction.constant, constant_length=NOMINAL_LENGTH),
        ),
        # A trust region that some sequences stay within.
        (
            "GSPO",
            {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
            ClippedLoss(ratio_level=RatioLevel.sequence, reduction=Reduction.sequence, clip_low=0.03, clip_high=0.04),
        ),
        # TRL's delta bounds the ratio from above; beyond 1 + epsilon_high that is felt under negative advantages alone.
        ("dual clip", {"loss_type": "bnpo", "delta": 1.5}, ClippedLoss(reduction=Reduction.token, dual_clip=1.5)),
        # TRL's beta weighs the k3 estimate of KL(policy, reference), averaged as the loss is; it leaves the importance
        # ratio out if so told.
        (
            "KL",
            {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False},
            ClippedLoss(reduction=Reduction.sequence, kl_weight=0.04, kl_estimator=KlEstimator.k3),
        ),
        # TRL's entropy bonus is a mean over tokens whatever the loss type is, ours follows the reduction.
        (
            "entropy bonus",
            {"loss_type": "bnpo", "entropy_coef": 0.01},
            ClippedLoss(reduction=Reduction.token, entropy_weight=0.01),
        ),
    ],
)
def test_losses(seed: int, name: str, settings: dict[str, Any], ours: ClippedLoss, tmp_path: Path):
    step = RaggedStep.random(seed, group_sizes=EQUAL_GROUPS)
    advantages_BT = step.advantages()
    loss, slope_BT = turnwise_loss(ours, step, advantages_BT)
    their_loss, their_slope_BT = trl_loss("GRPO", tmp_path, step, advantages_BT, **settings)
    assert_equal(f"TRL {name} loss", loss, their_loss, tolerance=LOSS_TOLERANCE)
    assert_equal(f"TRL {name} loss, gradient", slope_BT, their_slope_BT, tolerance=LOSS_TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_rloo_gradient_on_policy(seed: int, tmp_path: Path):
    # TRL's RLOO weighs a sequence by the ratio of its whole probability, the product over its tokens, which no field of
    # ours does. Where policy and proximal policy agree that ratio is 1 and its gradient that of the summed log-probs:
    # every token counts alike and sequences are averaged, which is a nominal length of 1.
    step = RaggedStep.random(seed, group_sizes=EQUAL_GROUPS)
    advantages_BT = step.advantages()
    ours = ClippedLoss(reduction=Reduction.constant, constant_length=1)
    _, slope_BT = turnwise_loss(ours, step, advantages_BT, at="proximal")
    _, their_slope_BT = trl_loss("RLOO", tmp_path, step, advantages_BT, at="proximal", beta=0.0)
    assert_equal("TRL RLOO loss on policy, gradient", slope_BT, their_slope_BT, tolerance=LOSS_TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_kl_gradient_on_policy(seed: int, tmp_path: Path):
    # By default TRL multiplies the k3 estimate by the importance ratio, which no field of ours does. Where policy and
    # proximal policy agree, the ratio's gradient turns that of k3 into that of k2.
    step = RaggedStep.random(seed, group_sizes=EQUAL_GROUPS)
    advantages_BT = step.advantages()
    ours = ClippedLoss(reduction=Reduction.sequence, kl_weight=0.04, kl_estimator=KlEstimator.k2)
    _, slope_BT = turnwise_loss(ours, step, advantages_BT, at="proximal")
    _, their_slope_BT = trl_loss("GRPO", tmp_path, step, advantages_BT, at="proximal", loss_type="grpo", beta=0.04)
    assert_equal("TRL KL loss on policy, gradient", slope_BT, their_slope_BT, tolerance=LOSS_TOLERANCE)


def test_the_fields_are_needed(tmp_path: Path):
    step = RaggedStep.random(0, group_sizes=EQUAL_GROUPS)
    theirs_BT = trl_advantages("GRPO", tmp_path, step, scale_rewards="group")
    ours_BT = step.on_tokens(GroupNormAdvantage()(step.scored_groups()))
    assert float((ours_BT - theirs_BT).abs().max()) > 0.01  # population, eps 1e-6
