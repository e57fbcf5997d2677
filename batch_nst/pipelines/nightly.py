"""The command `nightly`: generate, train, evaluate, export, and publish what is better."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from batch_nst.console import log, warn
from batch_nst.data.dataset.manifest import as_started
from batch_nst.data.dataset.plan import Plan, survey
from batch_nst.data.dataset.snapshot import is_sealed, latest_snapshot
from batch_nst.data.models import registry
from batch_nst.data.models.gate import UNREPORTED, Published, Refused, decided, publish
from batch_nst.data.models.registry import model_object, training_version
from batch_nst.data.storage.store import Store
from batch_nst.errors import BatchNSTError, GateError, Stopped, WeightsError, reason_of
from batch_nst.figures import inlined, omitted
from batch_nst.pipelines.cluster.stop import WAIT_MINUTES, Budget
from batch_nst.pipelines.commands import Run, RunSummary, check_files, check_input, run_command, write_report
from batch_nst.pipelines.generate.run import too_few
from batch_nst.recipe import Recipe

if TYPE_CHECKING:
    from batch_nst.pipelines.cost.requests import Traffic
    from batch_nst.pipelines.evaluate.scores import EvaluateFigures
    from batch_nst.pipelines.export import ExportFigures
    from batch_nst.pipelines.generate.run import GenerateFigures
    from batch_nst.pipelines.reports.night import Cost, Night, ScoredModel
    from batch_nst.pipelines.train.run import TrainFigures

_STEPS = ("pairs", "training", "graph", "scoring", "publishing")
"""Steps of the command, in order."""


@dataclass(frozen=True)
class NightFigures:
    """Figures of the command `nightly`: of the steps that have ended so far."""

    dataset: GenerateFigures | None = omitted()
    training: TrainFigures | None = inlined(optional=True)
    graph: ExportFigures | None = inlined(optional=True)
    scores: EvaluateFigures | None = inlined(optional=True)
    gate: object = inlined(optional=True)
    """Figures of the gate, which publishes or refuses."""
    cost: Cost | None = omitted()
    report: str | None = omitted()
    """URI of the report."""


@dataclass(frozen=True, kw_only=True)
class FinishedDataset:
    """The dataset of a run with nothing to do."""

    photos: int
    found: int
    """Number of images in the input."""
    counts: dict[str, int] = inlined()
    """Number of images by outcome, as in the snapshot."""
    made: int
    snapshot: int
    digest: str


@dataclass(frozen=True)
class FinishedFigures:
    """Figures of a run with nothing to do: the result of the last one."""

    nothing_new: bool
    dataset: FinishedDataset
    decision: Published | Refused = inlined()


def nightly(
    recipe: Recipe,
    wait: bool = False,
    retry: bool = False,
    max_device_hours: float = math.inf,
    deadline: datetime | None = None,
    wait_minutes: float = WAIT_MINUTES,
) -> RunSummary:
    """Generate, train, evaluate, export, and publish the model if it beats the published one.

    If nothing is to be done, nothing is written, and neither torch nor Ray is imported. If a budget or a
    deadline leaves images pending, the other steps still run as soon as `train.min_done` of them are done.
    """
    budget = Budget(max_device_hours, deadline, wait_minutes)
    check_files(recipe)
    check_input(recipe)

    def night(recipe: Recipe, run: Run) -> object:
        finished, plan = find_finished(recipe, run.store, retry)
        if finished:
            run.leaves_figures = False
            return finished
        from batch_nst.pipelines.reports.gather import cost_of
        from batch_nst.pipelines.reports.night import Night

        plan = plan or survey(recipe, run.store, retry)
        made, traffic = _make_pairs(recipe, run, budget, plan, retry)
        figures, scored = _make_model(recipe, run, NightFigures(made), wait_minutes)
        cost = cost_of(made, traffic, run.step_seconds, recipe.train.worker_range[1])
        return _meet_gate(recipe, run, figures, scored, Night(made, None, cost))

    def reported(run: Run) -> object:
        meant = recipe
        try:
            meant = as_started(recipe, run.store)
            return night(meant, run)
        except (GateError, Stopped):  # the first has its report; after the second, the next start continues
            raise
        except Exception as error:
            run.took(_STEPS[len(run.step_seconds)])
            _report_failure(meant, run, error)
            raise

    return run_command("nightly", recipe.output, wait, reported)


def _make_pairs(
    recipe: Recipe, run: Run, budget: Budget, plan: Plan, retry: bool
) -> tuple[GenerateFigures, Traffic]:
    """Make pairs; returns their figures, and what decides the number of requests."""
    from batch_nst.pipelines.cost.requests import Traffic
    from batch_nst.pipelines.cost.workload import workload_of
    from batch_nst.pipelines.generate.run import generate, settle_units
    from batch_nst.pipelines.train.run import find_cut_off

    # If every run sealed new pairs, a training that deadlines cut off would never finish.
    cut_off = find_cut_off(recipe, run.store) if budget.deadline and plan.to_do else None
    plan = plan if cut_off else settle_units(plan, recipe)
    traffic = Traffic() if cut_off else workload_of(plan, run.store, recipe).traffic
    least = recipe.train.min_done
    made = generate(recipe, run.store, run.lease, retry, budget, plan, least, cut_off)
    _ended(run, "pairs", NightFigures(made))
    return made, traffic


def _make_model(
    recipe: Recipe, run: Run, figures: NightFigures, wait_minutes: float
) -> tuple[NightFigures, ScoredModel]:
    """Train, export and evaluate."""
    from batch_nst.pipelines.evaluate.run import evaluate, figures_of
    from batch_nst.pipelines.export import export
    from batch_nst.pipelines.train.run import train

    training = train(recipe, run.store, wait_minutes)
    figures = _ended(run, "training", replace(figures, training=training))
    figures = _ended(run, "graph", replace(figures, graph=export(recipe, run.store)))
    scored = evaluate(recipe, run.store, wait_minutes)
    return _ended(run, "scoring", replace(figures, scores=figures_of(scored))), scored


def _ended(run: Run, step: str, figures: NightFigures) -> NightFigures:
    """Note that a step has ended with these figures."""
    run.figures = figures
    run.took(step)
    return figures


def _meet_gate(
    recipe: Recipe, run: Run, figures: NightFigures, scored: ScoredModel, shown: Night
) -> NightFigures:
    """Publish or refuse the model, and write the report in both cases.

    Raises:
        GateError: the model is refused.
    """
    run.lease.check()
    owed = model_object(scored.version, UNREPORTED)
    run.store.replace(owed, f"{run.name}\n".encode())
    refusal: GateError | None = None
    try:
        figures = replace(figures, gate=publish(scored.version, recipe.publish, run.store, run.lease.token))
    except GateError as error:
        refusal, figures = error, replace(figures, gate=error.figures)
    run.figures = figures
    page = write_report(recipe, run, scored, replace(shown, gate=figures.gate))
    run.figures = figures = replace(figures, cost=shown.cost, report=page)
    run.store.delete(owed)
    if refusal:
        raise refusal
    return figures


def _report_failure(recipe: Recipe, run: Run, error: Exception) -> None:
    """Write the page of a run that failed; if that fails too, log it, and keep the first error."""
    from batch_nst.pipelines.reports.gather import failure_page

    figures = run.figures if isinstance(run.figures, NightFigures) else NightFigures()
    dataset = figures.dataset or getattr(error, "figures", None) or {}
    try:
        page = failure_page(recipe, run.store, reason_of(error), dataset, run.step_seconds, run.about)
        run.figures = replace(figures, report=run.write("report.html", page.encode()))
    except BatchNSTError as trouble:
        warn(f"warning: no report was written of this failure: {trouble}")


def find_finished(
    recipe: Recipe, store: Store, retry: bool = False
) -> tuple[FinishedFigures | None, Plan | None]:
    """The result of the last run, if another one would do nothing; and the survey, if one was made.

    The model is checked first: that takes few requests, and listing the input may take many.

    Returns:
        The figures are None if images are to be made or sealed, or if too few are good
        (`too_few`). They are also None if the model of this recipe and the latest snapshot
        is unfinished, damaged, or not judged by the gate.

    Raises:
        RecipeError: as `survey` does.
        WeightsError: another model is published, and it is damaged.
        AuditError: as `seal` does.
    """
    snapshot = latest_snapshot(store)
    if not snapshot:
        return None, None
    version = training_version(recipe, snapshot)
    decision = decided(version, recipe.publish, store)
    if not decision or not _is_whole(store, version):
        return None, None
    published = registry.current(store)
    if published and published["version"] != version:  # which no run repairs
        registry.check_parts(store, published["version"], registry.require_card(store, published["version"]))
    plan = survey(recipe, store, retry)
    fault = too_few(snapshot.counts, plan.found, recipe.generate.max_rejected)
    if plan.to_do or fault or not is_sealed(store, snapshot, plan.in_input, recipe.quality):
        return None, plan
    outcome = decision.refused["why"] if isinstance(decision, Refused) else f"published {version}"
    log(f"nothing new: {plan.found:,} images, all in snapshot {snapshot.number}; {outcome}")
    dataset = FinishedDataset(
        photos=plan.counts().photos,
        found=plan.found,
        counts=snapshot.counts,
        made=0,
        snapshot=snapshot.number,
        digest=snapshot.digest,
    )
    return FinishedFigures(True, dataset, decision), plan


def _is_whole(store: Store, version: str) -> bool:
    """Whether weights and graph have the digests of `model.json`; reads both, 3.5 and 7 MB."""
    try:
        registry.check_parts(store, version, registry.require_card(store, version))
    except WeightsError as error:
        warn(f"not finished: {error}")
        return False
    return True
