"""The engine's figures on this machine: beside its floor, the peers, its own fp32, and in the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from batch_nst.console import log
from batch_nst.data.images.codec import Pixels, crop
from batch_nst.data.images.sandbox import Limits, decoder_for
from batch_nst.data.images.style import read_style
from batch_nst.data.sources.photos import Photo, list_photos
from batch_nst.data.storage.fetch import fetch
from batch_nst.engine.baselines import Curve, Method, run_peers
from batch_nst.engine.device import Device, choose_batch, choose_device
from batch_nst.engine.slow_transfer import ENGINE, losses_of, optimise
from batch_nst.engine.statistics import geometric_mean
from batch_nst.engine.timing import fraction_of_floor, machine_of, matmul_rate, parts
from batch_nst.errors import RecipeError
from batch_nst.pipelines.benchmark.measure import ResultCache, peak_memory, pipeline_overhead
from batch_nst.pipelines.benchmark.race import against_pictures, largest_difference, run_engine, summary
from batch_nst.pipelines.benchmark.table import table
from batch_nst.pipelines.inference import FastModel, load_model
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.recipe import Generate, Loss, Style, Vgg

Figures = dict[str, Any]

_METHODS = ("free", "engine", "warm", "lbfgs_wolfe", "adam")
_ITERATIONS = int(Generate.model_fields["iterations"].default)
_LIMITS = Limits(min_side=16, max_bytes=64 << 20, max_pixels=100_000_000, max_seconds=30)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    size: int = 256
    """Side of the photos, and short side of the styles, pixels."""
    photos: int = 16
    styles: int = 2
    baseline: int = 300
    """Evaluations of the peers' way on each photo."""
    free: int = 450
    """Iterations of the engine with pixels that nothing bounds, as the peers' are."""
    bounded: int = 150
    """Iterations of the engine as it is, its pixels those of a picture."""
    others: int = 1
    """Photos on which the peers' other optimisers run as well."""
    precise: int = 100
    """Iterations after which bf16 is compared with fp32, on the first batch of each style."""
    rounds: int = 5
    """Of the alternation between floor and engine."""
    invariance: int = 20
    """Iterations after which pixels are compared."""
    batches: tuple[int, ...] = (1, 2, 4, 8)
    """Whose cost and peak memory are measured."""
    sizes: tuple[int, ...] = (128, 256, 512)
    """Whose cost is measured, in the batches that the engine chooses."""
    unit: int = 4
    """Images of a unit of the pipeline."""
    units: int = 2
    unit_iterations: int = 150


FULL = Scale()
QUICK = Scale(
    size=128,
    photos=2,
    styles=1,
    rounds=3,
    batches=(1, 4),
    sizes=(64, 128),
    unit=2,
    units=2,
    unit_iterations=300,
)


