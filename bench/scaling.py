"""Milliseconds of an update and of sampling its turns as a step grows, for a Llama of 9 million weights.

Unless a table says otherwise: one group of 8 trajectories, a prompt of 64 tokens, one turn of 24, a vocabulary of 4096.
`x` is the time over that of the first row. Medians over rounds in which all sizes take turns.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch

from made_batch import made_batch
from table import Table, rounded
from turnwise.config.allocator import keep_freed_memory
from turnwise.config.sweep import compose_components
from turnwise.config.wiring import start_policy
from turnwise.protocols import EngineSession, RolloutEngine
from turnwise.types import Sampling, TokenBatch

ROUNDS = 4
"""Of which the first does not count."""
TURN_TOKENS, TOOL_TOKENS = 24, 16
SHAPE = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
MAX_TOKENS = 2048


class Step(NamedTuple):
    """What is sampled and trained on: the trajectories of one problem."""

    group_size: int = 8
    prompt_tokens: int = 64
    num_turns: int = 1
    vocab_size: int = 4096
    shares_prompts: bool = True


GROUPS = [Step(group_size=size, prompt_tokens=256) for size in (2, 4, 8, 16, 32)]
PROMPTS = [Step(group_size=18, prompt_tokens=tokens) for tokens in (32, 128, 512, 1024)]
FEW, OWN = 2, 4
"""Trajectories of the group that others are compared with, and of one in which each has a prompt of its own."""
TURNS = [Step(num_turns=turns) for turns in (1, 2, 4, 8)]
VOCABULARIES = [Step(vocab_size=size) for size in (4096, 16384, 65536, 131072)]

UPDATE, ROLLOUT = "update", "rollout"
Times = Mapping[tuple[str, Step], float]
"""Milliseconds of the update or the rollout of a step."""


def measure() -> dict[str, Table]:
    """A table for each way in which a step grows."""
    pairs = [pair(step, shares_prompts=shares) for step in PROMPTS for shares in (True, False)]
    steps = dict.fromkeys([*GROUPS, *chain(*pairs), *TURNS, *VOCABULARIES])
    with asyncio.Runner() as runner:
        models = {size: Model(size, runner) for size in {step.vocab_size for step in steps}}
        arms = {key: work for step in steps for key, work in models[step.vocab_size].arms(step).items()}
        times = medians(arms)
        for model in models.values():
            model.close()
    return tables(times)


def tables(times: Times) -> dict[str, Table]:
    """What was measured, along each axis."""
    return {
        "group_size": by_group_size(times),
        "prompt_length": by_prompt_length(times),
        "turns": by_turns(times),
        "vocabulary": by_vocabulary(times),
    }


def by_group_size(times: Times) -> Table:
    """A group of more trajectories."""
    sizes = [step.group_size for step in GROUPS]
    update, rollout = (columns(times, kind, GROUPS, "a trajectory", sizes) for kind in (UPDATE, ROLLOUT))
    each = [update["update ms a trajectory"], rollout["rollout ms a trajectory"]]
    reading = (
        f"One prompt of {GROUPS[0].prompt_tokens} tokens is computed for the whole group. Look at the time of a "
        f"trajectory in a group of {sizes[-1]} over that in a group of {sizes[0]}: {ends(each[0])} in the update, "
        f"{ends(each[1])} in the rollout."
    )
    return table("group size", sizes, {**update, **rollout}, reading)


def by_prompt_length(times: Times) -> Table:
    """A longer prompt, and what another trajectory costs after it: with the group's prompt, or with its own."""
    shown: dict[str, list[float]] = {}
    for kind in (UPDATE, ROLLOUT):
        shown |= columns(times, kind, PROMPTS)
        for shares, which in ((True, ""), (False, ", own prompt")):
            costs = [extra(times, kind, *pair(step, shares_prompts=shares)) for step in PROMPTS]
            shown[f"{kind} ms an extra trajectory{which}"] = costs
    sizes = [step.prompt_tokens for step in PROMPTS]
    shared, own = (shown[f"update ms an extra trajectory{which}"] for which in ("", ", own prompt"))
    reading = (
        f"Times of a group of {PROMPTS[0].group_size}; an extra trajectory is one beyond the first {FEW}. "
        f"Look at what it costs the update after a prompt of {sizes[-1]} tokens over what it costs after one of "
        f"{sizes[0]}: {ends(shared)} where the group shares its prompt (1 but for attention), {ends(own)} where each "
        f"trajectory has its own."
    )
    return table("prompt tokens", sizes, shown, reading)


def by_turns(times: Times) -> Table:
    """More turns, each with the output of a tool before it."""
    sizes = [step.num_turns for step in TURNS]
    update, rollout = (columns(times, kind, TURNS, "a turn", sizes) for kind in (UPDATE, ROLLOUT))
    reading = (
        f"Look at the time of a turn where there are {sizes[-1]} over that where there is {sizes[0]}: "
        f"{ends(update['update ms a turn'])} in the update, which computes {TOOL_TOKENS} tokens of a tool's output "
        f"between turns too, and {ends(rollout['rollout ms a turn'])} in the rollout, which keeps keys and values from "
        f"turn to turn."
    )
    return table("turns", sizes, {**update, **rollout}, reading)


