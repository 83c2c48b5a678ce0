import asyncio
from itertools import pairwise

import pytest
import torch

from tiny_models import VOCAB_SIZE, small_model, start_engine, turns
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
        with torch.inference_mode():
            found = model.logits(static, None)
        torch.testing.assert_close(found[list(slots)], expected, rtol=0, atol=1e-5)
        for mine, theirs in zip(static_cache.layers, packed_cache.layers, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


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
