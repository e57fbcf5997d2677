"""Paints the pictures of the README: photos that ship on top, below them a row for each model of the zoo.

python jobs/gallery.py --slow brueghel_harvesters --out docs/gallery.jpg
python jobs/gallery.py --hard --out docs/hard.jpg
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from batch_nst import load_model, stylize
from batch_nst.data.images.codec import Pixels
from batch_nst.data.models.files import zoo_names
from batch_nst.data.models.registry import ModelCard
from batch_nst.recipe import Loss

SAMPLES = Path(__file__).resolve().parent / "samples"
STYLES = SAMPLES / "styles"
PHOTOS = [SAMPLES / "content" / "astronaut.jpg", *sorted((SAMPLES / "gallery").glob("*.jpg"))]
HARD = [
    SAMPLES / "content" / f"{name}.jpg"
    for name in ("hubble_deep_field", "rocket", "solar_panel", "mount_rushmore")
]
SIDE, HARD_SIDE, GAP = 512, 320, 6


def square(path: Path, side: int) -> Pixels:
    """The middle of a photo, uint8 (side, side, 3)."""
    with Image.open(path) as photo:
        return np.asarray(ImageOps.fit(photo.convert("RGB"), (side, side), Image.Resampling.LANCZOS))


def slowly(photos: list[Pixels], name: str, card: ModelCard) -> list[Pixels]:
    """The same photos after 300 iterations under the loss that a model of the zoo learned from."""
    painting, loss = STYLES / f"{name}.jpg", Loss(**card["recipe"]["loss"])
    return stylize(photos, painting, style_size=card["recipe"]["style"]["size"], iterations=300, loss=loss)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the picture to write, a JPEG file")
    parser.add_argument("--hard", action="store_true", help="photos of kinds that do not work, and smaller")
    parser.add_argument("--slow", choices=zoo_names(), help="below this model's row, one by slow transfer")
    options = parser.parse_args()
    side = HARD_SIDE if options.hard else SIDE
    photos = [square(path, side) for path in (HARD if options.hard else PHOTOS)]
    rows = [photos]
    for name in zoo_names():
        model = load_model(f"zoo:{name}")
        rows.append(model(photos))
        if name == options.slow:
            rows.append(slowly(photos, name, model.card))
    step = side + GAP
    sheet = Image.new("RGB", (len(photos) * step - GAP, len(rows) * step - GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (x * step, y * step))
    sheet.save(options.out, quality=85)


if __name__ == "__main__":
    main()
