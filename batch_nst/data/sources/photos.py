"""Lists the photos of an input, with stable ids, a place to read each, and its side of the split.

Listing reads names and versions, never the bytes of a photo.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.data.sources.allowlist import Allowlist, without_credentials
from batch_nst.data.sources.archives import list_members, list_rows
from batch_nst.data.sources.kinds import (
    COMPRESSED,
    CONTAINERS,
    PHOTO,
    SUFFIXES,
    files_of_one_kind,
    kind_of,
)
from batch_nst.data.sources.listing import File, content_of, look, nothing_at
from batch_nst.data.sources.passed import Passed
from batch_nst.data.sources.tables import (
    Columns,
    absolute,
    image_column,
    read_schema,
    read_table,
    refused,
    uri_columns,
)
from batch_nst.data.storage.fetch import MISSING, Content, fetch
from batch_nst.errors import RecipeError
from batch_nst.globs import Glob
from batch_nst.uris import meant_within

T = TypeVar("T")

LISTED = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("version", pa.string()),
    ]
)
"""One row for each photo of the input; the columns are the fields of `Photo`."""

BATCH = 1 << 16
"""Maximum number of rows in a batch of a listing."""

_PERSON = b"batch_nst photo"
_MAX_LIST_BYTES = 1 << 30
_LOOKING = 16
"""Number of objects that are looked at in parallel."""


class Photo(NamedTuple):
    """One photo of the input."""

    key: str
    """Path below the input root, including the tar or Parquet file that holds it. In a list of URIs it is the
    URI, in a table the key where the table has one."""
    source: str
    """URI or path of the photo's object, or of the file that holds it."""
    version: str
    """ETag, or size and modification time: the same key with new content is a new photo."""
    offset: int | None = None
    """Offset in its source (member of a tar) or number of its row (Parquet); None: it is the whole source."""
    length: int | None = None
    """Size in bytes when it was listed; also 0 where its store does not report it. None: it is a row, or its
    version comes from a table or is missing."""


def list_photos(
    source: str | list[str],
    stores: Collection[str] = (),
    pattern: str | None = None,
    passed: Passed | None = None,
) -> list[Photo]:
    """All photos of an input, sorted by key; see `stream_photos`. For inputs that fit in memory."""
    batches = [
        batch.select(Photo._fields).to_pydict().values()
        for batch in stream_photos(source, stores, pattern, passed)
    ]
    return sorted({Photo(*row) for columns in batches for row in zip(*columns, strict=True)})


def stream_photos(
    source: str | list[str],
    stores: Collection[str] = (),
    pattern: str | None = None,
    passed: Passed | None = None,
) -> Iterator[pa.RecordBatch]:
    """All photos of an input, `LISTED`, at most `BATCH` in a batch; the same order every time.

    Memory is bounded, with two exceptions: stores other than S3 (see `listing`), and the names in one Parquet
    file of images or in 64 tars.

    Args:
        source: a file, folder or glob, of photos or of one of `CONTAINERS`. Or a `.txt` file of URIs, one per
            line, relative ones to its folder. Or a list of URIs. All on any file system that fsspec knows. A
            listed URI that does not exist is kept and fails as a row. A photo that is named twice is listed
            twice.
        stores: where a table or text file may name photos beside its own store; see `allowlist`. Photos
            elsewhere are listed and will be rejected.
        pattern: a glob over keys: what fits it is a photo, whatever its suffix, and nothing else is. For
            folders and tars.
        passed: counts what is skipped; complete when the last batch has come.

    Raises:
        RecipeError: the input does not exist or holds no photo, it mixes several kinds, or a file is not what
            its name says.

    for batch in stream_photos("s3://photos/2024"):
        print(batch["key"].to_pylist())
    """
    passed = Passed() if passed is None else passed
    empty = True
    for batch in _stream(source, stores, _glob(pattern), passed):
        empty = empty and not batch.num_rows
        yield batch
    if empty:
        looked_for = pattern or " ".join((*SUFFIXES, *CONTAINERS))
        others = f"; {passed}; a recipe's generate.pattern takes others" if passed else ""
        raise RecipeError(f"generate.input: no photos in {source}; looked for {looked_for}{others}")


