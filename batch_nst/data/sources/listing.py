"""Lists the files of a folder, a glob or a single file, with their versions, on any file system.

The order is deterministic. Hidden files and those of a system (`passed.reason_of`) are skipped and
counted. Only names and versions are read, never bytes. A disk is walked folder by folder and S3 page by page.
For other stores, and for globs in a bucket, fsspec lists everything before the first file is returned.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypedDict, cast, get_args

from fsspec.implementations.local import LocalFileSystem

from batch_nst.data.sources.passed import CIRCLE, Passed
from batch_nst.data.storage.faults import error_code
from batch_nst.data.storage.fetch import (
    LIBRARIES,
    MISSING,
    Content,
    get_range,
    of_stat,
    open_filesystem,
    split_uri,
    with_retries,
)
from batch_nst.errors import RecipeError
from batch_nst.globs import MAGIC, Glob, fixed_part
from batch_nst.uris import meant_within

_OUT_OF_REACH = {errno.EACCES, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EPERM}
"""Errors of looking at a name that was listed; such a file fails as a row."""


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


def list_files(root: str, passed: Passed) -> Iterator[File]:
    """The files of a folder, a glob or a single file; what is skipped is counted in `passed`.

    Raises:
        RecipeError: it does not exist or cannot be listed, or a range names a file that is not there.
    """
    filesystem, path = open_filesystem(root)
    glob = _glob_of(path)
    if isinstance(filesystem, LocalFileSystem):
        yield from _list_disk(path, glob, passed)
    else:
        yield from _list_bucket(root, filesystem, path, glob, passed)


def check_there(root: str) -> None:
    """Raise `nothing_at` where a disk has nothing at an input. A store is asked only when it is listed."""
    filesystem, path = open_filesystem(root)
    if isinstance(filesystem, LocalFileSystem):
        _glob_there(path, _glob_of(path))


def nothing_at(root: str) -> RecipeError:
    """The error for an input that does not exist; it says what was probably meant."""
    meant = f"; probably meant: {slip}" if (slip := meant_within(root)) else ""
    return RecipeError(f"generate.input: {root}: there is no such file or folder{meant}")


def _glob_of(path: str) -> Glob | None:
    """The part of a path that is a glob."""
    if not MAGIC.search(path):
        return None
    try:
        return Glob(path.removeprefix(f"{fixed_part(path)}/"))
    except ValueError as error:
        raise RecipeError(f"generate.input: {path}: {error}") from error


def content_of(uri: str) -> Content:
    """Version and size of one object; `MISSING` where it does not exist or may not be looked at."""
    try:
        return look(uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
        return Content(MISSING, 0)


def look(uri: str) -> Content:
    """Version and size of one object; raises what `fetch` raises, except TooLarge, and IsADirectoryError."""
    filesystem, path = open_filesystem(uri)

    def ask() -> Content:
        if isinstance(filesystem, LocalFileSystem):
            found = Path(path).stat()
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, "is a folder", path)
            return _of_stat(found)
        info = _info(filesystem, path)
        if info.get("type") == "directory":
            raise IsADirectoryError(errno.EISDIR, "is a folder", uri)
        return _content(info)

    return with_retries(f"look at {uri}", ask)


def _list_disk(root: str, glob: Glob | None, passed: Passed) -> Iterator[File]:
    if glob := _glob_there(root, glob):
        folder, paths = fixed_part(root), _walk(fixed_part(root) or "/", passed, glob.reaches_into)
    elif Path(root).is_dir():
        folder, paths = root, _walk(root, passed)
    else:
        folder, paths = root.rpartition("/")[0], iter([root])
    for path in paths:
        key = path.removeprefix(f"{folder.rstrip('/')}/")
        if (glob and not glob.fits(key)) or passed.by_name(key):
            continue
        try:
            found = _of_stat(Path(path).stat())
        except OSError as error:
            if error.errno not in _OUT_OF_REACH:
                raise
            found = Content(MISSING, 0)
        yield File(_text(key), _text(path), *found)
    _check_ranges(root, glob)


def _glob_there(root: str, glob: Glob | None) -> Glob | None:
    """The glob, unless its text is the name of what exists; raises `nothing_at` where nothing does."""
    if Path(root).exists():
        return None
    if not glob or not Path(fixed_part(root) or "/").is_dir():
        raise nothing_at(root)
    return glob


def _walk(
    folder: str,
    passed: Passed,
    enters: Callable[[str], bool] = lambda _: True,
    key: str = "",
    above: Collection[tuple[int, int]] | None = None,
) -> Iterator[str]:
    """The files below a folder, sorted by their whole paths, as a bucket sorts them.

    Links are followed, but not to a folder that they lie in. Hidden folders and those of a system are not
    looked into, nor are those that `enters` declines, by their path below the root.
    """
    above = [_identity(each) for each in Path(folder).resolve().parents] if above is None else above
    try:
        here = _identity(Path(folder))
        with os.scandir(folder) as found:
            seen = [(entry, _is_folder(entry)) for entry in found]
    except OSError as error:
        # If it were skipped silently, its photos would count as gone.
        raise RecipeError(f"generate.input: {error.filename}: cannot be listed: {error.strerror}") from error
    if here in above:
        passed[CIRCLE] += 1
        return
    for entry, is_folder in sorted(seen, key=lambda pair: pair[0].name + "/" * pair[1]):
        name = key + entry.name
        if not is_folder:
            yield entry.path
        elif enters(name) and not passed.by_name(entry.name):
            yield from _walk(entry.path, passed, enters, f"{name}/", (*above, here))


def _identity(folder: Path) -> tuple[int, int]:
    """Device and inode, which are the same whatever links lead there."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def _check_ranges(root: str, glob: Glob | None) -> None:
    """Refuse a range that names a file which is not there, such as a shard that was not copied."""
    if glob and (name := glob.unseen()):
        raise RecipeError(f"generate.input: {root}: there is no {name}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link, or no permission: it fails as a row
        return False


def _list_bucket(root: str, filesystem: Any, path: str, glob: Glob | None, passed: Passed) -> Iterator[File]:
    try:
        folder, found, glob = _find(root, filesystem, path, glob)
        prefix = open_filesystem(folder)[1].rstrip("/") + "/"
        nothing = True
        for info in found:
            nothing = False
            key = info["name"].removeprefix(prefix)
            # An empty object whose key ends in "/" marks a folder in a web console.
            if info.get("type") == "directory" or (key.endswith("/") and not info.get("size")):
                continue
            if (glob is None or glob.fits(key)) and not passed.by_name(key):
                yield File(key, f"{folder}/{key}", *_content(info))
    except (FileNotFoundError, PermissionError) as error:
        raise RecipeError(f"generate.input: {root}: cannot be listed: {error}") from error
    if nothing and not glob:
        raise nothing_at(root)
    _check_ranges(root, glob)


def _find(
    root: str, filesystem: Any, path: str, glob: Glob | None
) -> tuple[str, Iterator[ObjectInfo], Glob | None]:
    """The folder that keys are relative to, the objects below it, and the glob unless its text is a name."""
    folder = root.rstrip("/")
    if hasattr(filesystem, "call_s3"):
        pages = _s3_pages(root, filesystem, path)
        first = next(pages)
        if first:
            return folder, chain(first, chain.from_iterable(pages)), None
    elif split_uri(root)[0] not in LIBRARIES and not glob:
        return (*_find_on_server(folder, filesystem, path), None)
    found = with_retries(f"list {root}", lambda: filesystem.find(path, detail=True))
    if path in found:  # a single object
        folder, glob = folder.rpartition("/")[0], None
    elif not found and glob:
        folder = fixed_part(root)
        wide = f"{fixed_part(path)}/{glob.wide}"
        found = with_retries(f"list {root}", lambda: filesystem.glob(wide, detail=True))
    return folder, iter(found.values()), glob


def _find_on_server(folder: str, filesystem: Any, path: str) -> tuple[str, Iterator[ObjectInfo]]:
    """The same on a server whose folders are pages; fsspec's `find` leaves out those that it cannot read.

    An address with a suffix is asked for as an object first: as a folder it would be read as a whole.
    """
    if PurePosixPath(path).suffix and not path.endswith("/"):
        with contextlib.suppress(FileNotFoundError):
            info = with_retries(f"look at {folder}", lambda: _info(filesystem, path))
            if info["type"] == "file":
                return folder.rpartition("/")[0], iter([info])
    found: dict[str, ObjectInfo] = {}
    folders = [path]
    for below in folders:
        try:
            infos = with_retries(f"list {below}", partial(filesystem.ls, below, detail=True))
        except FileNotFoundError:
            if below == path:
                raise
            continue  # a link that leads nowhere, or a folder that has just gone
        new = {info["name"]: info for info in infos if info["name"] not in found}
        found |= new
        folders += [name for name, info in new.items() if info["type"] == "directory"]
    return folder, iter([found[name] for name in sorted(found)])


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
