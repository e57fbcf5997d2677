"""The commands: each takes the lease, runs its steps, and writes its figures to `runs/<run-id>/`."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Required, TypedDict, cast

from batch_nst.console import log, warn
from batch_nst.data.dataset.manifest import SETTINGS, as_started, check_recipe, require_settings
from batch_nst.data.images.style import read_style
from batch_nst.data.sources.listing import check_there
from batch_nst.data.storage.fetch import is_remote
from batch_nst.data.storage.lease import Lease, acquire
from batch_nst.data.storage.store import Store
from batch_nst.data.vgg_weights import check_format
from batch_nst.errors import BatchNSTError, IncompleteError, RecipeError, Stopped, reason_of
from batch_nst.figures import JsonObject, as_json, inlined
from batch_nst.pipelines.cluster.stop import WAIT_MINUTES, Budget
from batch_nst.recipe import Recipe

if TYPE_CHECKING:
    from batch_nst.data.dataset.plan import Plan, PlanCounts
    from batch_nst.pipelines.cost.estimate import Estimate
    from batch_nst.pipelines.cost.steps import StepCosts, StepRates, Work
    from batch_nst.pipelines.cost.unit_costs import UnitCosts
    from batch_nst.pipelines.reports.night import Night, ScoredModel

_JOB_COPY = "/runtime_resources/working_dir_files/"
"""Part of the path where `ray job submit --working-dir` unpacks its files."""


class RunSummary(TypedDict, total=False):
    """What a command with a lease returns, and `summary.json` holds: the figures of its step, and these."""

    run: str
    """Name of its folder in `runs`; absent if it wrote nothing there."""
    output: Required[str]
    seconds: Required[float]
    error: str


@dataclass(frozen=True)
class PlanFigures:
    """What `nightly` would do, and what that would cost."""

    steps: StepCosts
    """What each step costs."""
    refused: list[str]
    """What `train` or `nightly` would refuse."""
    counts: PlanCounts = inlined()
    costs: Estimate = inlined()
    """What the pairs cost."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Files below the input that are no photos, by suffix or reason."""


def plan(recipe: Recipe, calibrate: bool = False, price_per_device_hour: float | None = None) -> PlanFigures:
    """Estimate what `nightly` would do, and what that would cost. Writes nothing.

    Args:
        recipe: the recipe.
        calibrate: measure costs on the real device with a few photos, instead of using those of the last run.
        price_per_device_hour: in any currency; adds a price.

    Raises:
        IncompleteError: `train` or `nightly` would refuse what this run makes.
    """
    from batch_nst.data.dataset.plan import survey
    from batch_nst.pipelines.cost.estimate import UNKNOWN, estimate, estimate_lines
    from batch_nst.pipelines.cost.steps import StepCost, step_costs, step_lines
    from batch_nst.pipelines.cost.workload import refusals, remaining_split, remaining_steps, workload_of

    store = Store(recipe.output)
    recipe = as_started(recipe, store)
    planned = survey(recipe, store)
    split = remaining_split(planned, store, recipe)
    steps = remaining_steps(planned, store, recipe, split)
    rates, step_rates = _rates(planned, steps, recipe, store, calibrate)
    if rates:
        planned = planned.beginning_on(rates.device)
    costs = estimate(workload_of(planned, store, recipe), rates, price_per_device_hour)
    each = step_costs(
        steps,
        step_rates,
        StepCost(costs.device_hours, costs.hours, costs.price),
        scorers=costs.devices or 1,
        trainers=recipe.train.worker_range[1],
        price=price_per_device_hour,
    )
    passed_over = dict(planned.passed_over)
    figures = PlanFigures(each, refusals(recipe, split), planned.counts(), costs, passed_over)
    for line in [*estimate_lines(asdict(figures.counts), costs), *step_lines(each, UNKNOWN)]:
        log(line)
    if figures.refused:
        raise IncompleteError("; ".join(figures.refused), figures)
    return figures


