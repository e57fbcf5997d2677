"""The figures of `benchmark` as a table for people."""

from __future__ import annotations

from batch_nst.engine.baselines import TARGET_ITERATIONS
from batch_nst.engine.timing import Spread
from batch_nst.pipelines.benchmark.engine_records import BenchmarkFigures, Cost
from batch_nst.pipelines.benchmark.painting import Alone, Painting
from batch_nst.pipelines.benchmark.race import Speedup
from batch_nst.pipelines.benchmark.training import TrainingSpeed

_NAMES = {
    "free": "this engine, free",
    "engine": "this engine",
    "warm": "... warm",
    "lbfgs_wolfe": "baseline Wolfe",
    "adam": "baseline Adam",
}


def table(figures: BenchmarkFigures) -> list[str]:
    """The lines of the table."""
    machine, details = figures.machine, figures.details
    floor, pipeline, scale = details.floor, details.pipeline, details.scale
    differences = details.invariance["differences"]
    memory = {size: peak["process"] for size, peak in details.memory.items() if peak["process"]}
    rows = [
        ("machine", f"{machine['processor']}, {machine['threads']} threads, {machine['device']}"),
        ("engine", f"{figures.engine}, torch {machine['torch']}, {machine['size']} px"),
        ("matmul", f"fp32 {_giga(floor['matmul_fp32'])}, bf16 {_giga(floor['matmul_bf16'])} GFLOP/s"),
        ("floor", f"{_range(floor['floor'], 1e3)} ms an image: bare VGG-16, forward and back"),
        ("iteration", f"{_range(floor['iteration'], 1e3)} ms an image, in batches of {floor['batch']}"),
        ("of that", ", ".join(f"{name} {part * 1e3:.3g}" for name, part in details.parts.items())),
        ("vgg_fraction", _range(floor["fraction"])),
        ("sooner at", "".join(f"{f'baseline {count}':>26}" for count in TARGET_ITERATIONS)),
        *(
            (_NAMES[method], "".join(f"{_speedup(speedup):>26}" for speedup in speedups.values()))
            for method, speedups in details.race.items()
            if speedups[str(TARGET_ITERATIONS[0])].photos
        ),
        (
            "bf16 / fp32",
            f"{_number(figures.bf16_loss_ratio, 4)} in loss, {scale.precise} iterations",
        ),
        *(
            (name.replace("_", " "), f"{value['largest']:.0f} grey levels, {value['beyond_1']:.2%} beyond 1")
            for name, value in differences.items()
        ),
        ("peak memory", ", ".join(f"batch {size}: {peak / 2**20:,.0f} MiB" for size, peak in memory.items())),
        *((f"{side} px", _cost(cost)) for side, cost in details.sizes.items()),
        *((f"batch {count}", _cost(cost)) for count, cost in details.batches.items()),
        *((f"painting {each['size']} px", _painting(each)) for each in details.painting),
        *((f"alone {each['pixels'] / 1e6:.2g} MP", _alone(each)) for each in details.alone),
        *((f"training {each['size']} px", _training(each)) for each in details.training),
        (
            "pipeline",
            f"{_number(figures.pipeline_fraction)} of the bare loop: {pipeline['images_per_second']:.3f} "
            f"images/s, units of {pipeline['unit_seconds']:.0f} s",
        ),
    ]
    return [f"{name:18}  {text}" for name, text in rows]


def _painting(painting: Painting) -> str:
    times = ", ".join(f"{name} {_range(each, 1e3)}" for name, each in painting["seconds"].items())
    far = painting["apart"]["painter"]
    beside = f"; ratio {painting['ratio']:.3g}" if painting["ratio"] else ""
    return f"ms by {painting['backend']}: {times}{beside}; from torch {far['mean']:.2g} grey levels apart"


def _alone(alone: Alone) -> str:
    peak = f", at most {alone['peak'] / 2**20:,.0f} MiB" if alone["peak"] else ""
    return f"{alone['seconds']:.3g} s from the start of a command to its end{peak}"


def _training(training: TrainingSpeed) -> str:
    parts = ", ".join(
        f"{name} {1e3 * each:.3g}"
        for name, each in (
            ("record", training["record"]["median"]),
            ("pull_back", training["pull_back"]["median"]),
            ("network", training["network"]),
            ("usual loop", training["usual"]["median"]),
        )
    )
    return f"{_range(training['step'], 1e3)} ms an image; fraction {training['fraction']:.3g}; {parts}"


def _cost(cost: Cost) -> str:
    return (
        f"{cost['iteration'] * 1e3:.3g} ms an image and iteration in batches of {cost['batch']}, "
        f"{cost['pairs_1000_hours']:.2f} device-hours for 1,000 pairs"
    )


def _giga(rate: float) -> str:
    return f"{rate / 1e9:,.0f}"


def _range(spread: Spread, scale: float = 1.0) -> str:
    return f"{spread['median'] * scale:.3g} ({spread['least'] * scale:.3g} to {spread['most'] * scale:.3g})"


def _speedup(speedup: Speedup) -> str:
    if speedup.speedup is None:
        return "-"
    missing = f", {speedup.not_reached} never" if speedup.not_reached else ""
    return f"{speedup.speedup:.2f}x ({speedup.least:.1f}-{speedup.most:.1f}{missing})"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
