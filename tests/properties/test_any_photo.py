"""Whatever bytes a photo has: a picture within limits, or a reason; never anything else, and never a hang."""

from collections.abc import Iterator
from contextlib import closing
from io import BytesIO

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from batch_nst.data.images.codec import decode_stored, encode
from batch_nst.data.images.reasons import REASONS, BadImage
from batch_nst.data.images.sandbox import Decoder, Limits
from tests.support.mutations import damaged, outcome
from tests.support.photos import KINDS, LIMITS, MAX_SECONDS, PHOTO

SIDE = 24
CROPS = [(0, b""), (1, b"seed")]
FILES = [kind.data for kind in KINDS.values() if kind.status != "failed" and len(kind.data) < 100_000]
STORED = [encode(PHOTO, encoding) for encoding in ("webp", "png", "jpeg")]


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with closing(Decoder(Limits(**LIMITS, max_seconds=MAX_SECONDS))) as shared:
        yield shared


@given(data=damaged(FILES) | st.binary(max_size=200))
def test_a_photo_is_crops_or_a_reason(decoder: Decoder, data: bytes) -> None:
    crops, told = outcome(lambda: decoder.crops(data, SIDE, CROPS), BadImage)
    if crops is None:
        reason, _, detail = told.partition(": ")
        assert reason in REASONS
        assert detail
        assert "\n" not in detail
    else:
        assert [len(crop) for crop in crops] == [3 * SIDE * SIDE] * len(CROPS)


@given(data=damaged(FILES))
def test_a_whole_photo_keeps_to_the_limits(decoder: Decoder, data: bytes) -> None:
    picture, _ = outcome(lambda: decoder.picture(data), BadImage)
    if picture is not None:
        height, width, channels = picture.shape
        assert channels == 3
        assert min(height, width) >= LIMITS["min_side"]
        assert height * width <= LIMITS["max_pixels"]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@given(data=damaged(STORED) | damaged(FILES) | st.binary(max_size=200))
@example(data=FILES[0])
def test_a_stored_picture_is_a_picture_or_one_error(data: bytes) -> None:
    pixels, _ = outcome(lambda: decode_stored(data), OSError)
    if pixels is not None:
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)


def test_a_stored_picture_that_is_larger_than_any_is_refused_by_its_header() -> None:
    Image.new("1", (8192, 8193)).save(file := BytesIO(), "PNG")
    with pytest.raises(OSError, match="8192 x 8193 pixels; allowed: 67108864"):
        decode_stored(file.getvalue())
