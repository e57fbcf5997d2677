"""The dataset of pairs: plan, make what is missing, seal."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from batch_nst.console import log, progress_bar
from batch_nst.data.dataset.card import write_card
from batch_nst.data.dataset.plan import Plan, survey
from batch_nst.data.dataset.quality import figures_of, told_of
from batch_nst.data.dataset.snapshot import Snapshot, bad_rows, seal
from batch_nst.data.images.style import read_style
from batch_nst.data.storage.lease import Lease
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError, StorageError
from batch_nst.pipelines.cluster.stop import UNLIMITED, Budget
from batch_nst.pipelines.generate.tasks import DIED
from batch_nst.recipe import Recipe

if TYPE_CHECKING:
    from batch_nst.pipelines.inference import ModelFiles

_SHOWN = 20

_SUSPICIOUS = 3
"""Units that ended their workers, before the machines are suspected and not the photos."""


def generate(
    recipe: Recipe,
    store: Store,
    lease: Lease,
    retry: bool = False,
    budget: Budget = UNLIMITED,
    plan: Plan | None = None,
    min_done: float | None = None,
    cut_off: Snapshot | None = None,
) -> dict[str, Any]:
    """Make or continue the dataset, and seal it. Nothing to do starts neither torch nor Ray.

    Args:
        recipe: the recipe.
        store: its output.
        lease: held on it.
        retry: try failed images once more.
        budget: when it is spent, no further unit begins.
        plan: of `survey`, where that has been made already.
        min_done: the fraction of the planned images that does where the budget leaves some; none: all of
            them are asked for.
        cut_off: the latest snapshot, whose training is to be ended first: nothing is made, nor sealed.

    Returns:
        Figures: counts by status; what this run tried and made, and what that took (`rates.rates_of` reads
        it); the snapshot; and why the budget or a training left images to be made, if it did (`stopped`).

    Raises:
        IncompleteError: images are pending after an outage, because workers died at one unit after the
            other, or at the end of the budget while less than `min_done` is done; or too many photos were
            rejected.
        StorageError: a disk is full, or units may not be written.
    """
    start = time.monotonic()
    plan = plan or survey(recipe, store, retry)
    counts = asdict(plan.counts())
    log(
        f"{counts['photos']:,} photos found, {counts['found']:,} images; {counts['done']:,} done, "
        f"{counts['to_do']:,} to do, {counts['gone']:,} gone"
    )
    made, model = _Made(), None
    if cut_off:
        spent = f"the training on snapshot {cut_off.number} was cut off and is ended first"
        log(f"{counts['to_do']:,} images wait for the next start: {spent}")
    else:
        if plan.to_do:
            check_weights(recipe)
            model = _find_start(plan, store, recipe)
        lease.check()
        plan = plan.write_down(store)
        spent = budget.spent()
        if plan.to_do and not spent:
            spent = _make(plan, store, recipe, model, budget, made)
    lease.check()
    snapshot = cut_off or seal(store, lease.token, plan.in_input, made.summaries, recipe.quality)
    write_card(store, snapshot, plan.settings, recipe.generate.license)
    if snapshot.counts["filtered"]:
        log(told_of(snapshot.quality))
    pending = snapshot.counts["pending"]
    stopped = spent if cut_off or (pending and not made.outage) else ""
    figures = {
        "photos": counts["photos"],
        "found": counts["found"],
        **snapshot.counts,
        **made.figures(),
        "snapshot": snapshot.number,
        "digest": snapshot.digest,
        "quality": figures_of(snapshot.quality),
        "stopped": stopped or None,
        "seconds": round(time.monotonic() - start, 1),
    }
    rejected = snapshot.counts["rejected"] / max(1, counts["found"])
    if rejected > recipe.generate.max_rejected:
        _say_bad(bad_rows(store, snapshot), snapshot.counts["rejected"] + snapshot.counts["failed"])
    else:
        _say_bad(made.bad, made.reasons.total())
    if pending:
        why = made.outage or spent
        told = f"{pending} images are pending{f': {why}' if why else ''}"
        if min_done is None or not stopped:
            raise IncompleteError(f"{told}; run the same command again", figures)
        if snapshot.done < min_done:
            told = f"{told}; {snapshot.done:.1%} are done, train.min_done asks for {min_done:.1%}"
            raise IncompleteError(f"{told}; run the same command again", figures)
        log(f"{told}; going on with what is done, the next start makes the rest")
    if rejected > recipe.generate.max_rejected:
        raise IncompleteError(
            f"{snapshot.counts['rejected']} of {counts['found']} images were rejected ({rejected:.1%}); "
            f"generate.max_rejected allows {recipe.generate.max_rejected:.1%}",
            figures,
        )
    return figures


def _say_bad(rows: Iterable[Mapping[str, str]], count: int) -> None:
    """List the first of so many photos of which there is no pair."""
    for row in islice(rows, _SHOWN):
        log(f"{row['status']}: {row['uri']}: {row['reason']}: {row['detail']} (unit {row['unit']})")
    if count > _SHOWN:
        log(f"... and {count - _SHOWN:,} more; `batch-nst inspect` lists them")


@dataclass
class _Made:
    """What a run has made so far; a few bytes of each unit, and of the first bad photos all."""

    device: str | None = None
    devices: int = 0
    warm_start: dict[str, Any] | None = None
    """What came of trying to start from a model, see `warm_start.check_start`."""
    summaries: dict[str, str] = field(default_factory=dict)
    """Of committed units, in JSON."""
    sums: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Of bad photos."""
    given_up: int = 0
    """Units that ended worker after worker."""
    bad: list[dict[str, str]] = field(default_factory=list)
    outage: str = ""
    began: float = math.inf
    ended: float = -math.inf

    def add(self, result: dict[str, Any]) -> None:
        """Take one of `stylize_units`' results."""
        if result.get("refused"):
            raise StorageError(result["refused"])  # what devices would make would be lost
        if result["outage"]:
            self.outage = self.outage or result["outage"]
            return
        losses, bad = len(result["losses"]), len(result["bad"])
        self.summaries[result["unit"]] = json.dumps(result["summary"])
        self.sums.update(tried=losses + bad, made=losses, device_seconds=result["seconds"])
        self.sums.update({name: result[name] for name in ("photos_read", "bytes_read", "bytes_written")})
        self.reasons.update(row["reason"] for row in result["bad"])
        self.given_up += any(row["reason"] == DIED for row in result["bad"])
        room = max(0, _SHOWN - len(self.bad))
        self.bad += [{**row, "unit": result["unit"]} for row in result["bad"][:room]]
        # Starting Ray and torch is not in this span.
        self.began, self.ended = min(self.began, result["began"]), max(self.ended, result["ended"])

    def figures(self) -> dict[str, Any]:
        """For the run's summary."""
        names = ("tried", "made", "photos_read", "bytes_read", "bytes_written")
        return {
            **{name: int(self.sums[name]) for name in names},
            "device": self.device,
            "devices": self.devices,
            "warm_start": self.warm_start,
            "span_seconds": round(self.ended - self.began, 3) if self.summaries else 0.0,
            "device_seconds": round(self.sums["device_seconds"], 3),
            "reasons": dict(self.reasons),
        }


