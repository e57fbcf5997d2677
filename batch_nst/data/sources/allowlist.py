"""Where a table or list may name photos, so that its author does not decide what a job can reach.

Allowed are the store of the table itself and those in `generate.stores`. A store is a bucket, a host, or the
disk of the machine. Photos elsewhere, and URIs with credentials, are listed with a version that marks them as
refused; they are never requested.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.credentials import PATTERN, redacted
from batch_nst.data.images.reasons import BadImage

_OUTSIDE, _SECRET = "outside the stores of the recipe", "holds credentials"
_REFUSED: Final = {
    _OUTSIDE: ("outside_stores", "generate.stores does not name where it lies"),
    _SECRET: ("holds_credentials", "a photo's URI is written down; let the job itself read the store"),
}
"""Reason and detail for each version that marks a refusal. A table that contains such a version is refused
too."""

_STORE = r"^(?P<store>[A-Za-z][A-Za-z0-9+.-]*://[^/]*)"
_DISK = ("file", "local")


class Allowlist:
    """The stores that a table or list may name."""

    def __init__(self, source: str, stores: Collection[str] = ()) -> None:
        """`source` is the URI of the table or list; `stores` are further buckets, hosts and folders."""
        named = [_store_of(source), *map(_store_of, stores)]
        self._stores = {store for store in named if store}
        self._folders = [os.path.normpath(folder) for folder in stores if not _store_of(folder)]
        if not named[0]:
            self._folders.append("/")

    def check(self, uris: pa.Array) -> pa.Array:
        """For each URI or absolute path the version that marks its refusal; null where it may be read.

        Allowlist("s3://a/list.csv").check(pa.array(["s3://a/x.jpg", "s3://b/y.jpg"]))  # [null, "outside..."]
        """
        stores = pc.struct_field(pc.extract_regex(uris, _STORE), "store")
        found = pc.unique(stores).to_pylist()
        others = [store for store in found if store and _store_of(store) not in {*self._stores, ""}]
        outside = pc.is_in(stores, value_set=pa.array(others, pa.string()))
        if "/" not in self._folders and not all(store and _store_of(store) for store in found):
            outside = pa.array(
                [
                    lies_outside or (uri is not None and not _store_of(uri) and not self._holds(uri))
                    for uri, lies_outside in zip(uris.to_pylist(), outside.to_pylist(), strict=True)
                ],
                pa.bool_(),
            )
        versions = pc.if_else(outside, _OUTSIDE, pa.scalar(None, pa.string()))
        return pc.if_else(pc.match_substring_regex(uris, PATTERN), _SECRET, versions)

    def _holds(self, path: str) -> bool:
        path = os.path.normpath(re.sub(r"^(?i:file|local)://", "", path))
        return any(path == folder or path.startswith(f"{folder}/") for folder in self._folders)


def refused(version: str) -> BadImage | None:
    """Why a photo with this version is not read; None where it may be read."""
    return BadImage(*_REFUSED[version]) if version in _REFUSED else None


def without_credentials(uris: pa.Array, versions: pa.Array) -> pa.Array:
    """URIs with the credentials removed from those that were refused for them."""
    secret = pc.fill_null(pc.equal(versions, _SECRET), False)
    if not pc.any(secret).as_py():
        return uris
    pairs: Any = zip(uris.to_pylist(), secret.to_pylist(), strict=True)
    return pa.array([redacted(uri) if hide else uri for uri, hide in pairs], pa.string())


def _store_of(uri: str) -> str:
    """Protocol and bucket or host in a canonical form; empty for the disk."""
    found = re.match(_STORE, uri)
    protocol, _, host = found["store"].partition("://") if found else ("file", "", "")
    protocol = protocol.lower()
    return "" if protocol in _DISK else f"{'s3' if protocol == 's3a' else protocol}://{host}"
