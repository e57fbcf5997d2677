"""What decoding a folder's photos to squares of 256 px costs; prints two Markdown tables.

The first compares this process with the decoding process. The second has a row for each photo: its time in
the decoding process with all pixels and with a draft (`generate.draft`), how much the squares differ, and how
many processors feed a GPU that makes 5, 10 or 20 images a second. The least of several times counts.

python docs/decoder_cost.py [FOLDER]
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from statistics import mean
from time import perf_counter

import numpy as np
from PIL import Image

from batch_nst.data.images import codec
from batch_nst.data.images.sandbox import Decoder, Limits

LIMITS = Limits(min_side=64, max_bytes=64 << 20, max_pixels=100_000_000, max_seconds=30)
SIZE, ROUNDS = 256, 7
RATES = (5, 10, 20)
"""Images a second that a GPU makes."""


def here(data: bytes) -> None:
    """Decode and crop a photo in this process."""
    picture = codec.decode(
        data, min_side=LIMITS.min_side, max_bytes=LIMITS.max_bytes, max_pixels=LIMITS.max_pixels
    )
    codec.crop(picture, SIZE).tobytes()


def square(decoder: Decoder, data: bytes) -> np.ndarray:
    """The centre of a photo, decoded in the decoding process."""
    (pixels,) = decoder.crops(data, SIZE, [(0, b"")])
    return np.frombuffer(pixels, np.uint8).astype(float)


def milliseconds(action: Callable[[], object]) -> float:
    """Milliseconds that a call takes at least."""
    times = []
    for _ in range(ROUNDS):
        start = perf_counter()
        action()
        times.append(perf_counter() - start)
    return 1000 * min(times)


def main(folder: str) -> None:
    """Measure and print."""
    photos = [path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()]
    decoder, drafting = Decoder(LIMITS), Decoder(replace(LIMITS, draft=True))
    start = perf_counter()
    square(decoder, photos[0])
    started = 1000 * (perf_counter() - start)
    in_process = mean(milliseconds(lambda data=data: here(data)) for data in photos)
    rows = []
    for data in photos:
        width, height = Image.open(BytesIO(data)).size
        both = [milliseconds(lambda each=each, data=data: square(each, data)) for each in (decoder, drafting)]
        rms = np.sqrt(((square(decoder, data) - square(drafting, data)) ** 2).mean())
        rows.append((width * height / 1e6, len(data), *both, rms))
    print("| photos | bytes a photo | ms in process | ms in the decoder | ms to start it |")
    print("| --- | --- | --- | --- | --- |")
    size, other = mean(len(data) for data in photos), mean(row[2] for row in rows)
    print(f"| {len(photos)} | {size:,.0f} | {in_process:.2f} | {other:.2f} | {started:.0f} |\n")
    cores = " | ".join(f"for {rate} images/s" for rate in RATES)
    print(f"| megapixels | kB | ms | ms, draft | differs by, rms | processors (with a draft) {cores} |")
    print("| ---: " * (5 + len(RATES)) + "|")
    for megapixels, bytes_, slow, fast, rms in sorted(rows):
        needed = " | ".join(f"{rate * slow / 1000:.1f} ({rate * fast / 1000:.1f})" for rate in RATES)
        print(f"| {megapixels:.1f} | {bytes_ / 1000:,.0f} | {slow:.0f} | {fast:.0f} | {rms:.2f} | {needed} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "jobs/samples/content")
