"""Laws of what people see of a training: every point and picture once, however often it was cut off."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from batch_nst.data.dataset import units
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.images.codec import encode
from batch_nst.data.models.registry import panel_columns
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.train.log import Panel, TrainingLog, panel_steps, read_panel

SIDE = 16
FOLDER = "models/000001-abc/training"


def flat(*numbers: int) -> list[np.ndarray]:
    """Pictures of one grey each."""
    return [np.full((SIDE, SIDE, 3), number, np.uint8) for number in numbers]


def events(store: Store) -> list[Event]:
    """Of all files, in the order of their names, as TensorBoard reads them."""
    found = []
    for name in store.list(FOLDER):
        if "tfevents" in name:
            data, at, mine = store.read(name), 0, []
            while at < len(data):
                (length,) = struct.unpack_from("<Q", data, at)
                mine.append(Event.FromString(data[at + 12 : at + 12 + length]))
                at += 12 + length + 4
            assert at == len(data)
            assert mine[0].file_version == "brain.Event:2"
            found += mine[1:]
    return found


def curve(store: Store, tag: str) -> list[tuple[int, float]]:
    return [
        (event.step, value.simple_value)
        for event in events(store)
        for value in event.summary.value
        if value.tag == tag
    ]


def train(log: TrainingLog, first: int, last: int, keep: int) -> None:
    """Steps after `first` up to `last`, a checkpoint every `keep`, the panel every third."""
    log.begin(first, Panel(flat(10, 20), flat(30, 40)))
    for step in range(first + 1, last + 1):
        log.add(step, {"loss": float(step), "style": step / 2})
        if step % 3 == 0:
            log.show(step, flat(step, step + 1))
        if step % keep == 0:
            log.flush(step)


@pytest.mark.parametrize("keep", [2, 3, 5])
def test_a_training_that_goes_on_from_a_checkpoint_has_every_point_and_picture_once(
    tmp_path: Path, keep: int
) -> None:
    store = Store(str(tmp_path))
    train(TrainingLog(store, "000001-abc"), 0, 9, 2)  # cut off after step 9; the last checkpoint is that of 8
    train(TrainingLog(store, "000001-abc"), 6, 9, keep)  # another checkpoint was the last that was noted
    train(TrainingLog(store, "000001-abc"), 6, 30, keep)
    assert curve(store, "loss") == [(step, float(step)) for step in range(1, 31)]
    assert [value for _, value in curve(store, "style")] == [step / 2 for step in range(1, 31)]
    shown = [event for event in events(store) if event.summary.value[0].tag == "panel"]
    assert [event.step for event in shown] == list(range(3, 31, 3))
    image = shown[0].summary.value[0].image
    assert Image.open(BytesIO(image.encoded_image_string)).size == (image.width, image.height)
    names = [name for name, _ in panel_columns(store, "000001-abc")]
    assert names == ["photo", "optimised", *(f"step {step}" for step in range(3, 31, 3))]


def test_a_column_shows_the_pictures_one_below_the_other(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    log = TrainingLog(store, "000001-abc")
    log.begin(0, Panel(flat(10, 20), flat(30, 40)))
    log.show(7, flat(50, 60))
    columns = panel_columns(store, "000001-abc")
    assert [name for name, _ in columns] == ["photo", "optimised", "step 7"]
    for (_, column), greys in zip(columns, ((10, 20), (30, 40), (50, 60)), strict=True):
        pixels = np.asarray(Image.open(BytesIO(column)))
        assert pixels.shape == (2 * SIDE + 1, SIDE, 3)
        assert pixels[SIDE // 2, SIDE // 2].tolist() == pytest.approx([greys[0]] * 3, abs=1)
        assert pixels[-SIDE // 2, SIDE // 2].tolist() == pytest.approx([greys[1]] * 3, abs=1)


def test_of_a_model_without_a_log_there_is_no_panel(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert panel_columns(store, "000001-abc") == []
    TrainingLog(store, "000001-abc").begin(0, Panel([], []))
    assert panel_columns(store, "000001-abc") == []


@pytest.mark.parametrize("steps", [1, 2, 7, 32, 4000])
def test_the_panel_is_painted_close_together_at_first_and_at_the_end(steps: int) -> None:
    painted = sorted(panel_steps(steps))
    assert painted[-1] == steps
    assert painted[0] == max(1, round(steps / 32))
    assert len(painted) == 7 or steps < 64


def test_the_panel_has_four_held_out_photos_at_most_none_twice_and_no_other(tmp_path: Path) -> None:
    store = Store(str(tmp_path))

    def row(number: int, split: str, uri: str = "") -> dict[str, object]:
        photo, made = (
            {"bytes": encode(picture, "png"), "path": None} for picture in flat(number, number + 100)
        )
        return {
            "id": bytes([number]) * 16,
            "uri": uri or f"{number}.png",
            "split": split,
            "status": "ok",
            "content": photo,
            "stylized": made,
        }

    contents = [
        [row(1, "train")],
        [row(2, "held_out", "cat.png"), row(3, "held_out", "cat.png"), row(4, "train")],
        [row(5, "held_out")],
        [row(6, "held_out"), row(7, "held_out"), row(8, "held_out")],
    ]
    entries = [
        {**units.commit_unit(store, f"{index:032x}", rows, digest=""), "left_out": 0}
        for index, rows in enumerate(contents)
    ]
    panel = read_panel(store, Snapshot(1, 1, "", {}, entries, []))
    assert [int(photo[0, 0, 0]) for photo in panel.photos] == [2, 5, 6, 7]
    assert [int(picture[0, 0, 0]) for picture in panel.optimised] == [102, 105, 106, 107]
    assert read_panel(store, Snapshot(1, 1, "", {}, entries[:1], [])).photos == []
