"""Laws of "worth N iterations" and of its interval."""

import math

import pytest

from batch_nst.engine.statistics import equivalent_iterations, geometric_mean, mean_figure, worth_iterations

CURVE = [8.0, 4.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("objective", "worth"), [(11.0, None), (10.0, 0), (5.5, 0), (5.0, 1), (2.0, 3), (1.0, 3)]
)
def test_a_model_is_worth_the_iterations_that_it_is_at_least_as_good_as(objective, worth):
    assert worth_iterations([10.0, 5.0, 3.0, 2.0], objective) == worth


def test_the_curve_is_the_geometric_mean_of_running_minima():
    found = equivalent_iterations([[4.0, 8.0, 1.0], [16.0, 4.0, math.nan]], [2.0, 8.0], ["a", "b"])
    assert found.curve == pytest.approx([8.0, 4.0, 2.0])  # of 4 4 1 and 16 4 4
    assert found.worth_iterations == 1


def test_one_photo_has_an_interval_without_a_width_and_says_none():
    found = equivalent_iterations([CURVE], [3.0], ["a"])
    assert (found.worth_iterations, found.worth_interval) == (1, (1, 1))
    assert found.verdict == "worth 1 iteration of the optimisation"


def test_photos_that_are_all_equal_have_an_interval_without_a_width():
    found = equivalent_iterations([CURVE] * 5, [2.0] * 5, list("abcde"))
    assert (found.worth_iterations, found.worth_interval) == (2, (2, 2))
    assert found.verdict == "worth 2 iterations of the optimisation (95 % interval: 2 to 2)"


def test_two_photos_that_differ_by_hand():
    """Of four equally likely draws one is the good photo twice, one the bad one twice."""
    found = equivalent_iterations([CURVE, CURVE], [1.0, 8.0], ["good", "bad"], "L-BFGS")
    assert found.worth_interval == (0, 3)
    assert found.worth_iterations == 1  # objectives' mean 8 ** 0.5, between 4 and 2
    assert found.verdict == "worth 1 iteration of L-BFGS (95 % interval: 0 to 3 or more)"


def test_crops_of_a_photo_are_drawn_together():
    assert equivalent_iterations([CURVE, CURVE], [1.0, 8.0], ["a", "a"]).worth_interval == (1, 1)
    # Three crops of one photo and one of the other: (1 * 1 * 1 * 64) ** (1 / 4) is 2 ** 1.5, between 4 and 2.
    found = equivalent_iterations([[64.0, *CURVE[1:]]] * 4, [1.0, 1.0, 1.0, 64.0], ["a", "a", "a", "b"])
    assert found.worth_iterations == 1
    assert found.worth_interval == (0, 3)


def test_a_wide_sample_gives_a_narrow_interval():
    objectives = [2.0**-step for step in range(-2, 3)] * 40  # 4, 2, 1, 1/2, 1/4
    curve = [2.0 ** (3 - step / 10) for step in range(61)]  # 8 to 1/8
    found = equivalent_iterations([curve] * 200, objectives, [str(number) for number in range(200)])
    low, high = found.worth_interval
    assert found.worth_iterations == 30
    # The mean of 200 logarithms of variance 2 is sure to 1.96 * (2 / 200) ** 0.5 = 0.196 of a halving.
    assert low == pytest.approx(28, abs=1)
    assert high == pytest.approx(31, abs=1)
    assert equivalent_iterations([curve] * 200, objectives, [str(number) for number in range(200)]) == found


@pytest.mark.parametrize("objective", [9.0, math.nan, math.inf])
def test_a_model_that_is_worse_than_the_photo_or_no_number_is_worth_nothing(objective):
    found = equivalent_iterations([CURVE] * 2, [objective] * 2, ["a", "b"])
    assert (found.worth_iterations, found.worth_interval) == (None, (None, None))
    assert found.verdict == "worse than the photo"


def test_verdicts_at_both_ends():
    assert (
        equivalent_iterations([CURVE], [0.5], ["a"]).verdict
        == "worth more than 3 iterations of the optimisation"
    )
    assert equivalent_iterations([CURVE], [1.0], ["a"]).verdict == "worth 3 iterations of the optimisation"
    assert equivalent_iterations([CURVE], [0.0], ["a"]).worth_iterations == 3
    found = equivalent_iterations([CURVE, CURVE], [4.0, 32.0], ["a", "b"])
    assert found.worth_interval == (None, 1)
    assert found.verdict == "worse than the photo (95 % interval: worse than the photo to 1)"


def test_means_of_what_is_0_or_nan_or_nothing():
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([0.0, 8.0, math.nan]) == 0.0
    assert math.isnan(geometric_mean([math.nan, 8.0]))
    assert geometric_mean([]) is None
    assert mean_figure("distance", [2.0, 8.0]) == pytest.approx(4.0)
    assert mean_figure("ssim", [-1.0, 0.5]) == -0.25
