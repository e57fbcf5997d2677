"""The dataset of pairs: prepare the plan, make what is missing, seal."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate, chain, islice
from typing import TYPE_CHECKING

from batch_nst.console import ProgressBar, log, progress_bar, warn
from batch_nst.data.dataset.card import write_card
from batch_nst.data.dataset.manifest import split_of
from batch_nst.data.dataset.plan import Plan, survey
from batch_nst.data.dataset.quality import describe_filter, filter_counts
from batch_nst.data.dataset.records import BadPhoto, StageSeconds, UnitOutcome
from batch_nst.data.dataset.snapshot import Snapshot, bad_photos, seal
from batch_nst.data.dataset.units import UNPAIRED
from batch_nst.data.sources.passed import Passed
from batch_nst.data.storage.lease import Lease
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError, StorageError
from batch_nst.figures import JsonObject, as_json
from batch_nst.pipelines.cluster.stop import UNLIMITED, Budget, Stop, StopReason
from batch_nst.pipelines.generate.decode import DIED
from batch_nst.recipe import Recipe

if TYPE_CHECKING:
    from batch_nst.data.models.files import ModelFiles
    from batch_nst.pipelines.generate.warm_start import WarmStartFigures

_SHOWN = 20
"""Bad photos that are logged one by one."""

_SUSPICIOUS = 3
"""Units that crashed their workers, after which the machines are suspected and not the photos."""


@dataclass(frozen=True)
class GenerateFigures:
    """Figures of `generate`."""

    photos: int
    """Photos in the input."""
    found: int
    """Images in the input."""
    passed_over: dict[str, int]
    """Files below the input that are no photos, by suffix or reason."""
    ok: int
    """Pairs to train on."""
    held_out: int
    unpaired: int
    """Photos without pairs."""
    rejected: int
    failed: int
    forgotten: int
    filtered: int
    pending: int
    gone: int
    tried: int
    """Images that this run tried, good or bad."""
    made: int
    """Pairs that this run made."""
    kept: int
    """Photos without pairs that this run stored."""
    photos_read: int
    bytes_read: int
    bytes_written: int
    device: str | None
    """`cpu` or `cuda`; None if nothing was to be made."""
    devices: int
    """Largest number of devices that were at work at the same time."""
    warm_start: WarmStartFigures | None
    """None if images start from their photos without a trial."""
    span_seconds: float
    """From the first unit's start to the last one's end."""
    device_seconds: float
    stage_seconds: StageSeconds
    """Seconds of all units in each stage; `device` is `device_seconds`."""
    idle_seconds: float
    """Time that devices had no work before a unit, summed; without that after their last one."""
    reasons: dict[str, int]
    """Bad photos of this run by reason."""
    snapshot: int
    digest: str
    quality: JsonObject
    """Rules that leave pairs out of training, and how many they leave out."""
    stopped: str | None
    """Why a limit, or a training that comes first, left images pending; None if neither did."""
    seconds: float


def generate(
    recipe: Recipe,
    store: Store,
    lease: Lease,
    retry: bool = False,
    budget: Budget = UNLIMITED,
    plan: Plan | None = None,
    min_done: float | None = None,
    cut_off: Snapshot | None = None,
) -> GenerateFigures:
    """Make or continue the dataset, and seal it. If nothing is to be done, neither torch nor Ray is started.

    Args:
        recipe: the recipe.
        store: its output.
        lease: held on it.
        retry: try failed images once more.
        budget: limits after which no further unit starts.
        plan: result of `survey`, if it was made already.
        min_done: fraction of the planned images that is enough if the run is stopped early; None: all.
        cut_off: latest snapshot, if its training must end first; then nothing is made or sealed.

    Raises:
        IncompleteError: images are pending after an outage, because workers crash at unit after unit, or
            because the run was stopped with less than `min_done` done; or too few are good (`too_few`).
        StorageError: a disk is full, or units may not be written.
    """
    start = time.monotonic()
    plan = plan or survey(recipe, store, retry)
    counts = asdict(plan.counts())
    log(
        f"{counts['photos']:,} photos found, {counts['found']:,} images; {counts['done']:,} done, "
        f"{counts['to_do']:,} to do, {counts['gone']:,} gone"
    )
    if counts["unpaired"]:
        log(f"of those to do, {counts['unpaired']:,} stay photos without pairs (generate.pairs)")
    made = _Made()
    if cut_off:
        made.stop = Stop(StopReason.TRAINING, str(cut_off.number))
        log(f"{counts['to_do']:,} images wait for the next start: {made.stop}")
    else:
        plan, model = _prepare(plan, store, recipe, lease)
        made.stop = budget.stop_reason()
        if plan.to_do and not made.stop:
            _make(plan, store, recipe, model, budget, made)
    lease.check()
    snapshot = cut_off or seal(store, lease.token, plan.in_input, made.summaries, recipe.quality)
    write_card(store, snapshot, plan.settings, recipe.generate.license)
    figures = _figures(counts, plan.passed_over, snapshot, made, time.monotonic() - start)
    _judge(figures, snapshot, made, recipe, store, min_done)
    return figures


def _prepare(plan: Plan, store: Store, recipe: Recipe, lease: Lease) -> tuple[Plan, ModelFiles | None]:
    """Check what is needed to make images, then write the plan down.

    Returns:
        The plan as written, and the model that images are to start from, if any.
    """
    model = None
    if plan.to_do:
        from batch_nst.pipelines.generate.warm_start import find_start

        check_weights(recipe)
        model = find_start(recipe, plan.settings, store)
    plan = settle_units(plan, recipe)
    lease.check()
    return plan.write_down(store), model


def settle_units(plan: Plan, recipe: Recipe) -> Plan:
    """The plan with units that fit the device; of a dataset that begins, `auto` asks the cluster for it."""
    if plan.settled or not plan.to_do:
        return plan
    device = recipe.generate.device
    if device == "auto":
        from batch_nst.pipelines.cluster import connect, nodes

        connect.connect()
        device = nodes.settle_device(device)
    return plan.beginning_on(device)


def check_weights(recipe: Recipe) -> None:
    """Refuse a wrong file here, not in an actor, and before its digest is one of the dataset's settings."""
    from batch_nst.engine.perceptual_loss import PerceptualLoss
    from batch_nst.pipelines.objective import load_vgg

    load_vgg(recipe.vgg, PerceptualLoss.layers(recipe.loss))


