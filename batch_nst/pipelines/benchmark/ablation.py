"""Do pairs pay? The same network, trained in several ways for the same time on this machine, and compared.

All of it runs in one process and without Ray, so that an arm has the machine to itself. The time of an arm is
that of its steps and of making its pairs; measuring it on held-out photos is not counted. Measurements are
written at once and pairs are kept, so the same call continues where it was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from batch_nst.console import log
from batch_nst.data.dataset.quality import judge
from batch_nst.data.dataset.records import PhotoRecord
from batch_nst.data.dataset.sampler import Batch, random_view, unpaired_places
from batch_nst.data.images.codec import Pixels, encode
from batch_nst.data.images.style import StyleImage, read_style
from batch_nst.engine.device import Device, Precision, choose_device, choose_dtype
from batch_nst.engine.fast_model.model_io import model_bytes
from batch_nst.engine.timing import machine_of, wait_for
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.pipelines.benchmark.ablation_arms import ARMS, Arm, baseline_loop, own_loop
from batch_nst.pipelines.benchmark.ablation_metrics import EvaluationSet
from batch_nst.pipelines.benchmark.ablation_pairs import Clock, Pairs, make_pairs, read_photos_of, square
from batch_nst.pipelines.benchmark.ablation_records import (
    ACCOUNTS,
    Account,
    Point,
    Run,
    Scale,
    Study,
    Training,
)
from batch_nst.pipelines.benchmark.ablation_report import write_report
from batch_nst.pipelines.benchmark.measure import ResultCache
from batch_nst.pipelines.objective import Objectives
from batch_nst.recipe import Generate, Recipe, Style, Train


def ablate(
    photos: str,
    styles: Sequence[str],
    scale: Scale,
    *,
    results: str,
    output: str,
    arms: Collection[str] = tuple(ARMS),
    accounts: Collection[Account] = ACCOUNTS,
    device: Device = "auto",
    precision: Precision = "auto",
    clock: Clock = time.perf_counter,
) -> Study:
    """Run what `results` does not hold yet; write tables, plots and a contact sheet after each style image.

    Args:
        photos: folder, glob or table, as `generate.input`.
        styles: style images.
        scale: duration and sizes.
        results: a local file that measurements are appended to.
        output: a local folder for pairs, pictures and reports.
        arms: names in `ARMS`.
        accounts: whether arms with pairs run with their cost counted, for free, or both.
        device: where to compute.
        precision: precision of our arms, and of the optimisation.
        clock: returns seconds.

    Raises:
        RecipeError: an unknown arm, two style images of one name, or a file that cannot be read.
        IncompleteError: fewer than two photos are good.
    """
    if unknown := sorted(set(arms) - ARMS.keys()):
        raise RecipeError(f"--arms: no {', '.join(unknown)}; allowed: {', '.join(ARMS)}")
    if len({Path(style).stem for style in styles}) < len(styles):
        raise RecipeError(f"--styles: given {', '.join(styles)}; allowed: files of different names")
    where = choose_device(device)
    faster: Precision = "bf16" if choose_dtype(where, precision) == torch.bfloat16 else "fp32"
    recipes = [_recipe(photos, style, scale, faster, output) for style in styles]
    images = [read_style(recipe.style) for recipe in recipes]
    train, held_out = read_photos_of(photos, recipes[0].generate)
    machine = machine_of(where, scale.size)
    cache = ResultCache(results, machine)
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    study = Study(scale, machine, date, len(train), len(held_out), references={}, runs=[], files=[])
    most: dict[int, int] = {}
    for arm in (ARMS[name] for name in arms if ARMS[name].pairs):
        iterations = _iterations(arm, scale)
        most[iterations] = max(most.get(iterations, 0), _most(arm, len(train)))
    files: list[str] = []
    for recipe, image in zip(recipes, images, strict=True):
        bench = _prepare(recipe, image, where, scale, train, held_out, most, clock)
        title = f"{bench.style} {bench.digest()} references"
        study.references[bench.style] = cache.measure(title, bench.evaluation.references)
        study.runs += _run_arms(bench, arms, accounts, cache)
        files += write_report(Path(output), study, bench.style, *bench.evaluation.pictures[:2])
    study.files = list(dict.fromkeys(files))
    return study


def _recipe(photos: str, style: str, scale: Scale, precision: Precision, output: str) -> Recipe:
    """The settings as a recipe. The style image is larger than the pictures, so that strokes stay strokes."""
    return Recipe(
        output=output,
        style=Style(image=style, size=max(16, scale.size * 3 // 2)),
        generate=Generate(
            input=photos, image_size=scale.size, iterations=scale.iterations, precision=precision
        ),
    )


@dataclass(frozen=True)
class _Bench:
    """A style image, and all that its arms share."""

    style: str
    digest: Callable[..., str]
    """Hashes all that decides a picture and its cost, and further settings given as keywords."""
    folder: Path
    objectives: Objectives
    evaluation: EvaluationSet
    content: Pixels
    """All photos to train on, uint8 (n, size, size, 3)."""
    pairs: Mapping[int, Pairs]
    """Pairs of the first of them, by their iterations."""
    scale: Scale
    threads: int
    clock: Clock

    def digest_of(self, arm: Arm, account: Account, photos: int) -> str:
        """Names a measurement: equal for two arms that differ in nothing that matters.

        The keywords are hashed into the names in files of results, and must not change.
        """
        # Keys that came later are in no older name.
        unused = {
            "steps",
            *(["unpaired"] * (not arm.alone)),
            *(["optimizer"] * (arm.train.optimizer == "adam")),
        }
        iterations = _iterations(arm, self.scale)
        own = {} if iterations == self.scale.iterations else {"iterations": iterations}
        return self.digest(
            **own,
            train=arm.train.model_dump(exclude=unused),
            quality=arm.quality.model_dump() if arm.pairs else None,
            photos_taught=photos,
            peers=arm.baseline,
            account=account,
            minutes=self.scale.minutes,
            looks=self.scale.looks,
        )


def _prepare(
    recipe: Recipe,
    style: StyleImage,
    device: torch.device,
    scale: Scale,
    train: list[PhotoRecord],
    held_out: list[PhotoRecord],
    most: Mapping[int, int],
    clock: Clock,
) -> _Bench:
    """Make or read the optimised images of held-out photos, and pairs of the first of the other photos.

    `most` has the number of those by the iterations of their pairs.
    """
    threads = torch.get_num_threads()
    objectives = Objectives.of_recipe(recipe, style, device.type, threads)
    objectives.load()
    digest = partial(
        _digest,
        **machine_of(device, scale.size),
        style=style.digest,
        style_size=recipe.style.size,
        recipe=recipe.model_dump(
            include={"loss", "vgg", "generate"}, exclude={"generate": {"input", "pattern", "pairs"}}
        ),
        best=scale.best,
        # Hashes of decoded pixels, so that the photos in a copy of a folder are the same.
        photos=[
            hashlib.blake2b(photo.content or b"", digest_size=8).hexdigest() for photo in train + held_out
        ],
    )
    name = Path(recipe.style.image).stem
    folder = Path(recipe.output) / f"{name}-{digest()}"
    make = partial(make_pairs, recipe, style, device, threads, clock)
    evaluation = EvaluationSet(objectives.exact, make(folder / "held_out", held_out, scale.best))
    pairs = {
        iterations: make(
            folder / ("train" if iterations == scale.iterations else f"train-{iterations}"),
            train[:number],
            iterations,
        )
        for iterations, number in most.items()
    }
    content = np.stack([square(photo.content, scale.size) for photo in train])
    return _Bench(name, digest, folder, objectives, evaluation, content, pairs, scale, threads, clock)


def _run_arms(
    bench: _Bench, arms: Collection[str], accounts: Collection[Account], cache: ResultCache
) -> Iterator[Run]:
    """The results of all arms for one style image; arms that equal an earlier one are skipped."""
    done: set[str] = set()
    for name in (name for name in ARMS if name in arms):
        arm = ARMS[name]
        if arm.train.init_model == f"zoo:{bench.style}":
            log(f"{bench.style} {name}: not run, as it would begin with a model of this painting")
            continue
        for account in accounts if arm.pairs else ACCOUNTS[:1]:
            pairs = bench.pairs.get(_iterations(arm, bench.scale))
            training = training_set(arm, account, bench.content, pairs)
            digest = bench.digest_of(arm, account, training.photos)
            if digest in done:
                log(f"{bench.style} {name}: the same as an earlier arm, as there are too few photos")
                continue
            done.add(digest)
            yield _run(bench, name, account, training, digest, cache)


def _run(
    bench: _Bench, name: str, account: Account, training: TrainingSet, digest: str, cache: ResultCache
) -> Run:
    """An arm's result, cached or measured now; without training if its pairs took all its time."""
    arm, picture = ARMS[name], bench.folder / f"{name}-{account}-{digest}.png"
    trained: Training | None = None
    if training.cost >= bench.scale.seconds:
        log(f"{bench.style} {name}: its pairs take {training.cost / 60:.1f} minutes, more than it has")
    else:
        title = f"{bench.style} {name} {account} {digest}"
        trained = cache.measure(title, partial(_train, bench, arm, training, picture))
    return Run(
        style=bench.style,
        arm=name,
        title=arm.title,
        account=account,
        photos=training.photos,
        left_out=training.left_out,
        pairs_seconds=training.paid,
        charged_seconds=training.cost,
        training=trained,
        picture=str(picture) if picture.exists() else None,
    )


