"""Laws of the watch over Ray: it takes several looks in a row to call it dead."""

import signal
from collections.abc import Iterator

import pytest

from batch_nst.pipelines.cluster import watch


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What this process is sent; a look takes no time."""
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 0.001)
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    watch.arm()
    yield received
    watch.disarm()
    watch._lost.clear()
    signal.signal(signal.SIGTERM, before)


def test_three_looks_in_a_row_find_nothing_before_a_command_ends(signals: list[int]) -> None:
    answers = iter([False, False, True, False, True, False, False, False, True])
    watch._look(lambda: next(answers), 0.003)
    assert signals == [signal.SIGTERM]
    assert watch.is_lost()
    assert list(answers) == [True]


def test_nobody_is_told_after_the_command_has_ended(signals: list[int]) -> None:
    watch.disarm()
    watch._look(lambda: False, 0.003)
    assert signals == []
    assert not watch.is_lost()
