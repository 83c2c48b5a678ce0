"""What only the real parts can show: a little of a step, with the model loaded, engine, sampler, tool and reward."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, cast

import torch

from turnwise.config.doctor.findings import Findings
from turnwise.config.doctor.sizing import Seen, largest_pass, size_of
from turnwise.config.parts import Components
from turnwise.config.wiring import (
    compute_dtype,
    load_model,
    load_reference,
    policy_dtype,
    start_engine,
    start_policy,
    start_probe,
)
from turnwise.core.truncation import truncates
from turnwise.env.opening import opening_messages
from turnwise.model.attention import choose_attention
from turnwise.model.chat import ChatRenderer
from turnwise.model.policy import TorchPolicy
from turnwise.model.step_time import Timed
from turnwise.preflight.agreement import Bounds, check_agreement
from turnwise.preflight.grouping import check_groups
from turnwise.preflight.handover import Asked, check_handover
from turnwise.preflight.longest import check_longest, longest_batch
from turnwise.preflight.recording import RecordingEngine
from turnwise.preflight.tokens import check_tokens
from turnwise.protocols import EnvironmentPool, Probe, RolloutEngine
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.packing import pack
from turnwise.rollout.sampler import RolloutSampler
from turnwise.seeding import derive_seed
from turnwise.types import Group, Problem, StopReason

NUM_PROBLEMS, GROUP_SIZE = 2, 3
"""Of the step that is sampled, where the run's own are not smaller."""
NEW_TOKENS = 256
"""That a trajectory may have beside its prompt, where the run's own limit is not smaller: enough for a few turns."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a step needs."""

    policy: TorchPolicy
    engine: RolloutEngine
    probe: Probe
    renderer: ChatRenderer
    environments: EnvironmentPool
    device: torch.device
    vocab_size: int


async def check_live(
    components: Components,
    *,
    renderer: ChatRenderer,
    environments: EnvironmentPool,
    device: torch.device,
    problems: Sequence[Problem],
    findings: Findings,
) -> Seen:
    """Loads the model for policy and engine and does all that needs it; nothing of it stays.

    Args:
        components: The run's.
        renderer: The model's.
        environments: The run's, started; the caller closes them.
        device: The run's.
        problems: To sample.
        findings: Where to say it.

    Returns:
        How long sampled trajectories are, and what sampling and an update took.
    """
    loaded = None
    with findings.checking("model") as finding:
        dtype = compute_dtype(components, device)
        model = load_model(components, device, policy_dtype(components, device))
        policy = start_policy(components, renderer, model, load_reference(components, device))
        loaded = Loaded(
            policy=policy,
            engine=start_engine(components, renderer, device),
            probe=start_probe(components, policy, renderer, model),
            renderer=renderer,
            environments=environments,
            device=device,
            vocab_size=cast(Any, model).config.get_text_config().vocab_size,
        )
        kernel, reason = choose_attention(components.model.attention, device, dtype)
        finding.note(f"policy and engine are loaded; attention of the update: {kernel} ({reason})")
    if loaded is None:
        return Seen()
    try:
        return await _check_loaded(components, loaded, problems, findings)
    finally:
        await loaded.engine.close()


async def _check_loaded(
    components: Components, loaded: Loaded, problems: Sequence[Problem], findings: Findings
) -> Seen:
    rollout = components.rollout
    sampled_at: dict[str, Any] = {
        "temperature": rollout.temperature,
        "top_k": rollout.top_k,
        "top_p": rollout.top_p,
    }
    bounds = Bounds.of(
        compute_dtype(components, loaded.device), is_truncated=truncates(top_k=rollout.top_k, top_p=rollout.top_p)
    )
    seed = derive_seed(components.seed, "doctor")
    batch = groups = timed = updated = None
    again = list[Group]()
    with findings.checking("token in, token out") as finding:
        prompts = [loaded.renderer.prompt_ids(opening_messages(components.env, problem)) for problem in problems]
        limit = min(rollout.max_tokens, max(map(len, prompts)) + NEW_TOKENS)
        engine = RecordingEngine(loaded.engine)
        sampler = RolloutSampler(
            engine=engine,
            environments=loaded.environments,
            renderer=loaded.renderer,
            limits=RolloutLimits(max_turns=rollout.max_turns, max_tokens=limit),
        )
        group_size = min(rollout.group_size, GROUP_SIZE)

        async def sample(seed: int) -> tuple[list[Group], float]:
            """Groups, and what the engine took for them."""
            await engine.load_weights(loaded.policy.weights(), 0)
            busy_s = engine.busy_s
            sampled = await sampler.sample(problems, group_size=group_size, seed=seed, **sampled_at)
            taken_s = engine.busy_s - busy_s
            await engine.rest()
            return list(sampled.groups), taken_s

        groups = list(loaded.probe((await sample(seed))[0]))
        scored = [components.reward(group) for group in groups]
        advantages = components.advantage(scored)
        batch = pack(scored, advantages, **sampled_at)
        check_tokens(groups, batch, prompts=prompts, calls=engine.calls, seed=seed, finding=finding)
        again, seconds = await sample(derive_seed(seed, "again"))  # what is set up at first does not count
        prompt_tokens = fmean(map(len, prompts))
        size = size_of(components, lengths(again), num_prompts=len(prompts), prompt_tokens=prompt_tokens)
        timed = Timed(size=size, seconds=seconds)
    if batch is None or groups is None or not batch.num_loss_tokens:
        return Seen()
    with findings.checking("groups") as finding:
        check_groups(groups, problems, group_size=group_size, advantages=advantages, batch=batch, finding=finding)
    with findings.checking("engine and trainer agree") as finding:
        check_agreement(loaded.policy, batch, bounds, finding)
    if components.task.has_train:
        with findings.checking("weights reach the engine") as finding:
            await check_handover(
                loaded.policy,
                loaded.engine,
                batch,
                loss=components.loss,
                asked=Asked.after(groups, seed=seed, **sampled_at),
                bounds=bounds,
                finding=finding,
            )
        with findings.checking("longest update") as finding:
            trainer = components.trainer
            longest = longest_batch(
                token_budget=largest_pass(components),
                max_tokens=rollout.max_tokens,
                vocab_size=loaded.vocab_size,
                num_minibatches=trainer.num_minibatches,
                **sampled_at,
            )
            update_s = check_longest(
                loaded.policy, longest, loss=components.loss, device=loaded.device, finding=finding
            )
            if update_s is not None:
                updated = Timed(size=size_of(components, longest.cu_seqlens.diff().tolist()), seconds=update_s)
    ends = [one.stop_reason for group in (*groups, *again) for one in group.trajectories]
    is_cut = limit < rollout.max_tokens and StopReason.max_tokens in ends
    return Seen(
        prompts=[len(prompt) for prompt in prompts],
        lengths=[] if is_cut else [*lengths(groups), *lengths(again)],
        sampled=timed,
        updated=updated,
    )


def lengths(groups: Sequence[Group]) -> list[int]:
    """Tokens of each trajectory."""
    return [len(one.token_ids) for group in groups for one in group.trajectories]
