"""Do pairs pay? The same network, trained in several ways for the same time on this machine, and compared.

In one process and without Ray, so that an arm has the machine to itself. The time of an arm is that of its
steps and of making its pairs; what is measured on held-out photos in between is not counted. A measurement is
written down when it is taken, pairs are kept, so that the same call goes on where it was cut off.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from batch_nst.data.images import Pixels, encode
from batch_nst.data.inputs import is_held_out, key_hash, list_photos, photo_id, uri_of
from batch_nst.data.pairs import Batch, random_view
from batch_nst.data.quality import Floats, change, judge
from batch_nst.data.reading import read_photos
from batch_nst.data.style import StylePicture, read_style
from batch_nst.engine.checkerboard import checkerboard
from batch_nst.engine.johnson import feature_distance
from batch_nst.engine.model_files import stylize_image
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.precision import Device, Precision, choose_device, choose_dtype
from batch_nst.engine.ssim import ssim
from batch_nst.engine.timing import wait_for
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.pipelines.arms import ARMS, Arm
from batch_nst.pipelines.findings import write_findings
from batch_nst.pipelines.measurements import Measurements, machine_of
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.pipelines.progress import say
from batch_nst.pipelines.race import geometric_mean
from batch_nst.pipelines.rows import IN_FLIGHT, Row, pack, photo_rows, unpack
from batch_nst.pipelines.students import ours, peers
from batch_nst.recipe import Evaluate, Generate, Recipe, Style, Train

Account = Literal["counted", "free"]
"""Whether the time of an arm's pairs is taken from the arm's; free: a nightly dataset is paid once."""
ACCOUNTS: tuple[Account, ...] = get_args(Account)

Clock = Callable[[], float]
Figures = dict[str, Any]

_UNIT = 25
"""Photos whose pairs are made and kept together; the arms' numbers are multiples of it."""
_AT_ONCE = 8
"""Held-out photos that are measured together."""


class Pairs(NamedTuple):
    """Of n photos, in the order in which they were made."""

    content: Pixels
    """(n, size, size, 3), and so is the next."""
    optimised: Pixels
    loss: Floats
    change: Floats
    seconds: Floats
    """That each took to make."""


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
    measured = Measurements(results, machine)
    faster: Precision = "bf16" if choose_dtype(where, precision) == torch.bfloat16 else "fp32"
    wanted = {name: arm for name, arm in ARMS.items() if name in arms}
    recipes = [_recipe(photos, style, scale, faster, output) for style in styles]
    paintings = [read_style(recipe.style) for recipe in recipes]
    train, held_out = _read(photos, recipes[0].generate)
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
                    say(f"{bench.style} {name}: the same as an arm before it, for want of photos")
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
    painting: StylePicture,
    device: torch.device,
    scale: Scale,
    train: list[Row],
    held_out: list[Row],
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
        "photos": [hashlib.blake2b(row["content"], digest_size=8).hexdigest() for row in train + held_out],
    }
    style = Path(recipe.style.image).stem
    folder = Path(recipe.output) / f"{style}-{_digest(settings)}"
    make = partial(_make, recipe, painting, device, threads, clock)
    exam = Exam(objectives.exact, make(folder / "held_out", held_out, scale.best))
    pairs = make(folder / "train", train[:most], scale.iterations) if most else None
    content = np.stack([_square(row["content"], scale.size) for row in train])
    return _Bench(style, settings, folder, objectives, exam, content, pairs, scale, threads, clock)


def _run(
    bench: _Bench, name: str, account: Account, taught: Lesson, decides: str, measured: Measurements
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
        say(f"{bench.style} {name}: its pairs take {taught.cost / 60:.1f} minutes, more than it has")
        run |= {"curve": []}
    else:
        title = f"{bench.style} {name} {account} {decides}"
        run |= measured.take(title, partial(_train, bench, arm, taught, picture))
    return {**run, "picture": str(picture) if picture.exists() else None}


def _digest(settings: Figures) -> str:
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4).hexdigest()


# Photos and pairs ----------------------------------------------------------------------------------------


def _read(source: str, limits: Generate) -> tuple[list[Row], list[Row]]:
    """Good photos to train on and held-out ones, each by the hash of their keys; rows of `IN_FLIGHT`."""
    train: list[Row] = []
    held_out: list[Row] = []
    try:
        photos = sorted(list_photos(source), key=lambda photo: key_hash(photo.key))
    except RecipeError as error:  # of an input, which recipes call so
        raise RecipeError(str(error).replace("generate.input", "--photos", 1)) from error
    for photo in photos:
        (data,) = read_photos([photo], limits.max_bytes)
        split = "held_out" if is_held_out(photo.key, _HOLDOUT) or not held_out else "train"
        planned: Row = {"id": photo_id(photo.key, photo.version, 0), "crop": 0, "split": split}
        (row,) = photo_rows(uri_of(photo), data, [planned], limits)
        if row["status"] != "ok":
            say(f"{row['status']}: {row['uri']}: {row['reason']}: {row['detail']}")
        else:
            (train if split == "train" else held_out).append(row)
    if not train:
        raise IncompleteError(f"{source}: good photos: {len(held_out)}; allowed: two or more")
    return train, held_out


_HOLDOUT = float(Evaluate.model_fields["holdout"].default)


