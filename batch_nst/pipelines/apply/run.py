"""The command `apply`: stylize a bucket of pictures into another on Ray, or a single file without Ray."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from batch_nst.console import log, progress_bar, warn
from batch_nst.data.images.blend import Blend
from batch_nst.data.models.files import ModelFiles, read_model
from batch_nst.data.sources.kinds import CONTAINERS, SUFFIXES
from batch_nst.data.sources.passed import Passed
from batch_nst.data.sources.photos import Photo, is_uri_list, stream_photos
from batch_nst.data.storage.fetch import is_remote, split_uri
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.compiled import Backend, best_backend
from batch_nst.errors import IncompleteError, RecipeError, StorageError
from batch_nst.figures import as_json, omitted
from batch_nst.globs import MAGIC
from batch_nst.pipelines.apply.painters import checked_weights
from batch_nst.pipelines.apply.single import stylize_file, tell_slow
from batch_nst.pipelines.apply.tasks import ENCODINGS, Outcome, PictureTask, chunks_of, target_name
from batch_nst.pipelines.cluster.stop import WAIT_MINUTES
from batch_nst.pipelines.generate.decode import DIED

if TYPE_CHECKING:
    from batch_nst.engine.device import Device, Precision
    from batch_nst.pipelines.cluster.connect import Workers

RECORD = "apply.json"
"""A file beside the stylized images: the model and options that made all of them."""

_SHOWN = 20
"""Bad pictures that are listed at the end."""
_SUSPICIOUS = 3
"""Consecutive pictures whose workers died, after which the pictures are not to blame."""
_LOG_SECONDS = 10.0
"""Seconds between two log lines of a long listing."""


@dataclass(frozen=True, kw_only=True)
class ApplyFigures:
    """The figures of `apply`: found = ok + rejected + failed + pending."""

    found: int | None = omitted()
    """Pictures of the input; absent where a run ended before all of them had an outcome."""
    ok: int
    """Pictures that are in the target now."""
    rejected: int
    failed: int
    pending: int
    made: int
    """Pictures that this run wrote, all of them ok."""
    reasons: dict[str, int]
    """Number of rejected and failed pictures by reason."""


def apply(
    model: str,
    source: str,
    target: str,
    device: Device = "auto",
    *,
    keep_colors: bool = False,
    strength: float = 1.0,
    size: int | None = None,
    precision: Precision = "auto",
    overwrite: bool = False,
    stores: Collection[str] = (),
    wait_minutes: float = WAIT_MINUTES,
) -> ApplyFigures:
    """Stylize a picture into a file, or all pictures of an input into a folder, names kept.

    The whole input is listed before the first picture is stylized. A picture that is in the folder already is
    skipped. `apply.json` in the folder records the model and options of its pictures; a run with others is
    refused. A single picture is always stylized, and its file replaced.

    apply("out/", "s3://photos/", "s3://stylized/")
    apply("out/", "photo.jpg", "stylized.jpg", strength=0.5)

    Args:
        model: see `read_model`.
        source: an image, or an input as `stream_photos` takes it, local or in a bucket.
        target: an image file for an image, a folder for all else.
        device: where to compute; see `stylize_file` for one picture.
        keep_colors: see `Blend`.
        strength: see `Blend`.
        size: see `Blend`.
        precision: precision of the convolutions; `auto` may choose differently on another machine.
        overwrite: stylize all pictures and replace those that exist, whatever made them.
        stores: see `stream_photos`.
        wait_minutes: how long to wait for nodes that do not run yet; one picture needs none.

    Raises:
        RecipeError: no such model or source, or a target that does not fit it.
        IncompleteError: some pictures have no stylized image; the log lists the first of them.
        StorageError: a disk is full, or the target may not be written.
        ClusterError: no node came in time.
    """
    source, target = os.path.expanduser(source), os.path.expanduser(target)
    single = _is_single(source, target)
    _check_apart(source, target, single)
    files, blend, tally = read_model(model), Blend(keep_colors, float(strength), size), _Tally()
    if single:
        folder, slash, name = target.rpartition("/")
        place = Store(folder or slash or ".")
        tally.add(stylize_file(files, source, (place, name), device, blend, precision))
    else:
        checked_weights(files)  # a damaged model is refused here, not in an actor
        job = _Job(files, source, stores, Store(target), device, blend, precision, overwrite, wait_minutes)
        place = job.target
        _stylize_folder(job, tally)
    place.tidy()
    return tally.figures()


def _is_single(source: str, target: str) -> bool:
    """Whether one picture is stylized into one file.

    OUT says so: photos are known by their bytes, not by the names of their files. Where IN is a folder or
    holds photos, or OUT names no picture, they may not fit together.

    Raises:
        RecipeError: the target is a folder for one picture, or a file for more; or the source is not there.
    """
    into_file = PurePosixPath(target).suffix.lower() in ENCODINGS and not _is_folder(target)
    if is_uri_list(source) or source.lower().endswith((*CONTAINERS, "/")):
        several = True
    elif is_remote(source):
        # A bucket has no folders, and `?` may be part of a URL: what is there shows when it is read.
        photo = source.lower().endswith(SUFFIXES) and not MAGIC.search(source)
        several = not (into_file or photo)
    elif os.path.exists(split_uri(source)[1]):  # noqa: PTH110 - False, and no error, for a name that is too long
        several = _is_folder(source)
    elif into_file or MAGIC.search(source):
        several = bool(MAGIC.search(source))
    else:
        raise RecipeError(f"IN: {source}: there is no such file or folder")
    if several and into_file:
        raise RecipeError(f"OUT: given {target!r}; allowed for a folder of pictures: a folder")
    if not several and not into_file:
        raise RecipeError(
            f"OUT: given {target!r}; allowed for one picture: a name that ends in {' '.join(ENCODINGS)}"
        )
    return not several


def _is_folder(uri: str) -> bool:
    return not is_remote(uri) and os.path.isdir(split_uri(uri)[1])  # noqa: PTH112 - as above


@dataclass
class _Tally:
    """Outcomes counted so far."""

    counts: Counter[str] = field(default_factory=Counter)
    """Number of pictures by status, and `made`."""
    reasons: Counter[str] = field(default_factory=Counter)
    bad: list[Outcome] = field(default_factory=list)
    """The first rejected and failed pictures."""
    written: set[str] = field(default_factory=set)
    """Names of the pictures made."""
    died: int = 0
    """Consecutive pictures whose workers died."""
    outage: str = ""

    def add(self, outcome: Outcome) -> None:
        """Count an outcome of `write_picture`."""
        if outcome.refused:
            raise StorageError(outcome.refused)  # nothing stylized from here on could be written
        status = outcome.status
        self.counts.update([status, "made"] if status == "ok" else [status])
        if status == "ok":
            self.written.add(outcome.name)
        elif status == "pending":
            self.outage = self.outage or outcome.detail
        else:
            self.reasons[outcome.reason] += 1
            if len(self.bad) < _SHOWN:
                self.bad.append(outcome)
        self.died = self.died + 1 if outcome.reason == DIED else 0
        if self.died == _SUSPICIOUS:
            raise IncompleteError(
                f"workers died again and again, at {self.died} pictures in a row, the last one "
                f"{outcome.uri}; finished pictures are kept",
                as_json(self._counted()),
            )

    def _counted(self, found: int | None = None) -> ApplyFigures:
        return ApplyFigures(
            found=found,
            ok=self.counts["ok"],
            rejected=self.counts["rejected"],
            failed=self.counts["failed"],
            pending=self.counts["pending"],
            made=self.counts["made"],
            reasons=dict(self.reasons),
        )

    def figures(self) -> ApplyFigures:
        """The figures of a run that is over; logs the bad pictures.

        Raises:
            IncompleteError: not all pictures are ok.
        """
        counts = self.counts
        bad = counts["rejected"] + counts["failed"]
        found = counts["ok"] + bad + counts["pending"]
        figures = self._counted(found)
        for outcome in self.bad:
            warn(f"{outcome.status}: {outcome.uri}: {outcome.reason}: {outcome.detail}")
        if bad > len(self.bad):
            warn(f"... and {bad - len(self.bad):,} more")
        if counts["pending"]:
            raise IncompleteError(
                f"{counts['pending']} of {found} pictures are pending: {self.outage}; "
                "run the same command again",
                as_json(figures),
            )
        if bad:
            raise IncompleteError(f"{bad} of {found} pictures were not stylized", as_json(figures))
        return figures


@dataclass(frozen=True)
class _Job:
    """The arguments of `apply` for a folder of pictures."""

    model: ModelFiles
    source: str
    stores: Collection[str]
    target: Store
    device: Device
    blend: Blend
    precision: Precision
    overwrite: bool
    wait_minutes: float
    backend: Backend | None = None
    """None until it is settled: by the target's record, else by the device."""

    @property
    def record(self) -> bytes:
        """The content of `RECORD`."""
        blend = {name: value for name, value in asdict(self.blend).items() if value is not None}
        made_by = {"model": self.model.name, **blend, "precision": self.precision}
        return (json.dumps(made_by | {"backend": self.backend}, sort_keys=True) + "\n").encode()

    def establish_record(self) -> None:
        """Write `RECORD`, or check the one that is there.

        A disk needs no exclusive create for it. A run that does the same at this moment is found at the end.
        """
        if self.target.exists(RECORD):
            self.check_record()
        else:
            self.target.replace(RECORD, self.record)

    def check_record(self) -> None:
        """Refuse a target whose pictures were made by another model or with other options."""
        try:
            found = self.target.read(RECORD)
        except FileNotFoundError:
            found = b"nothing any more"
        settled = self if self.backend else replace(self, backend=_backend_of(found))
        if _meaning(found) != _meaning(settled.record):
            raise RecipeError(
                f"OUT {self.target.uri}: its {RECORD} says {found.decode(errors='replace').strip()}, "
                f"requested is {self.record.decode().strip()}; allowed: another folder, or --overwrite"
            )

    def on(self, device: Literal["cpu", "cuda"] | None) -> _Job:
        """The same with its backend: that of the pictures that are there, else the best for a device.

        Raises:
            RecipeError: that backend does not compute on this device, or is not installed.
        """
        best = best_backend(device or "cpu")
        there = not self.overwrite and self.target.exists(RECORD)
        backend = _backend_of(self.target.read(RECORD)) if there else best
        if device and backend == "openvino" != best:
            raise RecipeError(
                f"OUT {self.target.uri}: its {RECORD} says backend openvino, which computes on CPUs where "
                "it is installed; allowed: --device cpu, pip install openvino, another folder, or --overwrite"
            )
        return replace(self, backend=backend)


