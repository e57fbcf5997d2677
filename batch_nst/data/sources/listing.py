"""The files below a folder, behind a glob, or a single one, with their versions; on any file system.

In a deterministic order, hidden ones (and what lies in hidden folders) passed over. Names and versions are
pulled, never bytes. A disk is walked folder by folder and S3 page by page; other stores and globs in a
bucket are listed whole by their fsspec library before the first file comes.
"""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, cast, get_args

from fsspec.implementations.local import LocalFileSystem

from batch_nst.data.storage.fetch import (
    MISSING,
    Content,
    error_code,
    get_range,
    of_stat,
    open_filesystem,
    with_retries,
)
from batch_nst.errors import RecipeError

_OUT_OF_REACH = {errno.EACCES, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EPERM}
"""What a name may lead to that can be listed."""

MAGIC = re.compile(r"[*?\[]")
"""What makes a path a glob."""


class File(NamedTuple):
    """A file as a listing shows it."""

    key: str
    """Its path below the folder that was listed, or below the fixed part of a glob."""
    uri: str
    version: str
    """ETag, or size and modification time."""
    size: int
    """Bytes; 0 as well where the store does not tell."""


_Version = Literal["ETag", "md5Hash", "content_md5", "crc32c", "etag", "blob_id", "Last-Modified"]
_VERSIONS: tuple[_Version, ...] = get_args(_Version)
"""What stores call an object's version, the best name first."""

ObjectInfo = TypedDict(
    "ObjectInfo",
    {
        "name": str,
        "type": str,
        "size": int | None,
        "ETag": str,
        "md5Hash": str,
        "content_md5": str,
        "crc32c": str,
        "etag": str,
        "blob_id": str,
        "Last-Modified": str,
        "LastModified": object,
        "last_modified": object,
        "mtime": object,
    },
    total=False,
)
"""What fsspec says of an object: the keys of all stores that are read here; the last three are times."""


def list_files(root: str) -> Iterator[File]:
    """The files of a folder, a glob or a single file.

    Raises:
        RecipeError: there is no such thing on a disk, or it cannot be listed. In a bucket, where there are
            no folders, nothing is found instead.
    """
    filesystem, path = open_filesystem(root)
    if isinstance(filesystem, LocalFileSystem):
        return _list_disk(path)
    return _list_bucket(root, filesystem, path)


def content_of(uri: str) -> Content:
    """What one object holds; `MISSING` when there is none, or no permission to look."""
    try:
        return look(uri)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return Content(MISSING, 0)


def look(uri: str) -> Content:
    """Version and size of one object; raises what `storage.fetch` would, but for its size."""
    filesystem, path = open_filesystem(uri)

    def ask() -> Content:
        if isinstance(filesystem, LocalFileSystem):
            return _of_stat(Path(path).stat())
        return _content(_info(filesystem, path))

    return with_retries(f"look at {uri}", ask)


def is_hidden(key: str) -> bool:
    """Whether a file or a folder above it begins with a dot; `.` and `..`, as in tars, do not hide."""
    return any(part.startswith(".") and part.strip(".") for part in key.split("/"))


def _list_disk(root: str) -> Iterator[File]:
    if Path(root).is_dir():
        folder, paths = root, _walk(root)
    elif Path(root).exists():
        folder, paths = root.rpartition("/")[0], iter([root])
    elif MAGIC.search(root):
        matches = sorted(glob.iglob(root, recursive=True))
        folder, paths = _fixed(root), (path for path in matches if not Path(path).is_dir())
    else:
        raise RecipeError(f"generate.input: {root}: there is no such folder or file")
    for path in paths:
        key = path.removeprefix(f"{folder.rstrip('/')}/")
        if is_hidden(key):
            continue
        try:
            found = _of_stat(Path(path).stat())
        except OSError as error:
            if error.errno not in _OUT_OF_REACH:
                raise
            found = Content(MISSING, 0)
        yield File(_text(key), _text(path), *found)


