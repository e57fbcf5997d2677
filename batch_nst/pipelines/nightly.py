"""The command `nightly`: generate, train, evaluate, export, and publish what is better."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from batch_nst.console import log
from batch_nst.data.dataset.plan import Plan, survey
from batch_nst.data.dataset.snapshot import is_sealed, latest_snapshot
from batch_nst.data.models import registry
from batch_nst.data.models.gate import decided
from batch_nst.data.models.registry import model_object, training_version
from batch_nst.data.storage.store import Store
from batch_nst.errors import BatchNSTError, GateError, Stopped, WeightsError, reason_of
from batch_nst.figures import as_json
from batch_nst.pipelines.cluster.stop import Budget
from batch_nst.pipelines.commands import Run, RunSummary, run_command, write_report
from batch_nst.recipe import Recipe

_STEPS = ("pairs", "training", "graph", "scoring", "publishing")
"""Of a night, in their order."""


def nightly(
    recipe: Recipe,
    wait: bool = False,
    retry: bool = False,
    max_device_hours: float = math.inf,
    deadline: datetime | None = None,
) -> RunSummary:
    """Generate, train, evaluate, export, and publish what is better than what is published.

    Where there is nothing to do, nothing is written, and neither torch nor Ray is imported. What a budget or
    a deadline leaves to the next night keeps none of the rest from being done, if `train.min_done` is.
    """
    from batch_nst.data.models.gate import UNREPORTED, publish
    from batch_nst.pipelines.export import export as write_graph
    from batch_nst.pipelines.generate.run import generate as make_pairs
    from batch_nst.pipelines.train.run import find_cut_off
    from batch_nst.pipelines.train.run import train as fit_model

    def night(run: Run) -> dict[str, Any]:
        try:
            return steps(run)
        except (GateError, Stopped):  # the one has its report; the other is no end: the next start goes on
            raise
        except Exception as error:
            run.took(_STEPS[len(run.step_seconds)])
            _tell_failure(recipe, run, error)
            raise

    def steps(run: Run) -> dict[str, Any]:
        finished, surveyed = find_finished(recipe, run.store, retry)
        if finished:
            run.leaves_figures = False
            return finished
        from batch_nst.pipelines.cost.requests import Traffic
        from batch_nst.pipelines.cost.workload import workload_of
        from batch_nst.pipelines.evaluate.run import evaluate as score
        from batch_nst.pipelines.evaluate.run import outline
        from batch_nst.pipelines.reports.earlier import cost_of

        surveyed = surveyed or survey(recipe, run.store, retry)
        # Were more sealed each night, a training that deadlines cut off would never come to its end.
        cut_off = find_cut_off(recipe, run.store) if deadline and surveyed.to_do else None
        traffic = Traffic() if cut_off else workload_of(surveyed, run.store, recipe).traffic
        budget, least = Budget(max_device_hours, deadline), recipe.train.min_done
        made = make_pairs(recipe, run.store, run.lease, retry, budget, surveyed, least, cut_off)
        run.took("pairs")
        figures: dict[str, Any] = {"dataset": made}
        run.figures = figures
        figures |= fit_model(recipe, run.store)
        run.took("training")
        figures |= write_graph(recipe, run.store)
        run.took("graph")
        evaluation, triples = score(recipe, run.store)
        figures |= outline(evaluation)
        run.took("scoring")
        run.lease.check()
        owed = model_object(figures["version"], UNREPORTED)
        run.store.replace(owed, f"{run.name}\n".encode())
        refusal = None
        try:
            figures |= publish(figures["version"], recipe.publish, run.store, run.lease.token)
        except GateError as error:
            refusal = error
            figures |= as_json(error.figures)
        figures["cost"] = cost_of(made, traffic, run.step_seconds, recipe.train.worker_range[1])
        figures["report"] = write_report(recipe, run, evaluation, triples, figures)
        run.store.delete(owed)
        if refusal:
            raise refusal
        return figures

    return run_command("nightly", recipe.output, wait, night)


def _tell_failure(recipe: Recipe, run: Run, error: Exception) -> None:
    """Leave a page of a night that failed. Where that fails as well, what the night failed of is told."""
    from batch_nst.pipelines.reports.gather import failure_page

    figures = as_json(run.figures) | as_json(getattr(error, "figures", None) or {})
    try:
        page = failure_page(recipe, run.store, reason_of(error), figures, run.step_seconds, run.about)
        run.figures = as_json(run.figures) | {"report": run.write("report.html", page.encode())}
    except BatchNSTError as trouble:
        log(f"warning: no page tells of this night: {trouble}")


def find_finished(
    recipe: Recipe, store: Store, retry: bool = False
) -> tuple[dict[str, Any] | None, Plan | None]:
    """What the last night came to, if another one would do nothing; and the survey, if one was made.

    The model is looked at first, as that takes a few requests, and the input may take many.

    Returns:
        Figures, of the shape of a night's, or None: images are to be made or sealed, there are more rejected
        ones than `generate.max_rejected` allows, or the model of this recipe and the latest snapshot is not
        finished, not decided on, or damaged.

    Raises:
        RecipeError: as `survey` does.
        WeightsError: the published model is another one, and damaged.
        AuditError: as `seal` does.
    """
    snapshot = latest_snapshot(store)
    decision = decided(training_version(recipe, snapshot), recipe.publish, store) if snapshot else None
    if not snapshot or not decision or not _is_whole(store, decision["version"]):
        return None, None
    published = registry.current(store)
    if published and published["version"] != decision["version"]:  # which no night can mend
        registry.check_parts(store, published["version"], registry.require_card(store, published["version"]))
    plan = survey(recipe, store, retry)
    too_many = snapshot.counts["rejected"] / max(1, plan.found) > recipe.generate.max_rejected
    if plan.to_do or too_many or not is_sealed(store, snapshot, plan.in_input, recipe.quality):
        return None, plan
    told = f"published {decision['version']}" if decision["published"] else decision["refused"]["why"]
    log(f"nothing new: {plan.found:,} images, all in snapshot {snapshot.number}; {told}")
    dataset = {
        "photos": plan.counts().photos,
        "found": plan.found,
        **snapshot.counts,
        "made": 0,
        "snapshot": snapshot.number,
        "digest": snapshot.digest,
    }
    return {"nothing_new": True, "dataset": dataset, **decision}, plan


def _is_whole(store: Store, version: str) -> bool:
    """Whether weights and graph are what `model.json` means: two reads of some 7 MB."""
    try:
        registry.check_parts(store, version, registry.require_card(store, version))
    except WeightsError as error:
        log(f"not finished: {error}")
        return False
    return True
