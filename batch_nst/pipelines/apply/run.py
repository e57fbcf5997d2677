"""bucket -> fast model -> bucket; and a single file without Ray."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from batch_nst.console import log, progress_bar
from batch_nst.data.images.blend import Blend
from batch_nst.data.sources.listing import MAGIC
from batch_nst.data.sources.photos import SUFFIXES, Photo, stream_photos
from batch_nst.data.storage.store import Store
from batch_nst.engine.device import Device, Precision, choose_device
from batch_nst.errors import IncompleteError, RecipeError, StorageError
from batch_nst.pipelines.apply.tasks import (
    ENCODINGS,
    Row,
    chunks_of,
    decode_photos,
    paint,
    target_name,
    write_painting,
)
from batch_nst.pipelines.generate.tasks import DIED
from batch_nst.pipelines.inference import ModelFiles, read_model

if TYPE_CHECKING:
    from batch_nst.pipelines.cluster.connect import Workers

RECORD = "apply.json"
"""Beside painted pictures: what has made all of them."""

_SHOWN = 20
_SUSPICIOUS = 3
"""Pictures that end their workers one after the other: it is not the pictures, then."""
_TOLD_SECONDS = 10.0


def apply(
    model: str,
    source: str,
    target: str,
    device: Device = "auto",
    *,
    keep_colors: bool = False,
    strength: float = 1.0,
    precision: Precision = "auto",
    overwrite: bool = False,
    stores: Collection[str] = (),
) -> dict[str, Any]:
    """Stylize a picture into a file, or all pictures of an input into a folder, names kept.

    All of the input is listed before the first is painted. A picture that is in the folder already is not
    painted again; `apply.json` there says of which model, look and precision its pictures are, and others are
    refused. One picture into a file is always painted.

    Args:
        model: see `load_model`.
        source: an image, or an input as `stream_photos` takes it, local or in a bucket.
        target: an image file for an image, a folder for all else.
        device: where to compute.
        keep_colors: see `Look`.
        strength: see `Look`.
        precision: of the convolutions; `auto` may mean another one on another machine.
        overwrite: paint all pictures, also those that are there, whatever they are of.
        stores: see `stream_photos`.

    Returns:
        Figures: found = ok + rejected + failed + pending; how many of those ok were `made` by this run; and
        `reasons` of the bad ones.

    Raises:
        RecipeError: no such model or source, or a target that does not fit it.
        IncompleteError: not all pictures could be painted; the first that could not are listed above.
        StorageError: a disk is full, or the target may not be written.
    """
    source, target = os.path.expanduser(source), os.path.expanduser(target)
    suffix = PurePosixPath(target).suffix.lower()
    single = PurePosixPath(source).suffix.lower() in SUFFIXES and not MAGIC.search(source)
    if single and suffix not in ENCODINGS:
        raise RecipeError(
            f"OUT: given {target!r}; allowed for one picture: a name that ends in {' '.join(ENCODINGS)}"
        )
    if not single and suffix in ENCODINGS:
        raise RecipeError(f"OUT: given {target!r}; allowed for a folder of pictures: a folder")
    _check_apart(source, target)
    files, look, done = read_model(model), Blend(keep_colors, float(strength)), _Done()
    if single:
        painter = files.painter(choose_device(device), precision)
        folder, slash, name = target.rpartition("/")
        place = Store(folder or slash or ".")
        for chunk in chunks_of([(Photo(name, source, ""), name)]):
            for row in decode_photos(chunk):
                done.add(write_painting(paint(row, lambda: painter, look), place, overwrite=True))
    else:
        files.on(torch.device("cpu"))  # a damaged model is refused here, not in an actor
        _paint_all(files, source, stores, Store(target), device, look, precision, overwrite, done)
    return done.figures()


@dataclass
class _Done:
    """What has become of pictures so far."""

    counts: Counter[str] = field(default_factory=Counter)
    """By status; `made` besides."""
    reasons: Counter[str] = field(default_factory=Counter)
    bad: list[Row] = field(default_factory=list)
    """The first of them."""
    painted: set[str] = field(default_factory=set)
    """Names of the pictures made."""
    died: int = 0
    """Pictures that ended their workers, since one did not."""
    outage: str = ""

    def add(self, outcome: Row) -> None:
        """Take one of `write_painting`'s outcomes."""
        if outcome["refused"]:
            raise StorageError(outcome["refused"])  # what is painted from here on would be lost
        status = outcome["status"]
        self.counts.update([status, "made"] if status == "ok" else [status])
        if status == "ok":
            self.painted.add(outcome["name"])
        elif status == "pending":
            self.outage = self.outage or outcome["detail"]
        else:
            self.reasons[outcome["reason"]] += 1
            if len(self.bad) < _SHOWN:
                self.bad.append(outcome)
        self.died = self.died + 1 if outcome["reason"] == DIED else 0
        if self.died == _SUSPICIOUS:
            raise IncompleteError(
                f"workers died again and again, at {self.died} pictures one after the other, the last one "
                f"{outcome['uri']}; what is painted stays",
                self._counted(),
            )

    def _counted(self) -> dict[str, Any]:
        counts = {status: self.counts[status] for status in ("ok", "rejected", "failed", "pending", "made")}
        return {**counts, "reasons": dict(self.reasons)}

    def figures(self) -> dict[str, Any]:
        """For the JSON line, when all is said and done.

        Raises:
            IncompleteError: not all pictures are ok.
        """
        counts = self.counts
        bad = counts["rejected"] + counts["failed"]
        found = counts["ok"] + bad + counts["pending"]
        figures = {"found": found, **self._counted()}
        for outcome in self.bad:
            log(f"{outcome['status']}: {outcome['uri']}: {outcome['reason']}: {outcome['detail']}")
        if bad > len(self.bad):
            log(f"... and {bad - len(self.bad):,} more")
        if counts["pending"]:
            raise IncompleteError(
                f"{counts['pending']} of {found} pictures are pending: {self.outage}; "
                "run the same command again",
                figures,
            )
        if bad:
            raise IncompleteError(f"{bad} of {found} pictures were not painted", figures)
        return figures