def _meaning(record: bytes) -> object:
    """What a `RECORD` says, however it is written; None if it is damaged."""
    try:
        return {"backend": "torch", **json.loads(record)}
    except (ValueError, TypeError):
        return None


def _backend_of(record: bytes) -> Backend:
    """What painted the pictures of a `RECORD`; those of before 0.2 do not say, and it was torch."""
    found = _meaning(record)
    return "openvino" if isinstance(found, dict) and found["backend"] == "openvino" else "torch"


def _stylize_folder(job: _Job, tally: _Tally) -> None:
    """Find which pictures are missing from the target, and stylize them."""
    chunks = _missing(job, tally)
    workers = _connect(job) if chunks else None
    job = job.on(workers.device if workers else None)
    if job.overwrite:
        job.target.delete(RECORD)  # while pictures of two kinds may be there, no record may vouch for them
    else:
        job.establish_record()
    if workers:
        from batch_nst.pipelines.apply.actors import stylize_photos

        tell_slow(job.backend, workers.device)
        with progress_bar("apply", sum(map(len, chunks)), "pictures") as progress:
            assert job.backend
            for outcome in stylize_photos(
                job.model, chunks, job.target, job.blend, job.precision, job.backend, workers
            ):
                tally.add(outcome)
                progress.advance()
        if not job.overwrite:
            job.check_record()
    if job.overwrite and not tally.counts["pending"]:
        _restore_record(job, tally.written)


