"""Photos that lie in Parquet files as bytes: their names, and the bytes of some rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.data.listing import File, look
from batch_nst.data.storage import TooLarge
from batch_nst.data.tables import KEY_COLUMNS, image_column, open_parquet, refused, texts

_ROWS = 8
"""Photos that are decompressed at once."""


def row_names(file: File) -> Any:
    """A name for each row: its path, key or id where these differ from row to row, else its number.

    Raises:
        RecipeError: the file cannot be read.
    """
    with refused(file), open_parquet(file) as parquet:
        rows = parquet.metadata.num_rows
        for column in _name_columns(file, parquet.schema_arrow):
            found = parquet.read(columns=[column], use_threads=False).column(0)
            names = texts(file, column, _field(found, "path"))
            if not names.null_count and pc.count_distinct(names).as_py() == rows:
                return names.combine_chunks()
        return pa.array(range(rows), pa.int64()).cast(pa.string())


def read_rows(
    source: str, version: str, rows: Collection[int], max_bytes: int
) -> Iterator[tuple[int, bytes | Exception]]:
    """Some rows and their bytes, in their order; of each row group the pages up to the last are read once.

    A row without bytes gives none (b""), one with more than `max_bytes` a TooLarge. Raises what
    `storage.fetch` does; FileNotFoundError when the file was written anew since it was listed.
    """
    found, size = look(source)
    if found != version:
        raise FileNotFoundError(f"{source}: it was written anew")
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
    """Columns that may name rows, the likeliest first; a field of a struct as `column.field`."""
    image = image_column(file, schema) or ""
    kind = schema.field(image).type
    has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    return [f"{image}.path"] * has_path + [name for name in KEY_COLUMNS if schema.names.count(name) == 1]


def _pick(
    batches: Any, start: int, wanted: set[int], max_bytes: int, source: str
) -> Iterator[tuple[int, bytes | Exception]]:
    """The wanted rows of batches that begin at row `start`; no batch after the last of them is taken."""
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
    """A field of structs; null where the struct is. Anything else as it is."""
    return pc.struct_field(column, name) if pa.types.is_struct(column.type) else column
