"""The command `init`: a recipe for photos and a painting, with numbers that fit this machine into a time."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batch_nst.console import log
from batch_nst.contradictions import contradictions
from batch_nst.data.images.style import read_style
from batch_nst.data.sources.kinds import SUFFIXES
from batch_nst.data.sources.photos import stream_photos
from batch_nst.data.storage.fetch import is_remote
from batch_nst.errors import RecipeError
from batch_nst.pipelines.cost.scale import START_SECONDS, Machine, Seconds, fit, seconds_of
from batch_nst.recipe import Generate, Recipe, Style
from batch_nst.recipe_file import load_recipe

if TYPE_CHECKING:
    from batch_nst.data.images.style import StyleImage
    from batch_nst.engine.device import Device

_STYLE = re.compile("(style|painting)s?", re.IGNORECASE)
"""Beginning of the names of style images, and of folders that hold them."""
_PHOTOS_AN_HOUR = 100
"""Photos for which an hour is the default; for more, it is as many hours more."""
_TRIAL_SIDE = 128
_TRIAL_BATCH = 2


@dataclass(frozen=True)
class InitFigures:
    """Figures of `init`."""

    recipe: str
    """Path of the recipe."""
    photos: int
    hours: float
    """The time that was given."""
    pairs_hours: float
    training_hours: float
    scoring_hours: float
    start_hours: float
    """Reserved for starting Ray, and for the export."""
    next: str
    """The command that runs it."""


def init(
    folder: str = ".",
    photos: str | None = None,
    style: str | None = None,
    hours: float | None = None,
    file: str | None = None,
    device: Device = "auto",
) -> InitFigures:
    """Write a recipe. It never overwrites one.

    Args:
        folder: where to look for what is not named; the recipe is written there.
        photos: what `generate.input` may be.
        style: the style image.
        hours: the time for the whole run; None asks for it on a terminal, else takes an hour for 100 photos.
        file: the recipe; None writes `recipe.yaml` into the folder.
        device: where to measure.

    Raises:
        RecipeError: the recipe exists; photos or style image are not found, or more than one could be meant;
            or the time is too short.
    """
    home = Path(folder).absolute()
    target = Path(file).absolute() if file else home / "recipe.yaml"
    _check_target(home, target)
    source = _named(photos) if photos else str(_find_photos(home))
    image = _named(style) if style else str(_find_style(home, Path(source)))
    painting = read_style(Style(image=image, size=_TRIAL_SIDE))
    count = sum(batch.num_rows for batch in stream_photos(source))
    if count < 2:
        raise RecipeError(
            f"{source}: has 1 photo; needed: 2 or more, since one is held out to score the model"
        )
    hours = hours if hours is not None else _ask_hours(count)
    base = _base(_output(target, source, image), image, source)
    machine = _measure(base, painting, device)
    recipe = fit(base, count, hours, machine)
    took = seconds_of(recipe, count, machine)
    _write(target, _text(recipe, target, count, hours, took))
    command = f"batch-nst nightly {shlex.quote(os.path.relpath(target))}"
    for line in _lines(recipe, count, took):
        log(line)
    log(f"wrote {target}; next: {command}")
    pairs, training, scoring, start = (round(seconds / 3600, 4) for seconds in (*took, START_SECONDS))
    return InitFigures(str(target), count, hours, pairs, training, scoring, start, command)


def _base(output: str, image: str, source: str) -> Recipe:
    recipe = Recipe(output=output, style=Style(image=image), generate=Generate(input=source))
    if reasons := contradictions(recipe):
        raise RecipeError(f"--photos {source}: {reasons[0]}")
    return recipe


def _check_target(home: Path, target: Path) -> None:
    if not home.is_dir():
        raise RecipeError(f"{home}: no such folder; allowed: a folder")
    if target.exists() or target.is_symlink():
        raise RecipeError(f"{target}: exists, and is not overwritten; allowed: another name, by --out FILE")
    if not os.access(target.parent, os.W_OK):
        raise RecipeError(
            f"{target}: cannot be written; allowed: a file in a folder that can be, by --out FILE"
        )


def _named(uri: str) -> str:
    return uri if "://" in uri else os.path.normpath(Path.cwd() / os.path.expanduser(uri))


# --- looking for photos and painting


def _pictures(folder: Path) -> list[Path]:
    """Pictures that lie in a folder itself."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _holds_pictures(folder: Path) -> bool:
    return any(Path(name).suffix.lower() in SUFFIXES for *_, names in os.walk(folder) for name in names)