def input_version(
    source: str | list[str], pattern: str | None = None, passed: Passed | None = None
) -> str | None:
    """A digest of the container files of an input; while it is equal, `stream_photos` gives the same photos.

    None where the input has no containers, or where they name photos without versions, so that each photo
    must be looked at.

    Raises:
        RecipeError: as in `stream_photos`, where names and the first file are enough to find the fault.
    """
    files = list_containers(source, pattern, passed)
    if not files or lacks_versions(files[0]):
        return None
    digest = hashlib.blake2b(digest_size=16, person=b"batch_nst input")
    for file in files:
        for part in (file.key.encode(), file.uri.encode(), file.version.encode()):
            digest.update(struct.pack("<Q", len(part)) + part)
    return digest.hexdigest()


def list_containers(
    source: str | list[str], pattern: str | None = None, passed: Passed | None = None
) -> list[File]:
    """The files of an input that are of one of `CONTAINERS`; [] for other inputs.

    Raises:
        RecipeError: as in `stream_photos`, where names are enough to find the fault.
    """
    if is_uri_list(source):
        return []
    glob = _glob(pattern)
    found = files_of_one_kind(str(source), glob, Passed() if passed is None else passed)
    first = next(found, None)
    return [] if first is None or kind_of(first.key, glob) == PHOTO else [first, *found]


def is_tar(file: File) -> bool:
    """Whether a container is a tar; listing it reads the header of each photo."""
    return kind_of(file.key) == ".tar"


def lacks_versions(file: File) -> bool:
    """Whether a container is a table that names photos without versions, so that each is looked at."""
    columns = None if is_tar(file) else _columns(file)
    return columns is not None and not columns.version


def uri_of(photo: Photo) -> str:
    """The place of a photo, for people; fsspec can open that of a tar's member."""
    if photo.offset is None:
        return photo.source
    if photo.length is None:
        return f"{photo.source}#row={photo.offset}"
    tar = photo.source.rpartition("/")[2]
    member = f"/{photo.key}".partition(f"/{tar}/")[2]
    return f"tar://{member}::{photo.source}"


def is_uri_list(source: str | list[str]) -> bool:
    """Whether an input is a list of URIs, each of which is looked at; other inputs are listed."""
    return not isinstance(source, str) or source.endswith(".txt")


def photo_id(key: str, version: str, crop: int) -> bytes:
    """The 16 bytes that permanently identify a crop of a photo."""
    digest = hashlib.blake2b(digest_size=16, person=_PERSON)
    for part in (key.encode(errors="surrogateescape"), version.encode()):
        digest.update(struct.pack("<Q", len(part)) + part)
    digest.update(struct.pack("<I", crop))
    return digest.digest()


def photo_ids(batch: pa.RecordBatch, crop: int) -> pa.FixedSizeBinaryArray:
    """`photo_id` of every row of `LISTED`."""
    keys, versions = (batch[name].cast(pa.binary()).to_pylist() for name in ("key", "version"))
    packed = {size: struct.pack("<Q", size) for size in {*map(len, keys), *map(len, versions)}}
    begun, end = hashlib.blake2b(digest_size=16, person=_PERSON), struct.pack("<I", crop)
    ids = []
    for key, version in zip(keys, versions, strict=True):
        digest = begun.copy()
        digest.update(packed[len(key)] + key + packed[len(version)] + version + end)
        ids.append(digest.digest())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(b"".join(ids))])


def key_hash(key: str) -> float:
    """A number in [0, 1) that depends only on a photo's key; the lowest ones are held out."""
    data = key.encode(errors="surrogateescape")
    digest = hashlib.blake2b(data, digest_size=8, person=b"batch_nst split").digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # all 53 bits of a float, and never 1


