"""Photos and pairs of the ablation: read, optimised as `generate` does, and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from batch_nst.console import log
from batch_nst.data.dataset.quality import Floats, change
from batch_nst.data.dataset.records import PhotoRecord, UnitRecord
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.style import StyleImage
from batch_nst.data.sources.photos import Photo, is_held_out, key_hash, list_photos, photo_id
from batch_nst.data.sources.reader import read_photos
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.pipelines.generate.decode import photo_records, planned_photo
from batch_nst.recipe import Evaluate, Generate, Recipe

if TYPE_CHECKING:
    from batch_nst.pipelines.generate.stylizer import Stylizer

Clock = Callable[[], float]

"""Returns seconds."""

_UNIT = 25
"""Photos whose pairs are made and kept together; the arms' numbers of photos are multiples of it."""
_HOLDOUT = float(Evaluate.model_fields["holdout"].default)


class Pairs(NamedTuple):
    """Pairs of n photos, in the order in which they were made."""

    content: Pixels
    """The photos, uint8 (n, size, size, 3)."""
    optimised: Pixels
    """Their optimised images, uint8 (n, size, size, 3)."""
    loss: Floats
    """Infinite if an image's loss was NaN or infinite; its picture is then the photo."""
    change: Floats
    """How far the images are from their photos, see `quality.change`."""
    seconds: Floats
    """Seconds that each took to make."""


def read_photos_of(
    source: str, limits: Generate, option: str = "--photos"
) -> tuple[list[PhotoRecord], list[PhotoRecord]]:
    """Good photos to train on and held-out ones, both sorted by the hash of their keys.

    Errors name `option`, by which the source was given.

    Raises:
        RecipeError: the input cannot be listed.
        IncompleteError: fewer than two photos are good, or all are held out.
    """
    train: list[PhotoRecord] = []
    held_out: list[PhotoRecord] = []
    try:
        photos = sorted(list_photos(source), key=lambda photo: key_hash(photo.key))
    except RecipeError as error:  # it names the input by the recipe's key
        raise RecipeError(str(error).replace("generate.input", option, 1)) from error
    for photo in photos:
        split = "held_out" if is_held_out(photo.key, _HOLDOUT) or not held_out else "train"
        record = _decoded(photo, split, limits)
        if not record.ok:
            log(f"{record.status}: {record.uri}: {record.reason}: {record.detail}")
        else:
            (train if split == "train" else held_out).append(record)
    if not train and len(held_out) > 1:
        raise IncompleteError(f"{source}: all {len(held_out)} good photos are held out by name; add others")
    if not train:
        raise IncompleteError(f"{source}: good photos: {len(held_out)}; allowed: two or more")
    return train, held_out


def _decoded(photo: Photo, split: str, limits: Generate) -> PhotoRecord:
    """The centre crop of a photo, read and decoded as `generate` does."""
    (data,) = read_photos([photo], limits.max_bytes)
    planned = planned_photo(photo, photo_id(photo.key, photo.version, 0), split)
    (record,) = photo_records(data, [planned], limits)
    return record


def make_pairs(
    recipe: Recipe,
    style: StyleImage,
    device: torch.device,
    threads: int,
    clock: Clock,
    folder: Path,
    photos: Sequence[PhotoRecord],
    iterations: int,
) -> Pairs:
    """Pairs of photos as `generate` makes them: read from the folder, or timed and written to it."""
    # They import Ray, which is not started.
    from batch_nst.pipelines.cluster.connect import Workers
    from batch_nst.pipelines.generate.stylizer import Stylizer

    generate = recipe.generate.model_copy(update={"iterations": iterations})
    kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
    workers = Workers(kind, num_cpus=threads, num_gpus=int(kind == "cuda"), threads=threads, most=1)
    stylizer = Stylizer(style, recipe.model_copy(update={"generate": generate}), workers)
    units = []
    for first in range(0, len(photos), _UNIT):
        unit = photos[first : first + _UNIT]
        file = folder / f"{first:06}-{len(unit)}.npz"
        if not file.exists():
            log(f"{folder}: optimising photos {first + 1} to {first + len(unit)} of {len(photos)}")
            _keep(file, _optimise(unit, stylizer, generate.image_size, clock))
        with np.load(file) as kept:
            units.append(Pairs(*(kept[field] for field in Pairs._fields)))
    return Pairs(*(np.concatenate(parts) for parts in zip(*units, strict=True)))


def _optimise(photos: Sequence[PhotoRecord], stylizer: Stylizer, side: int, clock: Clock) -> Pairs:
    """The pairs of photos, and how long they took."""
    start = clock()
    made = stylizer(UnitRecord("ablation", tuple(photos))).photos
    seconds = clock() - start
    content = np.stack([square(photo.content, side) for photo in photos])
    optimised = np.stack(
        [square(after.stylized or before.content, side) for before, after in zip(photos, made, strict=True)]
    )
    loss = [photo.total_loss if photo.ok else np.inf for photo in made]
    moved = [change(*pictures) for pictures in zip(content, optimised, strict=True)]
    shares = np.full(len(made), seconds / len(made))
    return Pairs(content, optimised, *(np.array(each, np.float32) for each in (loss, moved, shares)))


def _keep(file: Path, pairs: Pairs) -> None:
    """Write pairs to a file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    with partial.open("wb") as stream:
        np.savez(stream, **pairs._asdict())
    partial.replace(file)


def square(pixels: bytes | None, side: int) -> Pixels:
    """Raw bytes of a square picture as an array, uint8 (side, side, 3)."""
    return np.frombuffer(pixels or b"", np.uint8).reshape(side, side, 3)
