"""The page of `inspect` about a dataset, complete or not: counts, losses, speed, best and worst pairs.

Needs no lease and writes nothing into the output. However large the dataset is, only a few units are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.dates
import matplotlib.style
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from markupsafe import Markup

from batch_nst.console import log
from batch_nst.data.dataset import summaries, units
from batch_nst.data.dataset.forgotten import forgotten_ids
from batch_nst.data.dataset.manifest import require_settings
from batch_nst.data.dataset.quality import QualityCounts, filter_counts, quantiles
from batch_nst.data.dataset.records import BadPhoto
from batch_nst.data.dataset.snapshot import Snapshot, latest_snapshot
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError
from batch_nst.pipelines.reports.charts import OPTIMISED, STYLE, histogram, plot, set_scale, svg
from batch_nst.pipelines.reports.html import ENVIRONMENT, count, data_uri, number

_SHOWN = 8
"""Pairs of each kind on the page."""
_SUMMARIES = 512
"""Maximum number of units outside the gathered summaries that are read."""
_RUNS = 200
_BAD, _BAD_UNITS = 200, 64
"""Maximum number of bad photos listed, and of units read for them."""
_TEMPLATE = ENVIRONMENT.get_template("inspection.html.j2")

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class UnitsSeen:
    """Number of committed units, and of those whose summaries were read."""

    done: int
    looked_at: int


@dataclass(frozen=True)
class InspectFigures:
    """Figures of the command `inspect`."""

    output: str
    units: UnitsSeen
    snapshot: int | None
    counts: dict[str, int]
    """Number of images by outcome: in the snapshot, or before the first one in the units read."""
    reasons: dict[str, dict[str, int]]
    """Number of images by status and reason."""
    losses: dict[str, float]
    """Quantiles over the pairs to train on, as the next field."""
    changes: dict[str, float]
    quality: QualityCounts
    """See `quality.filter_counts`."""
    runs: int
    made: int
    """Images that these runs made."""
    device_seconds: float
    images_per_hour: float | None
    """Speed of the last run."""
    file: str
    """Path of the page."""


def inspect(output: str, file: str = "inspect.html") -> InspectFigures:
    """Write a page about the dataset of an output.

    Args:
        output: the output of a recipe.
        file: path of the page, a single HTML file on this machine.

    Raises:
        RecipeError: there is no dataset, or the file cannot be written.
    """
    target, store = Path(file).absolute(), Store(output)
    settings = require_settings(store)
    if not target.parent.is_dir():
        raise RecipeError(f"--out {file}: there is no folder {target.parent}")
    snapshot, images = latest_snapshot(store), _look(store)
    runs = _runs(store)
    figures = _figures(store, snapshot, images, runs, str(target))
    hidden = forgotten_ids(store) | {bytes.fromhex(each) for each in (snapshot.left_out if snapshot else ())}
    page = _page(
        figures,
        settings,
        _charts(images, snapshot, runs),
        runs,
        _bad(store, images, hidden),
        _sheet(store, images, snapshot, hidden),
    )
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"--out {file}: cannot be written: {error.strerror}") from error
    for line in _lines(figures):
        log(line)
    log(f"page: {target}")
    return figures


def _figures(
    store: Store, snapshot: Snapshot | None, images: _Images, runs: Sequence[_Run], file: str
) -> InspectFigures:
    return InspectFigures(
        output=store.uri,
        units=UnitsSeen(images.done, images.units.num_rows),
        snapshot=snapshot.number if snapshot else None,
        counts=snapshot.counts if snapshot else images.counts(),
        reasons=images.reasons(),
        losses=quantiles(images.loss[images.pairs]),
        changes=quantiles(images.change[images.pairs]),
        quality=filter_counts(snapshot.quality) if snapshot else {},
        runs=len(runs),
        made=sum(run.made for run in runs),
        device_seconds=round(sum(run.device_seconds for run in runs), 1),
        images_per_hour=round(runs[-1].images_per_hour, 1) if runs else None,
        file=file,
    )


@dataclass(frozen=True)
class _Images:
    """The images of the summaries, as arrays of equal length."""

    done: int
    """Number of committed units, read or not."""
    units: pa.Table
    """Summaries that were read, with the columns of `summaries.SCHEMA`."""
    unit: Indices
    """The row of each image in `units`."""
    position: Indices
    """The position of each image in its unit, in the order of ids."""
    letter: npt.NDArray[np.uint8]
    """The letter of each image's outcome, see `summaries.LETTERS`."""
    loss: Floats
    change: Floats

    @property
    def pairs(self) -> npt.NDArray[np.bool_]:
        """Which of them are pairs to train on, before any filter."""
        return np.equal(self.letter, ord(summaries.LETTERS[0]))

    @property
    def bad(self) -> npt.NDArray[np.bool_]:
        """Which of them are rejected or failed."""
        return np.isin(self.letter, [ord("r"), ord("f")])

    def counts(self) -> dict[str, int]:
        """Number of images by outcome."""
        return {
            outcome: int(np.count_nonzero(self.letter == ord(letter)))
            for outcome, letter in zip(summaries.OUTCOMES, summaries.LETTERS, strict=True)
        }

    def reasons(self) -> dict[str, dict[str, int]]:
        """Number of rejected and failed images by reason, most frequent first."""
        letters = self.letter[self.bad]
        reasons = [reason for of_unit in self.units["reasons"].to_pylist() for reason in of_unit]
        return {
            status: dict(
                Counter(
                    reason for reason, each in zip(reasons, letters, strict=True) if each == ord(letter)
                ).most_common()
            )
            for status, letter in (("rejected", "r"), ("failed", "f"))
        }