def _make(
    recipe: Recipe,
    painting: StylePicture,
    device: torch.device,
    threads: int,
    clock: Clock,
    folder: Path,
    rows: list[Row],
    iterations: int,
) -> Pairs:
    """Pairs of photos as `generate` makes them: read where they are kept, else timed and kept."""
    # They bring Ray along, which is not started.
    from batch_nst.pipelines.cluster import Workers
    from batch_nst.pipelines.stylize import Stylizer

    generate = recipe.generate.model_copy(update={"iterations": iterations})
    kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
    workers = Workers(kind, num_cpus=threads, num_gpus=int(kind == "cuda"), threads=threads, most=1)
    stylizer = Stylizer(painting, recipe.model_copy(update={"generate": generate}), workers)
    units = []
    for first in range(0, len(rows), _UNIT):
        unit = rows[first : first + _UNIT]
        file = folder / f"{first:06}-{len(unit)}.npz"
        if not file.exists():
            say(f"{folder}: optimising photos {first + 1} to {first + len(unit)} of {len(rows)}")
            _keep(file, _optimise(unit, stylizer, generate.image_size, clock))
        with np.load(file) as kept:
            units.append(Pairs(*(kept[field] for field in Pairs._fields)))
    return Pairs(*(np.concatenate(parts) for parts in zip(*units, strict=True)))


def _optimise(rows: list[Row], stylizer: Callable[[Row], Row], side: int, clock: Clock) -> Pairs:
    """The pairs of photos; of one that was no number twice the loss is none, and its picture the photo."""
    start = clock()
    unit = stylizer({"unit": "ablation", "photos": pack(rows, IN_FLIGHT), "outage": ""})
    seconds = clock() - start
    made = unpack(unit["photos"])
    content = np.stack([_square(row["content"], side) for row in made])
    optimised = np.stack([_square(row["stylized"] or row["content"], side) for row in made])
    loss = [row["total_loss"] if row["status"] == "ok" else np.inf for row in made]
    moved = [change(*pictures) for pictures in zip(content, optimised, strict=True)]
    shares = np.full(len(made), seconds / len(made))
    return Pairs(content, optimised, *(np.array(each, np.float32) for each in (loss, moved, shares)))


def _keep(file: Path, pairs: Pairs) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partly = file.with_suffix(".part")
    with partly.open("wb") as stream:
        np.savez(stream, **pairs._asdict())
    partly.replace(file)


def _square(pixels: bytes, side: int) -> Pixels:
    return np.frombuffer(pixels, np.uint8).reshape(side, side, 3)


# Arms ----------------------------------------------------------------------------------------------------


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
    student = (peers if arm.peers else ours)(arm.train, objectives, bench.threads)
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


# Held-out photos -----------------------------------------------------------------------------------------


@dataclass
class Exam:
    """What is measured of a model, or of any pictures of the held-out photos."""

    objective: PerceptualLoss
    """In fp32."""
    pictures: Pairs

    @cached_property
    def _wanted(self) -> list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]]:
        """Of each few photos: targets of the content loss, activations of `X`, and `X`."""
        found = []
        for part in self._parts():
            content, optimised = (to_tensor(each[part], self._device) for each in self.pictures[:2])
            with torch.no_grad():
                wanted = self.objective.vgg(optimised)
            found.append((self.objective.content_targets(content), wanted, optimised))
        return found

    @property
    def _device(self) -> torch.device:
        return next(iter(self.objective.style_grams.values())).device

    def _parts(self) -> list[slice]:
        photos = len(self.pictures.content)
        return [slice(first, first + _AT_ONCE) for first in range(0, photos, _AT_ONCE)]

    def references(self) -> Figures:
        """Of the photos themselves, and of `X`."""
        return {"photo": self.mark(self.pictures.content), "X": self.mark(self.pictures.optimised)}

    def paint(self, net: TransformerNet, weights: dict[str, Tensor]) -> Pixels:
        """What a network makes of the photos with other weights than its own, as it is stored."""
        painter = TransformerNet(net.width, net.network).to(self._device)
        painter.load_state_dict(weights)
        images = torch.from_numpy(np.array(self.pictures.content))
        painted = [stylize_image(painter, images[part], self._device) for part in self._parts()]
        pixels: Pixels = torch.cat(painted).numpy()
        return pixels

    @torch.no_grad()
    def mark(self, pictures: Pixels) -> Figures:
        """Of all photos: geometric means of the objective, its parts and the distance to `X`; else means."""
        figures: dict[str, list[float]] = {}
        for part, (targets, wanted, optimised) in zip(self._parts(), self._wanted, strict=True):
            stack = to_tensor(pictures[part], self._device)
            activations = self.objective.vgg(stack)
            losses = self.objective.of_activations(stack, activations, targets)
            marks = {
                "objective": losses.total,
                "content": losses.content,
                "style": losses.style,
                "distance": feature_distance(activations, wanted),
                "ssim": ssim(stack, optimised),
                "checkerboard": checkerboard(stack),
            }
            for name, values in marks.items():
                figures.setdefault(name, []).extend(values.tolist())
        return {name: _mean(name, values) for name, values in figures.items()}


def _mean(name: str, values: Sequence[float]) -> float | None:
    """The geometric mean, 0 where a value is 0; the mean of SSIM, which may be below 0, and checkerboard."""
    if name in ("ssim", "checkerboard"):
        return sum(values) / len(values)
    return 0.0 if 0 in values else geometric_mean(values)
