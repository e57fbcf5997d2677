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


def losses_of(total: float) -> dict[str, float]:
    return {
        "content": 1.0,
        "style": 1.0,
        "total": total,
        "distance": 1.0,
        "ssim": 2 - total,
        "checkerboard": total,
    }


def score(total: float, curve: list[float], reached: float = 1.0, **more) -> Score:
    losses = losses_of(total)
    return Score(
        id="00",
        name="photo.png 00",
        uri=str(curve),
        side=32,
        curve=curve,
        photo={**losses},
        optimised=losses,
        model=losses,
        reached={**losses_of(reached), "content": 0.5, "style": 4.0},
        painter="openvino fp32",
        engine="cpu bf16",
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


def test_r_is_the_geometric_mean_of_what_the_model_scores_by_what_the_optimisation_reaches():
    one = replace(score(2.0, [4.0, 1.0], reached=1.0), uri="a")
    other = replace(score(8.0, [4.0, 1.0], reached=1.0), uri="b")
    other.photo["distance"] = 4.0
    ratios = summarise([one, other])["ratios"]
    # 2 / 1 and 8 / 1; each part alone; distances 1 / 1 and 1 / 4 of the photo's own
    assert ratios == {
        "total": pytest.approx(4.0),
        "interval": [pytest.approx(2.0), pytest.approx(8.0)],
        "content": pytest.approx(2.0),
        "style": pytest.approx(0.25),
        "distance": pytest.approx(0.5),
        "iterations": 1,
        "verdict": "its pictures score 4.00 times what 1 iteration reaches (95 % interval: 2.00 to 8.00)",
    }
    alone = summarise([replace(one, curve=[4.0] * 301)])["ratios"]
    assert (alone["total"], alone["interval"]) == (pytest.approx(2.0), None)
    assert alone["verdict"] == "its pictures score 2.00 times what 300 iterations reach"


def test_ratios_by_another_network_need_it_on_every_photo():
    def seen(content: float, style: float) -> Score:
        by_another = {
            "model": {"content": content, "style": style},
            "reached": {"content": 2.0, "style": 2.0},
        }
        return score(2.0, [4.0, 1.0], independent=by_another)

    both = [replace(seen(2.0, 8.0), uri="a"), replace(seen(8.0, 2.0), uri="b")]
    assert summarise(both)["ratios"]["independent"] == pytest.approx({"content": 2.0, "style": 2.0})
    assert "independent" not in summarise([both[0], score(2.0, [4.0, 1.0])])["ratios"]
    assert from_row(to_row(both[0])) == both[0]


def test_crops_of_one_photo_do_not_narrow_the_interval():
    crops = [score(total, [4.0, 1.0]) for total in (2.0, 8.0)]
    assert crops[0].uri == crops[1].uri
    assert summarise(crops)["ratios"]["interval"] is None
    assert summarise([*crops, replace(crops[0], uri="b")])["ratios"]["interval"] == pytest.approx([2.0, 4.0])


def test_the_baseline_is_compared_on_its_own_photos_only():
    raced = score(4.0, [8.0, 4.0, 2.0], baseline_curve=[8.0, 8.0, 4.0], baseline_seconds=30.0)
    figures = baseline_figures([raced, raced])
    assert figures["photos"] == 2
    assert figures["model"] == {"total": pytest.approx(4.0)}
    assert figures["lbfgs"]["curve"] == pytest.approx([8.0, 8.0, 4.0])
    assert (figures["lbfgs"]["worth_iterations"], figures["engine"]["worth_iterations"]) == (2, 1)
    assert figures["lbfgs"]["verdict"] == "worth 2 iterations of the L-BFGS baseline"
    assert (figures["lbfgs"]["seconds_per_image"], figures["engine"]["seconds_per_image"]) == (30.0, 2.0)


def test_from_noise_the_model_is_compared_on_one_photo_at_other_weights():
    raced = score(4.0, [8.0, 4.0, 2.0], baseline_curve=[8.0, 8.0, 4.0], baseline_seconds=30.0)
    noisy = replace(raced, noise_curve=[900.0, 100.0, 7.0], noise_seconds=20.0, noise_objective=90.0)
    figures = baseline_figures([raced, noisy])
    assert figures["noise"]["curve"] == pytest.approx([900.0, 100.0, 7.0])
    assert figures["noise"]["worth_iterations"] == 1
    assert figures["noise"]["verdict"].startswith("worth 1 iteration of L-BFGS from white noise")
    assert figures["noise"]["seconds_per_image"] == 20.0
    assert "noise" not in baseline_figures([raced])


def test_milestones_are_the_round_numbers_and_the_end():
    curve = [float(1000 - step) for step in range(61)]
    assert milestones(curve) == {step: 1000.0 - step for step in (0, 1, 2, 5, 10, 20, 50, 60)}
