"""Reads the objects of an output with checks: a damaged one is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from batch_nst.data.storage.store import Store
from batch_nst.errors import StorageError

_FAULTS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError),
    pa.ArrowException,
)


@contextmanager
def intact(store: Store, name: str) -> Iterator[None]:
    """Turn the errors of parsing an object into StorageError with the object's name.

    Faults of the store pass through, such as a missing object. Use it only around the reading of this object:

    with intact(store, name):
        table = pq.read_table(io.BytesIO(store.read(name)))
    """
    try:
        yield
    except (*_FAULTS, OSError) as error:
        # Arrow raises OSError without an errno for broken pages.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise StorageError(f"{store.join(name)}: is damaged: {_text(error)}") from error


def _text(error: Exception) -> str:
    """The message in one line, cut where it is long."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg']}"
    return " ".join(str(error).split())[:200] or type(error).__name__


def read_document(store: Store, name: str) -> dict[str, Any]:
    """The JSON object in an object of the output.

    Raises:
        FileNotFoundError: the output has no such object.
        StorageError: it is damaged.
    """
    with intact(store, name):
        document = json.loads(store.read(name))
        if not isinstance(document, dict):
            raise TypeError(f"given a {type(document).__name__}; allowed: an object")
        return document
