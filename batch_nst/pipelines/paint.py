"""One picture read, painted and written; without Ray."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from batch_nst.data import images
from batch_nst.data.inputs import Photo, uri_of
from batch_nst.data.reading import read_photos
from batch_nst.data.storage import Store, TooLarge
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
        data = read_photos([photo], _MAX_BYTES)[0]
        if isinstance(data, Exception):
            raise data
        picture = images.decode(data, min_side=_MIN_SIDE, max_bytes=_MAX_BYTES, max_pixels=_MAX_PIXELS)
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
    """The name that a picture gets below the target: its own, with `.png` added to what cannot be written.

    Never one above or beside the target: the names in a list or a tar may begin with `/` and hold `..`.
    """
    name = "/".join(part for part in key.split("/") if part not in ("", ".", ".."))
    return name if PurePosixPath(name).suffix.lower() in ENCODINGS else f"{name}.png"


def _outcome(photo: Photo, status: str, reason: str, detail: str) -> dict[str, str]:
    return {"source": uri_of(photo), "status": status, "reason": reason, "detail": detail}
