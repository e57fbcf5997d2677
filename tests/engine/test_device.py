"""Laws of memory: a batch is what fits; what does not fit is halved, and nothing is lost or done twice."""

import pytest
import torch

from batch_nst.engine import device as engine_device
from batch_nst.engine.device import choose_batch, run_in_batches

CPU = torch.device("cpu")


def test_a_batch_has_the_same_number_of_pixels_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_device, "_free_bytes", lambda device: 1e12)
    assert [choose_batch(side, CPU) for side in (64, 128, 256, 512, 4096)] == [64, 16, 4, 1, 1]


def test_a_batch_fits_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        engine_device, "_free_bytes", lambda device: 2 * 3 * 128**2 * engine_device._BYTES_PER_PIXEL
    )
    assert choose_batch(128, CPU) == 3
    monkeypatch.setattr(engine_device, "_free_bytes", lambda device: 0)
    assert choose_batch(128, CPU) == 1


def test_what_is_free_here_is_some_of_what_there_is() -> None:
    assert 0 < engine_device._free_bytes(CPU) < 2**50


class Device:
    """Holds so many images, and remembers what was done."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.done: list[int] = []

    def run(self, batch: slice) -> None:
        if batch.stop - batch.start > self.room:
            raise torch.OutOfMemoryError("of a test")
        self.done += range(batch.start, batch.stop)


@pytest.mark.parametrize(
    ("room", "batch", "fits", "told"), [(8, 8, 8, []), (3, 8, 2, [4, 2]), (1, 8, 1, [4, 2, 1]), (5, 5, 5, [])]
)
def test_every_image_is_done_once_in_order(room: int, batch: int, fits: int, told: list[int]) -> None:
    device, said = Device(room), []
    assert run_in_batches(19, batch, device.run, said.append) == fits
    assert device.done == list(range(19))
    assert said == told


def test_one_image_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run_in_batches(3, 4, Device(0).run, lambda batch: None)


def test_other_errors_are_not_swallowed() -> None:
    def fail(batch: slice) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in_batches(3, 4, fail, lambda batch: None)
