from typing import Any

import pytest

from turnwise.warmstart.settings import Recipe, Source, WarmStartSettings


def test_each_source_has_a_recipe_of_its_own() -> None:
    nothing, written, own = (WarmStartSettings(source=source).recipe for source in Source)
    assert (nothing.length(375), nothing.learning_rate, nothing.eval_fraction) == (2200, 3e-3, 0.0)
    assert (written.length(10), written.learning_rate, written.eval_fraction) == (20, 1e-5, 0.1)
    assert (own.length(10), own.learning_rate, own.eval_fraction) == (10, 1e-5, 0.1)


def test_what_is_set_comes_before_what_fits_the_source() -> None:
    recipe = WarmStartSettings(num_epochs=3, learning_rate=1e-4, eval_fraction=0.0, source=Source.self).recipe
    assert (recipe.length(10), recipe.learning_rate, recipe.eval_fraction) == (30, 1e-4, 0.0)
    assert WarmStartSettings(num_epochs=3).recipe.length(375) == 3 * 375
    assert WarmStartSettings(num_steps=7, source=Source.transcripts).recipe.length(375) == 7


def test_from_nothing_the_learning_rate_rises_over_twenty_steps_and_falls_to_a_tenth() -> None:
    recipe = Recipe(learning_rate=2.0, eval_fraction=0.0, is_from_nothing=True)
    assert recipe.learning_rate_at(0, 100) == pytest.approx(2 / 20)
    assert recipe.learning_rate_at(19, 100) == 2.0
    assert recipe.learning_rate_at(60, 100) == pytest.approx(2 * 0.55)  # 1 - 0.9 * 40 / 80
    assert recipe.learning_rate_at(100, 100) == pytest.approx(2 * 0.1)


@pytest.mark.parametrize(("num_steps", "factors"), [(5, [1.0, 0.82]), (20, [0.5, 1.0, 1.0, 0.95]), (400, [0.05, 0.1])])
def test_going_on_the_warm_up_is_a_tenth_of_a_short_run(num_steps: int, factors: list[float]) -> None:
    # 5 steps: no warm-up, 1 - 0.9 * 1 / 5. 20 steps: two of warm-up, then 1 - 0.9 * 1 / 18. 400: twenty of warm-up.
    recipe = Recipe(learning_rate=1.0, eval_fraction=0.0)
    assert [recipe.learning_rate_at(step, num_steps) for step in range(len(factors))] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 0, "warmstart.batch_size=0: expected >= 1"),
        ("keep_per_problem", 0, "warmstart.keep_per_problem=0"),
        ("num_problems", -1, "warmstart.num_problems=-1"),
        ("max_tokens", 0, "warmstart.max_tokens=0"),
        ("num_epochs", 0, "warmstart.num_epochs=0"),
        ("learning_rate", 0.0, r"warmstart.learning_rate=0.0: expected in \(0, 1\)"),
        ("eval_fraction", 1.0, r"warmstart.eval_fraction=1.0: expected in \[0, 1\)"),
        ("vocab_size", 10, "warmstart.vocab_size=10"),
    ],
)
def test_out_of_range(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmStartSettings(**{field: value})


def test_steps_or_epochs_but_not_both() -> None:
    with pytest.raises(ValueError, match=r"warmstart.num_epochs=2 and warmstart.num_steps=5: expected one of them"):
        WarmStartSettings(num_epochs=2, num_steps=5)


def test_demonstrations_fill_a_batch() -> None:
    with pytest.raises(ValueError, match=r"warmstart.batch_size=32: expected at most warmstart.num_demonstrations=8"):
        WarmStartSettings(num_demonstrations=8)
    assert WarmStartSettings(num_demonstrations=8, source=Source.self).num_demonstrations == 8
