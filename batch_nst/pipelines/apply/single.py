"""`apply` for one picture: without Ray, and without torch, which takes seconds to import, where it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_nst.console import log
from batch_nst.data.images.blend import Blend
from batch_nst.data.models.files import ModelFiles
from batch_nst.data.sources.photos import Photo
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.compiled import MAX_WHOLE, best_backend
from batch_nst.errors import RecipeError
from batch_nst.pipelines.apply.painters import Paint, by_openvino, by_torch, checked_weights
from batch_nst.pipelines.apply.tasks import (
    Outcome,
    PictureTask,
    decode_photos,
    stylize_picture,
    write_picture,
)
from batch_nst.pipelines.generate.decode import VANISHED

if TYPE_CHECKING:
    from batch_nst.engine.device import Device, Precision


def stylize_file(
    files: ModelFiles,
    source: str,
    target: tuple[Store, str],
    device: Device,
    blend: Blend,
    precision: Precision,
) -> Outcome:
    """Paint a picture into a file, over any earlier one.

    A CPU paints it where OpenVINO takes it whole, unless the device is `cuda`: starting a GPU takes longer.

    Args:
        files: of the model.
        source: URI of the picture.
        target: folder and name of the file.
        device: see `apply`.
        blend: how photo and stylized image are mixed.
        precision: see `apply`.

    Raises:
        RecipeError: there is no such picture.
        WeightsError: the model's files do not belong together.
        StorageError: the file cannot be written.
    """
    folder, name = target
    weights = checked_weights(files)
    (record,) = decode_photos([PictureTask(Photo(name, source, ""), name)])
    if record.reason == VANISHED:
        raise RecipeError(f"IN: {source}: there is no such file; for a folder of pictures OUT is a folder")
    whole = record.height * record.width <= MAX_WHOLE["openvino"]
    if device != "cuda" and whole and best_backend("cpu") == "openvino":
        paint = by_openvino(files, weights, precision)
    else:
        paint = _by_torch(files, device, precision)
    return write_picture(stylize_picture(record, lambda: paint, blend), folder)


def tell_slow(backend: str | None, device: str) -> None:
    """Say where torch paints on a CPU."""
    if backend == "torch" and device == "cpu":
        log("painting by torch, which takes longer than OpenVINO does (pip install openvino)")


def _by_torch(files: ModelFiles, device: Device, precision: Precision) -> Paint:
    from batch_nst.engine.device import choose_device

    where = choose_device(device)
    tell_slow(best_backend(where.type), where.type)
    return by_torch(files, device, precision)
