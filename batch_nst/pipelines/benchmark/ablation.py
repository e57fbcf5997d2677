"""Do pairs pay? The same network, trained in several ways for the same time on this machine, and compared.

In one process and without Ray, so that an arm has the machine to itself. The time of an arm is that of its
steps and of making its pairs; what is measured on held-out photos in between is not counted. A measurement is
written down when it is taken, pairs are kept, so that the same call goes on where it was cut off.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from batch_nst.console import log
from batch_nst.data.dataset.quality import judge
from batch_nst.data.dataset.records import PhotoRecord
from batch_nst.data.dataset.sampler import Batch, random_view
from batch_nst.data.images.codec import Pixels, encode
from batch_nst.data.images.style import StyleImage, read_style
from batch_nst.engine.device import Device, Precision, choose_device, choose_dtype
from batch_nst.engine.timing import machine_of, wait_for
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.pipelines.benchmark.ablation_arms import ARMS, Arm, our_student, peers_student
from batch_nst.pipelines.benchmark.ablation_exam import Exam
from batch_nst.pipelines.benchmark.ablation_pairs import Clock, Pairs, make_pairs, read_photos_of, square
from batch_nst.pipelines.benchmark.ablation_report import write_findings
from batch_nst.pipelines.benchmark.measure import ResultCache
from batch_nst.pipelines.objective import Objectives
from batch_nst.recipe import Generate, Recipe, Style, Train

Account = Literal["counted", "free"]
"""Whether the time of an arm's pairs is taken from the arm's; free: a nightly dataset is paid once."""
ACCOUNTS: tuple[Account, ...] = get_args(Account)

Figures = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    minutes: float = 10.0
    """Of an arm."""
    size: int = 96
    """Side of the pictures, pixels."""
    iterations: int = 60
    """Of the optimisation that makes a pair."""
    best: int = int(Generate.model_fields["iterations"].default)
    """Of the one that makes the `X` of held-out photos, which no arm pays."""
    looks: int = 10
    """How often an arm is measured."""

    @property
    def seconds(self) -> float:
        """Of an arm."""
        return 60 * self.minutes


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
) -> Figures:
    """Run what `results` does not hold yet, and write tables, plots and a contact sheet after each style.

    Args:
        photos: folder, glob or table, as `generate.input`.
        styles: paintings.
        scale: how large everything is.
        results: a local file that measurements are appended to.
        output: a local folder for pairs, pictures and what is written for people.
        arms: names in `ARMS`.
        accounts: whether arms with pairs run with their cost counted, for free, or both.
        device: where to compute.
        precision: of our arms, and of the optimisation.
        clock: tells seconds.

    Returns:
        `runs`, one for each style, arm and account, and the `files` that were written.

    Raises:
        RecipeError: an unknown arm, two paintings of one name, or one or photos that cannot be read.
        IncompleteError: fewer than two photos are good.
    """
    if unknown := sorted(set(arms) - ARMS.keys()):
        raise RecipeError(f"--arms: no {', '.join(unknown)}; allowed: {', '.join(ARMS)}")
    if len({Path(style).stem for style in styles}) < len(styles):
        raise RecipeError(f"--styles: given {', '.join(styles)}; allowed: files of different names")
    where = choose_device(device)
    machine = machine_of(where, scale.size)
    measured = ResultCache(results, machine)
    faster: Precision = "bf16" if choose_dtype(where, precision) == torch.bfloat16 else "fp32"
    wanted = {name: arm for name, arm in ARMS.items() if name in arms}
    recipes = [_recipe(photos, style, scale, faster, output) for style in styles]
    paintings = [read_style(recipe.style) for recipe in recipes]
    train, held_out = read_photos_of(photos, recipes[0].generate)
    found: Figures = {
        "scale": asdict(scale),
        "machine": machine,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "held_out": len(held_out),
        "photos": len(train),
        "references": {},
        "runs": [],
    }
    files: list[str] = []
    most = max((_most(arm, len(train)) for arm in wanted.values() if arm.pairs), default=0)
    for recipe, painting in zip(recipes, paintings, strict=True):
        bench = _prepare(recipe, painting, where, scale, train, held_out, most, clock)
        title = f"{bench.style} {_digest(bench.settings)} references"
        found["references"][bench.style] = measured.take(title, bench.exam.references)
        done: set[str] = set()
        for name, arm in wanted.items():
            for account in accounts if arm.pairs else ACCOUNTS[:1]:
                taught = lesson(arm, account, bench.content, bench.pairs)
                decides = bench.decides(arm, account, taught)
                if decides in done:
                    log(f"{bench.style} {name}: the same as an arm before it, for want of photos")
                    continue
                done.add(decides)
                found["runs"].append(_run(bench, name, account, taught, decides, measured))
        files += write_findings(Path(output), found, bench.style, *bench.exam.pictures[:2])
    return {**found, "files": list(dict.fromkeys(files))}


def _recipe(photos: str, style: str, scale: Scale, precision: Precision, output: str) -> Recipe:
    """What is shared with a recipe; the painting a little larger than pictures: strokes stay strokes."""
    return Recipe(
        output=output,
        style=Style(image=style, size=max(16, scale.size * 3 // 2)),
        generate=Generate(
            input=photos, image_size=scale.size, iterations=scale.iterations, precision=precision
        ),
    )


@dataclass(frozen=True)
class _Bench:
    """A painting, and all that its arms share."""

    style: str
    settings: Figures
    """All that decides a picture, and its cost."""
    folder: Path
    objectives: Objectives
    exam: Exam
    content: Pixels
    """Of all photos to train on."""
    pairs: Pairs | None
    """Of the first of them."""
    scale: Scale
    threads: int
    clock: Clock

    def decides(self, arm: Arm, account: Account, taught: Lesson) -> str:
        """Names what an arm measures: of two that are the same by all that counts, it is the same."""
        return _digest(
            {
                **self.settings,
                "train": arm.train.model_dump(exclude={"steps"}),
                "quality": arm.quality.model_dump() if arm.pairs else None,
                "photos_taught": taught.photos,
                "peers": arm.peers,
                "account": account,
                "minutes": self.scale.minutes,
                "looks": self.scale.looks,
            }
        )


def _prepare(
    recipe: Recipe,
    painting: StyleImage,
    device: torch.device,
    scale: Scale,
    train: list[PhotoRecord],
    held_out: list[PhotoRecord],
    most: int,
    clock: Clock,
) -> _Bench:
    """Make or read the `X` of held-out photos, and the pairs of the first `most` of the others."""
    threads, generate = torch.get_num_threads(), recipe.generate
    objectives = Objectives.on(painting, recipe.loss, recipe.vgg, device.type, generate.precision, threads)
    objectives.load()
    settings = {
        **machine_of(device, scale.size),
        "style": painting.digest,
        "style_size": recipe.style.size,
        "recipe": recipe.model_dump(include={"loss", "vgg", "generate"}, exclude={"generate": {"input"}}),
        "best": scale.best,
        # As they are decoded, so that a copy of a folder is the same photos.
        "photos": [
            hashlib.blake2b(photo.content or b"", digest_size=8).hexdigest() for photo in train + held_out
        ],
    }
    style = Path(recipe.style.image).stem
    folder = Path(recipe.output) / f"{style}-{_digest(settings)}"
    make = partial(make_pairs, recipe, painting, device, threads, clock)
    exam = Exam(objectives.exact, make(folder / "held_out", held_out, scale.best))
    pairs = make(folder / "train", train[:most], scale.iterations) if most else None
    content = np.stack([square(photo.content or b"", scale.size) for photo in train])
    return _Bench(style, settings, folder, objectives, exam, content, pairs, scale, threads, clock)


def _run(
    bench: _Bench, name: str, account: Account, taught: Lesson, decides: str, measured: ResultCache
) -> Figures:
    """An arm's figures: known, measured, or that it has no time left to train."""
    arm, picture = ARMS[name], bench.folder / f"{name}-{account}-{decides}.png"
    run: Figures = {
        "style": bench.style,
        "arm": name,
        "title": arm.title,
        "account": account,
        "photos": taught.photos,
        "left_out": taught.left_out,
        "pairs_seconds": taught.paid,
        "charged_seconds": taught.cost,
    }
    if taught.cost >= bench.scale.seconds:
        log(f"{bench.style} {name}: its pairs take {taught.cost / 60:.1f} minutes, more than it has")
        run |= {"curve": []}
    else:
        title = f"{bench.style} {name} {account} {decides}"
        run |= measured.take(title, partial(_train, bench, arm, taught, picture))
    return {**run, "picture": str(picture) if picture.exists() else None}


