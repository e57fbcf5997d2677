"""Parquet and CSV tables that name photos, one per row; and what kind of input a file is by its columns."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.data.sources.allowlist import Allowlist, without_credentials
from batch_nst.data.sources.listing import File
from batch_nst.data.storage.fetch import open_filesystem, open_object
from batch_nst.errors import RecipeError

URI_COLUMNS = ("uri", "url", "path", "image", "file_name")
"""Columns whose text names a photo."""
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "bytes", "content")
"""Columns whose bytes, or structs with a field `bytes`, are a photo."""
KEY_COLUMNS = ("key", "id")
VERSION_COLUMNS = (("version",), ("etag",), ("size", "mtime"))

ROWS = 1 << 16
"""Number of rows of a table in memory."""
_BUFFER = 4 << 20
"""Size of one read in bytes."""


class Columns(NamedTuple):
    """The roles of a table's columns."""

    uri: str
    key: str | None
    """Column of keys; None: the URI is the key."""
    version: tuple[str, ...]
    """Columns of the version; (): each photo must be looked at."""


def read_schema(file: File) -> pa.Schema:
    """The columns of a Parquet file (from its footer) or a CSV file (from its first line, all text)."""
    if file.uri.lower().endswith(".csv"):
        with refused(file), _open_csv(file) as reader:
            return pa.schema([(name, pa.string()) for name in reader.schema.names])
    with refused(file), open_parquet(file) as parquet:
        return parquet.schema_arrow


def image_column(file: File, schema: pa.Schema) -> str | None:
    """The column that holds photos, if one does.

    Raises:
        RecipeError: several columns do.
    """
    found = [field for field in schema if _holds_images(field)]
    named = [field.name for field in found if field.name in IMAGE_COLUMNS]
    names = named or [field.name for field in found if pa.types.is_struct(field.type)]
    if len(names) > 1:
        raise refuse(file, f"given images in the columns {', '.join(names)}; allowed: in one")
    return names[0] if names else None


def uri_columns(file: File, schema: pa.Schema) -> Columns:
    """The columns of a table that names photos.

    Raises:
        RecipeError: it has no column of URIs, or several.
    """
    names = [
        name for name in URI_COLUMNS if any(field.name == name and is_text(field.type) for field in schema)
    ]
    given = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if len(names) != 1:
        raise refuse(
            file,
            f"given the columns {given}; allowed: one of {', '.join(IMAGE_COLUMNS)} with bytes or a struct "
            f"with bytes (Parquet), or one of {', '.join(URI_COLUMNS)} with text",
        )
    if schema.names.count(names[0]) > 1:
        raise refuse(file, f"the column {names[0]} comes {schema.names.count(names[0])} times; allowed: once")
    return Columns(
        names[0],
        next(iter(optional_columns(schema, KEY_COLUMNS)), None),
        next((names for names in VERSION_COLUMNS if optional_columns(schema, names) == list(names)), ()),
    )


def optional_columns(schema: pa.Schema, names: Collection[str]) -> list[str]:
    """Those of these columns that are there once, as text, numbers or moments; others are ignored."""
    return [name for name in names if schema.names.count(name) == 1 and _is_plain(schema.field(name).type)]


def read_table(file: File, columns: Columns, allowlist: Allowlist) -> Iterator[pa.RecordBatch]:
    """`key`, `source` and `version` of a table's rows, at most `ROWS` in a batch; a null version is unknown.

    Refused photos have a version that says so; their key and source hold no credentials.

    Raises:
        RecipeError: the file cannot be read, a value is missing or neither text nor a number, or the protocol
            of a URI is unknown or not installed.
    """
    protocols: set[str | None] = {None}
    with refused(file):
        first = 0
        for batch in _read(file, _used(columns)):
            values = {name: _texts(file, name, batch[name]) for name in _used(columns)}
            _require(file, columns.uri, values[columns.uri], first)
            first += batch.num_rows
            source = absolute(values[columns.uri], file.uri)
            version = allowlist.check(source)
            for protocol in set(_protocols(source.filter(version.is_null()))) - protocols:
                open_filesystem(f"{protocol}://")
                protocols.add(protocol)
            key = pc.coalesce(values[columns.key], source) if columns.key else source
            key = without_credentials(key, version)
            source = without_credentials(source, version)
            if columns.version:
                parts = [values[name] for name in columns.version]
                given = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "-")
                version = pc.coalesce(version, given)  # a row without one is looked at
            yield pa.RecordBatch.from_pydict({"key": key, "source": source, "version": version})


