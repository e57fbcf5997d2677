"""The commands: each takes the lease, does its steps, and leaves its figures in `runs/<run-id>/`."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batch_nst.data.lease import Lease, acquire
from batch_nst.data.models import model_object
from batch_nst.data.settings import require_settings
from batch_nst.data.storage import Store
from batch_nst.errors import BatchNSTError, GateError, Stopped, reason_of
from batch_nst.pipelines.budget import Budget
from batch_nst.pipelines.progress import say
from batch_nst.recipe import Recipe

if TYPE_CHECKING:
    from batch_nst.pipelines.plan import Plan
    from batch_nst.pipelines.rates import Rates
    from batch_nst.pipelines.report import Triple

Figures = dict[str, Any]

_STEPS = ("pairs", "training", "graph", "scoring", "publishing")
"""Of a night, in their order."""
_JOB_COPY = "/runtime_resources/working_dir_files/"
"""In the path of what `ray job submit --working-dir` unpacks."""


def plan(recipe: Recipe, calibrate: bool = False, price_per_device_hour: float | None = None) -> Figures:
    """What `generate` would do, and what that would cost. Writes nothing.

    Args:
        recipe: the recipe.
        calibrate: measure rates on the real device, with a few photos; else they are the last run's.
        price_per_device_hour: in any currency; tells a price.
    """
    from batch_nst.pipelines.estimate import estimate, lines
    from batch_nst.pipelines.plan import survey
    from batch_nst.pipelines.work import work_of

    store = Store(recipe.output)
    planned = survey(recipe, store)
    work = work_of(planned, store, recipe)
    figures = estimate(work, _rates(planned, recipe, store, calibrate), price_per_device_hour)
    counts = planned.counts()
    for line in lines(counts, figures):
        say(line)
    return {**counts, **asdict(figures)}


def _rates(plan: Plan, recipe: Recipe, store: Store, calibrate: bool) -> Rates | None:
    """From a trial if asked for, else from the last run; nothing to do starts neither torch nor Ray."""
    from batch_nst.pipelines.rates import last_rates

    if not plan.to_do:
        return None
    if not calibrate:
        return last_rates(store)
    from batch_nst.pipelines.calibration import calibrate as measure
    from batch_nst.pipelines.generate import check_weights

    check_weights(recipe)
    return measure(plan, store, recipe)


def generate(
    recipe: Recipe,
    wait: bool = False,
    retry: bool = False,
    max_device_hours: float = math.inf,
    deadline: datetime | None = None,
) -> Figures:
    """Make or continue the dataset of pairs, and seal it."""
    from batch_nst.pipelines.generate import generate as step

    return _run(
        "generate",
        recipe.output,
        wait,
        lambda run: step(recipe, run.store, run.lease, retry, Budget(max_device_hours, deadline)),
    )


def train(recipe: Recipe, wait: bool = False) -> Figures:
    """Fit the fast model to the sealed pairs, or resume."""
    from batch_nst.pipelines.train import train as step

    _check_dataset(recipe, wait)
    return _run("train", recipe.output, wait, lambda run: step(recipe, run.store))


def evaluate(recipe: Recipe, wait: bool = False) -> Figures:
    """Score the model on held-out photos, and write the report."""
    _check_dataset(recipe, wait)
    from batch_nst.pipelines.evaluate import evaluate as score
    from batch_nst.pipelines.evaluate import outline

    def step(run: _Run) -> Figures:
        evaluation, triples = score(recipe, run.store)
        return {**outline(evaluation), "report": _report(recipe, run, evaluation, triples)}

    return _run("evaluate", recipe.output, wait, step)


def export(recipe: Recipe, wait: bool = False) -> Figures:
    """Write the ONNX graph of the model."""
    from batch_nst.pipelines.export import export as step

    _check_dataset(recipe, wait)
    return _run("export", recipe.output, wait, lambda run: step(recipe, run.store))


def nightly(
    recipe: Recipe,
    wait: bool = False,
    retry: bool = False,
    max_device_hours: float = math.inf,
    deadline: datetime | None = None,
) -> Figures:
    """Generate, train, evaluate, export, and publish what is better than what is published.

    Where there is nothing to do, nothing is written, and neither torch nor Ray is imported. What a budget or
    a deadline leaves to the next night keeps none of the rest from being done, if `train.min_done` is.
    """
    from batch_nst.pipelines.export import export as write_graph
    from batch_nst.pipelines.generate import generate as make_pairs
    from batch_nst.pipelines.nothing_new import find_finished
    from batch_nst.pipelines.plan import survey
    from batch_nst.pipelines.publish import UNREPORTED, publish
    from batch_nst.pipelines.train import find_cut_off
    from batch_nst.pipelines.train import train as fit_model

    def night(run: _Run) -> Figures:
        try:
            return steps(run)
        except (GateError, Stopped):  # the one has its report; the other is no end: the next start goes on
            raise
        except Exception as error:
            run.took(_STEPS[len(run.step_seconds)])
            _tell_failure(recipe, run, error)
            raise

    def steps(run: _Run) -> Figures:
        finished, surveyed = find_finished(recipe, run.store, retry)
        if finished:
            run.leaves_figures = False
            return finished
        from batch_nst.pipelines.evaluate import evaluate as score
        from batch_nst.pipelines.evaluate import outline
        from batch_nst.pipelines.night import cost_of
        from batch_nst.pipelines.store_requests import Traffic
        from batch_nst.pipelines.work import work_of

        surveyed = surveyed or survey(recipe, run.store, retry)
        # Were more sealed each night, a training that deadlines cut off would never come to its end.
        cut_off = find_cut_off(recipe, run.store) if deadline and surveyed.to_do else None
        traffic = Traffic() if cut_off else work_of(surveyed, run.store, recipe).traffic
        budget, least = Budget(max_device_hours, deadline), recipe.train.min_done
        made = make_pairs(recipe, run.store, run.lease, retry, budget, surveyed, least, cut_off)
        run.took("pairs")
        figures = run.figures
        figures["dataset"] = made
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
            figures |= error.figures
        figures["cost"] = cost_of(made, traffic, run.step_seconds, recipe.train.worker_range[1])
        figures["report"] = _report(recipe, run, evaluation, triples, figures)
        run.store.delete(owed)
        if refusal:
            raise refusal
        return figures

    return _run("nightly", recipe.output, wait, night)


def _check_dataset(recipe: Recipe, wait: bool) -> None:
    """Refuse an output without a dataset of this recipe before a lease is left there."""
    from batch_nst.pipelines.plan import check_recipe

    if not wait:  # who waits may wait for this
        check_recipe(recipe, Store(recipe.output))


class _Run:
    """A command under way: its output, its lease, and the folder that its figures go into."""

    def __init__(self, command: str, store: Store, lease: Lease) -> None:
        self.store, self.lease, self.command = store, lease, command
        self.leaves_figures = True
        self.figures: Figures = {}  # of the steps of a night that have ended
        self.step_seconds: dict[str, float] = {}
        self.started, self._clock = datetime.now(UTC), time.monotonic()
        self.name = f"{self.started:%Y%m%dT%H%M%SZ}-{lease.token:06}-{command}"

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._clock, 1)

    def took(self, step: str) -> None:
        """A step has ended, which began when the one before it ended."""
        self.step_seconds[step] = round(self.seconds - sum(self.step_seconds.values()), 1)

    @property
    def about(self) -> Figures:
        """What is told of it however it ends."""
        named = {"run": self.name} if self.leaves_figures else {}
        return {**named, "output": self.store.uri, "seconds": self.seconds}

    def write(self, name: str, data: bytes) -> str:
        self.store.replace(f"runs/{self.name}/{name}", data)
        return self.store.join(f"runs/{self.name}/{name}")


def forget(output: str, ids: Sequence[str], wait: bool = False) -> Figures:
    """Remove all pairs of photos for good, and say who has seen them."""
    from batch_nst.pipelines.deletion import forget as step

    require_settings(Store(output))  # before a lease is left where no dataset is
    return _run("forget", output, wait, lambda run: step(run.store, run.lease, ids))


def rollback(output: str, to: str | None = None, wait: bool = False) -> Figures:
    """Publish the version before the published one, or another one."""
    from batch_nst.pipelines.shelf import rollback as step

    require_settings(Store(output))
    return _run("rollback", output, wait, lambda run: step(run.store, run.lease, to))


def prune(output: str, keep: int, yes: bool = False, wait: bool = False) -> Figures:
    """Delete old models; without `yes` only tell which, which needs no lease."""
    from batch_nst.pipelines.shelf import prune as step

    require_settings(Store(output))
    if not yes:
        return step(Store(output), keep)
    return _run("prune", output, wait, lambda run: step(run.store, keep, run.lease))


def _run(command: str, output: str, wait: bool, step: Callable[[_Run], Figures]) -> Figures:
    """Take the lease, take the step, and leave `summary.json` however it ended, if there was one to take."""
    store = Store(output)
    if _JOB_COPY in store.uri:
        say(
            f"warning: output {store.uri} lies in this job's own copy of the working directory, which Ray "
            "deletes; give output= as a URI or an absolute path"
        )
    with acquire(store, command, wait=wait) as lease:
        run = _Run(command, store, lease)
        figures: Figures = {}
        try:
            figures = step(run)
        except (BatchNSTError, Stopped) as error:
            figures = {**run.figures, **error.figures, "error": str(error)}
            error.figures = figures | run.about
            raise
        except Exception as bug:
            figures = {**run.figures, "error": reason_of(bug)}
            raise
        finally:
            figures |= run.about  # a step's own `seconds` are no part of it
            if run.leaves_figures:
                summary = {"command": command, "started": f"{run.started:%Y-%m-%dT%H:%M:%SZ}", **figures}
                run.write("summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        return figures


def _tell_failure(recipe: Recipe, run: _Run, error: Exception) -> None:
    """Leave a page of a night that failed. Where that fails as well, what the night failed of is told."""
    from batch_nst.pipelines.journal import failure_page

    figures = {**run.figures, **getattr(error, "figures", {})}
    try:
        page = failure_page(recipe, run.store, reason_of(error), figures, run.step_seconds, run.about)
        run.figures["report"] = run.write("report.html", page.encode())
    except BatchNSTError as trouble:
        say(f"warning: no page tells of this night: {trouble}")


def _report(
    recipe: Recipe, run: _Run, evaluation: Figures, triples: Sequence[Triple], night: Figures | None = None
) -> str:
    """Write the report, of a night with its figures; where it is."""
    from batch_nst.pipelines.journal import report_of

    about = {"command": run.command, "run": run.name, "seconds": run.seconds, "machine": platform.platform()}
    page = report_of(recipe, run.store, evaluation, triples, about, night)
    report = run.write("report.html", page.encode())
    say(f"report: {report}")
    return report
