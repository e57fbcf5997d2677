"""Laws of a model's scores: means over photos by hand, and rows that come back as they were."""

import math
from dataclasses import replace

import pytest

from batch_nst.pipelines.evaluate.scores import (
    LeftOut,
    Score,
    baseline_figures,
    from_row,
    milestones,
    summarise,
    to_row,
)


def score(total: float, curve: list[float], **more) -> Score:
    losses = {
        "content": 1.0,
        "style": 1.0,
        "total": total,
        "distance": 1.0,
        "ssim": 2 - total,
        "checkerboard": total,
    }
    return Score(
        id="00",
        name="photo.png 00",
        uri=str(curve),
        side=32,
        curve=curve,
        photo=losses,
        optimised=losses,
        model=losses,
        model_seconds=1.0,
        optimised_seconds=2.0,
        optimised_picture=b"",
        model_picture=b"",
        **more,
    )


def test_a_score_and_what_is_left_out_come_back_from_a_row_of_ray():
    raced = score(4.0, [8.0, 4.0, 2.0], baseline_curve=[8.0, math.inf], baseline_seconds=30.0)
    whole = replace(raced, optimised_picture=b"\x00\xff", model_picture=b"\x01")
    for each in (whole, LeftOut("00", "photo.png 00", "needs_memory")):
        assert from_row(to_row(each)) == each


def test_figures_over_photos_are_geometric_means_of_running_minima():
    figures = summarise([score(2.0, [4.0, 8.0, 1.0]), score(8.0, [16.0, 4.0, 9.0])])
    # running minima 4 4 1 and 16 4 4; geometric means 8, 4, 2
    assert figures["curve"] == pytest.approx([8.0, 4.0, 2.0])
    assert figures["model"]["total"] == pytest.approx(4.0)
    assert figures["model"]["ssim"] == pytest.approx((0.0 - 6.0) / 2)  # may be negative: no geometric mean
    assert figures["model"]["checkerboard"] == pytest.approx((2.0 + 8.0) / 2)
    assert figures["worth_iterations"] == 1
    assert figures["worth_interval"] == [0, 1]
    assert figures["seconds_per_image"] == {"model": 1.0, "optimised": 2.0, "ratio": 2.0}


def test_the_baseline_is_compared_on_its_own_photos_only():
    raced = score(4.0, [8.0, 4.0, 2.0], baseline_curve=[8.0, 8.0, 4.0], baseline_seconds=30.0)
    figures = baseline_figures([raced, raced])
    assert figures["photos"] == 2
    assert figures["model"] == {"total": pytest.approx(4.0)}
    assert figures["lbfgs"]["curve"] == pytest.approx([8.0, 8.0, 4.0])
    assert (figures["lbfgs"]["worth_iterations"], figures["engine"]["worth_iterations"]) == (2, 1)
    assert figures["lbfgs"]["verdict"] == "worth 2 iterations of the L-BFGS baseline"
    assert (figures["lbfgs"]["seconds_per_image"], figures["engine"]["seconds_per_image"]) == (30.0, 2.0)


def test_milestones_are_the_round_numbers_and_the_end():
    curve = [float(1000 - step) for step in range(61)]
    assert milestones(curve) == {step: 1000.0 - step for step in (0, 1, 2, 5, 10, 20, 50, 60)}
