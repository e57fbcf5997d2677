"""Laws of what a run may call a success."""

import pytest

from batch_nst.data.dataset.audit import COUNTED
from batch_nst.pipelines.generate.run import most_at_once, too_few


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