def is_held_out(key: str, holdout: float, always: Collection[str] = ()) -> bool:
    """Whether all crops and versions of a photo are held out from training."""
    return key in always or key_hash(key) < holdout


def _stream(
    source: str | list[str], stores: Collection[str], glob: Glob | None, passed: Passed
) -> Iterator[pa.RecordBatch]:
    if is_uri_list(source):
        _refuse_pattern(source, glob)
        if not isinstance(source, str):
            _refuse_stores("a list in the recipe may name any photo", stores)
            return _batches(_look_at(source))
        return _batches(_look_at(_read_text(source), Allowlist(source, stores)))
    source = str(source)
    files = files_of_one_kind(source, glob, passed)
    first = next(files, None)
    if first is None:
        return iter(())
    if kind_of(first.key, glob) == PHOTO:
        _refuse_stores(f"{source} names no photos", stores)
        return _batches(
            Photo(file.key, file.uri, file.version, length=file.size) for file in chain([first], files)
        )
    containers = [first, *files]
    if is_tar(first):
        _refuse_stores(f"{source} names no photos", stores)
        return _list_tars(containers, glob, passed)
    _refuse_pattern(source, glob)
    return _list_tables(containers, Allowlist(source, stores))


def _refuse_pattern(source: str | list[str], glob: Glob | None) -> None:
    if glob:
        raise RecipeError(
            f"generate.pattern: given {glob.text}, but {source} names its photos; allowed: with folders and "
            "tars"
        )


def _refuse_stores(why: str, stores: Collection[str]) -> None:
    if stores:
        raise RecipeError(
            f"generate.stores (apply: --store): given {', '.join(stores)}, but {why}; allowed: with "
            "tables, text files and Parquet files"
        )


def _glob(pattern: str | None) -> Glob | None:
    return None if pattern is None else Glob(pattern)


def _list_tars(files: Iterable[File], glob: Glob | None, passed: Passed) -> Iterator[pa.RecordBatch]:
    for batches, others in _map_ahead(partial(_list_tar, glob=glob), files):
        passed.update(others)
        yield from batches


def _list_tar(file: File, glob: Glob | None) -> tuple[list[pa.RecordBatch], Passed]:
    passed = Passed()

    def photos() -> Iterator[Photo]:
        for member in list_members(file.uri, file.size, passed):
            key = f"{file.key}/{member.name}"
            if passed.by_name(member.name):
                continue
            if kind_of(key, glob) == PHOTO:
                yield Photo(key, file.uri, member.version, member.offset, member.length)
            else:
                passed.by_suffix(member.name)

    with refused(file):
        return list(_batches(photos())), passed


def _list_tables(files: Iterable[File], allowlist: Allowlist) -> Iterator[pa.RecordBatch]:
    """Photos in Parquet files, or photos that tables name."""
    first: tuple[File, str] | None = None
    for file in files:
        columns = _columns(file)
        does = "holds photos" if columns is None else "names photos with their versions"
        if columns and not columns.version:
            does = "names photos without versions"
        first = first or (file, does)
        # All with versions or all without: else a digest of the files would not show whether photos changed.
        if does != first[1]:
            raise RecipeError(
                f"generate.input: {first[0].uri} {first[1]}, {file.uri} {does}; allowed: files of one kind"
            )
        yield from _list_rows(file, allowlist) if columns is None else _list_named(file, columns, allowlist)


def _list_rows(file: File, allowlist: Allowlist) -> Iterator[pa.RecordBatch]:
    """The photos in a Parquet file. One without bytes is read from its path, under the file's version."""
    names, paths = list_rows(file)
    for start in range(0, len(names), BATCH):
        keys = pc.binary_join_element_wise(file.key, names.slice(start, BATCH), "/")
        named = absolute(paths.slice(start, BATCH), file.uri)
        judged = allowlist.check(named)
        rows = pa.array(range(start, start + len(keys)), pa.int64())
        numbers = pc.if_else(named.is_null(), rows, pa.scalar(None, pa.int64()))
        sources = pc.coalesce(without_credentials(named, judged), file.uri)
        yield _batch(without_credentials(keys, judged), sources, pc.coalesce(judged, file.version), numbers)


