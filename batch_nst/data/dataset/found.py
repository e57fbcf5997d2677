"""What a listing finds: how many photos, which are held out, two under one key; and a digest of the input."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.console import log
from batch_nst.data.dataset.ids import Ids, Index, halves
from batch_nst.data.dataset.manifest import Holdout, split_of
from batch_nst.data.sources.passed import Passed
from batch_nst.data.sources.photos import (
    input_version,
    is_uri_list,
    key_hash,
    photo_id,
    photo_ids,
    stream_photos,
)
from batch_nst.errors import RecipeError
from batch_nst.recipe import Generate, Recipe

_LOG_SECONDS = 10.0
_TOLD_NAMES = 5
"""Number of names that a message lists."""


class Watch:
    """Watches a listing: logs its progress, counts its photos, and looks for those that are held out."""

    def __init__(self, holdout: Holdout) -> None:
        """Nothing listed yet."""
        self._holdout = holdout
        self.held_out = False
        self.lowest = (1.0, "")
        """Lowest hash of a key before the first held-out photo, and that key."""
        self.photos = 0
        """Number of photos listed."""
        self._first = ""
        self._unmet = set(holdout["photos"])
        """Held-out names that no photo has had."""

    def over(self, listing: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches, looked at as they pass."""
        logged = time.monotonic()
        for batch in listing:
            if self._unmet and batch.num_rows:
                met = pc.is_in(batch["key"], value_set=pa.array(sorted(self._unmet), pa.string()))
                self._unmet -= set(batch["key"].filter(met).to_pylist())
                self._first = self._first or batch["key"][0].as_py()
            if not self.held_out:
                keys = batch["key"].to_pylist()
                self.held_out = any(split_of(key, self._holdout) == "held_out" for key in keys)
                self.lowest = min([self.lowest, *((key_hash(key), key) for key in keys)])
            self.photos += len(batch)
            if time.monotonic() - logged >= _LOG_SECONDS:
                logged = time.monotonic()
                log(f"listing: {self.photos:,} photos")
            yield batch

    def check_names(self, begun: bool) -> None:
        """Refuse held-out names that fit no photo; log them where the dataset was started: photos may go."""
        if not self._unmet:
            return
        names = ", ".join(sorted(self._unmet)[:_TOLD_NAMES])
        what = f"evaluate.holdout_photos: given {names}; no photo of the input has such a key"
        if not begun:
            raise RecipeError(f"{what}; allowed: keys, such as {self._first}")
        log(f"{what} now")


def check_places(generate: Generate, twice: Ids) -> None:
    """Refuse two photos under one key and version; one photo that is named twice is one photo.

    Args:
        generate: what to list once more; in a list of URIs the key is the place.
        twice: ids that came more than once.
    """
    if is_uri_list(generate.input):
        return
    index, places = Index(twice), dict[bytes, str]()
    for batch in stream_photos(generate.input, generate.stores, generate.pattern):
        again = np.flatnonzero(index.find(halves(photo_ids(batch, 0))) >= 0)
        for row in batch.take(pa.array(again)).to_pylist():
            place = row["source"] if row["offset"] is None else f"{row['source']} at {row['offset']}"
            first = places.setdefault(photo_id(row["key"], row["version"], 0), place)
            if first != place:
                raise RecipeError(
                    f"generate.input: the key {row['key']} names two photos of one version, {first} and "
                    f"{place}; allowed: a key for each photo"
                )


def listing_digest(recipe: Recipe, passed: Passed) -> str:
    """A digest of the input: equal digests mean equal images. Empty where only a listing can show that."""
    generate = recipe.generate
    version = input_version(generate.input, generate.pattern, passed)
    if version is None:
        return ""
    pattern = [{"pattern": generate.pattern}] if generate.pattern else []
    parts = json.dumps([generate.input, version, generate.crops, *generate.stores, *pattern])
    return hashlib.blake2b(parts.encode(), digest_size=16, person=b"batch_nst list").hexdigest()