def _digest(**settings: object) -> str:
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4).hexdigest()


class TrainingSet(NamedTuple):
    """The pairs that an arm is trained on."""

    content: Pixels
    optimised: Pixels
    """For an arm without pairs the photos, which it does not use."""
    photos: int
    left_out: int
    """Pairs that the quality filter removed."""
    cost: float
    """Seconds of the arm's time that are spent when training starts."""
    paid: float
    """Seconds that its pairs took, counted or not."""
    alone: Pixels | None = None
    """Photos without pairs that it is trained on too."""


def _most(arm: Arm, available: int) -> int:
    """Number of photos that an arm is trained on."""
    return available if arm.photos is None else min(arm.photos, available)


def _iterations(arm: Arm, scale: Scale) -> int:
    """Iterations of the optimisation that makes an arm's pairs."""
    return arm.iterations or scale.iterations


def training_set(arm: Arm, account: Account, content: Pixels, pairs: Pairs | None) -> TrainingSet:
    """The training set of an arm, from all photos and the pairs of the first of them."""
    photos = _most(arm, len(content))
    if not arm.pairs or pairs is None:
        return TrainingSet(content[:photos], content[:photos], photos, 0, 0.0, 0.0)
    mine = Pairs._make(each[:photos] for each in pairs)
    masks, _ = judge(mine.loss, mine.change, arm.quality)
    good = np.isfinite(mine.loss)
    kept = good & ~np.any(list(masks.values()), axis=0)
    paid = float(mine.seconds.sum(dtype=np.float64))
    cost = paid if account == "counted" else 0.0
    alone = content[photos:] if arm.alone and photos < len(content) else None
    return TrainingSet(
        mine.content[kept], mine.optimised[kept], photos, int((good & ~kept).sum()), cost, paid, alone
    )


