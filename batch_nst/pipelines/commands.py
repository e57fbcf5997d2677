"""The commands: each takes the lease, does its steps, and leaves its figures in `runs/<run-id>/`."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from batch_nst.data.lease import Lease, acquire
from batch_nst.data.storage import Store
from batch_nst.errors import BatchNSTError, GateError, Stopped
from batch_nst.pipelines.progress import say
from batch_nst.recipe import Recipe

Figures = dict[str, Any]

_JOB_COPY = "/runtime_resources/working_dir_files/"
"""In the path of what `ray job submit --working-dir` unpacks."""


def plan(recipe: Recipe) -> Figures:
    """What `generate` would do. Writes nothing."""
    from batch_nst.pipelines.plan import survey

    store = Store(recipe.output)
    counts = survey(recipe, store).counts()
    for name, value in counts.items():
        say(f"{name:>12} {value:,}")
    seconds = _seconds_per_image(store)
    hours = None if seconds is None else counts["to_do"] * seconds / 3600
    told = "not known before the first images are made" if hours is None else f"{hours:.2f}"
    say(f"{'device-hours':>12} {told}")
    return {**counts, "device_hours": hours}


def _seconds_per_image(store: Store) -> float | None:
    """Device seconds an image took in the last run here that made any; None before that."""
    for name in reversed(store.list("runs")):
        if name.endswith("/summary.json"):
            summary = json.loads(store.read(name))
            figures = summary.get("dataset", summary)
            if figures.get("made"):
                return float(figures["device_seconds"] / figures["made"])
    return None


def generate(recipe: Recipe, wait: bool = False, retry: bool = False) -> Figures:
    """Make or continue the dataset of pairs, and seal it."""
    from batch_nst.pipelines.generate import generate as step

    return _run("generate", recipe, wait, lambda run: step(recipe, run.store, run.lease, retry))


def train(recipe: Recipe, wait: bool = False) -> Figures:
    """Fit the fast model to the sealed pairs, or resume."""
    from batch_nst.pipelines.train import train as step

    return _run("train", recipe, wait, lambda run: step(recipe, run.store))


def evaluate(recipe: Recipe, wait: bool = False) -> Figures:
    """Score the model on held-out photos, and write the report."""
    return _run("evaluate", recipe, wait, lambda run: _evaluate(recipe, run))


def export(recipe: Recipe, wait: bool = False) -> Figures:
    """Write the ONNX graph of the model."""
    from batch_nst.pipelines.export import export as step

    return _run("export", recipe, wait, lambda run: step(recipe, run.store))


def nightly(recipe: Recipe, wait: bool = False, retry: bool = False) -> Figures:
    """Generate, train, evaluate, export, and publish what is better than what is published."""
    from batch_nst.pipelines.export import export as write_graph
    from batch_nst.pipelines.generate import generate as make_pairs
    from batch_nst.pipelines.publish import publish
    from batch_nst.pipelines.train import train as fit_model

    def night(run: _Run) -> Figures:
        figures: Figures = {"dataset": make_pairs(recipe, run.store, run.lease, retry)}
        figures |= fit_model(recipe, run.store)
        figures |= write_graph(recipe, run.store)
        figures |= _evaluate(recipe, run)
        run.lease.check()
        try:
            return figures | publish(figures["version"], recipe.publish, run.store, run.lease.token)
        except GateError as refusal:
            raise GateError(str(refusal), figures) from refusal

    return _run("nightly", recipe, wait, night)


class _Run:
    """A command under way: its output, its lease, and the folder that its figures go into."""

    def __init__(self, command: str, store: Store, lease: Lease) -> None:
        self.store, self.lease, self.command = store, lease, command
        self.started, self._clock = datetime.now(UTC), time.monotonic()
        self.name = f"{self.started:%Y%m%dT%H%M%SZ}-{lease.token:06}-{command}"

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._clock, 1)

    def write(self, name: str, data: bytes) -> str:
        self.store.replace(f"runs/{self.name}/{name}", data)
        return self.store.join(f"runs/{self.name}/{name}")


def _run(command: str, recipe: Recipe, wait: bool, step: Callable[[_Run], Figures]) -> Figures:
    """Take the lease, take the step, and leave `summary.json` however it ended."""
    store = Store(recipe.output)
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
            figures = {**getattr(error, "figures", {}), "error": str(error)}
            raise
        finally:
            figures = {"run": run.name, "output": store.uri, "seconds": run.seconds} | figures
            summary = {"command": command, "started": f"{run.started:%Y-%m-%dT%H:%M:%SZ}", **figures}
            run.write("summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        return figures | {"seconds": run.seconds}


def _evaluate(recipe: Recipe, run: _Run) -> Figures:
    """Score the model and write the report; the figures of the command line."""
    from batch_nst.pipelines.evaluate import evaluate as score
    from batch_nst.pipelines.evaluate import milestones
    from batch_nst.pipelines.journal import report_of

    evaluation, triples = score(recipe, run.store)
    about = {"command": run.command, "run": run.name, "seconds": run.seconds, "machine": platform.platform()}
    report = run.write("report.html", report_of(recipe, run.store, evaluation, triples, about).encode())
    say(f"report: {report}")
    shown = (
        "version",
        "photos",
        "worth_iterations",
        "verdict",
        "photo",
        "optimised",
        "model",
        "seconds_per_image",
    )
    curve = milestones(evaluation["curve"])
    return {name: evaluation[name] for name in shown} | {"curve": curve, "report": report}