def _walk(folder: str) -> Iterator[str]:
    """The files below a folder, in the order of their whole paths, which is that of a bucket."""
    try:
        with os.scandir(folder) as found:
            seen = [(entry, _is_folder(entry)) for entry in found if not is_hidden(entry.name)]
    except OSError as error:
        # Passed over in silence, its photos would count as gone.
        raise RecipeError(f"generate.input: {error.filename}: cannot be listed: {error.strerror}") from error
    for entry, is_folder in sorted(seen, key=lambda pair: pair[0].name + "/" * pair[1]):
        if not is_folder:
            yield entry.path
        elif not entry.is_symlink():
            yield from _walk(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or to where nobody may look: it fails as a row
        return False


def _list_bucket(root: str, filesystem: Any, path: str) -> Iterator[File]:
    try:
        folder, found = _find(root, filesystem, path)
        prefix = open_filesystem(folder)[1].rstrip("/") + "/"
        for info in found:
            key = info["name"].removeprefix(prefix)
            # A key that ends in "/" is a console's mark for an empty folder.
            if info.get("type") != "directory" and not key.endswith("/") and not is_hidden(key):
                yield File(key, f"{folder}/{key}", *_content(info))
    except (FileNotFoundError, PermissionError) as error:
        raise RecipeError(f"generate.input: {root}: cannot be listed: {error}") from error


def _find(root: str, filesystem: Any, path: str) -> tuple[str, Iterator[ObjectInfo]]:
    """The folder that keys are relative to, and what is found below it."""
    folder = root.rstrip("/")
    if hasattr(filesystem, "call_s3"):
        pages = _s3_pages(root, filesystem, path)
        first = next(pages)
        if first:
            return folder, chain(first, chain.from_iterable(pages))
    found = with_retries(f"list {root}", lambda: filesystem.find(path, detail=True))
    if path in found:  # a single object
        folder = folder.rpartition("/")[0]
    elif not found and MAGIC.search(root):
        folder = _fixed(root)
        found = with_retries(f"list {root}", lambda: filesystem.glob(path, detail=True))
    return folder, iter(found.values())


def _s3_pages(root: str, filesystem: Any, path: str) -> Iterator[list[ObjectInfo]]:
    """What lies below a prefix, 1000 objects a page; s3fs itself shows none before the last page."""
    bucket, prefix, _ = filesystem.split_path(path)
    request = {"Bucket": bucket, "Prefix": f"{prefix.rstrip('/')}/" if prefix else ""}
    while True:
        page = with_retries(f"list {root}", lambda: filesystem.call_s3("list_objects_v2", **request))
        objects = page.get("Contents", [])
        named = ({**info, "name": f"{bucket}/{info['Key']}", "size": info["Size"]} for info in objects)
        yield [cast(ObjectInfo, info) for info in named]
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _fixed(pattern: str) -> str:
    """The folder that holds everything a glob can match."""
    return MAGIC.split(pattern, maxsplit=1)[0].rpartition("/")[0]


def _text(name: str) -> str:
    """A file name that can be written down; one that is not UTF-8 shows its bytes, and fails as a row."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _of_stat(stat: os.stat_result) -> Content:
    return Content(of_stat(stat), stat.st_size)


def _content(info: ObjectInfo) -> Content:
    return Content(version_of(info), int(info.get("size") or 0))


def _info(filesystem: Any, path: str) -> ObjectInfo:
    """What fsspec tells of one object, in one try.

    S3 is asked with HEAD, whose answer has no room for a reason: 403 says that the object may not be read,
    that there is none (where the caller may not list), or that the caller's token ran out or its clock is
    wrong. A read of one byte is refused with the reason, and raises that.
    """
    try:
        info: ObjectInfo = filesystem.info(path)
    except PermissionError as error:
        if error_code(error) != "403":
            raise
        get_range(filesystem, path, 0, 1)
        raise OSError("HEAD is refused, and GET is not") from error
    return info


def version_of(info: ObjectInfo) -> str:
    """Of an object, from what fsspec tells of it: its ETag, or what comes nearest."""
    # Of the content first: Google's etag changes with an object's labels and storage class as well.
    for name in _VERSIONS:
        if info.get(name):
            return str(info[name]).strip('"')
    changed = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or ""
    return f"{info.get('size')}-{changed}"