def _train(bench: _Bench, arm: Arm, training: TrainingSet, picture: Path) -> Training:
    """Train until the time is over, measuring in between; keep weights and stylized held-out photos."""
    if not len(training.content):
        raise IncompleteError(f"no pair of {training.photos} photos is left to train on")
    objectives, evaluation, clock = bench.objectives, bench.evaluation, bench.clock
    seconds, looks = bench.scale.seconds - training.cost, bench.scale.looks
    curve: list[Point] = []
    spent, taken, number, next_look = 0.0, 0, 0, seconds / looks
    stylized = evaluation.pictures.content
    batches = shuffled(training.content, training.optimised, arm.train, training.alone)
    loop = (baseline_loop if arm.baseline else own_loop)(arm.train, objectives, bench.threads)
    while spent < seconds:
        with _threads(loop.threads):
            start = clock()
            taken += loop.step(next(batches), spent / seconds)
            wait_for(objectives.device)
            spent += clock() - start
        number += 1
        if spent >= min(next_look, seconds):
            next_look = spent + seconds / looks
            stylized = evaluation.stylize(loop.model())
            curve.append({"seconds": training.cost + spent, **evaluation.measure(stylized)})
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(encode(np.concatenate(list(stylized), axis=1), "png"))
    picture.with_suffix(".safetensors").write_bytes(model_bytes(loop.model()))
    return {
        "steps": taken,
        "skipped": number - taken,
        "seconds": spent,
        "parameters": sum(parameter.numel() for parameter in loop.net.parameters()),
        "precision": "fp32" if arm.baseline else objectives.engine.split()[-1],
        "curve": curve,
    }


def shuffled(
    content: Pixels, optimised: Pixels, train: Train, alone: Pixels | None = None
) -> Iterator[Batch]:
    """Endless batches, each pass in another order; a photo and its image are cropped and flipped together.

    Args:
        content: the photos of pairs, uint8 (n, size, size, 3).
        optimised: their optimised images.
        train: `batch_size`, `crop_size`, `seed` and `unpaired` are used.
        alone: photos without pairs, which take their places in each batch.
    """
    random = np.random.default_rng(train.seed)

    def endless(photos: Pixels, made: Pixels) -> Iterator[tuple[Pixels, Pixels]]:
        for index in chain.from_iterable(random.permutation(len(photos)) for _ in count()):
            yield photos[index], made[index]

    places = () if alone is None else unpaired_places(train.batch_size, train.unpaired)
    paired = tuple(place not in places for place in range(train.batch_size))
    pairs = endless(content, optimised)
    others = endless(alone, alone) if alone is not None else pairs
    while True:
        chosen = [next(pairs if has_pair else others) for has_pair in paired]
        views = [random_view(content.shape[1:3], train.crop_size, random) for _ in chosen]
        both = zip(chosen, views, strict=True)
        photos, made = zip(*((photo[view], image[view]) for (photo, image), view in both), strict=True)
        yield Batch(np.stack(photos), np.stack(made), paired)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Set the number of torch's threads in this thread while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