def benchmark(
    photos: str,
    styles: str,
    *,
    device: Device = "auto",
    quick: bool = False,
    model: str = "",
    results: str = "",
) -> Figures:
    """Measure, print a table, and return the figures; one that was not measured is None.

    Args:
        photos: folder or glob; the first ones by name are taken.
        styles: folder or glob of paintings, likewise.
        device: where to compute.
        quick: two photos and one style at 128 px; minutes.
        model: an output or a version's folder, to start from its pictures as well, in its own style.
        results: a file to append measurements to; what it holds of this machine and engine is not repeated.

    Raises:
        RecipeError: there are no photos or styles, or one of them is no picture, or none is the model's.
    """
    scale, where, threads = QUICK if quick else FULL, choose_device(device), torch.get_num_threads()
    paintings = {
        _name(found): read_style(Style(image=found.source, size=scale.size))
        for found in _first("--styles", styles, scale.styles)
    }
    contents = {_name(found): _read(found, scale.size) for found in _first("--images", photos, scale.photos)}
    fast = load_model(model, device) if model else None
    if fast:
        _check_fits(fast, model, [painting.digest for painting in paintings.values()])
    objectives = {
        name: Objectives.on(painting, Loss(), Vgg(), where.type, "auto", threads)
        for name, painting in paintings.items()
    }
    first = next(iter(objectives.values()))
    names, batch = list(contents), choose_batch(scale.size, where)
    stack = to_tensor(np.stack(list(contents.values())), where)
    machine = machine_of(where, scale.size)
    measured = ResultCache(results, machine)

    floor = measured.take("floor", lambda: _floor(first, stack[:batch], scale.rounds))
    gradient = measured.take("parts", partial(parts, first.fast, stack[:batch]))
    runs, precision = [], []
    for index, start in enumerate(range(0, len(names), batch)):
        style = list(objectives)[index % len(objectives)]
        members = {
            name: stack[start + i : start + i + 1] for i, name in enumerate(names[start : start + batch])
        }
        entrants = _Entrants(objectives[style], style, members, scale.others if index == 0 else 0, fast)
        runs += _race(measured, entrants, scale)
        if index < len(objectives):
            precision.append(
                measured.take(f"precision {style}", partial(_precision, entrants, scale.precise))
            )
    invariance = measured.take("invariance", lambda: _invariance(first, stack[:batch], scale.invariance))
    memory = {
        str(size): measured.take(f"memory {size}", partial(peak_memory, size, scale.size, where.type))
        for size in scale.batches
    }
    sizes = {
        str(side): measured.take(
            f"size {side}", partial(_cost, first, stack[:1], side, choose_batch(side, where))
        )
        for side in scale.sizes
    }
    batches = {
        str(count): measured.take(f"batch {count}", partial(_cost, first, stack[:1], scale.size, count))
        for count in scale.batches
    }
    some = [list(contents.values())[i % len(contents)] for i in range(scale.units * scale.unit)]
    pipeline = measured.take(
        "pipeline", lambda: pipeline_overhead(first, some, scale.unit, scale.unit_iterations)
    )

    race = {method: summary(runs, method) for method in _METHODS}
    figures: Figures = {
        "speedup_cold_50": race["free"]["50"]["speedup"],
        "speedup_cold_100": race["free"]["100"]["speedup"],
        "speedup_cold_300": race["free"]["300"]["speedup"],
        "speedup_bounded_100": race["engine"]["100"]["speedup"],
        "speedup_stored_100": against_pictures(runs, 100),
        "speedup_warm_100": race["warm"]["100"]["speedup"],
        "vgg_fraction": floor["fraction"]["median"],
        "pipeline_fraction": pipeline["fraction"],
        "bf16_loss_ratio": geometric_mean(ratio for part in precision for ratio in part["ratios"]),
        "iteration_seconds": floor["iteration"]["median"],
        "floor_seconds": floor["floor"]["median"],
        "photos": len(runs),
        "batch": batch,
        "engine": f"{ENGINE} {first.engine}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine,
        "details": {
            "scale": asdict(scale),
            "floor": floor,
            "parts": gradient,
            "race": race,
            "precision": precision,
            "invariance": invariance,
            "memory": memory,
            "sizes": sizes,
            "batches": batches,
            "pipeline": pipeline,
        },
    }
    for line in table(figures):
        log(line)
    return figures


def _first(option: str, source: str, count: int) -> list[Photo]:
    """The first pictures of a folder or glob."""
    try:
        listed = list_photos(source)
    except RecipeError as error:
        raise RecipeError(f"{option}: {str(error).removeprefix('generate.input: ')}") from error
    return sorted(listed, key=lambda photo: photo.source)[:count]


def _name(photo: Photo) -> str:
    return photo.source.rsplit("/", 1)[-1]


def _read(photo: Photo, side: int) -> Pixels:
    """A square of a photo."""
    try:
        data = fetch(photo.source, _LIMITS.max_bytes)
        pixels = decoder_for(_LIMITS).picture(data)
    except ValueError as error:
        raise RecipeError(f"{photo.source}: {error}; allowed: a folder or glob of pictures") from error
    return crop(pixels, side)


def _check_fits(fast: FastModel, model: str, paintings: Collection[str]) -> None:
    """Refuse a model that no race here is about; `paintings` are their digests."""
    if fast.card["digests"]["style"] not in paintings:
        raise RecipeError(f"--model {model}: was fitted to none of the paintings of --styles")
    if fast.card["objective"]["loss"] != Loss().model_dump():
        raise RecipeError(f"--model {model}: was fitted to another loss; allowed: a recipe's default one")


@dataclass(frozen=True)
class _Entrants:
    """One batch of photos and what is to be run on it."""

    objectives: Objectives
    style: str
    photos: dict[str, Tensor]
    """(1, 3, H, W) each."""
    others: int
    """Of them on which the peers' other optimisers run as well."""
    fast: FastModel | None

    @property
    def together(self) -> Tensor:
        return torch.cat(list(self.photos.values()))


