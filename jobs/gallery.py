"""Paints the gallery of the README: photos that ship on top, below them a row for each model of the zoo.

python jobs/gallery.py --out docs/gallery.jpg
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from batch_nst import load_model
from batch_nst.data.images.codec import Pixels
from batch_nst.data.models.files import zoo_names

SAMPLES = Path(__file__).resolve().parent / "samples"
PHOTOS = [SAMPLES / "content" / "astronaut.jpg", *sorted((SAMPLES / "gallery").glob("*.jpg"))]
SIDE, GAP = 512, 6


def square(path: Path) -> Pixels:
    """The middle of a photo, uint8 (SIDE, SIDE, 3)."""
    with Image.open(path) as photo:
        return np.asarray(ImageOps.fit(photo.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the picture to write, a JPEG file")
    options = parser.parse_args()
    photos = [square(path) for path in PHOTOS]
    rows = [photos, *(load_model(f"zoo:{name}")(photos) for name in zoo_names())]
    step = SIDE + GAP
    sheet = Image.new("RGB", (len(photos) * step - GAP, len(rows) * step - GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (x * step, y * step))
    sheet.save(options.out, quality=85)


if __name__ == "__main__":
    main()
