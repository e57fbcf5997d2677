"""The command `benchmark`: the engine against its floor, the baselines, its own fp32, and in the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from batch_nst.console import log
from batch_nst.data.images.codec import Pixels, crop
from batch_nst.data.images.sandbox import Limits, decoder_for
from batch_nst.data.images.style import read_style
from batch_nst.data.models.files import read_model
from batch_nst.data.sources.photos import Photo, list_photos
from batch_nst.data.storage.fetch import fetch
from batch_nst.engine.baselines import Curve, Method, run_baseline
from batch_nst.engine.device import Device, choose_batch, choose_device
from batch_nst.engine.slow_transfer import ENGINE, losses_of, optimise
from batch_nst.engine.statistics import geometric_mean
from batch_nst.engine.timing import fraction_of_floor, machine_of, matmul_rate, parts
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines.benchmark.engine_records import (
    BenchmarkFigures,
    Cost,
    Details,
    Floor,
    Invariance,
    PrecisionLoss,
    Scale,
)
from batch_nst.pipelines.benchmark.measure import ResultCache, peak_memory, pipeline_overhead
from batch_nst.pipelines.benchmark.painting import measure_alone, measure_painting
from batch_nst.pipelines.benchmark.race import (
    PhotoRace,
    against_pictures,
    largest_difference,
    run_engine,
    summary,
)
from batch_nst.pipelines.benchmark.table import table
from batch_nst.pipelines.benchmark.training import measure_training
from batch_nst.pipelines.inference import FastModel, exact_model
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.recipe import Generate, Loss, Style, Train, Vgg

_METHODS = ("free", "engine", "warm", "lbfgs_wolfe", "adam")
_ITERATIONS = int(Generate.model_fields["iterations"].default)
_LEAST = {"train_fraction": 0.3, "painting_ratio": 0.8}
"""What `--quick` must find; by noise alone figures differ by a tenth."""
_TRAINED = int(Train.model_fields["batch_size"].default)
_LIMITS = Limits(min_side=16, max_bytes=64 << 20, max_pixels=100_000_000, max_seconds=30)


FULL = Scale()
QUICK = Scale(
    size=128,
    photos=2,
    styles=1,
    rounds=3,
    batches=(1, 4),
    sizes=(64, 128),
    painted=(256,),
    alone=((256, 256),),
    trained=(96,),
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
) -> BenchmarkFigures:
    """Measure, print a table, and return the figures.

    benchmark("photos/", "styles/", quick=True, results="results.jsonl")

    Args:
        photos: folder or glob; the first photos by name are used.
        styles: folder or glob of style images; the first ones by name are used.
        device: where to compute.
        quick: two photos and one style image at 128 px; takes minutes.
        model: an output or a version's folder, to start from its pictures as well, in its own style.
        results: a file to append measurements to; what it holds of this machine and engine is not repeated.

    Raises:
        RecipeError: there are no photos or style images, one of them is no picture, or the model fits none.
        IncompleteError: `quick`, and training or painting is slower beside its parts and peers than it was.
    """
    bench = _prepare(photos, styles, device, QUICK if quick else FULL, model, results)
    details, races = _measure(bench)
    race, floor = details.race, details.floor
    figures = BenchmarkFigures(
        speedup_cold_50=race["free"]["50"].speedup,
        speedup_cold_100=race["free"]["100"].speedup,
        speedup_cold_300=race["free"]["300"].speedup,
        speedup_bounded_100=race["engine"]["100"].speedup,
        speedup_stored_100=against_pictures(races, 100),
        speedup_warm_100=race["warm"]["100"].speedup,
        vgg_fraction=floor["fraction"]["median"],
        pipeline_fraction=details.pipeline["fraction"],
        painting_ratio=min((each["ratio"] for each in details.painting if each["ratio"]), default=None),
        train_fraction=details.training[-1]["fraction"],
        bf16_loss_ratio=geometric_mean(ratio for part in details.precision for ratio in part["ratios"]),
        iteration_seconds=floor["iteration"]["median"],
        floor_seconds=floor["floor"]["median"],
        photos=len(races),
        batch=bench.batch,
        engine=f"{ENGINE} {bench.first.engine}",
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=machine_of(bench.device, bench.scale.size),
        details=details,
    )
    for line in table(figures):
        log(line)
    if quick and (told := fallen_back(figures.train_fraction, figures.painting_ratio)):
        raise IncompleteError(told, as_json(figures))
    return figures


def fallen_back(train_fraction: float, painting_ratio: float | None) -> str:
    """What is lower than it may be; "" if nothing is."""
    measured = {"train_fraction": train_fraction, "painting_ratio": painting_ratio}
    return "; ".join(
        f"{name} is {value:.2f}, expected: {_LEAST[name]} or more"
        for name, value in measured.items()
        if value is not None and value < _LEAST[name]
    )


@dataclass(frozen=True)
class _Bench:
    """What is measured, and with what."""

    scale: Scale
    device: torch.device
    objectives: dict[str, Objectives]
    """Objectives by name of the style image."""
    photos: dict[str, Pixels]
    """Photos by name, uint8 (size, size, 3)."""
    fast: FastModel | None
    cache: ResultCache

    @property
    def first(self) -> Objectives:
        """The objectives of the first style image."""
        return next(iter(self.objectives.values()))

    @property
    def batch(self) -> int:
        """Number of photos that are optimised together."""
        return choose_batch(self.scale.size, self.device)

    @cached_property
    def content(self) -> Tensor:
        """All photos, (B, 3, size, size), 0..255."""
        return to_tensor(np.stack(list(self.photos.values())), self.device)


def _prepare(photos: str, styles: str, device: Device, scale: Scale, model: str, results: str) -> _Bench:
    """Read the inputs; a wrong one is refused before anything is measured."""
    images = {
        _name(found): read_style(Style(image=found.source, size=scale.size))
        for found in _first("--styles", styles, scale.styles)
    }
    contents = {_name(found): _read(found, scale.size) for found in _first("--images", photos, scale.photos)}
    fast = exact_model(read_model(model), choose_device(device)) if model else None
    if fast:
        _check_fits(fast, model, [image.digest for image in images.values()])
    where, threads = choose_device(device), torch.get_num_threads()
    objectives = {
        name: Objectives.on(image, Loss(), Vgg(), where.type, "auto", threads)
        for name, image in images.items()
    }
    cache = ResultCache(results, machine_of(where, scale.size))
    return _Bench(scale, where, objectives, contents, fast, cache)


def _measure(bench: _Bench) -> tuple[Details, list[PhotoRace]]:
    """All measurements, and the races of the photos, from the cache where it has them."""
    scale, first, cache = bench.scale, bench.first, bench.cache
    head, photo = bench.content[: bench.batch], bench.content[:1]
    floor = cache.measure("floor", partial(_floor, first, head, scale.rounds))
    gradient = cache.measure("parts", partial(parts, first.fast, head))
    races: list[PhotoRace] = []
    precision: list[PrecisionLoss] = []
    for number, entrants in enumerate(_entrants(bench)):
        races += _race(cache, entrants, scale)
        if number < len(bench.objectives):
            loss = partial(_precision, entrants, scale.precise)
            precision.append(cache.measure(f"precision {entrants.style}", loss))
    invariance = cache.measure("invariance", partial(_invariance, first, head, scale.invariance))
    memory = {
        str(size): cache.measure(f"memory {size}", partial(peak_memory, size, scale.size, bench.device.type))
        for size in scale.batches
    }
    sizes = {
        str(side): cache.measure(
            f"size {side}", partial(_cost, first, photo, side, choose_batch(side, bench.device))
        )
        for side in scale.sizes
    }
    batches = {
        str(count): cache.measure(f"batch {count}", partial(_cost, first, photo, scale.size, count))
        for count in scale.batches
    }
    painting = [
        cache.measure(f"painting {side}", partial(measure_painting, bench.device, side, scale.rounds))
        for side in scale.painted
    ]
    alone = [
        cache.measure(f"alone {shape}", partial(measure_alone, bench.device, *shape)) for shape in scale.alone
    ]
    training = [
        cache.measure(f"training {side}", partial(measure_training, first, side, _TRAINED, scale.rounds))
        for side in scale.trained
    ]
    contents = list(bench.photos.values())
    some = [contents[i % len(contents)] for i in range(scale.units * scale.unit)]
    pipeline = cache.measure(
        "pipeline", partial(pipeline_overhead, first, some, scale.unit, scale.unit_iterations)
    )
    race = {method: summary(races, method) for method in _METHODS}
    details = Details(
        scale=scale,
        floor=floor,
        parts=gradient,
        race=race,
        precision=precision,
        invariance=invariance,
        memory=memory,
        sizes=sizes,
        batches=batches,
        painting=painting,
        alone=alone,
        training=training,
        pipeline=pipeline,
    )
    return details, races


def _first(option: str, source: str, count: int) -> list[Photo]:
    """The first pictures of a folder or glob, by name."""
    try:
        listed = list_photos(source)
    except RecipeError as error:
        raise RecipeError(f"{option}: {str(error).removeprefix('generate.input: ')}") from error
    return sorted(listed, key=lambda photo: photo.source)[:count]


def _name(photo: Photo) -> str:
    return photo.source.rsplit("/", 1)[-1]


def _read(photo: Photo, side: int) -> Pixels:
    """The square centre crop of a photo, uint8 (side, side, 3)."""
    try:
        data = fetch(photo.source, _LIMITS.max_bytes)
        pixels = decoder_for(_LIMITS).picture(data)
    except ValueError as error:
        raise RecipeError(f"{photo.source}: {error}; allowed: a folder or glob of pictures") from error
    return crop(pixels, side)


def _check_fits(fast: FastModel, model: str, styles: Collection[str]) -> None:
    """Refuse a model of another style image or loss; `styles` are the digests of the style images."""
    if fast.card["digests"]["style"] not in styles:
        raise RecipeError(f"--model {model}: was trained for none of the style images of --styles")
    if fast.card["objective"]["loss"] != Loss().model_dump():
        raise RecipeError(f"--model {model}: was trained with another loss; allowed: a recipe's default one")


@dataclass(frozen=True)
class _Entrants:
    """A batch of photos, and what runs on it."""

    objectives: Objectives
    style: str
    photos: dict[str, Tensor]
    """Photos by name, each (1, 3, H, W)."""
    others: int
    """How many of them the other baselines run on as well."""
    fast: FastModel | None
    """The model to start from, if there is one of this style."""

    @property
    def together(self) -> Tensor:
        """All photos, (B, 3, H, W)."""
        return torch.cat(list(self.photos.values()))


def _entrants(bench: _Bench) -> Iterator[_Entrants]:
    """The photos in batches; style images take turns."""
    names = list(bench.photos)
    for index, start in enumerate(range(0, len(names), bench.batch)):
        style = list(bench.objectives)[index % len(bench.objectives)]
        objectives = bench.objectives[style]
        members = {
            name: bench.content[start + i : start + i + 1]
            for i, name in enumerate(names[start : start + bench.batch])
        }
        fits = bench.fast and bench.fast.card["digests"]["style"] == objectives.style.digest
        yield _Entrants(
            objectives, style, members, bench.scale.others if index == 0 else 0, bench.fast if fits else None
        )


def _race(cache: ResultCache, entrants: _Entrants, scale: Scale) -> list[PhotoRace]:
    """The curves of all methods on a batch: the baselines photo by photo, then the engine on all of it."""
    races: list[PhotoRace] = []
    objectives, style, fast = entrants.objectives, entrants.style, entrants.fast
    for index, (name, photo) in enumerate(entrants.photos.items()):
        race = PhotoRace({}, {})
        methods: tuple[Method, ...] = ("lbfgs", "lbfgs_wolfe", "adam")
        for method in methods if index < entrants.others else methods[:1]:
            race.curves[method], stored = cache.measure(
                f"{method} {style} {name}",
                partial(run_baseline, objectives.exact, photo, scale.baseline, method),
            )
            if method == "lbfgs":
                race.stored = stored
        races.append(race)
    run = partial(run_engine, objectives.fast, entrants.together)
    contenders: dict[str, Callable[[], list[Curve]]] = {
        "free": partial(run, scale.free, bounds=None),
        "engine": partial(run, scale.bounded),
    }
    if fast:
        contenders["warm"] = partial(run, scale.bounded, first_guess=partial(_stylized, fast))
    for contender, measure in contenders.items():
        model = f" {fast.card['version']}" if fast and contender == "warm" else ""
        curves = cache.measure(f"{contender} {style} {'+'.join(entrants.photos)}{model}", measure)
        for race, curve in zip(races, curves, strict=True):
            race.curves[contender] = curve
    return races


@torch.no_grad()
def _stylized(fast: FastModel, photos: Tensor) -> Tensor:
    """What a model makes of photos, both (B, 3, H, W), 0..255."""
    images: Tensor = fast.net(photos / 255).clamp(0, 1) * 255
    return images


def _floor(objectives: Objectives, content: Tensor, rounds: int) -> Floor:
    floor, iteration, fraction = fraction_of_floor(objectives.fast, content, rounds)
    return {
        "floor": floor,
        "iteration": iteration,
        "fraction": fraction,
        "batch": len(content),
        "matmul_fp32": matmul_rate(content.device, torch.float32),
        "matmul_bf16": matmul_rate(content.device, torch.bfloat16),
    }


def _cost(objectives: Objectives, photo: Tensor, side: int, batch: int) -> Cost:
    """The cost of an iteration on `batch` images of `side` pixels."""
    content = F.interpolate(photo, (side, side), mode="bilinear").repeat(batch, 1, 1, 1)
    floor, iteration, _ = fraction_of_floor(objectives.fast, content, 1)
    return {
        "batch": batch,
        "iteration": iteration["median"],
        "floor": floor["median"],
        "pairs_1000_hours": 1000 * _ITERATIONS * iteration["median"] / 3600,
    }


def _precision(entrants: _Entrants, iterations: int) -> PrecisionLoss:
    """How much larger losses are after an optimisation in bf16."""
    exact, content = entrants.objectives.exact, entrants.together
    fast_loss, exact_loss = (
        losses_of(exact, optimise(objective, content, iterations).images.round(), content).total
        for objective in (entrants.objectives.fast, exact)
    )
    return {"ratios": (fast_loss / exact_loss).tolist(), "iterations": iterations}


def _invariance(objectives: Objectives, content: Tensor, iterations: int) -> Invariance:
    """Compare the pixels of the batch with those of single photos, half batches and one thread less."""

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
