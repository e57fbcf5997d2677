"""Laws of what a command says last on a terminal."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from batch_nst.data.dataset.plan import PlanCounts
from batch_nst.data.models.gate import Published
from batch_nst.pipelines.apply.run import ApplyFigures
from batch_nst.pipelines.benchmark.engine_records import BenchmarkFigures
from batch_nst.pipelines.commands import RunSummary
from batch_nst.pipelines.cost.estimate import Estimate
from batch_nst.pipelines.doctor import DoctorFigures
from batch_nst.pipelines.evaluate.scores import EvaluateFigures
from batch_nst.pipelines.export import ExportFigures
from batch_nst.pipelines.forget import ForgetFigures
from batch_nst.pipelines.generate.run import GenerateFigures
from batch_nst.pipelines.models import ModelsFigures, PruneFigures, RollbackFigures
from batch_nst.pipelines.nightly import NightFigures
from batch_nst.pipelines.reports.dataset import InspectFigures
from batch_nst.pipelines.submit import Submitted
from batch_nst.pipelines.train.run import TrainFigures
from batch_nst.pipelines.try_ import TryFigures
from batch_nst.summary import summary
from tests.support.places import ROOT

RECIPE = {"recipe": "my recipe.yaml", "overrides": ["train.steps=5"]}
NAMED = "batch-nst {} 'my recipe.yaml' train.steps=5"
PAINT = "batch-nst apply out photo.jpg painted.png"

CASES: list[tuple[Any, ...]] = [
    # A command, the figures that it has, its options, some of these figures; and each line that is told.
    (
        "plan",
        [PlanCounts, Estimate],
        RECIPE,
        {"to_do": 4, "found": 1200, "device_hours": 150.04},
        "made  nothing; 4 of 1,200 images are to be made, about 150.0 device-hours",
        f"next  {NAMED.format('generate')}",
    ),
    (
        "generate",
        [GenerateFigures, RunSummary],
        RECIPE,
        {
            "made": 1,
            "ok": 2,
            "held_out": 1,
            "unpaired": 5,
            "filtered": 1,
            "rejected": 1,
            "failed": 1,
            "pending": 2,
            "output": "out",
        },
        "made  1 pair; the dataset has 4 now, 5 without pairs, 2 bad, 2 pending",
        "look  out/dataset",
        "      batch-nst inspect out",
        f"next  {NAMED.format('generate')}",
    ),
    (
        "train",
        [TrainFigures, RunSummary],
        RECIPE,
        {"version": "v1", "steps": 200, "output": "out"},
        "made  model v1, 200 steps",
        "look  out/models/v1/training/index.html",
        f"next  {NAMED.format('evaluate')}",
    ),
    (
        "evaluate",
        [EvaluateFigures, RunSummary],
        RECIPE,
        {"version": "v1", "report": "out/runs/1/report.html"},
        "made  the scores of model v1",
        "look  out/runs/1/report.html",
        f"next  {NAMED.format('nightly')}  (publishes it, if it is better)",
    ),
    (
        "export",
        [ExportFigures, RunSummary],
        RECIPE,
        {"version": "v1", "output": "out"},
        "made  the ONNX graph of model v1",
        "look  out/models/v1",
        f"next  {NAMED.format('nightly')}  (publishes it, if it is better)",
    ),
    (
        "nightly",
        [NightFigures, Published, RunSummary],
        RECIPE,
        {"version": "v1", "output": "out", "dataset": {"made": 3}, "published": True, "report": "r.html"},
        "made  3 pairs",
        "      model v1: published",
        "look  r.html",
        f"next  {PAINT}  (with a photo of yours)",
    ),
    (
        "doctor",
        [DoctorFigures],
        RECIPE,
        {"ok": 9, "skipped": 1},
        "made  nothing; 9 checks passed, 1 skipped",
        f"next  {NAMED.format('plan')}",
    ),
    (
        "submit",
        [Submitted],
        {**RECIPE, "address": "http://127.0.0.1:8265"},
        {"submission_id": "j1", "status": "RUNNING"},
        "made  job j1: RUNNING",
        f"next  {NAMED.format('submit')} --address http://127.0.0.1:8265 --status",
    ),
    (
        "try",
        [TryFigures],
        RECIPE,
        {"photos": ["a", "b"], "values": [1, 2, 3], "file": "/x/try.html"},
        "made  2 photos with 3 values",
        "look  /x/try.html",
        "next  batch-nst generate 'my recipe.yaml' with the value that you like",
    ),
    (
        "apply",
        [ApplyFigures],
        {"target": "painted"},
        {"ok": 5, "made": 2},
        "made  2 pictures; 3 there already",
        "look  painted",
    ),
    (
        "inspect",
        [InspectFigures],
        {},
        {"counts": {"ok": 3, "held_out": 1}, "file": "/x/inspect.html"},
        "made  a page about 4 pairs",
        "look  /x/inspect.html",
    ),
    (
        "forget",
        [ForgetFigures],
        {},
        {"pairs": 2, "photos": 1},
        "made  2 pairs of 1 photo are gone",
        "next  take the photos out of the input too, or their next version is made again",
    ),
    (
        "models",
        [ModelsFigures],
        {},
        {"models": [1], "published": "v1", "output": "out"},
        "made  nothing; 1 model, published: v1",
        f"next  {PAINT}",
    ),
    (
        "models",
        [ModelsFigures],
        {},
        {"models": [], "published": None, "output": "out"},
        "made  nothing; 0 models, published: none",
        "next  batch-nst inspect out",
    ),
    (
        "prune",
        [PruneFigures],
        {"output": "out", "keep": None},
        {"deleted": [], "to_delete": []},
        "made  nothing; all models stay",
        "next  batch-nst models out",
    ),
    (
        "rollback",
        [RollbackFigures],
        {"output": "out"},
        {"version": "v1"},
        "made  v1 is published",
        "next  batch-nst models out",
    ),
    (
        "prune",
        [PruneFigures],
        {"output": "out", "keep": 5},
        {"deleted": [], "to_delete": ["v0"]},
        "made  nothing; 1 model would go",
        "next  batch-nst prune out --keep 5 --yes",
    ),
    (
        "benchmark",
        [BenchmarkFigures],
        {"results": "r.jsonl"},
        {"iteration_seconds": 0.0631, "engine": "gatys-4"},
        "made  a measurement: 0.0631 s an iteration of an image, by gatys-4",
        "look  r.jsonl",
    ),
]


def names(kind: Any) -> Iterator[str]:
    yield from get_type_hints(kind) if kind is RunSummary else (each.name for each in fields(kind))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_summary_tells_what_was_made_where_to_look_and_what_comes_next(case: tuple[Any, ...]) -> None:
    command, kinds, options, figures, *told = case
    assert figures.keys() <= {name for kind in kinds for name in names(kind)}  # such figures there are
    assert summary(command, Namespace(**options), Namespace(**figures)) == told
    assert 2 <= len(told) <= 5


def ran(*words: str | Path, terminal: bool) -> tuple[str, str]:
    """What a command prints, with its standard error on a terminal or in a file."""
    mine, its = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-m", "batch_nst", *map(str, words)]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=its, text=True, check=True)
    os.close(its)  # what is on its way arrives, then there is an end, or on a terminal an error
    told = b""
    with contextlib.suppress(OSError):
        while more := os.read(mine, 1 << 16):
            told += more
    os.close(mine)
    return process.stdout, told.decode().replace("\r\n", "\n")


def test_only_a_terminal_is_told_and_the_figures_are_the_same_bytes(tmp_path: Path) -> None:
    words = ("plan", "jobs/recipes/demo.yaml", f"output={tmp_path}/out")
    figures, lines = ran(*words, terminal=True)
    others, log = ran(*words, terminal=False)
    assert figures == others
    assert json.loads(figures)["exit_code"] == 0
    assert lines.removeprefix(log).splitlines() == [
        "made  nothing; 38 of 38 images are to be made",
        f"next  batch-nst generate jobs/recipes/demo.yaml output={tmp_path}/out",
    ]
