"""What an output holds, read as what it should be; what is damaged is refused by its name."""

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
    """Make StorageError, with the object's name, of what its content makes readers raise.

    Faults of the store pass, a missing object among them. Only the reading of this object belongs into it.
    """
    try:
        yield
    except (*_FAULTS, OSError) as error:
        # Arrow says OSError, without a number, of broken pages.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise StorageError(f"{store.join(name)}: is damaged: {_text(error)}") from error


def _text(error: Exception) -> str:
    """In one line, and not all of what may be long."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg']}"
    return " ".join(str(error).split())[:200] or type(error).__name__


def read_document(store: Store, name: str) -> dict[str, Any]:
    """A JSON object; FileNotFoundError where there is none.

    Raises:
        StorageError: it is damaged.
    """
    with intact(store, name):
        document = json.loads(store.read(name))
        if not isinstance(document, dict):
            raise TypeError(f"given a {type(document).__name__}; allowed: an object")
        return document