def _look(store: Store) -> _Images:
    """Read the gathered summaries, and those of some other units."""
    done = units.done_units(store)
    gathered = summaries.read(store)
    # Names are hashes, so that the first ones are a random choice.
    others = sorted(done - set(gathered["unit"].to_pylist()))[:_SUMMARIES]
    with ThreadPoolExecutor(16) as pool:
        fresh = dict(zip(others, pool.map(lambda unit: units.read_summary(store, unit), others), strict=True))
    table = summaries.updated(gathered, fresh)
    letters = np.frombuffer("".join(table["outcomes"].to_pylist()).encode(), np.uint8)
    sizes = np.array([len(outcomes) for outcomes in table["outcomes"].to_pylist()], np.intp)
    unit = np.repeat(np.arange(len(sizes)), sizes)
    return _Images(
        done=len(done),
        units=table,
        unit=unit,
        position=np.arange(len(unit)) - np.repeat(np.cumsum(sizes) - sizes, sizes),
        letter=letters,
        loss=summaries.numbers(table["loss"]),
        change=summaries.numbers(table["change"]),
    )


def _bad(store: Store, images: _Images, hidden: Collection[bytes]) -> list[BadPhoto]:
    """Some photos without a pair, see `units.bad_photos`."""
    chosen = np.unique(images.unit[images.bad])[:_BAD_UNITS]
    names = images.units["unit"].take(pa.array(chosen)).to_pylist()
    with ThreadPoolExecutor(16) as pool:
        photos = [*chain(*pool.map(lambda name: units.bad_photos(store, name, hidden), names))]
    return sorted(photos[:_BAD], key=lambda photo: (photo.status, photo.reason, photo.uri))


class _Run(NamedTuple):
    name: str
    started: datetime
    made: int
    span_seconds: float
    """From the first unit's start to the last one's end."""
    device_seconds: float
    device: str
    devices: int

    @property
    def images_per_hour(self) -> float:
        return 3600 * self.made / max(self.span_seconds, 1e-3)

    @property
    def seconds_per_image(self) -> float:
        return self.device_seconds / self.made


def _runs(store: Store) -> list[_Run]:
    """The last runs that made images, oldest first."""
    endings = ("-generate/summary.json", "-nightly/summary.json")
    names = [name for name in store.list("runs") if name.endswith(endings)][-_RUNS:]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda name: read_document(store, name), names))
    runs = []
    for name, summary in zip(names, found, strict=True):
        with intact(store, name):
            figures = summary.get("dataset", summary)
            if figures.get("made"):
                runs.append(
                    _Run(
                        summary["run"],
                        datetime.fromisoformat(summary["started"]),
                        figures["made"],
                        figures["span_seconds"],
                        figures["device_seconds"],
                        figures["device"],
                        figures["devices"],
                    )
                )
    return runs


def _plot_speed(runs: Sequence[_Run]) -> Markup | None:
    """Plot images per hour of each run over its duration; of one run there is nothing to compare."""
    if len(runs) < 2:
        return None
    figure, axes = plot(9.4, 2.0)
    rates = np.array([run.images_per_hour for run in runs])
    for run in runs:
        ends = [run.started, run.started + timedelta(seconds=max(run.span_seconds, 1.0))]
        axes.plot(ends, [run.images_per_hour] * 2, color=OPTIMISED, linewidth=5)  # type: ignore[arg-type]
    locator = mpl.dates.AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mpl.dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_ylabel("images an hour")
    set_scale(axes.yaxis, rates, axes.set_yscale)
    if axes.get_yscale() == "linear":
        axes.set_ylim(0, rates.max() * 1.15)
    return svg(figure, f"Images an hour of {len(runs)} runs, the last {number(rates[-1])}")