def _race(measured: ResultCache, entrants: _Entrants, scale: Scale) -> list[dict[str, Any]]:
    """The curves of all methods on a batch: the peers' ways one by one, then the engine's on all of it."""
    runs: list[dict[str, Any]] = []
    objectives, style = entrants.objectives, entrants.style
    for index, (name, photo) in enumerate(entrants.photos.items()):
        run: dict[str, Any] = {"photo": name, "style": style}
        methods: tuple[Method, ...] = ("lbfgs", "lbfgs_wolfe", "adam")
        for method in methods if index < entrants.others else methods[:1]:
            run[method], stored = measured.take(
                f"{method} {style} {name}",
                partial(run_peers, objectives.exact, photo, scale.baseline, method),
            )
            if method == "lbfgs":
                run["stored"] = stored
        runs.append(run)
    contenders: dict[str, Callable[[], list[Curve]]] = {
        "free": lambda: run_engine(objectives.fast, entrants.together, scale.free, bounds=None),
        "engine": lambda: run_engine(objectives.fast, entrants.together, scale.bounded),
    }
    if entrants.fast and entrants.fast.card["digests"]["style"] == objectives.style.digest:
        paint = _painter(entrants.fast)
        contenders["warm"] = lambda: run_engine(
            objectives.fast, entrants.together, scale.bounded, first_guess=paint
        )
    for entrant, curves in contenders.items():
        model = f" {entrants.fast.card['version']}" if entrants.fast and entrant == "warm" else ""
        found = measured.take(f"{entrant} {style} {'+'.join(entrants.photos)}{model}", curves)
        for run, curve in zip(runs, found, strict=True):
            run[entrant] = curve
    return runs


def _painter(fast: FastModel) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def paint(photos: Tensor) -> Tensor:
        painted: Tensor = fast.net(photos / 255).clamp(0, 1) * 255
        return painted

    return paint


def _floor(objectives: Objectives, content: Tensor, rounds: int) -> Figures:
    floor, iteration, fraction = fraction_of_floor(objectives.fast, content, rounds)
    return {
        "floor": floor._asdict(),
        "iteration": iteration._asdict(),
        "fraction": fraction._asdict(),
        "batch": len(content),
        "matmul_fp32": matmul_rate(content.device, torch.float32),
        "matmul_bf16": matmul_rate(content.device, torch.bfloat16),
    }


def _cost(objectives: Objectives, photo: Tensor, side: int, batch: int) -> Figures:
    """Of an iteration on `batch` images of `side` pixels, seconds an image; and of 1,000 pairs."""
    content = F.interpolate(photo, (side, side), mode="bilinear").repeat(batch, 1, 1, 1)
    floor, iteration, _ = fraction_of_floor(objectives.fast, content, 1)
    return {
        "batch": batch,
        "iteration": iteration.median,
        "floor": floor.median,
        "pairs_1000_hours": 1000 * _ITERATIONS * iteration.median / 3600,
    }


def _precision(entrants: _Entrants, iterations: int) -> Figures:
    """Exact losses of what bf16 found over those of what fp32 found."""
    exact, content = entrants.objectives.exact, entrants.together
    fast_loss, exact_loss = (
        losses_of(exact, optimise(objective, content, iterations).images.round(), content).total
        for objective in (entrants.objectives.fast, exact)
    )
    return {"ratios": (fast_loss / exact_loss).tolist(), "iterations": iterations}


def _invariance(objectives: Objectives, content: Tensor, iterations: int) -> Figures:
    """Pixels of the batch against those of each photo alone, of half batches, and of one thread less."""

    def found(size: int) -> Tensor:
        parts = torch.split(content, size)
        return torch.cat([optimise(objectives.fast, part, iterations).images for part in parts])

    whole, threads = found(len(content)), torch.get_num_threads()
    figures = {"alone": largest_difference(whole, found(1))}
    if len(content) > 2:
        figures["half_batch"] = largest_difference(whole, found(len(content) // 2))
    if content.device.type == "cpu" and threads > 1:
        torch.set_num_threads(threads - 1)
        figures["other_threads"] = largest_difference(whole, found(len(content)))
        torch.set_num_threads(threads)
    return {"iterations": iterations, "differences": figures}
