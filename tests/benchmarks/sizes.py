"""Scores models of the zoo on photos of twice the size that they learned at: as they are, and with `--size`.

python tests/benchmarks/sizes.py [NAME ...]

There are two objectives: of the painting as the model knows it, whose strokes have the same pixels as at
half the size, and of the painting at twice the size, whose strokes are as large as the photo is. X is the
image of 100 iterations for each. All losses are measured in fp32.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from batch_nst import load_model
from batch_nst.data.images.blend import Blend
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.style import read_style
from batch_nst.data.models.files import zoo_names
from batch_nst.engine.slow_transfer import losses_of, optimise
from batch_nst.engine.statistics import ratio
from batch_nst.pipelines.objective import Objectives, to_pixels, to_tensor
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import load_recipe

JOBS = Path(__file__).resolve().parents[2] / "jobs"
PHOTOS = [
    JOBS / "samples" / "content" / "astronaut.jpg",
    *sorted((JOBS / "samples" / "gallery").glob("*.jpg")),
]
ITERATIONS = 100


def square(path: Path, side: int) -> Pixels:
    """The middle of a photo, uint8 (side, side, 3)."""
    with Image.open(path) as photo:
        return np.asarray(ImageOps.fit(photo.convert("RGB"), (side, side), Image.Resampling.LANCZOS))


def losses(objectives: Objectives, painted: Pixels, photo: Pixels) -> tuple[float, float, float]:
    """Objective, content and style of a picture."""
    found = losses_of(objectives.exact, to_tensor(painted[None], "cpu"), to_tensor(photo[None], "cpu"))
    return float(found.total), float(found.content), float(found.style)


def score(name: str, recipe: Recipe, side: int) -> None:
    """Print a line for each way, with the painting at this short side: R, its content and its style."""
    size, model = recipe.generate.image_size, load_model(f"zoo:{name}")
    style = read_style(recipe.style.model_copy(update={"size": side}))
    objectives = Objectives.of_recipe(recipe, style, "cpu", os.cpu_count() or 1)
    ways = {"not at all": Blend(strength=0), "as it is": Blend(), f"--size {size}": Blend(size=size)}
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in (*ways, "X")}
    for path in PHOTOS:
        photo = square(path, 2 * size)
        x = optimise(objectives.fast, to_tensor(photo[None], "cpu"), ITERATIONS, recipe.generate.optimizer)
        found["X"].append(losses(objectives, to_pixels(x.images)[0], photo))
        for way, blend in ways.items():
            found[way].append(losses(objectives, blend.paint(photo, model), photo))
    names, reached = [path.name for path in PHOTOS], list(zip(*found["X"], strict=True))
    for way in ways:
        parts = zip(zip(*found[way], strict=True), reached, strict=True)
        total, kept, drawn = (ratio(mine, x, names).value for mine, x in parts)
        print(f"| `{name}` | {side} | {way} | {total:.2f} | {kept:.2f} | {drawn:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(zoo_names())} (all)")
    names = parser.parse_args().names or zoo_names()
    if unknown := sorted(set(names) - set(zoo_names())):
        parser.error(f"NAME: given {', '.join(unknown)}; allowed: {', '.join(zoo_names())}")
    print("| model | painting, px | painted | R | content | style |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for name in names:
        recipe = load_recipe(str(JOBS / "recipes" / "zoo" / f"{name}.yaml"), [])
        for side in (recipe.style.size, 2 * recipe.style.size):
            score(name, recipe, side)


if __name__ == "__main__":
    main()
