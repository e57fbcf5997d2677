"""Laws of ids by the million, against plain Python on few, with halves that collide."""

import numpy as np
import pyarrow as pa
import pytest

from batch_nst.data.dataset.ids import Index, halves, joined, latest, repeated

CHANCE = np.random.default_rng(7)
# Few different first halves, so that ids collide in them far more often than chance would have it.
MANY = [bytes([*high] * 4 + [*low] * 4) for high, low in CHANCE.integers(0, 6, (400, 2, 2), dtype=np.uint8)]
FEW = [b"a" * 16, b"a" * 8 + b"b" * 8, b"b" * 8 + b"a" * 8, b"a" * 16, b"a" * 8 + b"b" * 8, b"a" * 16]


def column(ids: list[bytes], chunks: int = 1) -> pa.ChunkedArray:
    parts = [ids[first::chunks] for first in range(chunks)]
    return pa.chunked_array([pa.array(part, pa.binary(16)) for part in parts], pa.binary(16))


@pytest.mark.parametrize("ids", [MANY, FEW, FEW[:1], []], ids=["many", "few", "one", "none"])
def test_repeated_latest_and_found_are_what_they_say(ids: list[bytes]) -> None:
    numbers = halves(column(ids))
    assert repeated(numbers).tolist() == [id in ids[:place] for place, id in enumerate(ids)]
    assert latest(numbers).tolist() == [id not in ids[place + 1 :] for place, id in enumerate(ids)]
    assert Index(numbers).find(numbers).tolist() == [ids.index(id) for id in ids]
    strangers = [bytes(15) + b"\x09", b"\xff" * 16, *FEW]
    expected = [ids.index(id) if id in ids else -1 for id in strangers]
    assert Index(numbers).find(halves(column(strangers))).tolist() == expected


def test_halves_and_bytes_are_those_of_every_chunk_and_slice() -> None:
    whole = column(MANY, chunks=3)
    order = [id for first in range(3) for id in MANY[first::3]]
    assert joined(whole) == halves(whole).tobytes() == b"".join(order)
    part = whole.slice(100, 250)
    assert joined(part) == halves(part).tobytes() == b"".join(order[100:350])
    assert halves(pa.array(MANY, pa.binary(16)).slice(5, 9)).tobytes() == b"".join(MANY[5:14])
