"""Files and documents that were good once."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["..", "../../x", "a" * 32, "s3://a/b", "{"])
    | st.sampled_from(["2026-01-01T00:00:00", "9999-12-31T23:59:59Z"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def outcome(call: Callable[[], T], kind: type[Exception]) -> tuple[T | None, str]:
    """What a call gives, or the text of the only kind of error that it may raise."""
    try:
        return call(), ""
    except kind as error:
        return None, str(error) or "no text"


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """One of these files after one to five edits, many of them near its beginning or end."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 5))):
        size = len(data)
        near = st.integers(0, min(size, 64)) | st.integers(max(0, size - 64), size) | st.integers(0, size)
        at, length = draw(near), draw(st.integers(0, 16) | st.integers(0, size))
        kind = draw(st.sampled_from(["write", "insert", "cut", "cut off", "repeat", "graft"]))
        if kind == "write":
            data[at : at + min(length, 16)] = draw(st.binary(max_size=16))
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=64))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "cut off":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        else:
            other = draw(st.sampled_from(files))
            data[at : at + length] = other[at : at + length]
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """A copy of a document in which a value somewhere is gone, or another one."""
    copy = json.loads(json.dumps(document))
    holder: Any = copy
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = draw(st.sampled_from(keys))
        if isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
            holder = holder[key]
            continue
        if draw(st.integers(0, 4)):
            holder[key] = draw(JSON)
        else:
            del holder[key]
        return dict(copy)


def texts(document: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """What may lie where this document should."""
    good = json.dumps(document).encode()
    return (
        st.binary(max_size=64)
        | JSON.map(lambda value: json.dumps(value).encode())
        | st.sampled_from([b"[" * 100_000, b"1" * 5000, b"{}", b"null", good[:-1], b"\xef\xbb\xbf" + good])
        | changed(document).map(lambda value: json.dumps(value).encode())
        | damaged([good])
    )