def _rates(
    plan: Plan, steps: Work, recipe: Recipe, store: Store, calibrate: bool
) -> tuple[UnitCosts | None, StepRates | None]:
    """Costs from a trial if requested, else from the last runs. With nothing to do, neither torch nor Ray."""
    from batch_nst.pipelines.cost.steps import last_step_rates
    from batch_nst.pipelines.cost.unit_costs import last_unit_costs

    if not calibrate:
        return last_unit_costs(store) if plan.to_do else None, last_step_rates(store)
    if not plan.to_do and not any(asdict(steps).values()):
        return None, None
    from batch_nst.pipelines.cost.calibrate import calibrate as measure
    from batch_nst.pipelines.generate.run import check_weights

    check_weights(recipe)
    return measure(plan, store, recipe)


def generate(
    recipe: Recipe,
    wait: bool = False,
    retry: bool = False,
    max_device_hours: float = math.inf,
    deadline: datetime | None = None,
    wait_minutes: float = WAIT_MINUTES,
) -> RunSummary:
    """Make or continue the dataset of pairs, and seal it."""
    from batch_nst.pipelines.generate.run import generate as step

    budget = Budget(max_device_hours, deadline, wait_minutes)
    check_files(recipe)
    check_input(recipe)
    return run_command(
        "generate",
        recipe.output,
        wait,
        lambda run: step(as_started(recipe, run.store), run.store, run.lease, retry, budget),
    )


def check_files(recipe: Recipe) -> None:
    """Refuse a recipe whose files are none, before a lease is taken; weights elsewhere are read later.

    Raises:
        RecipeError: the style image or the weights cannot be read, or are something else.
    """
    read_style(recipe.style)
    if not is_remote(recipe.vgg.weights):
        check_format(recipe.vgg)


def check_input(recipe: Recipe) -> None:
    """Refuse an input that is not on this disk, before anything is written; of a list, that is a row's fault.

    Where there is a dataset, its photos have gone since, and the run that finds them so has a report.
    """
    if isinstance(recipe.generate.input, str):
        try:
            check_there(recipe.generate.input)
        except RecipeError:
            if not Store(recipe.output).exists(SETTINGS):
                raise


def train(recipe: Recipe, wait: bool = False, wait_minutes: float = WAIT_MINUTES) -> RunSummary:
    """Train the fast model on the sealed pairs, or resume its training."""
    from batch_nst.pipelines.train.run import train as step

    return _run_on_dataset("train", recipe, wait, lambda recipe, run: step(recipe, run.store, wait_minutes))


def evaluate(recipe: Recipe, wait: bool = False, wait_minutes: float = WAIT_MINUTES) -> RunSummary:
    """Score the model on held-out photos, and write the report."""

    def step(recipe: Recipe, run: Run) -> object:
        from batch_nst.pipelines.evaluate.run import evaluate as score
        from batch_nst.pipelines.evaluate.run import figures_of

        scored = score(recipe, run.store, wait_minutes)
        return replace(figures_of(scored), report=write_report(recipe, run, scored))

    return _run_on_dataset("evaluate", recipe, wait, step)


def export(
    recipe: Recipe, wait: bool = False, page: str | None = None, runtime: str | None = None
) -> RunSummary:
    """Write the ONNX graph of the model; and, by the onnxruntime-web in `runtime`, a page into `page`."""
    from batch_nst.pipelines.export import export as step

    place = None
    if page is not None or runtime is not None:
        from batch_nst.pipelines.reports.painter import page_place

        place = page_place(page, runtime)
    return _run_on_dataset("export", recipe, wait, lambda recipe, run: step(recipe, run.store, place))


def _run_on_dataset(
    command: str, recipe: Recipe, wait: bool, step: Callable[[Recipe, Run], object]
) -> RunSummary:
    """Run a step that needs a dataset of this recipe; an output without one is refused before the lease."""
    if wait:  # the run that is waited for may make it
        check_files(recipe)
    else:
        store = Store(recipe.output)
        recipe = as_started(recipe, store)
        check_recipe(recipe, store)
    return run_command(command, recipe.output, wait, lambda run: step(as_started(recipe, run.store), run))


