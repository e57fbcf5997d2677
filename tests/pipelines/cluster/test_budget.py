"""Laws of what ends a run in order: hours of devices, and deadlines in words."""

import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from batch_nst.arguments import deadline, next_time
from batch_nst.cli import _words, parse
from batch_nst.errors import RecipeError
from batch_nst.pipelines.cluster.stop import UNLIMITED, Budget, Stop, StopReason
from batch_nst.pipelines.submit import entrypoint

PAST = datetime(2026, 11, 25, 6, 0, tzinfo=UTC)
FAR = datetime(9999, 1, 1, tzinfo=UTC)


def test_without_limits_nothing_is_ever_spent() -> None:
    assert UNLIMITED.stop_reason(1e18) is None


def test_hours_of_devices_are_spent_when_devices_have_worked_for_so_long() -> None:
    budget = Budget(device_hours=0.5, deadline=FAR)
    assert budget.stop_reason(1799.9) is None
    assert budget.stop_reason(1800.0) == Stop(StopReason.BUDGET, "0.5")
    assert str(budget.stop_reason(1800.0)) == "0.5 device-hours are used up"
    assert str(Budget(device_hours=0.0).stop_reason()) == "0 device-hours are used up"


def test_a_deadline_that_has_come_spends_everything() -> None:
    stop = Budget(deadline=PAST).stop_reason()
    assert stop is not None
    assert (stop.reason, str(stop)) == (
        StopReason.DEADLINE,
        "the deadline 2026-11-25 06:00+00:00 has come",
    )
    assert Budget(deadline=FAR).stop_reason() is None


def test_reasons_to_stop_differ_as_values_whatever_their_words_say() -> None:
    fault = Stop(StopReason.OUTAGE, "0.5 device-hours are used up")
    spent = Budget(0.5).stop_reason(1800.0)
    assert str(fault) == str(spent)
    assert fault != spent
    assert str(Stop(StopReason.OUTAGE, "cannot read s3://b/{1}.jpg")) == "cannot read s3://b/{1}.jpg"
    assert str(Stop(StopReason.SIGTERM)) == "stopped by SIGTERM"
    assert str(Stop(StopReason.TRAINING, "7")) == "the training on snapshot 7 was cut off and is ended first"


# --- deadlines in words


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the local time zone."""

    def change(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield change
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-11-25T05:59:59", "2026-11-25T06:00:00+01:00"),
        ("2026-11-25T06:00:00", "2026-11-26T06:00:00+01:00"),
        ("2026-11-25T22:50:01", "2026-11-26T06:00:00+01:00"),
        ("2026-12-31T23:00:00", "2027-01-01T06:00:00+01:00"),
        # The nights when clocks change.
        ("2026-03-28T22:00:00", "2026-03-29T06:00:00+02:00"),
        ("2026-10-24T22:00:00", "2026-10-25T06:00:00+01:00"),
    ],
)
def test_a_time_of_day_is_the_next_one_on_the_local_clock(
    zone: Callable[[str], None], now: str, expected: str
) -> None:
    zone("Europe/Berlin")
    assert next_time(6, 0, datetime.fromisoformat(now)).isoformat() == expected


def test_words_for_a_time_of_day_are_within_a_day_of_now() -> None:
    for word in ("0:00", "06:00", "6:00", "23:59"):
        now = datetime.now(UTC)
        assert now < deadline(word) <= now + timedelta(hours=25)  # of the day when clocks go back


@pytest.mark.parametrize("word", ["2026-11-25T06:00Z", "2026-11-25 07:00+01:00", "2026-11-25T06:00:00+00:00"])
def test_a_moment_may_have_passed(word: str) -> None:
    assert deadline(word) == PAST


@pytest.mark.parametrize(
    "word",
    ["", "6", "24:00", "06:60", "6 am", "2026-11-25", "2026-11-25T06:00", "2026-13-01T06:00Z", "-1:00"],
)
def test_a_deadline_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"given '.*'; allowed: a time of day, such as 06:00, or a date"
    ):
        deadline(word)


# --- on a cluster elsewhere


def test_what_a_job_is_to_keep_to_goes_along_and_a_deadline_as_a_moment() -> None:
    options = ("--wait", "--retry", "--max-device-hours", "0.5", "--deadline", "2026-11-25T07:00+01:00")
    options += ("--wait-for-nodes", "1.5")
    words = _words(parse(["submit", "recipe.yaml", *options]))
    line = entrypoint("nightly", words)
    assert line == (
        "python -m batch_nst nightly recipe.yaml --wait --retry --max-device-hours 0.5 "
        "--deadline 2026-11-25T07:00:00+01:00 --wait-for-nodes 1.5"
    )
    there = parse(line.split()[3:])
    assert (there.wait, there.retry, there.max_device_hours, there.deadline) == (True, True, 0.5, PAST)
    assert there.wait_for_nodes == 1.5


def test_a_job_without_options_has_none() -> None:
    assert _words(parse(["submit", "recipe.yaml"])) == []
    assert entrypoint("plan", []) == "python -m batch_nst plan recipe.yaml"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train", "--retry"),
        ("plan", "--wait"),
        ("evaluate", "--deadline=06:00"),
        ("plan", "--wait-for-nodes=1"),
    ],
)
def test_an_option_that_the_command_does_not_take_is_refused(command: str, option: str) -> None:
    options = parse(["submit", "recipe.yaml", "--command", command, option])
    with pytest.raises(RecipeError, match=f"^--command {command}: unknown: {option.partition('=')[0]}"):
        _words(options)


def test_the_address_of_a_notice_goes_along_with_no_job() -> None:
    with pytest.raises(RecipeError, match="unknown: --notify"):
        parse(["submit", "recipe.yaml", "--notify", "https://example.com/hook"])
