"""Laws of what people are told while they wait."""

import pytest

from batch_nst import console
from batch_nst.console import ProgressBar, StepTimer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that both of `time`'s clocks show; set its only value."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
    return now


def test_rates_and_the_time_left_are_those_of_this_start(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    meter = ProgressBar("train", 500, "steps", None, (8, "images"))
    clock[0] = 100.0  # before the first step workers start
    meter.resume(400)
    clock[0] = 120.0
    meter.advance(10, "loss 1.5")
    clock[0] = 130.0
    meter.resume(400)  # a worker was lost, and with it the steps since the checkpoint
    clock[0] = 150.0
    meter.advance(40, "loss 1.2")
    assert capsys.readouterr().err.splitlines() == [
        "train: 410 of 500 steps, 0.50 steps/s, 4.0 images/s  loss 1.5, 180 s left",
        "train: 440 of 500 steps, 2.00 steps/s, 16.0 images/s  loss 1.2, 30 s left",
    ]


def test_a_unit_of_which_nothing_is_left_ends_no_work(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    meter = ProgressBar("generate", 8, "images", None)
    clock[0] = 20.0
    meter.advance(0, "no image was good")
    told = "generate: 0 of 8 images, 0.00 images/s  no image was good\n"
    assert capsys.readouterr().err == told


def test_a_clock_tells_shares_of_the_time_that_was_spent(clock: list[float]) -> None:
    spent = StepTimer("busy", "waiting", "writing")
    for thing, seconds in (("busy", 3.0), ("waiting", 0.5), ("busy", 4.5)):
        with spent.spends(thing):
            clock[0] += seconds
        clock[0] += 7.0  # nobody asked for these
    assert spent.pace(4, 2) == {
        "steps_per_second": 0.5,
        "images_per_second": 1.0,
        "busy": 15 / 16,
        "waiting": 1 / 16,
        "writing": 0.0,
    }