@dataclass(frozen=True)
class _Pair:
    """A pair on the page."""

    name: str
    id: str
    """Image id, hex."""
    loss: float | None
    change: float
    photo: str
    """Data URI, as the next field."""
    made: str


def _sheet(
    store: Store, images: _Images, snapshot: Snapshot | None, hidden: Collection[bytes]
) -> dict[str, list[_Pair]]:
    """Best, worst and random pairs to train on, and some that a quality rule leaves out."""
    filtered = _filtered(images, snapshot)
    good = np.flatnonzero(images.pairs & np.isfinite(images.loss) & ~filtered)
    by_loss = good[np.argsort(images.loss[good], kind="stable")]
    chance = np.random.default_rng(len(good))
    kinds = {
        "best": by_loss,
        "worst": by_loss[::-1],
        "random": chance.permutation(good),
        "left_out": np.flatnonzero(filtered),
    }

    rows_of = cache(
        lambda unit: sorted(
            units.read_unit(store, images.units["unit"][unit].as_py()), key=lambda row: bytes(row["id"])
        )
    )

    def find(candidates: Iterable[int]) -> Iterator[_Pair]:
        for index in candidates:
            row = rows_of(int(images.unit[index]))[int(images.position[index])]
            content, stylized = row["content"], row["stylized"]
            if content and stylized and row["id"] not in hidden:
                yield _Pair(
                    name=row["uri"].rsplit("/", 1)[-1],
                    id=row["id"].hex(),
                    loss=row["total_loss"] or 0.0,
                    change=float(images.change[index]),
                    photo=data_uri(content["bytes"], 256),
                    made=data_uri(stylized["bytes"], 256),
                )

    return {
        kind: list(islice(find(candidates[: 2 * _SHOWN].tolist()), _SHOWN))
        for kind, candidates in kinds.items()
    }


def _filtered(images: _Images, snapshot: Snapshot | None) -> npt.NDArray[np.bool_]:
    """A mask of the pairs that break a quality rule of the snapshot."""
    broken = np.zeros(len(images.loss), bool)
    least, most = _bounds(snapshot)
    if least is not None:
        broken |= images.change < least
    if most is not None:
        broken |= images.loss > most
    return images.pairs & broken


def _bounds(snapshot: Snapshot | None) -> tuple[float | None, float | None]:
    """The least change and the highest loss that a snapshot's rules allow; None if a rule is off."""
    if not snapshot:
        return None, None
    return snapshot.quality.get("min_change"), snapshot.quality.get("max_loss")


@dataclass(frozen=True)
class _Charts:
    loss: Markup | None
    change: Markup | None
    speed: Markup | None


def _charts(images: _Images, snapshot: Snapshot | None, runs: Sequence[_Run]) -> _Charts:
    loss, change = (values[images.pairs].astype(np.float64) for values in (images.loss, images.change))
    least, most = _bounds(snapshot)
    with mpl.style.context(["default", STYLE]):
        return _Charts(
            loss=histogram(loss, bound=most),
            change=histogram(change, "mean change, grey levels", "changes", bound=least),
            speed=_plot_speed(runs),
        )


def _page(
    figures: InspectFigures,
    settings: object,
    charts: _Charts,
    runs: Sequence[_Run],
    bad: Sequence[BadPhoto],
    sheet: Mapping[str, Sequence[_Pair]],
) -> str:
    return _TEMPLATE.render(
        title=figures.output.rsplit("/", 1)[-1],
        figures=figures,
        charts=charts,
        runs=runs[::-1],
        bad=bad,
        sheet=sheet,
        settings=settings,
    )


def _lines(figures: InspectFigures) -> list[str]:
    """The figures as lines of the log."""
    done, looked_at = figures.units.done, figures.units.looked_at
    rows = [
        ("units", f"{done:,}" if looked_at == done else f"{done:,}, of which {looked_at:,} were looked at"),
        ("snapshot", figures.snapshot or "none yet"),
        *((name.replace("_", " "), f"{value:,}") for name, value in figures.counts.items()),
        *(
            (f"why {status}", ", ".join(f"{reason} {value:,}" for reason, value in reasons.items()))
            for status, reasons in figures.reasons.items()
            if reasons
        ),
        *(
            (name, ", ".join(f"{each} {number(value)}" for each, value in values.items()))
            for name, values in (("loss", figures.losses), ("change", figures.changes))
            if values
        ),
    ]
    if figures.images_per_hour is not None:
        rows.append(("speed", f"{count(figures.images_per_hour)} images an hour in the last run"))
    return [f"{name:>14} {value}" for name, value in rows]
