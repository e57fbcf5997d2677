"""Laws of `batch_nst.data.dataset.quality`: exact thresholds, and no rule where there is no distribution."""

import math

import numpy as np
import pytest

from batch_nst.data.dataset.quality import FEWEST, RULES, change, describe_filter, filter_counts, judge
from batch_nst.recipe import Quality

NAN = float("nan")


def left_out(loss: list[float], changed: list[float] | None = None, **rules: float | None) -> dict[str, list]:
    """Positions of the pairs that each rule leaves out."""
    changed = [30.0] * len(loss) if changed is None else changed
    broken, _ = judge(np.array(loss, np.float32), np.array(changed, np.float32), Quality(**rules))
    return {rule: np.flatnonzero(broken[rule]).tolist() for rule in RULES}


def test_change_is_the_mean_absolute_difference_in_grey_levels() -> None:
    one, other = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert (change(one, other), change(other, one), change(one, one)) == (255.0, 255.0, 0.0)
    other[:] = 0
    other[0, 0, 0] = 6
    assert change(one, other) == 0.5


def test_a_loss_is_compared_with_the_median_of_the_logarithms() -> None:
    # Logarithms 1..21 around 11: the median absolute deviation is 5.
    loss = [math.exp(step) for step in range(1, 22)]
    _, figures = judge(np.array(loss, np.float32), np.full(21, 30, np.float32), Quality(max_deviation=1.0))
    assert figures["losses"]["median"] == float(f"{math.exp(11):.4g}")
    assert figures["deviation"] == pytest.approx(1.4826 * 5)
    assert figures["max_loss"] == pytest.approx(math.exp(11 + 1.4826 * 5))
    assert left_out(loss, max_deviation=1.0) == {"barely_changed": [], "blew_up": [18, 19, 20]}
    assert left_out(loss, max_deviation=1.4) == {"barely_changed": [], "blew_up": []}


def test_a_wild_pair_does_not_hide_itself_nor_another() -> None:
    loss = [100.0] * 30 + [1e30, 1e4]
    assert left_out(loss)["blew_up"] == [30, 31]


def test_pairs_that_are_all_alike_leave_room_for_a_small_difference() -> None:
    bound = 100 * math.exp(6 * 0.1)
    assert left_out([100.0] * 30 + [bound * 0.999, bound * 1.001])["blew_up"] == [31]


def test_a_low_loss_is_no_fault() -> None:
    assert left_out([100.0] * 30 + [1e-6, 0.0])["blew_up"] == []


def test_a_few_pairs_are_no_distribution() -> None:
    few = [100.0] * (FEWEST - 2) + [1e9]
    assert left_out(few)["blew_up"] == []
    assert left_out([*few, 100.0])["blew_up"] == [FEWEST - 2]


def test_a_picture_that_barely_changed_is_counted_once() -> None:
    loss, changed = [100.0] * 30 + [1e9, 1e9, 100.0], [30.0] * 30 + [30.0, 0.99, 1.0]
    assert left_out(loss, changed) == {"barely_changed": [31], "blew_up": [30]}


def test_what_is_not_known_breaks_no_rule() -> None:
    assert left_out([100.0] * 30 + [NAN, 1e9], [NAN] * 32) == {"barely_changed": [], "blew_up": [31]}
    assert left_out([NAN] * 30, [NAN] * 30) == {"barely_changed": [], "blew_up": []}
    assert left_out([]) == {"barely_changed": [], "blew_up": []}


def test_a_rule_can_be_switched_off() -> None:
    loss, changed = [100.0] * 30 + [1e9, 100.0], [30.0] * 31 + [0.0]
    assert left_out(loss, changed) == {"barely_changed": [31], "blew_up": [30]}
    assert left_out(loss, changed, max_deviation=None) == {"barely_changed": [31], "blew_up": []}
    assert left_out(loss, changed, min_change=None) == {"barely_changed": [], "blew_up": [30]}


def test_people_are_told_how_many_and_why() -> None:
    quality = {
        "max_deviation": 6.0,
        "min_change": 1.0,
        "max_loss": 12345.6,
        "left_out": {"barely_changed": ["00"], "blew_up": ["01", "02"]},
    }
    assert filter_counts(quality)["left_out"] == {"barely_changed": 1, "blew_up": 2}
    assert describe_filter(quality) == (
        "3 pairs are left out of training: 1 changed by less than 1.0 grey levels (quality.min_change), "
        "2 have a loss above 12,346 (quality.max_deviation)"
    )
