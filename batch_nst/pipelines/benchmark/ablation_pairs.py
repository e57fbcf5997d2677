"""Photos and pairs of the ablation: read, optimised as `generate` does, and kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from batch_nst.console import log
from batch_nst.data.dataset.quality import Floats, change
from batch_nst.data.dataset.records import PhotoRecord, UnitRecord
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.style import StyleImage
from batch_nst.data.sources.photos import is_held_out, key_hash, list_photos, photo_id
from batch_nst.data.sources.reader import read_photos
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.pipelines.generate.tasks import photo_records, planned_photo
from batch_nst.recipe import Evaluate, Generate, Recipe

Clock = Callable[[], float]

_UNIT = 25
"""Photos whose pairs are made and kept together; the arms' numbers are multiples of it."""


class Pairs(NamedTuple):
    """Of n photos, in the order in which they were made."""

    content: Pixels
    """(n, size, size, 3), and so is the next."""
    optimised: Pixels
    loss: Floats
    change: Floats
    seconds: Floats
    """That each took to make."""


def read_photos_of(source: str, limits: Generate) -> tuple[list[PhotoRecord], list[PhotoRecord]]:
    """Good photos to train on and held-out ones, each by the hash of their keys."""
    train: list[PhotoRecord] = []
    held_out: list[PhotoRecord] = []
    try:
        photos = sorted(list_photos(source), key=lambda photo: key_hash(photo.key))
    except RecipeError as error:  # of an input, which recipes call so
        raise RecipeError(str(error).replace("generate.input", "--photos", 1)) from error
    for photo in photos:
        (data,) = read_photos([photo], limits.max_bytes)
        split = "held_out" if is_held_out(photo.key, _HOLDOUT) or not held_out else "train"
        planned = planned_photo(photo, photo_id(photo.key, photo.version, 0), split)
        (found,) = photo_records(data, [planned], limits)
        if found.ok:
            (train if split == "train" else held_out).append(found)
        else:
            log(f"{found.status}: {found.uri}: {found.reason}: {found.detail}")
    if not train:
        raise IncompleteError(f"{source}: good photos: {len(held_out)}; allowed: two or more")
    return train, held_out


_HOLDOUT = float(Evaluate.model_fields["holdout"].default)


def make_pairs(
    recipe: Recipe,
    painting: StyleImage,
    device: torch.device,
    threads: int,
    clock: Clock,
    folder: Path,
    rows: list[PhotoRecord],
    iterations: int,
) -> Pairs:
    """Pairs of photos as `generate` makes them: read where they are kept, else timed and kept."""
    # They bring Ray along, which is not started.
    from batch_nst.pipelines.cluster.connect import Workers
    from batch_nst.pipelines.generate.actors import Stylizer

    generate = recipe.generate.model_copy(update={"iterations": iterations})
    kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
    workers = Workers(kind, num_cpus=threads, num_gpus=int(kind == "cuda"), threads=threads, most=1)
    stylizer = Stylizer(painting, recipe.model_copy(update={"generate": generate}), workers)
    units = []
    for first in range(0, len(rows), _UNIT):
        unit = rows[first : first + _UNIT]
        file = folder / f"{first:06}-{len(unit)}.npz"
        if not file.exists():
            log(f"{folder}: optimising photos {first + 1} to {first + len(unit)} of {len(rows)}")
            _keep(file, _optimise(unit, stylizer, generate.image_size, clock))
        with np.load(file) as kept:
            units.append(Pairs(*(kept[field] for field in Pairs._fields)))
    return Pairs(*(np.concatenate(parts) for parts in zip(*units, strict=True)))


def _optimise(
    photos: list[PhotoRecord], stylizer: Callable[[UnitRecord], UnitRecord], side: int, clock: Clock
) -> Pairs:
    """The pairs of photos; of one that was no number twice the loss is none, and its picture the photo."""
    start = clock()
    unit = stylizer(UnitRecord("ablation", tuple(photos)))
    seconds = clock() - start
    made = unit.photos
    content = np.stack([square(photo.content or b"", side) for photo in made])
    optimised = np.stack([square(photo.stylized or photo.content or b"", side) for photo in made])
    loss = [photo.total_loss if photo.ok else np.inf for photo in made]
    moved = [change(*pictures) for pictures in zip(content, optimised, strict=True)]
    shares = np.full(len(made), seconds / len(made))
    return Pairs(content, optimised, *(np.array(each, np.float32) for each in (loss, moved, shares)))


def _keep(file: Path, pairs: Pairs) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partly = file.with_suffix(".part")
    with partly.open("wb") as stream:
        np.savez(stream, **pairs._asdict())
    partly.replace(file)


def square(pixels: bytes, side: int) -> Pixels:
    """Raw bytes of a square picture as an array, uint8 (side, side, 3)."""
    return np.frombuffer(pixels, np.uint8).reshape(side, side, 3)
