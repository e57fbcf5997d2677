"""Makes the models of the zoo from a folder of photos, and copies them into the package.

python jobs/zoo.py --photos photos/ [NAME ...]

First it says how many hours each will take; where nothing is known of that, it tries a few photos for a
minute or two. Killed anywhere, the same command continues where it was.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from batch_nst import load_model, stylize
from batch_nst.data.images.codec import Pixels, encode, resize_short_side
from batch_nst.data.images.contact_sheet import contact_sheet
from batch_nst.data.models import registry
from batch_nst.data.models.card import readme
from batch_nst.data.models.files import ZOO, ModelFiles, read_model
from batch_nst.data.models.registry import ModelCard
from batch_nst.recipe import Loss, Recipe
from batch_nst.recipe_file import load_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "jobs" / "recipes" / "zoo"
SHOWN = [
    ROOT / "jobs" / "samples" / "content" / f"{name}.jpg" for name in ("chelsea", "great_wall", "windmill")
]


def run(command: str, name: str, photos: str, *more: str) -> dict[str, Any]:
    """The figures of a command of batch-nst on a recipe; its lines are shown as they come."""
    words = [command, str(RECIPES / f"{name}.yaml"), f"generate.input={photos}", *more]
    done = subprocess.run([sys.executable, "-m", "batch_nst", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def hours(name: str, photos: str) -> float:
    """How long a recipe will take on this machine or cluster, pairs, training and scoring."""
    known: float | None = run("plan", name, photos)["steps"]["in_all"]["hours"]
    return known or float(run("plan", name, photos, "--calibrate")["steps"]["in_all"]["hours"])


def ship(name: str, recipe: Recipe) -> None:
    """Copy the published model of a recipe into the zoo; paths are those below the checkout."""
    model = read_model(recipe.output)
    card: ModelCard = json.loads(json.dumps(model.card).replace(f"{ROOT}/", ""))
    folder = ZOO / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / registry.WEIGHTS).write_bytes(model.weights)
    card["digests"].pop(registry.GRAPH, None)
    (folder / registry.CARD).write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    (folder / registry.README).write_text(readme(card))
    (folder / registry.PREVIEW).write_bytes(preview(model, recipe))


def preview(model: ModelFiles, recipe: Recipe) -> bytes:
    """The painting; below it photo, optimised image and stylized image of some photos that ship."""
    size, style = recipe.generate.image_size, np.asarray(Image.open(recipe.style.image).convert("RGB"))
    photos: list[Pixels] = []
    for path in SHOWN:
        photo = resize_short_side(np.asarray(Image.open(path).convert("RGB")), size)
        top, left = ((side - size) // 2 for side in photo.shape[:2])
        photos.append(photo[top : top + size, left : left + size])
    loss = Loss(**model.card["recipe"]["loss"])
    optimised = stylize(photos, style, style_size=recipe.style.size, loss=loss)
    painted = load_model(model.home)(photos)
    rows = zip(photos, optimised, painted, strict=True)
    return contact_sheet(
        [[encode(image, "png") for image in row] for row in rows], size, Path(recipe.style.image).read_bytes()
    )


def main() -> None:
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", required=True, help="a folder of photos, or what else generate.input may be"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(names)} (all)")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(names)):
        parser.error(f"NAME: given {', '.join(unknown)}; allowed: {', '.join(names)}")
    wanted = options.names or names
    expected = {name: hours(name, options.photos) for name in wanted}
    told = ", ".join(f"{name} {each:.1f}" for name, each in expected.items())
    print(f"hours: {told}; in all {sum(expected.values()):.1f}", flush=True)
    for name in wanted:
        run("nightly", name, options.photos)
        ship(name, load_recipe(str(RECIPES / f"{name}.yaml"), [f"generate.input={options.photos}"]))


if __name__ == "__main__":
    main()