def _missing(job: _Job, tally: _Tally) -> list[list[PictureTask]]:
    """Chunks of the pictures that the target lacks; those that it has are counted.

    Raises:
        RecipeError: the pictures there are of another model or other options, or nobody knows of which.
    """
    there: set[str] = set() if job.overwrite else set(job.target.list())
    if RECORD in there:
        job.check_record()
    try:
        chunks = chunks_of(_to_do(job, there, tally))
    except RecipeError as error:  # it names the input by the recipe's key
        raise RecipeError(str(error).replace("generate.input", "IN", 1)) from error
    if tally.counts["ok"]:
        if RECORD not in there:
            raise RecipeError(
                f"OUT {job.target.uri}: holds pictures with the names of those in IN, and no {RECORD} that "
                "says of which model; allowed: another folder, or --overwrite"
            )
        log(f"{tally.counts['ok']:,} pictures are there already")
    return chunks


def _to_do(job: _Job, there: set[str], tally: _Tally) -> Iterator[PictureTask]:
    """List the input; yields a task for each picture to stylize, and counts the others."""
    taken: set[str] = set()
    passed = Passed()
    photos, logged = 0, time.monotonic()
    for batch in stream_photos(job.source, job.stores, passed=passed):
        photos += batch.num_rows
        if time.monotonic() - logged >= _LOG_SECONDS:
            logged = time.monotonic()
            log(f"listing: {photos:,} pictures")
        for row in batch.select(Photo._fields).to_pylist():
            photo = Photo(**row)
            name = target_name(photo.key)
            if name in taken:
                detail = f"another picture of IN has the same name in OUT, {name}"
                tally.add(Outcome(photo.source, name, "rejected", "same_name", detail))
            elif name in there:
                tally.counts["ok"] += 1
            else:
                yield PictureTask(photo, name)
            taken.add(name)
    passed.log()


