"""Laws of the numbers that fit into a time: never longer, and never smaller with more time."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_nst.errors import RecipeError
from batch_nst.pipelines.cost.scale import START_SECONDS, Machine, fit, seconds_of
from batch_nst.pipelines.cost.steps import StepRates
from batch_nst.recipe import Generate, Recipe, Style

BASE = Recipe(output="out", style=Style(image="s3://b/p.jpg"), generate=Generate(input="s3://b/photos"))
# Two cores with AMX: 0.06 s an iteration and 1.1 s a training image, both at 256 px.
CORES = Machine(
    "cpu",
    2,
    0.06 / 256**2,
    StepRates("", training=1.1 / 256**2, scoring=0.06 / 256**2, baseline=0.2 / 256**2),
)


def times_slower(machine: Machine, factor: float) -> Machine:
    steps = ("training", "scoring", "baseline")
    slower = {step: factor * getattr(machine.steps, step) for step in steps}
    return replace(machine, pairs=factor * machine.pairs, steps=replace(machine.steps, **slower))


@given(
    st.integers(2, 100_000),
    st.floats(0.01, 1000),
    st.floats(0.001, 100),
    st.sampled_from(["cpu", "cuda"]),
    st.integers(1, 64),
)
def test_whatever_fits_ends_in_time_and_can_be_trained(
    photos: int, hours: float, slower: float, device: str, threads: int
) -> None:
    machine = times_slower(replace(CORES, device=device, threads=threads), slower)
    try:
        recipe = fit(BASE, photos, hours, machine)
    except RecipeError:
        return
    took, score = seconds_of(recipe, photos, machine), recipe.evaluate
    assert sum(took) + START_SECONDS <= hours * 3600
    least = (score.photos, score.larger_photos, score.baseline_photos) == (1, 0, 0)
    assert least or took.scoring <= 0.1 * sum(took)
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert recipe.train.batch_size <= photos * recipe.generate.crops
    places = [(each.generate.input, each.style.image, each.output) for each in (recipe, BASE)]
    assert places[0] == places[1]


def test_more_time_makes_nothing_smaller_and_most_of_it_is_used() -> None:
    found = {hours: fit(BASE, 100, hours, CORES) for hours in (0.25, 0.5, 1.0, 2.0, 8.0, 24.0)}
    sizes = [recipe.generate.image_size for recipe in found.values()]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 1
    for hours, recipe in found.items():
        assert sum(seconds_of(recipe, 100, CORES)) > 0.6 * (0.85 * hours * 3600 - START_SECONDS)


def test_a_slower_machine_gets_less() -> None:
    work = [
        (recipe.generate.image_size, recipe.generate.iterations * recipe.train.steps)
        for factor in (1, 2, 4, 8)
        for recipe in [fit(BASE, 100, 1.0, times_slower(CORES, factor))]
    ]
    assert all(after[0] <= before[0] for before, after in pairwise(work))
    assert work[0][0] > work[-1][0]


def test_what_does_not_fit_says_what_would() -> None:
    told = r"--hours: given 0\.1; 5,000 photos take ([\d.]+) on this"
    with pytest.raises(RecipeError, match=told) as refused:
        fit(BASE, 5000, 0.1, CORES)
    needed = float(str(refused.value).split(" take ")[1].split()[0])
    assert fit(BASE, 5000, needed, CORES).generate.image_size == 64
    with pytest.raises(RecipeError):
        fit(BASE, 5000, needed - 0.02, CORES)