@contextlib.contextmanager
def open_parquet(file: File) -> Iterator[Any]:
    """A Parquet file whose columns are read piece by piece, never a whole row group at a time."""
    import pyarrow.parquet as pq

    with (
        open_object(file.uri, file.size) as opened,
        pq.ParquetFile(opened, buffer_size=_BUFFER, pre_buffer=False) as parquet,
    ):
        yield parquet


def texts(file: File, name: str, column: Any) -> Any:
    """A column of text or numbers as text, nulls kept."""
    kind = column.type
    if not _is_plain(kind):
        raise refuse(file, f"the column {name} is {kind}; allowed: text or numbers")
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_timestamp(kind):  # the same moment in any unit
        column = column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    column = column.cast(pa.string())
    column.validate(full=True)
    return column


@contextlib.contextmanager
def refused(file: File) -> Iterator[None]:
    """Raise faults of the file as RecipeError; those of the store pass through."""
    try:
        yield
    except (
        OSError,
        pa.ArrowException,
        UnicodeDecodeError,
    ) as error:  # the last one for a CSV file's first line
        raise refuse(file, f"cannot be read: {' '.join(str(error).split())}") from error


def refuse(file: File, what: str) -> RecipeError:
    """The RecipeError for a faulty input file."""
    return RecipeError(f"generate.input: {file.uri}: {what}")


def _used(columns: Columns) -> list[str]:
    return list(dict.fromkeys(name for name in (columns.uri, columns.key, *columns.version) if name))


def _texts(file: File, name: str, column: Any) -> Any:
    """A column of text or numbers as text; no value is null, be it written as an empty text."""
    column = texts(file, name, column)
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def _require(file: File, name: str, column: Any, first: int) -> None:
    """Refuse a column that lacks a value; `first` is the number of its first row."""
    if column.null_count:
        row = first + column.is_null().index(True).as_py()
        raise refuse(file, f"the column {name} has no value in row {row}")


def absolute(uris: Any, table: str) -> Any:
    """URIs, with relative ones joined to the folder of the table; nulls kept."""
    found = pc.or_(pc.match_substring(uris, "://"), pc.starts_with(uris, "/"))
    if pc.all(found).as_py():
        return uris
    return pc.if_else(found, uris, pc.binary_join_element_wise(table.rpartition("/")[0], uris, "/"))


def _protocols(uris: Any) -> list[str | None]:
    """The protocols of URIs; None for a path."""
    found = pc.extract_regex(uris, r"^(?P<protocol>[A-Za-z][A-Za-z0-9+.-]*)://")
    return list(pc.unique(pc.struct_field(found, "protocol")).to_pylist())


def _read(file: File, names: list[str]) -> Iterator[pa.RecordBatch]:
    if file.uri.lower().endswith(".csv"):
        with _open_csv(file, names) as reader:
            for batch in reader:
                yield from (batch.slice(start, ROWS) for start in range(0, batch.num_rows, ROWS))
    else:
        with open_parquet(file) as parquet:
            yield from parquet.iter_batches(batch_size=ROWS, columns=names, use_threads=False)


@contextlib.contextmanager
def _open_csv(file: File, names: list[str] | None = None) -> Iterator[Any]:
    """A reader of a CSV file; every column is text."""
    import pyarrow.csv

    with open_object(file.uri, file.size) as opened:
        convert = pyarrow.csv.ConvertOptions(
            include_columns=names, column_types=dict.fromkeys(names or (), pa.string())
        )
        with pyarrow.csv.open_csv(
            opened,
            read_options=pyarrow.csv.ReadOptions(block_size=_BUFFER, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=convert,
        ) as reader:
            yield reader


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values can be a key or a version: text, numbers or moments."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_timestamp)
    return any(test(kind) for test in tests)


def is_text(kind: pa.DataType) -> bool:
    """Whether values are text, in whatever encoding Arrow has for it."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _holds_images(field: pa.Field) -> bool:
    if pa.types.is_struct(field.type):
        kinds = {each.name: each.type for each in field.type}
        held = kinds.get("bytes", pa.string())
        return _is_binary(held) or (pa.types.is_null(held) and is_text(kinds.get("path", held)))
    return field.name in IMAGE_COLUMNS and _is_binary(field.type)
