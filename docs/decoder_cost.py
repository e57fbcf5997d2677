"""Time the decoding of a folder's photos in this process and in the decoding process; print a Markdown table.

Each photo is decoded 20 times; the table shows the mean over the photos of the least time.

python docs/decoder_cost.py [FOLDER]
"""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from time import perf_counter

from batch_nst.data.images import codec
from batch_nst.data.images.sandbox import Decoder, Limits

LIMITS = Limits(min_side=64, max_bytes=64 << 20, max_pixels=100_000_000, max_seconds=30)
SIZE, ROUNDS = 256, 20


def here(data: bytes) -> None:
    """Decode and crop a photo in this process."""
    picture = codec.decode(
        data, min_side=LIMITS.min_side, max_bytes=LIMITS.max_bytes, max_pixels=LIMITS.max_pixels
    )
    codec.crop(picture, SIZE).tobytes()


def there(data: bytes) -> None:
    """Decode and crop a photo in the decoding process."""
    DECODER.crops(data, SIZE, [(0, b"")])


def milliseconds(action: Callable[[bytes], None], data: bytes) -> float:
    """Milliseconds that a call takes."""
    start = perf_counter()
    action(data)
    return 1000 * (perf_counter() - start)


def main(folder: str) -> None:
    """Measure and print."""
    photos = [path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()]
    start = milliseconds(there, photos[0])
    least = [
        [min(milliseconds(action, data) for _ in range(ROUNDS)) for data in photos]
        for action in (here, there)
    ]
    one, other = (mean(times) for times in least)
    size = mean(map(len, photos))
    print("| photos | bytes a photo | ms in process | ms in the decoder | ms to start it |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| {len(photos)} | {size:,.0f} | {one:.2f} | {other:.2f} | {start:.0f} |")


if __name__ == "__main__":
    DECODER = Decoder(LIMITS)
    main(sys.argv[1] if len(sys.argv) > 1 else "jobs/samples/content")
