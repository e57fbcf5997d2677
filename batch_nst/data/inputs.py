"""Which photos there are: stable ids, a place to read each, and the side of the split that it is on.

Listing pulls names and versions, never bytes.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import struct
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem

from batch_nst.data.storage import fetch, open_filesystem, with_retries
from batch_nst.errors import RecipeError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif")
"""What a folder is searched for. Other files in it are not photos; these are, even where they are broken."""

_MISSING = "missing"
_MAX_LIST_BYTES = 1 << 30
_MAGIC = re.compile(r"[*?\[]")


class Photo(NamedTuple):
    """One photo of the input."""

    key: str
    """Its path below the input root; in a list of URIs the URI itself."""
    source: str
    """The URI or path to read it from."""
    version: str
    """ETag, or size and modification time: the same key with new content is a new photo."""


def list_photos(source: str | list[str]) -> list[Photo]:
    """All photos of an input, sorted by key.

    Args:
        source: a folder, a glob, a `.txt` file of URIs (one a line, relative ones to its folder), or a list
            of URIs; on any file system that fsspec knows. A listed URI that does not exist is kept, and
            will fail as a row. Hidden files, and what lies in hidden folders, are passed over.

    Raises:
        RecipeError: there is no such folder, or no photo in it.
    """
    if not isinstance(source, str):
        found = _list_uris(source)
    else:
        found = _list_text(source) if is_uri_list(source) else _list_folder(source)
    photos = sorted(set(found))
    if not photos:
        raise RecipeError(f"generate.input: no photos in {source}; looked for {' '.join(SUFFIXES)}")
    return photos


def is_uri_list(source: str | list[str]) -> bool:
    """Whether an input names each photo, so that every one of them is looked at; else it is listed."""
    return not isinstance(source, str) or source.endswith(".txt")


def photo_id(key: str, version: str, crop: int) -> bytes:
    """The 16 bytes that name a crop of a photo for ever."""
    digest = hashlib.blake2b(digest_size=16, person=b"batch_nst photo")
    for part in (key.encode(errors="surrogateescape"), version.encode()):
        digest.update(struct.pack("<Q", len(part)) + part)
    digest.update(struct.pack("<I", crop))
    return digest.digest()


def key_hash(key: str) -> float:
    """A number in [0, 1) drawn from a photo's key alone; held-out photos are those with the lowest."""
    data = key.encode(errors="surrogateescape")
    digest = hashlib.blake2b(data, digest_size=8, person=b"batch_nst split").digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # all 53 bits of a float, and never 1


def is_held_out(key: str, holdout: float, always: Collection[str] = ()) -> bool:
    """Whether all crops and versions of a photo are kept away from training."""
    return key in always or key_hash(key) < holdout


def _list_text(source: str) -> Iterator[Photo]:
    try:
        text = fetch(source, _MAX_LIST_BYTES).decode("utf-8-sig")
    except (FileNotFoundError, PermissionError, ValueError) as error:
        raise RecipeError(f"generate.input: {source}: cannot be read as a list of URIs: {error}") from error
    # Not splitlines, which breaks at characters that names may have.
    uris = [line.strip() for line in text.split("\n") if line.strip()]
    folder = source.rpartition("/")[0]
    return _list_uris([uri if "://" in uri else os.path.join(folder, uri) for uri in uris])


def _list_uris(uris: list[str]) -> Iterator[Photo]:
    with ThreadPoolExecutor(16) as pool:
        yield from map(Photo, uris, uris, pool.map(_version, uris))


def _list_folder(root: str) -> Iterator[Photo]:
    filesystem, path = open_filesystem(root)
    if isinstance(filesystem, LocalFileSystem):
        return _list_disk(path)
    return _list_bucket(root, filesystem, path)


def _list_disk(root: str) -> Iterator[Photo]:
    if Path(root).is_dir():
        folder, paths = root, _walk(root)
    elif Path(root).exists():
        folder, paths = root.rpartition("/")[0], iter([root])
    elif _MAGIC.search(root):
        folder, paths = _fixed(root), glob.iglob(root, recursive=True)
    else:
        raise RecipeError(f"generate.input: {root}: there is no such folder or file")
    for path in paths:
        key = path.removeprefix(f"{folder.rstrip('/')}/")
        if _is_photo(key) and not Path(path).is_dir():
            yield Photo(_text(key), _text(path), _version(path))


def _walk(root: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        # os.walk would pass over it in silence, and its photos would count as gone.
        raise RecipeError(f"generate.input: {error.filename}: cannot be listed: {error.strerror}") from error

    for folder, _, files in os.walk(root, onerror=refuse):
        yield from (os.path.join(folder, file) for file in files)


def _list_bucket(root: str, filesystem: Any, path: str) -> Iterator[Photo]:
    folder = root.rstrip("/")
    try:
        found = with_retries(f"list {root}", lambda: filesystem.find(path, detail=True))
        if path in found:  # a single object
            folder = folder.rpartition("/")[0]
        elif not found and _MAGIC.search(root):
            folder = _fixed(root)
            found = with_retries(f"list {root}", lambda: filesystem.glob(path, detail=True))
    except (FileNotFoundError, PermissionError) as error:
        raise RecipeError(f"generate.input: {root}: cannot be listed: {error}") from error
    prefix = open_filesystem(folder)[1].rstrip("/") + "/"
    for name, info in found.items():
        key = name.removeprefix(prefix)
        if _is_photo(key) and info.get("type") != "directory":
            yield Photo(key, f"{folder}/{key}", _remote_version(info))


def _is_photo(key: str) -> bool:
    return key.lower().endswith(SUFFIXES) and not any(part.startswith(".") for part in key.split("/"))


def _fixed(pattern: str) -> str:
    """The folder that holds everything a glob can match."""
    return _MAGIC.split(pattern, maxsplit=1)[0].rpartition("/")[0]


def _text(name: str) -> str:
    """A file name that can be written down; one that is not UTF-8 shows its bytes, and fails as a row."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _version(uri: str) -> str:
    filesystem, path = open_filesystem(uri)

    def look() -> str:
        if isinstance(filesystem, LocalFileSystem):
            stat = Path(path).stat()
            return f"{stat.st_size}-{stat.st_mtime_ns}"
        return _remote_version(filesystem.info(path))

    try:
        return with_retries(f"look at {uri}", look)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return _MISSING


def _remote_version(info: dict[str, Any]) -> str:
    for name in ("ETag", "etag", "md5Hash", "content_md5", "crc32c", "Last-Modified"):
        if info.get(name):
            return str(info[name]).strip('"')
    changed = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or ""
    return f"{info.get('size')}-{changed}"
