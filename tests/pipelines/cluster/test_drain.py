"""Laws of a SIGTERM that is put off until what is under way has ended, but not for long."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from batch_nst.errors import Stopped
from batch_nst.pipelines.cluster import stop as cluster_stop
from batch_nst.pipelines.cluster.stop import Stop, StopReason, defer_sigterm


@pytest.fixture(autouse=True)
def handler() -> Iterator[object]:
    """As the command's own."""

    def stop(_signal: int, _frame: object) -> None:
        raise Stopped("stopped")

    before = signal.signal(signal.SIGTERM, stop)
    yield stop
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def drained(body: Callable[[], object], close: Callable[[Stop], None] = lambda _: None) -> None:
    """A body at whose beginning SIGTERM comes."""
    with defer_sigterm(close):
        terminate()
        body()


def test_the_body_is_told_to_close_and_goes_on_to_its_end(handler: object) -> None:
    closed, steps = threading.Event(), []

    def close(reason: Stop) -> None:
        steps.append((threading.current_thread().name, reason))
        closed.set()

    with pytest.raises(Stopped):
        drained(lambda: steps.append(closed.wait(10)), close)
    assert steps == [("drain", Stop(StopReason.SIGTERM)), True]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_body_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_stop, "SECONDS", 0.05)
    ended = []
    with pytest.raises(Stopped):
        drained(lambda: ended.append(threading.Event().wait(60)))
    assert ended == []


def test_a_body_whose_other_processes_are_gone_is_not_waited_for() -> None:
    looks = iter([True, True, False])

    def work() -> None:
        with defer_sigterm(lambda _: None, alive=lambda: next(looks)):
            terminate()
            threading.Event().wait(60)

    with pytest.raises(Stopped):
        work()
    assert list(looks) == []


def test_a_second_one_is_not_put_off() -> None:
    steps = []
    with pytest.raises(Stopped):
        drained(lambda: (terminate(), steps.append("further")))
    assert steps == []


def test_without_one_nothing_is_closed_and_the_handler_is_as_before(handler: object) -> None:
    closed: list[Stop] = []
    others = set(threading.enumerate())  # another test may have left one that waits
    with defer_sigterm(closed.append):
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler
    for each in set(threading.enumerate()) - others:
        each.join()
    assert closed == []


def test_what_fails_while_it_drains_is_told_and_not_the_signal() -> None:
    with pytest.raises(KeyError):
        drained(lambda: {}["gone"])


def test_in_another_thread_signals_stay_what_they_are(handler: object) -> None:
    seen = []

    def work() -> None:
        with defer_sigterm(lambda _: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]


def test_a_body_that_fails_after_it_was_stopped_is_no_bug() -> None:
    def lose_ray() -> None:
        terminate()
        raise RuntimeError("the raylet has died")

    with pytest.raises(Stopped), defer_sigterm(lambda _: None, (RuntimeError,)):
        lose_ray()


def test_a_failure_before_it_stays_one() -> None:
    with pytest.raises(ZeroDivisionError), defer_sigterm(lambda _: None, (ZeroDivisionError,)):
        raise ZeroDivisionError


@pytest.mark.parametrize("answer", ["never", "error"])
def test_who_cannot_be_told_to_close_holds_nothing_up(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(cluster_stop, "SECONDS", 0.05)

    def close(_: Stop) -> None:
        if answer == "error":
            raise RuntimeError("the actor has died")
        threading.Event().wait()

    with pytest.raises(Stopped):
        drained(lambda: threading.Event().wait(60), close)