def _restore_record(job: _Job, written: set[str]) -> None:
    """Write the record again after `--overwrite`, unless the target holds pictures of other runs."""
    pictures = (name for name in job.target.list() if PurePosixPath(name).suffix.lower() in ENCODINGS)
    others = sorted(set(pictures) - written)
    if others:
        warn(
            f"OUT {job.target.uri}: {len(others):,} pictures there were not stylized now, the first is "
            f"{others[0]}; they may be of another model, so no {RECORD} is written and none counts as done"
        )
    else:
        job.target.replace(RECORD, job.record)


def _check_apart(source: str, target: str, single: bool) -> None:
    """Refuse a target inside the source: it would replace photos, or be stylized by the next run."""
    fixed = source if single else MAGIC.split(source, maxsplit=1)[0]
    listed = source if fixed == source else fixed.rpartition("/")[0]
    inside, outside = (
        uri.rstrip("/") if "://" in uri else str(Path(uri).resolve()) for uri in (listed, target)
    )
    whole_tree = not single and (fixed == source or "**" in source)
    if outside == inside or (whole_tree and outside.startswith(f"{inside}/")):
        raise RecipeError(f"OUT: given {target!r}, which lies in IN, {source!r}; allowed: outside of it")


def _connect(job: _Job) -> Workers:
    from batch_nst.pipelines.cluster import connect

    connect.connect()
    connect.check_output_is_shared(job.target)
    return connect.choose_workers(job.device, job.wait_minutes)
