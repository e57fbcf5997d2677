"""Lists the files of a folder, a glob or a single file, with their versions, on any file system.

The order is deterministic. Hidden files and the contents of hidden folders are skipped. Only names and
versions are read, never bytes. A disk is walked folder by folder and S3 page by page. For other stores, and
for globs in a bucket, fsspec lists everything before the first file is returned.
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
"""Errors of looking at a name that was listed; such a file fails as a row."""

MAGIC = re.compile(r"[*?\[]")
"""Characters that make a path a glob."""


class File(NamedTuple):
    """A file as a listing shows it."""

    key: str
    """Path below the listed folder, or below the fixed part of a glob."""
    uri: str
    version: str
    """ETag, or size and modification time."""
    size: int
    """Size in bytes; also 0 where the store does not report it."""


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
"""What fsspec reports for an object: the keys that are read here, of all stores. The last three are times."""


def list_files(root: str) -> Iterator[File]:
    """The files of a folder, a glob or a single file.

    Raises:
        RecipeError: it does not exist on a disk, or cannot be listed. A bucket has no folders, so a missing
            folder there is an empty one.
    """
    filesystem, path = open_filesystem(root)
    if isinstance(filesystem, LocalFileSystem):
        return _list_disk(path)
    return _list_bucket(root, filesystem, path)


def content_of(uri: str) -> Content:
    """Version and size of one object; `MISSING` where it does not exist or may not be looked at."""
    try:
        return look(uri)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return Content(MISSING, 0)


def look(uri: str) -> Content:
    """Version and size of one object; raises what `fetch` raises, except TooLarge."""
    filesystem, path = open_filesystem(uri)

    def ask() -> Content:
        if isinstance(filesystem, LocalFileSystem):
            return _of_stat(Path(path).stat())
        return _content(_info(filesystem, path))

    return with_retries(f"look at {uri}", ask)


def is_hidden(key: str) -> bool:
    """Whether a name or a folder in it starts with a dot; `.` and `..`, as in tars, do not count."""
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
    """The files below a folder, sorted by their whole paths, as a bucket sorts them."""
    try:
        with os.scandir(folder) as found:
            seen = [(entry, _is_folder(entry)) for entry in found if not is_hidden(entry.name)]
    except OSError as error:
        # If it were skipped silently, its photos would count as gone.
        raise RecipeError(f"generate.input: {error.filename}: cannot be listed: {error.strerror}") from error
    for entry, is_folder in sorted(seen, key=lambda pair: pair[0].name + "/" * pair[1]):
        if not is_folder:
            yield entry.path
        elif not entry.is_symlink():
            yield from _walk(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link, or no permission: it fails as a row
        return False


def _list_bucket(root: str, filesystem: Any, path: str) -> Iterator[File]:
    try:
        folder, found = _find(root, filesystem, path)
        prefix = open_filesystem(folder)[1].rstrip("/") + "/"
        for info in found:
            key = info["name"].removeprefix(prefix)
            # A key that ends in "/" marks an empty folder in a web console.
            if info.get("type") != "directory" and not key.endswith("/") and not is_hidden(key):
                yield File(key, f"{folder}/{key}", *_content(info))
    except (FileNotFoundError, PermissionError) as error:
        raise RecipeError(f"generate.input: {root}: cannot be listed: {error}") from error


def _find(root: str, filesystem: Any, path: str) -> tuple[str, Iterator[ObjectInfo]]:
    """The folder that keys are relative to, and the objects below it."""
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
    """The objects below a prefix, 1000 per page; s3fs itself returns nothing before the last page."""
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
    """A file name as UTF-8; bytes that are not UTF-8 become escapes, and the file fails as a row."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _of_stat(stat: os.stat_result) -> Content:
    return Content(of_stat(stat), stat.st_size)


def _content(info: ObjectInfo) -> Content:
    return Content(version_of(info), int(info.get("size") or 0))


def _info(filesystem: Any, path: str) -> ObjectInfo:
    """What fsspec reports for one object, in one attempt.

    S3 gets a HEAD request, whose answer carries no reason. Its 403 can mean that the object may not be read,
    that it is missing (where the caller may not list), that a token expired, or that a clock is wrong.
    Therefore one byte is read: its refusal names the reason, and that error is raised.
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
    """The version of an object: its ETag, or the closest equivalent."""
    # Digests of the content come first: Google's etag also changes with an object's labels and storage class.
    for name in _VERSIONS:
        if info.get(name):
            return str(info[name]).strip('"')
    changed = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or ""
    return f"{info.get('size')}-{changed}"