@dataclass
class _Made:
    """What a run has made so far. Memory: a few bytes per unit, and the first bad photos."""

    device: str | None = None
    warm_start: WarmStartFigures | None = None
    summaries: dict[str, str] = field(default_factory=dict)
    """Summaries of committed units, in JSON, by unit."""
    pairs: int = 0
    unpaired: int = 0
    photos_read: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    stages: StageSeconds = field(default_factory=StageSeconds)
    idle_seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of bad photos by reason."""
    given_up: int = 0
    """Units that crashed one worker after the other."""
    bad: list[BadPhoto] = field(default_factory=list)
    """The first bad photos."""
    began: float = math.inf
    ended: float = -math.inf
    at_work: dict[str, tuple[float, float]] = field(default_factory=dict)
    """When each actor began its first unit and ended its last one, in seconds since the epoch."""
    stop: Stop | None = None
    """Why no further unit starts."""

    @property
    def tried(self) -> int:
        """Images that are done, good or bad."""
        return self.pairs + self.unpaired + self.reasons.total()

    @property
    def devices(self) -> int:
        """The largest number of devices that were at work at the same time: nodes come and go."""
        return most_at_once(self.at_work.values())

    @property
    def device_seconds(self) -> float:
        """Time that devices spent on units."""
        return self.stages.device

    @property
    def span(self) -> float:
        """Seconds from the first unit's start to the last one's end, without starting Ray and torch."""
        return self.ended - self.began if self.summaries else 0.0

    def fail(self, outage: str) -> None:
        """Record the first outage."""
        if self.stop is None or self.stop.reason is not StopReason.OUTAGE:
            self.stop = Stop(StopReason.OUTAGE, outage)

    def add(self, outcome: UnitOutcome) -> None:
        """Add a committed unit."""
        self.summaries[outcome.unit] = outcome.summary
        self.pairs += len(outcome.losses)
        self.unpaired += outcome.unpaired
        self.photos_read += outcome.photos_read
        self.bytes_read += outcome.bytes_read
        self.bytes_written += outcome.bytes_written
        self.stages = self.stages.plus(outcome.stages)
        self.idle_seconds += outcome.idle_seconds
        self.reasons.update(photo.reason for photo in outcome.bad)
        self.given_up += any(photo.reason == DIED for photo in outcome.bad)
        self.bad += outcome.bad[: max(0, _SHOWN - len(self.bad))]
        self.began, self.ended = min(self.began, outcome.began), max(self.ended, outcome.ended)
        if outcome.actor:
            begun, ended = self.at_work.get(outcome.actor, (math.inf, -math.inf))
            self.at_work[outcome.actor] = min(begun, outcome.began), max(ended, outcome.ended)


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """The largest number of spans of time that have a moment in common; one may begin as another ends."""
    moments = sorted(moment for began, ended in spans for moment in ((began, 1), (ended, -1)))
    return max(accumulate(change for _, change in moments), default=0)


def _make(
    plan: Plan, store: Store, recipe: Recipe, model: ModelFiles | None, budget: Budget, made: _Made
) -> None:
    """Make what is pending, with progress, until the budget is spent; `made.stop` says if it was.

    If workers crash at more units than bad photos may explain, that is an outage.
    """
    from batch_nst.pipelines.cluster import connect
    from batch_nst.pipelines.cluster.crash_counter import CrashCounter
    from batch_nst.pipelines.cluster.metrics import Metrics
    from batch_nst.pipelines.cluster.stop import defer_sigterm
    from batch_nst.pipelines.cluster.stop_flag import StopFlag
    from batch_nst.pipelines.generate.actors import stylize_units
    from batch_nst.pipelines.generate.warm_start import check_start

    connect.connect()
    connect.check_output_is_shared(store)
    workers = connect.choose_workers(recipe.generate.device, budget.wait_minutes)
    made.device = workers.device
    style, flag = plan.style, StopFlag(budget)
    model, made.warm_start = check_start(model, plan, store, style, recipe, workers)
    log(f"optimising on {workers.device} by {workers.in_words(recipe.generate.actors)}")
    metrics = Metrics(store.uri, plan.to_do, recipe.generate.iterations)
    outcomes = stylize_units(
        plan.chunks(),
        partial(split_of, holdout=plan.settings["holdout"]),
        store,
        style,
        recipe,
        workers,
        model,
        flag,
        CrashCounter(),
    )
    deferred = defer_sigterm(flag.set, connect.LOSSES, connect.is_alive)
    with deferred, closing(with_progress(outcomes, plan.to_do - plan.unpaired, plan.unpaired)) as shown:
        for outcome in shown:
            if outcome.refused:
                raise StorageError(outcome.refused)  # further work would be lost
            if outcome.outage:
                made.fail(outcome.outage)
            if not outcome.pending:
                made.add(outcome)
            metrics.add(outcome, made.devices, made.device_seconds, made.idle_seconds)
            if outcome.pending:
                continue
            if stop := _stop_reason(made, recipe.generate.max_rejected, budget):
                flag.set(stop)
    made.stop = made.stop or budget.stop_reason(made.device_seconds)


def with_progress(outcomes: Iterable[UnitOutcome], images: int, unpaired: int) -> Generator[UnitOutcome]:
    """The outcomes, with progress: of so many images, and then of so many photos that stay without pairs."""
    rest, next_kind = iter(outcomes), list[UnitOutcome]()
    if images or not unpaired:
        with progress_bar("generate", images, "images") as progress:
            for outcome in rest:
                if outcome.unit.endswith(UNPAIRED):
                    next_kind.append(outcome)
                    break
                yield outcome
                _advance(progress, outcome)
    if unpaired or next_kind:
        with progress_bar("keep", unpaired, "photos") as progress:
            for outcome in chain(next_kind, rest):
                yield outcome
                _advance(progress, outcome)


def _advance(progress: ProgressBar, outcome: UnitOutcome) -> None:
    if outcome.pending:
        return
    losses = outcome.losses
    note = "" if outcome.unpaired else "no image was good"
    note = f"loss {sum(losses) / len(losses):,.0f}" if losses else note
    progress.advance(len(losses) + outcome.unpaired + len(outcome.bad), note)


def _stop_reason(made: _Made, max_rejected: float, budget: Budget) -> Stop | None:
    """Why no further unit may start after what was made: the machines fail, or the budget is spent."""
    died = made.reasons[DIED]
    if made.given_up >= _SUSPICIOUS and died > max_rejected * made.tried:
        units, tried = made.given_up, made.tried
        made.fail(f"workers died again and again at {units} units, {died} of {tried} images")
        return made.stop
    return budget.stop_reason(made.device_seconds)


def _figures(
    counts: dict[str, int], passed_over: Passed, snapshot: Snapshot, made: _Made, seconds: float
) -> GenerateFigures:
    pending, stop = snapshot.counts["pending"], made.stop
    limited = stop and stop.reason is not StopReason.OUTAGE
    waits = stop and stop.reason is StopReason.TRAINING
    return GenerateFigures(
        photos=counts["photos"],
        found=counts["found"],
        passed_over=dict(passed_over),
        ok=snapshot.counts["ok"],
        held_out=snapshot.counts["held_out"],
        unpaired=snapshot.counts["unpaired"],
        rejected=snapshot.counts["rejected"],
        failed=snapshot.counts["failed"],
        forgotten=snapshot.counts["forgotten"],
        filtered=snapshot.counts["filtered"],
        pending=pending,
        gone=snapshot.counts["gone"],
        tried=made.tried,
        made=made.pairs,
        kept=made.unpaired,
        photos_read=made.photos_read,
        bytes_read=made.bytes_read,
        bytes_written=made.bytes_written,
        device=made.device,
        devices=made.devices,
        warm_start=made.warm_start,
        span_seconds=round(made.span, 3),
        device_seconds=round(made.device_seconds, 3),
        stage_seconds=StageSeconds(**{name: round(value, 3) for name, value in asdict(made.stages).items()}),
        idle_seconds=round(made.idle_seconds, 3),
        reasons=dict(made.reasons),
        snapshot=snapshot.number,
        digest=snapshot.digest,
        quality=as_json(filter_counts(snapshot.quality)),
        stopped=str(stop) if limited and (pending or waits) else None,
        seconds=round(seconds, 1),
    )


def _judge(
    figures: GenerateFigures,
    snapshot: Snapshot,
    made: _Made,
    recipe: Recipe,
    store: Store,
    min_done: float | None,
) -> None:
    """Log what is wrong with the dataset.

    Raises:
        IncompleteError: see `generate`.
    """
    if figures.filtered:
        log(describe_filter(snapshot.quality))
    fault = too_few(snapshot.counts, figures.found, recipe.generate.max_rejected)
    if fault:
        _log_bad(bad_photos(store, snapshot), figures.rejected + figures.failed)
    else:
        _log_bad(made.bad, made.reasons.total())
    if figures.pending:
        message = f"{figures.pending} images are pending{f': {made.stop}' if made.stop else ''}"
        if min_done is None or not figures.stopped:
            raise IncompleteError(f"{message}; run the same command again", as_json(figures))
        if snapshot.done < min_done:
            message += f"; {snapshot.done:.1%} are done, train.min_done asks for {min_done:.1%}"
            raise IncompleteError(f"{message}; run the same command again", as_json(figures))
        warn(f"{message}; continuing with what is done; the next start makes the rest")
    if fault:
        raise IncompleteError(fault, as_json(figures))


def too_few(counts: Mapping[str, int], found: int, max_rejected: float) -> str:
    """Why a snapshot with these counts, of so many images, is no success; "" if it is one."""
    rejected, failed = counts["rejected"], counts["failed"]
    bad = rejected + failed
    happened = {(True, False): "were rejected", (False, True): "failed"}.get(
        (rejected > 0, failed > 0), "were rejected or failed"
    )
    told = f"{bad} of {found} images {happened} ({bad / max(1, found):.1%})"
    more = "; --retry tries failed images once more" if failed else ""
    if bad > max_rejected * found:
        return f"{told}; generate.max_rejected allows {max_rejected:.1%}{more}"
    if bad and not any(counts[each] for each in ("ok", "held_out", "filtered", "forgotten", "pending")):
        return f"{told}; there is no pair{more}"
    return ""


def _log_bad(photos: Iterable[BadPhoto], count: int) -> None:
    """List the first of `count` photos that have no pair."""
    for photo in islice(photos, _SHOWN):
        warn(f"{photo.status}: {photo.uri}: {photo.reason}: {photo.detail} (unit {photo.unit})")
    if count > _SHOWN:
        warn(f"... and {count - _SHOWN:,} more; `batch-nst inspect` lists them")