def _digest(settings: Figures) -> str:
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4).hexdigest()


class Lesson(NamedTuple):
    """What an arm is taught."""

    content: Pixels
    optimised: Pixels
    """Of an arm without pairs the photos, which it does not look at."""
    photos: int
    left_out: int
    """Pairs that the quality filter passes over."""
    cost: float
    """Seconds of the arm's time that are spent when training begins."""
    paid: float
    """Seconds that its pairs took, counted or not."""


def _most(arm: Arm, there: int) -> int:
    """How many of the photos that are there an arm is taught."""
    return there if arm.photos is None else min(arm.photos, there)


def lesson(arm: Arm, account: Account, content: Pixels, pairs: Pairs | None) -> Lesson:
    """What an arm is taught, of all photos and of the pairs of the first of them."""
    photos = _most(arm, len(content))
    if not arm.pairs or pairs is None:
        return Lesson(content[:photos], content[:photos], photos, 0, 0.0, 0.0)
    mine = Pairs._make(each[:photos] for each in pairs)
    masks, _ = judge(mine.loss, mine.change, arm.quality)
    good = np.isfinite(mine.loss)
    kept = good & ~np.any(list(masks.values()), axis=0)
    paid = float(mine.seconds.sum(dtype=np.float64))
    cost = paid if account == "counted" else 0.0
    return Lesson(mine.content[kept], mine.optimised[kept], photos, int((good & ~kept).sum()), cost, paid)


