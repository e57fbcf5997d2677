"""bucket -> fast model -> bucket; and a single file without Ray."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import PurePosixPath
from typing import Any, Literal

from batch_nst.data.inputs import SUFFIXES, Photo, list_photos
from batch_nst.data.storage import Store
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.pipelines.fast_model import load_model
from batch_nst.pipelines.paint import ENCODINGS, paint
from batch_nst.pipelines.progress import meter, say


def apply(
    model: str, source: str, target: str, device: Literal["auto", "cpu", "cuda"] = "auto"
) -> dict[str, Any]:
    """Stylize a picture into a file, or all pictures below a folder into another, names kept.

    Args:
        model: see `load_model`.
        source: an image, or a folder or glob of images; local or in a bucket.
        target: an image file for an image, a folder for a folder.
        device: where to compute.

    Returns:
        Figures: found, ok, rejected, failed.

    Raises:
        RecipeError: no such model or source, or a target that does not fit it.
        IncompleteError: not all pictures could be painted; they are listed above.
    """
    source, target = os.path.expanduser(source), os.path.expanduser(target)
    suffix = PurePosixPath(target).suffix.lower()
    if PurePosixPath(source).suffix.lower() in SUFFIXES and not any(letter in source for letter in "*?["):
        if suffix not in ENCODINGS:
            raise RecipeError(
                f"OUT: given {target!r}; allowed for one picture: a name that ends in {' '.join(ENCODINGS)}"
            )
        folder, _, name = target.rpartition("/")
        outcomes = [paint(load_model(model, device), Photo(name, source, ""), Store(folder or "."), name)]
    else:
        if suffix in ENCODINGS:
            raise RecipeError(f"OUT: given {target!r}; allowed for a folder of pictures: a folder")
        outcomes = _paint_all(model, list_photos(source), Store(target), device)
    bad = [outcome for outcome in outcomes if outcome["status"] != "ok"]
    for outcome in bad:
        say(f"{outcome['status']}: {outcome['source']}: {outcome['reason']}: {outcome['detail']}")
    counts = Counter(outcome["status"] for outcome in outcomes)
    figures = {"found": len(outcomes), **{status: counts[status] for status in ("ok", "rejected", "failed")}}
    if bad:
        raise IncompleteError(f"{len(bad)} of {len(outcomes)} pictures were not painted", figures)
    return figures


def _paint_all(model: str, photos: list[Photo], target: Store, device: str) -> list[dict[str, str]]:
    from batch_nst.pipelines import cluster
    from batch_nst.pipelines.painting import paint_photos

    cluster.connect()
    cluster.check_output_is_shared(target)
    outcomes = []
    with meter("apply", len(photos), "pictures") as progress:
        for outcome in paint_photos(model, photos, target, cluster.choose_workers(device)):
            outcomes.append(outcome)
            progress.advance()
    return outcomes
