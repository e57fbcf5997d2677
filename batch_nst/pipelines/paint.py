"""One picture read, painted and written; without Ray."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from batch_nst.data import images
from batch_nst.data.inputs import Photo
from batch_nst.data.storage import Store, TooLarge, fetch
from batch_nst.errors import StorageError
from batch_nst.pipelines.fast_model import FastModel

ENCODINGS: dict[str, Literal["webp", "png", "jpeg"]] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".webp": "webp",
}
"""By the suffix of the target; a source of another kind becomes PNG."""

_MIN_SIDE = 16
_MAX_BYTES = 256 << 20
_MAX_PIXELS = 40_000_000


def paint(model: FastModel, photo: Photo, target: Store, name: str) -> dict[str, str]:
    """Read, paint and write one picture; a bad one is an outcome with a reason."""
    try:
        picture = images.decode(
            fetch(photo.source, _MAX_BYTES), min_side=_MIN_SIDE, max_bytes=_MAX_BYTES, max_pixels=_MAX_PIXELS
        )
    except images.BadImage as error:
        return _outcome(photo, "rejected", error.reason, error.detail)
    except TooLarge as error:
        return _outcome(photo, "rejected", "too_many_bytes", str(error))
    except (OSError, StorageError) as error:
        return _outcome(photo, "failed", type(error).__name__, str(error))
    encoding = ENCODINGS[PurePosixPath(name).suffix.lower()]
    target.replace(name, images.encode(model(picture), encoding))
    return _outcome(photo, "ok", "", "")


def target_name(key: str) -> str:
    """The name that a picture gets below the target: its own, with `.png` added to what cannot be written."""
    return key if PurePosixPath(key).suffix.lower() in ENCODINGS else f"{key}.png"


def _outcome(photo: Photo, status: str, reason: str, detail: str) -> dict[str, str]:
    return {"source": photo.source, "status": status, "reason": reason, "detail": detail}
