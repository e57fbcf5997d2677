"""What a training leaves for people to look at while it runs: pictures of a panel, and TensorBoard's files.

All of it lies in `models/<version>/training/`. A training that goes on from a checkpoint first removes what
was written after it, so that nothing is there twice.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from batch_nst.data.dataset.snapshot import Snapshot, unit_pairs
from batch_nst.data.images.codec import Pixels, decode_stored, encode
from batch_nst.data.images.contact_sheet import contact_sheet
from batch_nst.data.models.registry import TRAINING, model_object
from batch_nst.data.storage.store import Store

PAGE = f"{TRAINING}/index.html"
"""The page of a training, below its version's folder."""

_PHOTOS = 4
"""Held-out photos on the panel, at most."""
_PARTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
"""Of the steps that are done when the panel is painted."""
_MAX_SIDE = 256
_NUMBERED = re.compile(r"[./](\d+)\.(?:jpg|batch_nst)$")


@dataclass(frozen=True)
class Panel:
    """A few held-out photos, the same through all of a training, and their optimised pictures."""

    photos: list[Pixels]
    optimised: list[Pixels]


def read_panel(store: Store, snapshot: Snapshot) -> Panel:
    """One image of each of the first units with held-out ones; no photo twice, and none where none is ok."""
    pairs: dict[str, tuple[bytes, bytes]] = {}
    for unit in snapshot.units:
        if unit["held_out"] and len(pairs) < _PHOTOS:
            for row in unit_pairs(store, snapshot, unit["unit"], "held_out"):
                pairs.setdefault(row["uri"], (row["content"]["bytes"], row["stylized"]["bytes"]))
    shown = list(pairs.values())[:_PHOTOS]
    return Panel(
        [decode_stored(photo) for photo, _ in shown],
        [decode_stored(optimised) for _, optimised in shown],
    )


def panel_steps(steps: int) -> set[int]:
    """After which of a training's steps the panel is painted: close together at first; always the last."""
    return {max(1, round(part * steps)) for part in _PARTS}


@dataclass
class TrainingLog:
    """Writes the panel's pictures and TensorBoard's files of one training; one process at a time does."""

    store: Store
    version: str
    _events: list[Event] = field(default_factory=list)
    """Since the last file."""

    def begin(self, step: int, panel: Panel) -> None:
        """Remove what was written after `step`, from which training goes on; show what to compare with."""
        for name in self.store.list(model_object(self.version, TRAINING)):
            number = _NUMBERED.search(name)
            if number and int(number[1]) > step:
                self.store.delete(name)
        if panel.photos:
            self._write("photo.jpg", _column(panel.photos))
            self._write("optimised.jpg", _column(panel.optimised))

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """A point of each curve."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._events.append(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))

    def show(self, step: int, pictures: list[Pixels]) -> None:
        """The panel as it is painted after a step."""
        column = _column(pictures)
        self._write(f"{step:06}.jpg", column)
        with Image.open(BytesIO(column), formats=("JPEG",)) as image:
            width, height = image.size
        shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=column)
        values = [Summary.Value(tag="panel", image=shown)]
        self._events.append(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))

    def flush(self, step: int) -> None:
        """Write what was added since the last time; to be called just before the step's checkpoint."""
        self._write(f"events.out.tfevents.{step:010}.batch_nst", _event_file(self._events))
        self._events.clear()

    def _write(self, name: str, data: bytes) -> None:
        self.store.replace(model_object(self.version, f"{TRAINING}/{name}"), data)


def _column(pictures: list[Pixels]) -> bytes:
    """Square pictures one below the other, as a JPEG."""
    return contact_sheet(
        [[encode(picture, "webp")] for picture in pictures], min(_MAX_SIDE, len(pictures[0]))
    )


def _event_file(events: Iterable[Event]) -> bytes:
    """Events as TensorBoard reads them."""
    first = Event(wall_time=time.time(), file_version="brain.Event:2")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        writer = RecordWriter(str(path))
        for event in (first, *events):
            writer.write(event.SerializeToString())
        writer.close()
        return path.read_bytes()
