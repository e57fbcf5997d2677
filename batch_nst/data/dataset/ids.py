"""Millions of 16-byte ids as arrays of numbers: no id becomes a Python object."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ids: TypeAlias = npt.NDArray[np.uint64]
"""(N, 2): the halves of each id."""
Mask: TypeAlias = npt.NDArray[np.bool_]


def halves(ids: pa.Array | pa.ChunkedArray) -> Ids:
    """A column of ids as pairs of numbers, which compare fast. A column with one chunk is not copied."""
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint64, 2 * len(chunk), 16 * chunk.offset)
        for chunk in chunks
        if len(chunk)
    ] or [np.empty(0, np.uint64)]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(-1, 2)


def joined(ids: pa.ChunkedArray) -> bytes:
    """The bytes of a column of ids, concatenated."""
    return b"".join(chunk.buffers()[1].slice(16 * chunk.offset, 16 * len(chunk)) for chunk in ids.chunks)


def repeated(ids: Ids) -> Mask:
    """For each id whether an earlier row has the same id."""
    order = np.argsort(ids[:, 0], kind="stable")
    alike = np.diff(ids[order, 0]) == 0
    again = np.zeros(len(ids), np.bool_)
    if alike.any():
        suspects = np.sort(order[np.append(alike, False) | np.insert(alike, 0, False)])
        _, first = np.unique(ids[suspects], axis=0, return_index=True)
        again[np.delete(suspects, first)] = True
    return again


def latest(ids: Ids) -> Mask:
    """For each id whether no later row has the same id."""
    return ~repeated(ids[::-1])[::-1]


class Index:
    """Finds the first place of an id in a list of ids."""

    def __init__(self, ids: Ids) -> None:
        """Sort them once."""
        self._order = np.argsort(ids[:, 0], kind="stable").astype(np.uint32)
        self._high, self._low = ids[self._order, 0], ids[self._order, 1]

    def find(self, ids: Ids) -> npt.NDArray[np.int64]:
        """The place of each id, or -1."""
        at = np.searchsorted(self._high, ids[:, 0])
        found = np.full(len(ids), -1, np.int64)
        asked = np.arange(len(ids))
        while len(asked):  # repeats only for different ids that share their first half
            asked = asked[at[asked] < len(self._high)]
            asked = asked[self._high[at[asked]] == ids[asked, 0]]
            hit = self._low[at[asked]] == ids[asked, 1]
            found[asked[hit]] = self._order[at[asked[hit]]]
            asked = asked[~hit]
            at[asked] += 1
        return found