def by_vocabulary(times: Times) -> Table:
    """A larger vocabulary, for the same layers."""
    sizes = [step.vocab_size for step in VOCABULARIES]
    update, rollout = (columns(times, kind, VOCABULARIES) for kind in (UPDATE, ROLLOUT))
    reading = (
        f"Look at the time for {sizes[-1]} tokens over that for {sizes[0]}, with {sizes[-1] // sizes[0]} times the "
        f"output layer: {ends(update['update ms'])} in the update, {ends(rollout['rollout ms'])} in the rollout."
    )
    return table("vocabulary", sizes, {**update, **rollout}, reading)


def columns(
    times: Times, kind: str, steps: Sequence[Step], unit: str = "", counts: Sequence[int] = ()
) -> dict[str, list[float]]:
    """Milliseconds of each step, over those of the first, and by `unit`, of which a step has the count."""
    taken = [times[kind, step] for step in steps]
    found = {f"{kind} ms": taken, f"{kind} x": [one / taken[0] for one in taken]}
    if unit:
        found[f"{kind} ms {unit}"] = [one / count for one, count in zip(taken, counts, strict=True)]
    return found


def pair(step: Step, *, shares_prompts: bool) -> tuple[Step, Step]:
    """A group of `FEW` and a larger one: that of the step, or of `OWN` where each trajectory has its own prompt."""
    few = step._replace(group_size=FEW, shares_prompts=shares_prompts)
    return few, few._replace(group_size=step.group_size if shares_prompts else OWN)


def extra(times: Times, kind: str, few: Step, many: Step) -> float:
    """Milliseconds of each trajectory that the larger group has more."""
    return (times[kind, many] - times[kind, few]) / (many.group_size - few.group_size)


def ends(column: Sequence[float]) -> str:
    """The last figure over the first."""
    return f"{column[-1] / column[0]:.2f} x"


def table(size: str, sizes: Sequence[int], shown: Mapping[str, Sequence[float]], reading: str) -> Table:
    """Columns side by side."""
    rows = [[one, *map(rounded, row)] for one, *row in zip(sizes, *shown.values(), strict=True)]
    return Table([size, *shown], rows, reading)


class Model:
    """A random policy of a vocabulary, and an engine with a model of the same shape."""

    def __init__(self, vocab_size: int, runner: asyncio.Runner) -> None:
        overrides = ["engine=hf", "trainer.device=cpu", "trainer.dtype=float32", "trainer.token_budget=1000000"]
        components = compose_components(overrides, label="scaling")
        keep_freed_memory()
        self._loss = components.loss
        self._policy = start_policy(components, components.model.load_renderer(), llama(vocab_size))
        self._engine = components.engine.start(llama(vocab_size), frozenset(), max_tokens=MAX_TOKENS)
        self._runner = runner

    def arms(self, step: Step) -> dict[tuple[str, Step], Callable[[], object]]:
        """What updates on the step, and what samples it."""
        batch = made_batch(num_groups=1, turn_tokens=TURN_TOKENS, tool_tokens=TOOL_TOKENS, **step._asdict())
        return {
            (UPDATE, step): lambda: self._policy.update(batch, self._loss),
            (ROLLOUT, step): lambda: self._runner.run(rollout(self._engine, batch, step)),
        }

    def close(self) -> None:
        """Ends the engine."""
        self._runner.run(self._engine.close())


async def rollout(engine: RolloutEngine, batch: TokenBatch, step: Step) -> None:
    """Samples as many turns as the batch has, after its prompts, with its tool outputs between them; then rests."""
    rows = batch.token_ids.view(step.group_size, -1).tolist()

    async def trajectory(session: EngineSession, row: list[int], seed: int) -> None:
        transcript = row[: step.prompt_tokens]
        for turn in range(step.num_turns):
            sampling = Sampling(temperature=1.0, max_new_tokens=TURN_TOKENS, seed=step.num_turns * seed + turn)
            transcript += (await session.generate(transcript, sampling)).token_ids
            transcript += row[len(transcript) : len(transcript) + TOOL_TOKENS]
        session.close()

    sessions = [engine.session() for _ in rows]
    await asyncio.gather(*(trajectory(*one, seed) for seed, one in enumerate(zip(sessions, rows, strict=True))))
    await engine.rest()


def llama(vocab_size: int) -> Any:
    """Random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    positions = {"max_position_embeddings": MAX_TOKENS, "tie_word_embeddings": True}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **SHAPE, **positions))
    model.set_attn_implementation("sdpa")
    return model


def medians(arms: Mapping[tuple[str, Step], Callable[[], object]]) -> dict[tuple[str, Step], float]:
    """Median milliseconds of each, over rounds in which all of them take their turn."""
    torch.manual_seed(0)
    taken: dict[tuple[str, Step], list[float]] = {key: [] for key in arms}
    for _ in range(ROUNDS):
        for key, work in arms.items():
            started = perf_counter()
            work()
            taken[key].append(1000 * (perf_counter() - started))
    return {key: median(times[1:]) for key, times in taken.items()}
