"""Photos in a bucket and a recipe for them, for jobs that are to be interrupted."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from batch_nst.data.storage.store import Store
from tests.support.places import PAINTING

SIDE = 64
UNITS = 12
FEW = 4
"""Units of a job to which a crash does what it does to one of many."""


class Bucket(NamedTuple):
    """Photos, in a bucket or a folder on disk, and a place for outputs beside them."""

    uri: str
    photos: int

    def recipe(self, output: str, **generate: Any) -> dict[str, Any]:
        """Of a job on these photos, with an output of this name beside them."""
        return {
            "output": f"{self.uri}/{output}",
            "style": {"image": str(PAINTING), "size": 32},
            "generate": {
                "input": f"{self.uri}/photos",
                "image_size": SIDE,
                "unit_images": 2,
                "device": "cpu",
                **generate,
            },
        }


def fill(store: Store, photos: int) -> None:
    """Photos that no two of are alike, in the folder `photos`."""
    for index in range(photos):
        pixels = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        store.create(f"photos/{index:03}.png", buffer.getvalue())
