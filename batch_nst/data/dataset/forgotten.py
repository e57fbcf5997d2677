"""Requests to forget photos: recorded first, then the photos are removed from every unit.

A request is never undone: `dataset/forgotten/000001.json`, by exclusive create. From then on no snapshot
holds the photo, and sealing a snapshot removes its pairs from the units that still have them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TypedDict, cast

from batch_nst.data.dataset import units
from batch_nst.data.dataset.summaries import Summary, changes_of
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.lease import is_latest
from batch_nst.data.storage.store import Store
from batch_nst.errors import LeaseError

FORGOTTEN = "dataset/forgotten"


class ForgottenPair(TypedDict):
    """A pair that existed of a forgotten photo."""

    id: str
    """In hex."""
    unit: str
    split: str


class Request(TypedDict):
    """A request to forget photos."""

    ids: list[str]
    """Ids of its images in hex."""
    pairs: list[ForgottenPair]


def read_requests(store: Store) -> list[Request]:
    """All requests, oldest first."""
    return [_read(store, name) for name in store.numbered(FORGOTTEN, ".json").values()]


def forgotten_ids(store: Store) -> set[bytes]:
    """Ids of all crops, versions and attempts of forgotten photos."""
    return {bytes.fromhex(identity) for request in read_requests(store) for identity in request["ids"]}


def _read(store: Store, name: str) -> Request:
    request = cast(Request, read_document(store, name))
    with intact(store, name):
        for identity in request["ids"]:
            bytes.fromhex(identity)
    return request


def write_request(store: Store, request: Request) -> str:
    """Record a request and return the name of its object. Needs the lease.

    Raises:
        LeaseError: another run wrote one at the same moment, which the lease forbids.
    """
    number = max(store.numbered(FORGOTTEN, ".json"), default=0) + 1
    name = f"{FORGOTTEN}/{number:06}.json"
    if not store.establish(name, (json.dumps(request, indent=1) + "\n").encode()):
        raise LeaseError(f"{store.join(name)}: written by another run a moment ago; start again")
    return name


def digest_without(digest: str, ids: Iterable[bytes]) -> str:
    """The digest (hex) of a unit after these ids are forgotten; their order and grouping do not matter."""
    value = int(digest, 16)
    for identity in ids:
        mark = hashlib.blake2b(identity, digest_size=16, person=b"batch_nst forget")
        value ^= int.from_bytes(mark.digest())
    return f"{value:032x}"


def take_out(store: Store, token: int, unit: str, ids: set[bytes]) -> Summary:
    """Remove the content of these ids from a unit and mark their rows as forgotten; returns its summary.

    The unit is replaced in one write. A second call changes nothing.

    Raises:
        LeaseError: a lease later than `token` was taken.
    """
    rows, summary = units.read_unit(store, unit), units.read_summary(store, unit)
    named = {row["id"] for row in rows if row["id"] in ids and row["status"] != "forgotten"}
    if not named:
        return summary
    changes = changes_of(summary, rows)
    rows = [
        {"id": row["id"], "split": row["split"], "status": "forgotten"}
        if row["id"] in named
        else {**row, "change": changes[row["id"]]}
        for row in rows
    ]
    encoded = units.encode_unit(unit, rows, digest_without(summary["digest"], named))
    if not is_latest(store, token):
        raise LeaseError(f"{store.uri}: another run took over; nothing more is written")
    store.replace(units.unit_object(unit), encoded.data)
    return encoded.summary
