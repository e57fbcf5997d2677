"""Laws of what a run may call a success."""

from collections.abc import Iterator

import pytest

from batch_nst.data.dataset.audit import COUNTED
from batch_nst.data.dataset.records import UnitOutcome
from batch_nst.data.dataset.units import UNPAIRED
from batch_nst.pipelines.generate.run import most_at_once, too_few, with_progress


@pytest.mark.parametrize(
    ("ok", "rejected", "failed", "limit", "told"),
    [
        (19, 1, 0, 0.05, ""),
        (18, 1, 1, 0.05, "2 of 20 images were rejected or failed (10.0%); generate.max_rejected allows 5.0%"),
        (18, 2, 0, 0.05, "2 of 20 images were rejected (10.0%); generate.max_rejected allows 5.0%"),
        (18, 0, 2, 0.05, "2 of 20 images failed (10.0%); generate.max_rejected allows 5.0%"),
        (1, 10, 9, 1.0, ""),
        (0, 0, 20, 1.0, "20 of 20 images failed (100.0%); there is no pair"),
        (0, 20, 0, 1.0, "20 of 20 images were rejected (100.0%); there is no pair"),
        (0, 0, 0, 0.0, ""),
    ],
)
def test_rejected_and_failed_images_count_alike_and_nothing_made_is_no_success(
    ok: int, rejected: int, failed: int, limit: float, told: str
) -> None:
    bad = {"rejected": rejected, "failed": failed}
    more = "; --retry tries failed images once more" if failed and told else ""
    for outcome in ("ok", "held_out", "filtered", "forgotten"):  # each of them was made
        counts = {**dict.fromkeys(COUNTED, 0), "pending": 0, **bad, outcome: ok}
        assert too_few(counts, 20, limit) == told + more


@pytest.mark.parametrize(
    ("spans", "most"),
    [
        ([], 0),
        ([(1, 5)], 1),
        ([(1, 5), (5, 9)], 1),  # a node that was lost, and the one that came for it
        ([(1, 5), (4, 9), (8, 9)], 2),
        ([(1, 9), (2, 3), (2, 4), (5, 6)], 3),
    ],
)
def test_devices_are_those_that_worked_at_the_same_time(spans: list[tuple[float, float]], most: int) -> None:
    assert most_at_once(spans) == most


def test_progress_counts_the_time_before_the_first_unit_and_each_kind_for_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("batch_nst.console.time.monotonic", lambda: now[0])
    made = [UnitOutcome("a", losses=(1.0, 3.0)), UnitOutcome("b", losses=(4.0, 4.0))]
    alone = [UnitOutcome(name + UNPAIRED, unpaired=5) for name in ("c", "d")]

    def slowly() -> Iterator[UnitOutcome]:
        for outcome in [made[0], UnitOutcome("later", stopped=True), made[1], *alone]:
            now[0] += 20.0
            yield outcome

    assert [each.unit for each in with_progress(slowly(), 4, 10)] == [
        "a",
        "later",
        "b",
        *(u.unit for u in alone),
    ]
    assert capsys.readouterr().err.splitlines() == [
        "generate: 2 of 4 images, 0.10 images/s  loss 2, 20 s left",
        "generate: 4 of 4 images, 0.07 images/s  loss 4, 0 s left",
        "keep: 10 of 10 photos, 0.50 photos/s, 0 s left",
    ]


@pytest.mark.parametrize(("images", "unpaired"), [(0, 0), (2, 0), (0, 5), (2, 5)])
def test_no_outcome_is_lost_whatever_the_plan_said(images: int, unpaired: int) -> None:
    outcomes = [UnitOutcome("a", losses=(1.0, 3.0)), UnitOutcome("b" + UNPAIRED, unpaired=5)]
    assert list(with_progress(iter(outcomes), images, unpaired)) == outcomes