def _is_style(path: Path) -> bool:
    return _STYLE.match(path.name) is not None


def _find_photos(home: Path) -> Path:
    """The one folder with pictures that are no style images; or the folder itself."""
    folders = [path for path in sorted(home.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    found = [path for path in folders if not _is_style(path) and path.name != "out" and _holds_pictures(path)]
    if not found and any(not _is_style(path) for path in _pictures(home)):
        return home
    return _only(found, home, "photos", "a folder of photos in it")


def _find_style(home: Path, photos: Path) -> Path:
    """The one picture that is called a style image or painting, or lies beside the folder of photos."""
    folders = [path for path in home.iterdir() if path.is_dir() and _is_style(path)]
    found = [*filter(_is_style, _pictures(home)), *(path for folder in folders for path in _pictures(folder))]
    if not found and photos != home:
        found = _pictures(home)
    style = _only(found, home, "style", "a picture in it, named painting or style")
    if style.is_relative_to(photos):
        raise RecipeError(
            f"{style}: lies among the photos of {photos}; allowed: a painting elsewhere, or photos in a "
            "folder of their own"
        )
    return style


def _only(found: list[Path], home: Path, option: str, wanted: str) -> Path:
    if len(found) != 1:
        names = ", ".join(path.relative_to(home).as_posix() for path in found[:5])
        given = (
            f"{len(found)} could be meant: {names}{', ...' if len(found) > 5 else ''}"
            if found
            else "none is here"
        )
        raise RecipeError(f"--{option}: not given, and in {home} {given}; allowed: --{option}, or {wanted}")
    return found[0]


def _output(target: Path, source: str, image: str) -> str:
    """A folder beside the recipe, but not below the photos, which would then feed on it."""
    name = re.sub(r"[^\w.-]+", "_", Path(image).stem) or "model"
    output, photos = target.parent / "out" / name, Path(source)
    if not is_remote(source) and output.is_relative_to(photos):
        output = photos.parent / f"{photos.name}_out" / name
    return str(output)


# --- time


def _ask_hours(photos: int) -> float:
    """The time that the user grants; the default where there is no terminal."""
    default = max(1.0, math.ceil(photos / _PHOTOS_AN_HOUR))
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return default
    while True:
        print(
            f"{photos:,} photos. Hours for the whole run [{default:g}]: ", end="", file=sys.stderr, flush=True
        )
        word = sys.stdin.readline().strip()
        try:
            hours = float(word or default)
        except ValueError:
            hours = math.nan
        if 0 < hours < math.inf:
            return hours
        log(f"given {word!r}; allowed: a number above 0")


def _measure(base: Recipe, painting: StyleImage, device: Device) -> Machine:
    """A few iterations and training steps on the device that a run here would choose."""
    import torch

    from batch_nst.engine.device import choose_device
    from batch_nst.pipelines.cost.step_trial import pair_rate, step_rates
    from batch_nst.pipelines.objective import Objectives

    chosen, threads = choose_device(device), torch.get_num_threads()
    log(f"measuring {chosen.type}, {threads} threads")
    start = time.monotonic()
    objectives = Objectives.of_recipe(base, painting, chosen.type, threads)
    trial = base.model_copy(
        update={
            "generate": base.generate.model_copy(update={"image_size": _TRIAL_SIDE}),
            "train": base.train.model_copy(update={"crop_size": _TRIAL_SIDE * 3 // 4}),
        }
    )
    pairs = pair_rate(objectives, _TRIAL_SIDE, _TRIAL_BATCH)
    steps = step_rates(trial, objectives, objectives, threads)
    log(f"measured in {time.monotonic() - start:.0f} s")
    return Machine(chosen.type, threads, pairs, steps)


def _lines(recipe: Recipe, photos: int, took: Seconds) -> list[str]:
    generate, train, score = recipe.generate, recipe.train, recipe.evaluate
    crops = f", {generate.crops} crops of each" if generate.crops > 1 else ""
    what = {
        "pairs": f"{photos:,} photos{crops}, {generate.image_size} px, {generate.iterations} iterations",
        "training": f"{train.steps:,} steps of {train.batch_size} crops of {train.crop_size} px",
        "scoring": f"{score.photos} held-out pictures, {score.iterations} iterations",
        "starting": "Ray and its workers; and the export",
        "in all": "the first run; later ones cost what is new, and a training",
    }
    hours = [*took, START_SECONDS, sum(took) + START_SECONDS]
    return [
        f"{name:>10} {seconds / 3600:6.2f} hours  {text}"
        for (name, text), seconds in zip(what.items(), hours, strict=True)
    ]


# --- the recipe


def _text(recipe: Recipe, target: Path, photos: int, hours: float, took: Seconds) -> str:
    def place(uri: str | list[str]) -> str:
        path = Path(str(uri))
        near = not is_remote(str(uri)) and path.is_relative_to(target.parent) and path != target.parent
        return json.dumps(str(path.relative_to(target.parent)) if near else uri, ensure_ascii=False)

    loss, generate, train, score = recipe.loss, recipe.generate, recipe.train, recipe.evaluate
    pairs, training, scoring = (f"{seconds / 3600:.2f} hours" for seconds in took)
    lines = [
        ("output: " + place(recipe.output), ""),
        ("style:", ""),
        ("  image: " + place(recipe.style.image), ""),
        (f"  size: {recipe.style.size}", "px; a little larger than the pictures: strokes stay strokes"),
        ("loss:", "compare values: batch-nst try RECIPE loss.style_weight=10,100"),
        (f"  content_weight: {loss.content_weight:g}", "of the photo"),
        (f"  style_weight: {loss.style_weight:g}", "of the painting"),
        ("generate:", f"pairs: {pairs}"),
        ("  input: " + place(generate.input), ""),
        (f"  image_size: {generate.image_size}", "px; time grows with its square"),
        (f"  crops: {generate.crops}", "of each photo"),
        (f"  iterations: {generate.iterations}", "of the optimisation"),
        (f"  unit_images: {generate.unit_images}", "images that are committed together"),
        ("train:", f"the model: {training}"),
        ("  # init: model:zoo:great_wave", "without the first #: as good much sooner; terms: batch-nst zoo"),
        (f"  steps: {train.steps}", ""),
        (f"  batch_size: {train.batch_size}", "crops in a step"),
        (f"  crop_size: {train.crop_size}", "px"),
        (f"  checkpoint_steps: {train.checkpoint_steps}", "a stopped training continues from the last one"),
        ("evaluate:", f"scores: {scoring}"),
        (f"  holdout: {score.holdout}", "fraction of the photos that is never trained on"),
        (f"  photos: {score.photos}", "held-out pictures that are scored"),
        (f"  iterations: {score.iterations}", "of the optimisation that the model is compared with"),
        (f"  baseline_photos: {score.baseline_photos}", "of them that the baseline optimises too"),
        (f"  larger_photos: {score.larger_photos}", "of them that are scored at twice the size too"),
        (f"  sizes: {score.sizes}", "px, at which model and optimisation are timed"),
    ]
    head = (
        f"# Made by `batch-nst init` on this machine, for {photos:,} photos and {hours:g} hours.\n"
        "# All keys: docs/recipe.md. What decides pixels cannot be changed later in the same output.\n"
    )
    body = (f"{text:<27} # {comment}" if comment else text for text, comment in lines)
    return head + "\n".join(body) + "\n"


def _write(target: Path, text: str) -> None:
    """Write the recipe, unless there is one by now; and read it once, as the next command will."""
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise RecipeError(f"{target}: cannot be written: {error.strerror}") from error
    load_recipe(target)
