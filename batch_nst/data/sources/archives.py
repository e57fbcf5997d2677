"""Photos inside files: members of a tar, read by ranges, and images in the rows of Parquet files.

A tar is untrusted: the claims of a header are checked against the file, extended headers are bounded, and
links, devices and sparse files are skipped. A member's name is never used as a path, so `..` in it is
harmless.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.data.sources.listing import File, look
from batch_nst.data.sources.passed import LINKS, Passed
from batch_nst.data.sources.tables import (
    KEY_COLUMNS,
    image_column,
    is_text,
    open_parquet,
    optional_columns,
    refused,
    texts,
)
from batch_nst.data.storage.fetch import TooLarge, fetch_range, open_object
from batch_nst.errors import RecipeError

_ROWS = 8
"""Number of photos that are decompressed at a time."""


class Rows(NamedTuple):
    """The photos in a Parquet file, one a row."""

    names: Any
    """Path, key or id of each row where these are unique, else its number."""
    paths: Any
    """Where the photo of a row lies that has a path and no bytes; null for all others."""


def list_rows(file: File) -> Rows:
    """Names and paths of the rows; bytes are read only where the footer does not rule out rows without them.

    Raises:
        RecipeError: the file cannot be read.
    """
    with refused(file), open_parquet(file) as parquet:
        return Rows(_names(file, parquet), _outside_paths(file, parquet))


def _names(file: File, parquet: Any) -> Any:
    rows = parquet.metadata.num_rows
    for column in _name_columns(file, parquet.schema_arrow):
        found = parquet.read(columns=[column], use_threads=False).column(0)
        names = texts(file, column, _field(found, "path"))
        if not names.null_count and pc.count_distinct(names).as_py() == rows:
            return names.combine_chunks()
    return pa.array(range(rows), pa.int64()).cast(pa.string())


def _outside_paths(file: File, parquet: Any) -> Any:
    column = image_column(file, parquet.schema_arrow) or ""
    has_path = _has_path(parquet.schema_arrow, column)
    found = [pa.array([], pa.string())]
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        if not has_path or not _may_lack(group, f"{column}.bytes"):
            found.append(pa.nulls(group.num_rows, pa.string()))
            continue
        for batch in parquet.iter_batches(_ROWS, [number], [column], use_threads=False):
            paths = texts(file, column, _field(batch.column(0), "path"))
            named = pc.fill_null(pc.not_equal(paths, ""), False)
            named = pc.and_(named, _field(batch.column(0), "bytes").is_null())
            found.append(pc.if_else(named, paths, pa.scalar(None, pa.string())))
    return pa.concat_arrays(found)


def read_rows(
    source: str, version: str, rows: Collection[int], max_bytes: int
) -> Iterator[tuple[int, bytes | Exception]]:
    """Numbers and bytes of some rows of a Parquet file, in its order.

    The pages of a row group are read once, up to the last wanted row. A row without bytes gives b"", one with
    more than `max_bytes` a TooLarge.

    Raises:
        FileNotFoundError: the file is missing or has changed since it was listed.
        Other errors: those of `fetch`.
    """
    try:
        found, size = look(source)
    except IsADirectoryError as error:
        raise FileNotFoundError(f"{source}: is a folder now") from error
    if found != version:
        raise FileNotFoundError(f"{source}: its content has changed")
    file = File("", source, version, size)
    with open_parquet(file) as parquet:
        column = image_column(file, parquet.schema_arrow) or ""
        if pa.types.is_struct(parquet.schema_arrow.field(column).type):
            column += ".bytes"
        start = 0
        for group in range(parquet.num_row_groups):
            end = start + parquet.metadata.row_group(group).num_rows
            wanted = {row for row in rows if start <= row < end}
            if wanted:
                batches = parquet.iter_batches(_ROWS, [group], [column], use_threads=False)
                yield from _pick(batches, start, wanted, max_bytes, source)
            start = end


def _name_columns(file: File, schema: pa.Schema) -> list[str]:
    """Columns that may name rows, the most likely first; a field of a struct is `column.field`."""
    image = image_column(file, schema) or ""
    return [f"{image}.path"] * _has_path(schema, image) + optional_columns(schema, KEY_COLUMNS)


def _has_path(schema: pa.Schema, image: str) -> bool:
    """Whether the structs of images have a path, in text."""
    kind = schema.field(image).type
    return pa.types.is_struct(kind) and any(each.name == "path" and is_text(each.type) for each in kind)


def _may_lack(group: Any, column: str) -> bool:
    """Whether rows of a row group may have no value in a column, as far as its statistics show."""
    for index in range(group.num_columns):
        chunk = group.column(index)
        if chunk.path_in_schema == column:
            told = chunk.statistics
            return told is None or not told.has_null_count or told.null_count > 0
    return True


def _pick(
    batches: Any, start: int, wanted: set[int], max_bytes: int, source: str
) -> Iterator[tuple[int, bytes | Exception]]:
    """The wanted rows of batches that start at row `start`; no batch after the last wanted row is read."""
    last = max(wanted)
    for batch in batches:
        values = _field(batch.column(0), "bytes")
        for row in sorted(wanted.intersection(range(start, start + len(values)))):
            value = values[row - start]
            size = len(value.as_buffer()) if value.is_valid else 0
            yield row, (value.as_py() or b"" if size <= max_bytes else TooLarge(source, size, max_bytes))
        start += len(values)
        if start > last:
            break


def _field(column: Any, name: str) -> Any:
    """A field of a column of structs, null where the struct is; another column unchanged."""
    return pc.struct_field(column, name) if pa.types.is_struct(column.type) else column


_BLOCK = 512
_WINDOW = 4096
"""Bytes that are read at a time with a header, so that small members that follow need no further read."""
_MAX_EXTENDED = 1 << 20
"""Maximum size in bytes of an extended header, which holds a long name."""
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    """Name as in the tar; bytes that are not UTF-8 become backslash escapes."""
    offset: int
    """Offset of its first byte in the tar."""
    length: int
    """Size in bytes."""
    version: str
    """Size and modification time (seconds) from its header."""


def list_members(uri: str, size: int, passed: Passed) -> Iterator[Member]:
    """The regular files in a tar of `size` bytes, in its order; at most 4 KiB are read for each.

    Links, devices and sparse files are counted in `passed`.

    Raises:
        RecipeError: it is not a tar, or it is truncated; the text says where.
    """
    with open_object(uri, size) as opened:
        file = io.BufferedReader(opened, _WINDOW)
        position, name, pax = 0, "", dict[str, str]()
        while any(header := _read(file, position, _BLOCK, uri)):
            info = _parse(header, position, uri)
            start = position + _BLOCK
            if info.type == tarfile.GNUTYPE_SPARSE:
                start += _sparse_blocks(file, header, start, uri)
            length = info.size
            if re.fullmatch("[0-9]{1,18}", pax.get("size", "")):
                length = int(pax["size"])
            if not info.isreg() and info.type in tarfile.SUPPORTED_TYPES and not _is_extended(info):
                length = 0  # links and folders have no data
            if length < 0 or start + length > size:
                raise _refuse(uri, f"cut off: {info.name!r} should end at byte {start + length} of {size}")
            position = start + -(-length // _BLOCK) * _BLOCK
            if _is_extended(info):
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    name = _text(_extended(file, start, length, uri).rstrip(b"\0"))
                elif info.type in _PAX:
                    pax = _parse_pax(_extended(file, start, length, uri), start, uri)
                continue
            sparse = any(keyword.startswith("GNU.sparse.") for keyword in pax)
            if info.type in _FILES and not sparse:
                yield Member(pax.get("path") or name or info.name, start, length, _version(info))
            elif info.type != tarfile.DIRTYPE:
                passed[LINKS] += 1
            name, pax = "", {}


def read_member(uri: str, offset: int, length: int, version: str, max_bytes: int) -> bytes:
    """The bytes of a member, in one read together with its header.

    Raises:
        FileNotFoundError: the tar is missing or has changed since it was listed.
        Other errors: those of `fetch`.
    """
    if length > max_bytes:
        raise TooLarge(uri, length, max_bytes)
    data = fetch_range(uri, offset - _BLOCK, offset + length)
    try:
        found = _version(tarfile.TarInfo.frombuf(data[:_BLOCK], "utf-8", "backslashreplace"))
    except tarfile.HeaderError:
        found = ""
    if found != version or len(data) != _BLOCK + length:
        raise FileNotFoundError(f"{uri}: the member at byte {offset} is another one now")
    return data[_BLOCK:]


def _version(info: tarfile.TarInfo) -> str:
    return f"{info.size}-{info.mtime}"


def _parse(header: bytes, position: int, uri: str) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        raise _refuse(
            uri, f"no tar header at byte {position} ({error}); compressed ones cannot be read"
        ) from error


def _is_extended(info: tarfile.TarInfo) -> bool:
    """Whether this header describes the next member, or all members."""
    kinds = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, *_PAX)
    return info.type in kinds


def _sparse_blocks(file: BinaryIO, header: bytes, start: int, uri: str) -> int:
    """Bytes of the maps between the header of an old GNU sparse file and its data."""
    length, more = 0, header[482]
    while more:
        more = _read(file, start + length, _BLOCK, uri)[504]
        length += _BLOCK
    return length


def _extended(file: BinaryIO, start: int, length: int, uri: str) -> bytes:
    if length > _MAX_EXTENDED:
        raise _refuse(uri, f"an extended header of {length} bytes at byte {start}; allowed: {_MAX_EXTENDED}")
    return _read(file, start, length, uri)


def _parse_pax(data: bytes, start: int, uri: str) -> dict[str, str]:
    """The records of an extended header, each `length keyword=value\\n`."""
    records = {}
    data, position = data.rstrip(b"\0"), 0
    while position < len(data):
        digits = data[position : position + 8].partition(b" ")[0]
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = data[position + len(digits) + 1 : position + length]
        keyword, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise _refuse(uri, f"a broken extended header at byte {start}")
        records[_text(keyword)] = _text(value[:-1])
        position += length
    return records


def _read(file: BinaryIO, position: int, length: int, uri: str) -> bytes:
    file.seek(position)
    data = file.read(length)
    if len(data) < length:
        raise _refuse(uri, f"cut off: it ends at byte {position + len(data)} without an end mark")
    return data


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _refuse(uri: str, what: str) -> RecipeError:
    return RecipeError(f"generate.input: {uri}: {what}")
