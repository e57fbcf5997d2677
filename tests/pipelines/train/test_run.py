"""When a training ends, by its speed so far."""

from datetime import UTC, datetime, timedelta

from batch_nst.pipelines.train.run import expected_end

START = datetime(2026, 11, 25, 22, tzinfo=UTC)


def test_the_end_is_worked_out_from_the_first_and_the_last_step_that_were_seen() -> None:
    seen = [(START, 100), (START + timedelta(minutes=1), 150), (START + timedelta(minutes=5), 350)]
    assert expected_end(seen, 600) == START + timedelta(minutes=10)  # 50 steps a minute
    assert expected_end(seen, 350) == START + timedelta(minutes=5)


def test_without_two_steps_it_is_not_known() -> None:
    assert expected_end([], 600) is None
    assert expected_end([(START, 100)], 600) is None
    back = [(START, 100), (START + timedelta(minutes=1), 80)]  # a worker was lost
    assert expected_end(back, 600) is None
