import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tiny_models import VOCAB_SIZE, early_stops, small_model, start_engine, trajectories, turns
from turnwise.engine import run_pass
from turnwise.engine.decode_graph import DecodeGraphs, StaticPass
from turnwise.engine.packed_model import PackedModel
from turnwise.engine.packed_pass import PackedPass, Stretch
from turnwise.engine.slot_cache import SlotCache, SlotLayout

PROMPTS = {0: (20, 30, 40), 2: (7, 8, 9, 10, 11), 3: (50, 51)}
LAYOUT = SlotLayout(num_slots=5, num_columns=12)


def prefilled(model: PackedModel) -> SlotCache:
    cache = SlotCache(model.shape, LAYOUT, model.device)
    model.logits(PackedPass(cache, [Stretch(slot, 0, prompt) for slot, prompt in PROMPTS.items()], ()), [])
    return cache


def test_a_static_pass_gives_the_logits_and_leaves_the_keys_of_a_packed_one() -> None:
    model = PackedModel(small_model())
    packed_cache, static_cache = prefilled(model), prefilled(model)
    static = StaticPass(static_cache, num_rows=4, num_columns=12)
    for step, slots in enumerate(((0, 2, 3), (0, 3), (2,))):  # slot 1 is free; then others have a tool to wait for
        known = {
            slot: len(prompt) + sum(slot in past for past in ((0, 2, 3), (0, 3))[:step])
            for slot, prompt in PROMPTS.items()
        }
        stretches = [Stretch(slot, known[slot], (60 + step + slot,)) for slot in slots]
        packed = PackedPass(packed_cache, stretches, ())
        expected = model.logits(packed, [packed.last_rows[slot] for slot in slots])
        static.fill(stretches)
        static.aim()
        with torch.inference_mode():
            found = model.logits(static, None)
        torch.testing.assert_close(found[list(slots)], expected, rtol=0, atol=1e-5)
        for mine, theirs in zip(static_cache.layers, packed_cache.layers, strict=True):
            # No trajectory runs a token in the last column: slots that do not decode leave theirs there.
            torch.testing.assert_close(mine[..., :-1, :], theirs[..., :-1, :], rtol=0, atol=1e-5)


class Operations(TorchDispatchMode):
    """The names of what is computed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_of_a_static_pass_is_decided_on_the_host() -> None:
    model = PackedModel(small_model())
    static = StaticPass(prefilled(model), num_rows=4, num_columns=12)
    static.fill([Stretch(0, 3, (60,))])
    with Operations() as operations:
        static.aim()
        model.logits(static, None)
    assert sum("index_copy_" in name for name in operations.names) == model.shape.num_layers  # it sees all of it
    # Values read back, shapes that depend on them, and tensors made on the host: none can be recorded.
    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh", "copy_.default")
    assert [name for name in operations.names if name.removeprefix("aten.").startswith(forbidden)] == []


def test_no_trajectory_runs_a_token_in_the_last_column(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[tuple[int, int]] = []

    class Recording(PackedPass):
        def __init__(self, cache: SlotCache, stretches: Sequence[Stretch], copies: Any) -> None:
            super().__init__(cache, stretches, copies)
            places.extend((stretch.end - 1, cache.layout.num_columns - 1) for stretch in stretches)

    monkeypatch.setattr(run_pass, "PackedPass", Recording)
    stops, prompts = early_stops(4)
    asyncio.run(trajectories(start_engine(small_model(), stops), prompts, [(7, 8), (9,)]))
    asyncio.run(turns(start_engine(small_model(), frozenset({VOCAB_SIZE})), prompts, max_new_tokens=20))
    assert all(place < last for place, last in places)
    assert any(place == last - 1 for place, last in places)  # a turn that ends at its limit comes close


def test_a_few_sizes_serve_all_passes() -> None:
    class Sizes(DecodeGraphs):
        def __init__(self, cache: SlotCache) -> None:
            self.cache = cache

    model = PackedModel(small_model(max_position_embeddings=1024))
    sizes = Sizes(SlotCache(model.shape, SlotLayout(num_slots=48, num_columns=600), model.device))
    found = [
        sizes.size([Stretch(0, 3, (1,)), Stretch(slot, end - 1, (1,))]) for slot, end in ((1, 9), (2, 256), (7, 257))
    ]
    assert found == [(2, 256), (4, 256), (8, 512)]
    assert sizes.size([Stretch(0, 0, (1,))]) == (1, 256)
    assert sizes.size([Stretch(40, 599, (1,))]) == (48, 600)  # no more than there are
    all_sizes = {sizes.size([Stretch(slot, end, (1,))]) for slot in range(48) for end in range(600)}
    assert len(all_sizes) == 7 * 3
    assert all(small < large for small, large in pairwise(sorted({rows for rows, _ in all_sizes})))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a CUDA device")
def test_graphs_without_a_gpu_are_refused() -> None:
    with pytest.raises(ValueError, match=r"engine\.cuda_graphs=true needs a CUDA device, the model is on cpu"):
        start_engine(small_model(), cuda_graphs=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_replayed_passes_sample_what_launched_ones_do() -> None:
    prompts = [tuple(range(20, 22 + 3 * row)) for row in range(6)]
    sampled = []
    for cuda_graphs in (False, True):
        engine = start_engine(small_model().cuda(), frozenset({VOCAB_SIZE}), cuda_graphs=cuda_graphs)
        sampled.append(asyncio.run(turns(engine, prompts, max_new_tokens=40)))
    assert [one.token_ids for one in sampled[0]] == [one.token_ids for one in sampled[1]]
    for one, other in zip(*sampled, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), rtol=0, atol=1e-3)