def check_weights(recipe: Recipe) -> None:
    """Refuse a wrong file here, not in an actor, and before its digest is one of the dataset's settings."""
    from batch_nst.engine.perceptual_loss import PerceptualLoss
    from batch_nst.pipelines.objective import load_vgg

    load_vgg(recipe.vgg, PerceptualLoss.layers(recipe.loss))


def _find_start(plan: Plan, store: Store, recipe: Recipe) -> ModelFiles | None:
    """The model that images are to start from, if any; a wrong one is refused before anything is written."""
    from batch_nst.pipelines.generate.warm_start import find_start

    return find_start(recipe, plan.settings, store)


def _make(
    plan: Plan, store: Store, recipe: Recipe, model: ModelFiles | None, budget: Budget, made: _Made
) -> str:
    """Run what is pending, with progress, until the budget is spent; returns why it was, if so.

    Or until it turns out that workers die of more units than bad photos may explain: that is an outage.
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
    workers = connect.choose_workers(recipe.generate.device)
    made.device, made.devices = workers.device, workers.at_once(recipe.generate.actors)
    style, valve = read_style(recipe.style), StopFlag(budget)
    model, made.warm_start = check_start(model, plan, store, style, recipe, workers)
    log(f"optimising on {workers.device}, {workers.threads} threads an actor, up to {workers.most} actors")
    metrics = Metrics(plan.to_do, recipe.generate.iterations, made.devices)

    def close_in_time() -> None:
        died, tried = made.reasons[DIED], made.sums["tried"]
        if made.given_up >= _SUSPICIOUS and died > recipe.generate.max_rejected * tried:
            why = f"workers died again and again at {made.given_up} units, {died} of {tried} images"
            made.outage = made.outage or why
            valve.close(made.outage)
        elif why := budget.spent(made.sums["device_seconds"]):
            valve.close(why)

    with defer_sigterm(valve.close), progress_bar("generate", plan.to_do, "images") as progress:
        for result in stylize_units(
            plan.chunks(),
            plan.settings["holdout"],
            store,
            style,
            recipe,
            workers,
            model,
            valve,
            CrashCounter(),
        ):
            if budget.ends(result["outage"]):
                continue
            made.add(result)
            if not result["outage"]:
                metrics.add(result, made.sums["device_seconds"], made.ended - made.began)
                losses = result["losses"]
                note = f"loss {sum(losses) / len(losses):,.0f}" if losses else "no image was good"
                progress.advance(len(losses) + len(result["bad"]), note)
                close_in_time()
    return budget.spent(made.sums["device_seconds"])