class Run:
    """A running command: its output, its lease, and the folder for its figures."""

    def __init__(self, command: str, store: Store, lease: Lease) -> None:
        """Start the clock; `lease` is held."""
        self.store, self.lease, self.command = store, lease, command
        self.leaves_figures = True
        self.figures: object = {}  # of the finished steps of `nightly`
        self.step_seconds: dict[str, float] = {}
        self.started, self._clock = datetime.now(UTC), time.monotonic()
        self.name = f"{self.started:%Y%m%dT%H%M%SZ}-{lease.token:06}-{command}"

    @property
    def seconds(self) -> float:
        """Seconds since the run started."""
        return round(time.monotonic() - self._clock, 1)

    def took(self, step: str) -> None:
        """Note the duration of a step that has ended; it started when the previous one ended."""
        self.step_seconds[step] = round(self.seconds - sum(self.step_seconds.values()), 1)

    @property
    def about(self) -> RunSummary:
        """What every run reports, however it ends."""
        about = RunSummary(output=self.store.uri, seconds=self.seconds)
        return {"run": self.name, **about} if self.leaves_figures else about

    def write(self, name: str, data: bytes) -> str:
        """Write a file into the folder of the run; returns its URI."""
        self.store.replace(f"runs/{self.name}/{name}", data)
        return self.store.join(f"runs/{self.name}/{name}")


def forget(output: str, ids: Sequence[str], wait: bool = False) -> RunSummary:
    """Permanently remove all pairs of photos, and list the models that saw them."""
    from batch_nst.pipelines.forget import check_ids
    from batch_nst.pipelines.forget import forget as step

    check_ids(Store(output), ids)  # what is wrong leaves no run and no lease
    return run_command("forget", output, wait, lambda run: step(run.store, run.lease, ids))


def rollback(output: str, to: str | None = None, wait: bool = False) -> RunSummary:
    """Publish the previously published version again, or version `to`."""
    from batch_nst.pipelines.models import rollback as step
    from batch_nst.pipelines.models import to_publish

    require_settings(Store(output))
    if not wait:  # with --wait, the run that is waited for may make the model
        to_publish(Store(output), to)
    return run_command("rollback", output, wait, lambda run: step(run.store, run.lease, to))


def prune(output: str, keep: int, yes: bool = False, wait: bool = False) -> RunSummary | JsonObject:
    """Delete old models. Without `yes`, only list them, without a lease."""
    from batch_nst.pipelines.models import prune as step

    require_settings(Store(output))
    if not yes:
        return as_json(step(Store(output), keep))
    return run_command("prune", output, wait, lambda run: step(run.store, keep, run.lease))


def run_command(command: str, output: str, wait: bool, step: Callable[[Run], object]) -> RunSummary:
    """Run a step under the lease, and write `summary.json` however it ends.

    `step` returns its figures, a dataclass or a mapping. Nothing is written where the lease was refused.
    """
    store = Store(output)
    if _JOB_COPY in store.uri:
        warn(
            f"warning: output {store.uri} lies in this job's own copy of the working directory, which Ray "
            "deletes; pass output= as a URI or an absolute path"
        )
    with acquire(store, command, wait=wait) as lease:
        run = Run(command, store, lease)
        figures = as_json({})
        try:
            figures = as_json(step(run))
        except (BatchNSTError, Stopped) as error:
            figures = as_json(run.figures) | as_json(error.figures or {}) | {"error": str(error)}
            error.figures = figures  # `finally` adds the figures of every run
            raise
        except Exception as bug:
            figures = as_json(run.figures) | {"error": reason_of(bug)}
            raise
        finally:
            figures |= as_json(run.about)  # replaces a step's own `seconds`
            if run.leaves_figures:
                summary = {"command": command, "started": f"{run.started:%Y-%m-%dT%H:%M:%SZ}", **figures}
                run.write("summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        return cast(RunSummary, figures)


def write_report(recipe: Recipe, run: Run, scored: ScoredModel, night: Night | None = None) -> str:
    """Write the report of a scored model, or of a run of `nightly` with its figures; returns its URI."""
    from batch_nst.pipelines.reports.blind import blind_page
    from batch_nst.pipelines.reports.gather import report_of

    about = {"command": run.command, "run": run.name, "seconds": run.seconds, "machine": platform.platform()}
    page = report_of(recipe, run.store, scored, about, night)
    if blind := blind_page(scored.triples, scored.version):
        run.write("blind.html", blind.encode())
    report = run.write("report.html", page.encode())
    log(f"report: {report}")
    return report