def _train(bench: _Bench, arm: Arm, taught: Lesson, picture: Path) -> Figures:
    """Train until the time is over; measure in between; keep the last pictures of the held-out photos."""
    if not len(taught.content):
        raise IncompleteError(f"no pair of {taught.photos} photos is left to train on")
    objectives, exam, clock = bench.objectives, bench.exam, bench.clock
    seconds, looks = bench.scale.seconds - taught.cost, bench.scale.looks
    curve: list[Figures] = []
    spent, taken, number, mark = 0.0, 0, 0, seconds / looks
    painted = exam.pictures.content
    batches = shuffled(taught.content, taught.optimised, arm.train)
    student = (peers_student if arm.peers else our_student)(arm.train, objectives, bench.threads)
    while spent < seconds:
        with _threads(student.threads):
            start = clock()
            taken += student.step(next(batches), spent / seconds)
            wait_for(objectives.device)
            spent += clock() - start
        number += 1
        if spent >= min(mark, seconds):
            mark = spent + seconds / looks
            painted = exam.paint(student.net, student.weights())
            curve.append({"seconds": taught.cost + spent, **exam.mark(painted)})
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(encode(np.concatenate(list(painted), axis=1), "png"))
    return {
        "steps": taken,
        "skipped": number - taken,
        "seconds": spent,
        "parameters": sum(parameter.numel() for parameter in student.net.parameters()),
        "precision": "fp32" if arm.peers else objectives.engine.split()[-1],
        "curve": curve,
    }


def shuffled(content: Pixels, optimised: Pixels, train: Train) -> Iterator[Batch]:
    """Endless batches, pass after pass in a new order; a photo and its image are cut and flipped together."""
    chance = np.random.default_rng(train.seed)
    order = chain.from_iterable(chance.permutation(len(content)) for _ in count())
    while True:
        chosen = list(islice(order, train.batch_size))
        views = [random_view(content.shape[1:3], train.crop_size, chance) for _ in chosen]
        yield Batch(
            *(
                np.stack([pictures[index][view] for index, view in zip(chosen, views, strict=True)])
                for pictures in (content, optimised)
            )
        )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Of torch's in this thread, while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