def _list_named(file: File, columns: Columns, allowlist: Allowlist) -> Iterator[pa.RecordBatch]:
    for batch in read_table(file, columns, allowlist):
        if not batch["version"].null_count:
            yield _batch(batch["key"], batch["source"], batch["version"])
        else:
            named = zip(batch["source"].to_pylist(), batch["version"].to_pylist(), strict=True)
            found = list(_map_ahead(_look, named))
            versions, lengths = ([content[field] for content in found] for field in (0, 1))
            yield _batch(batch["key"], batch["source"], versions, lengths=lengths)


def _look(named: tuple[str, str | None]) -> tuple[str, int | None]:
    """Version and length of a photo; one that has a version already is not looked at."""
    uri, version = named
    return content_of(uri) if version is None else (version, None)


def _columns(file: File) -> Columns | None:
    """The columns of a table; None for a Parquet file that holds photos."""
    schema = read_schema(file)
    return None if image_column(file, schema) else uri_columns(file, schema)


def _batches(photos: Iterator[Photo]) -> Iterator[pa.RecordBatch]:
    while rows := list(islice(photos, BATCH)):
        keys, sources, versions, offsets, lengths = zip(*rows, strict=True)
        yield _batch(keys, sources, versions, offsets, lengths)


def _batch(
    keys: Any, sources: Any, versions: Any, offsets: Any = None, lengths: Any = None
) -> pa.RecordBatch:
    columns = {"key": keys, "source": sources, "offset": offsets, "length": lengths, "version": versions}
    missing = pa.nulls(len(keys), pa.int64())
    return pa.RecordBatch.from_pydict(
        {name: missing if column is None else column for name, column in columns.items()}, LISTED
    )


def _read_text(source: str) -> Iterator[str]:
    try:
        text = fetch(source, _MAX_LIST_BYTES).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise nothing_at(source) from error
    except (PermissionError, ValueError) as error:
        raise RecipeError(f"generate.input: {source}: cannot be read as a list of URIs: {error}") from error
    folder = source.rpartition("/")[0]
    for line in text.split("\n"):  # splitlines would break at characters that names may hold
        if uri := line.strip():
            yield uri if "://" in uri else os.path.join(folder, uri)


def _look_at(uris: Iterable[str], allowlist: Allowlist | None = None) -> Iterator[Photo]:
    def look_at(uri: str) -> Photo:
        if kind_of(uri) in (*CONTAINERS, *COMPRESSED):
            raise RecipeError(f"generate.input: given {uri} in a list; allowed in a list: URIs of photos")
        version: str | None
        version, shown = None, uri
        if allowlist:
            judged = allowlist.check(pa.array([uri]))
            version, shown = judged[0].as_py(), without_credentials(pa.array([uri]), judged)[0].as_py()
        version, length = _listed(uri) if version is None else (version, None)
        return Photo(shown, shown, version, length=length)

    return _map_ahead(look_at, uris)


def _listed(uri: str) -> Content:
    """Version and length of a photo in a list; a missing photo is kept and fails as a row.

    Raises:
        RecipeError: it is no name of a photo, but a folder, a glob or a slip.
    """
    allowed = "allowed in a list: photos; a glob takes several folders, such as /data/{first,second}/**/*.jpg"
    try:
        return look(uri)
    except IsADirectoryError as error:
        raise RecipeError(f"generate.input: given {uri} in a list, a folder; {allowed}") from error
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if meant_within(uri):
            raise nothing_at(uri) from error
        if "*" in uri:
            raise RecipeError(f"generate.input: given {uri} in a list, a glob; {allowed}") from error
        return Content(MISSING, 0)


def _map_ahead(function: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
    """`map` with threads, in order, that takes only as many items as keep the threads busy."""
    with ThreadPoolExecutor(_LOOKING) as pool:
        ahead: deque[Future[T]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 4 * _LOOKING:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