def _paint_all(
    model: ModelFiles,
    source: str,
    stores: Collection[str],
    target: Store,
    device: Device,
    look: Blend,
    precision: Precision,
    overwrite: bool,
    done: _Done,
) -> None:
    """Find what is not there yet, and paint it."""
    made_by = {"model": model.name, **asdict(look), "precision": precision}
    record = (json.dumps(made_by, sort_keys=True) + "\n").encode()
    there: set[str] = set() if overwrite else set(target.list())
    if RECORD in there:
        _check_record(target, record)
    try:
        chunks = chunks_of(_to_do(source, stores, there, done))
    except RecipeError as error:  # of an input, which recipes call so
        raise RecipeError(str(error).replace("generate.input", "IN", 1)) from error
    if done.counts["ok"]:
        if RECORD not in there:
            raise RecipeError(
                f"OUT {target.uri}: holds pictures with the names of those in IN, and no {RECORD} that says "
                "of which model; allowed: another folder, or --overwrite"
            )
        log(f"{done.counts['ok']:,} pictures are there already")
    workers = _connect(target, device) if chunks else None
    if overwrite:
        target.delete(RECORD)  # as long as pictures of two kinds may be there, nothing says of which they are
    elif not target.establish(RECORD, record):
        _check_record(target, record)
    if workers:
        from batch_nst.pipelines.apply.actors import paint_photos

        with progress_bar("apply", sum(chunk["count"] for chunk in chunks), "pictures") as progress:
            for outcome in paint_photos(model, chunks, target, look, precision, workers, overwrite):
                done.add(outcome)
                progress.advance()
    if overwrite and not done.counts["pending"]:
        _record_all(target, record, done.painted)


def _to_do(source: str, stores: Collection[str], there: set[str], done: _Done) -> Iterator[tuple[Photo, str]]:
    """Photos that are to be painted and their names below the target; the others are counted."""
    taken: set[str] = set()
    photos, told = 0, time.monotonic()
    for batch in stream_photos(source, stores):
        photos += batch.num_rows
        if time.monotonic() - told >= _TOLD_SECONDS:
            told = time.monotonic()
            log(f"listing: {photos:,} pictures")
        for row in batch.select(Photo._fields).to_pylist():
            photo = Photo(**row)
            name = target_name(photo.key)
            if name in taken:
                detail = f"another picture of IN is painted as {name}"
                bad = {"uri": photo.source, "status": "rejected", "reason": "same_name", "detail": detail}
                done.add({**bad, "name": name, "refused": ""})
            elif name in there:
                done.counts["ok"] += 1
            else:
                yield photo, name
            taken.add(name)


def _record_all(target: Store, record: bytes, painted: set[str]) -> None:
    """Say what has made all pictures of a target, unless there are others than those painted now."""
    pictures = (name for name in target.list() if PurePosixPath(name).suffix.lower() in ENCODINGS)
    others = sorted(set(pictures) - painted)
    if others:
        log(
            f"OUT {target.uri}: {len(others):,} pictures there were not painted now, {others[0]} the first, "
            f"and may be of another model; there is no {RECORD}, so that none counts as done"
        )
    else:
        target.replace(RECORD, record)


def _check_record(target: Store, record: bytes) -> None:
    """Refuse pictures of another model or other options."""
    found = target.read(RECORD)
    if found != record:
        raise RecipeError(
            f"OUT {target.uri}: its {RECORD} says {found.decode(errors='replace').strip()}, asked for is "
            f"{record.decode().strip()}; allowed: another folder, or --overwrite"
        )


def _check_apart(source: str, target: str) -> None:
    """Refuse a target that would take photos' places, or be painted with them the next time."""
    fixed = MAGIC.split(source, maxsplit=1)[0]
    listed = source if fixed == source else fixed.rpartition("/")[0]
    inside, outside = (
        uri.rstrip("/") if "://" in uri else str(Path(uri).resolve()) for uri in (listed, target)
    )
    whole_tree = fixed == source or "**" in source
    if outside == inside or (whole_tree and outside.startswith(f"{inside}/")):
        raise RecipeError(f"OUT: given {target!r}, which lies in IN, {source!r}; allowed: outside of it")


def _connect(target: Store, device: Device) -> Workers:
    from batch_nst.pipelines.cluster import connect

    connect.connect()
    connect.check_output_is_shared(target)
    return connect.choose_workers(device)
