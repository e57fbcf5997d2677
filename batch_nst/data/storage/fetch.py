"""Reads any URI, completely or in part, with retries, and reports which version of an object was read.

Credentials come from the environment or the platform, never from here. `AWS_ENDPOINT_URL_S3` or
`AWS_ENDPOINT_URL` names an S3 endpoint other than AWS.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
import random
import re
import stat
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from batch_nst.data.storage.faults import (
    NOTHING,
    error_code,
    http_status,
    lasting_of,
    one_line,
    remedy_of,
    seen_through,
)
from batch_nst.errors import OutageError, RecipeError, StorageError

T = TypeVar("T")

LIBRARIES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
}
"""Protocols of the object stores that can create exclusively, and the package that implements each."""

ATTEMPTS = 5
"""Number of attempts at a request before a fault counts as an outage."""
FIRST_DELAY = 0.5
"""Seconds before the second attempt; doubled for each further one, and reduced by up to half at random."""
MAX_DELAY = 20.0
"""Maximum delay between attempts in seconds."""

_GOOGLE = {"gs", "gcs"}
_SERVERS = {"ftp", "http", "https"}


class TooLarge(ValueError):  # noqa: N818 - it says what the object is
    """An object has more bytes than the caller accepts."""

    def __init__(self, uri: str, size: int, max_bytes: int) -> None:
        """`size` and `max_bytes` are in bytes."""
        super().__init__(uri, size, max_bytes)
        self.uri = uri
        self.size = size
        """Size of the object in bytes."""
        self.max_bytes = max_bytes

    def __str__(self) -> str:
        """One line."""
        return f"{self.uri}: {self.size} bytes, more than the {self.max_bytes} allowed"


def fetch(
    uri: str,
    max_bytes: int,
    attempts: int = ATTEMPTS,
    first_delay: float = FIRST_DELAY,
    listed: Content | None = None,
) -> bytes:
    """Read one object from a local path or any URI that fsspec knows; names are taken literally.

    Args:
        uri: the object.
        max_bytes: maximum size. It also bounds the transfer, except from a web server that ignores ranges.
        attempts: see `with_retries`.
        first_delay: seconds before the second attempt, see `with_retries`.
        listed: the content that it must still have. Disks and S3 return the version with the bytes, and
            Google's MD5 is compared with them. In other stores only an object that is now empty is noticed.

    Raises:
        FileNotFoundError, PermissionError: at once; the first also where the content has changed.
        TooLarge: it has more than `max_bytes`.
        OutageError: a fault outlasted the attempts.
        RecipeError: the protocol is unknown or not installed.

    fetch("s3://photos/cat.jpg", max_bytes=64 << 20)
    """
    if listed and listed.size > max_bytes:
        raise TooLarge(uri, listed.size, max_bytes)

    def compare(version: str, data: bytes) -> None:
        if listed and listed.differs(version, data):
            raise FileNotFoundError(f"{uri}: its content has changed")

    protocol, path = split_uri(uri)
    if protocol == "file":

        def read() -> bytes:
            with io.BufferedReader(_open_file(path)) as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read(max_bytes + 1) if size <= max_bytes else b""  # it may grow while it is read
                compare(of_stat(os.fstat(file.fileno())), data)
                if max(size, len(data)) > max_bytes:
                    raise TooLarge(uri, max(size, len(data)), max_bytes)
                return data

    else:
        filesystem, key = open_filesystem(uri)

        def read() -> bytes:
            data, version = get_range(filesystem, key, 0, max_bytes + 1)
            if listed and protocol in _GOOGLE and is_md5(listed.version):
                version = md5_of(data)
            compare(version, data)
            if len(data) > max_bytes:
                raise TooLarge(uri, filesystem.size(key) or len(data), max_bytes)
            return data

    try:
        return with_retries(f"read {uri}", read, attempts, first_delay)
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(one_line(error)) from error


def fetch_range(uri: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` (exclusive) of an object in one read; fewer where the object is shorter.

    Raises what `fetch` raises, except TooLarge.
    """
    protocol, path = split_uri(uri)
    if protocol == "file":

        def read() -> bytes:
            with io.BufferedReader(_open_file(path)) as file:
                file.seek(start)
                return file.read(end - start)

    else:
        filesystem, key = open_filesystem(uri)

        def read() -> bytes:
            data, _ = get_range(filesystem, key, start, end)
            return data if len(data) <= end - start else data[start:end]  # a web server that ignores ranges

    try:
        return with_retries(f"read {uri}", read)
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(one_line(error)) from error


def open_object(uri: str, size: int) -> io.RawIOBase:
    """An object of `size` bytes as a seekable file; in a bucket each read is a request.

    Raises what `fetch_range` raises; for a bucket, when it is read.
    """
    if is_remote(uri):
        return _Object(uri, size)
    try:
        return _open_file(open_filesystem(uri)[1])
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(one_line(error)) from error


def _open_file(path: str) -> io.FileIO:
    """A regular file, opened for reading. Others are refused: a pipe would block, and a device never ends."""
    try:
        file = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as error:
        if error.errno in NOTHING:
            raise FileNotFoundError(error.errno, error.strerror, path) from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(errno.ENOENT, "is no regular file", path)
    return file


def is_remote(uri: str) -> bool:
    """Whether reading this URI sends requests, which a local path does not."""
    return split_uri(uri)[0] != "file"


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI and the path within it; listings are never cached.

    On S3 botocore itself tries each request three times, so that one bad page does not undo a long listing;
    s3fs's own retries around these are off.

    Raises:
        RecipeError: the protocol is unknown or not installed.
    """
    protocol, path = split_uri(uri)
    if protocol == "file":
        return fsspec.filesystem("file"), str(Path(path).absolute())
    uri = f"{protocol}://{path}"  # fsspec knows no S3://
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        library = LIBRARIES.get(protocol)
        remedy = f"pip install {library}" if library else str(error)
        raise RecipeError(f"{uri}: the library for {protocol}:// is not installed; {remedy}") from error
    except ValueError as error:
        raise RecipeError(
            f"{uri}: no such protocol; allowed: a local path or one that fsspec knows"
        ) from error
    make = partial(kind, use_listings_cache=False)
    if protocol in ("s3", "s3a"):
        retries = {"mode": "standard", "total_max_attempts": 3}
        make = partial(make, config_kwargs={"retries": retries, "max_pool_connections": 64})
    elif LIBRARIES.get(protocol) == "adlfs" and (host := re.search(r"@([^./]+)\.(?:dfs|blob)\.", uri)):
        make = partial(make, account_name=host[1])
    elif protocol not in LIBRARIES:
        _check_address(uri)
        make = partial(make, **kind._get_kwargs_from_urls(uri))  # a host, for ftp:// and others
    try:
        filesystem = make()
    except (TypeError, ValueError, ImportError, OSError) as error:
        raise RecipeError(f"{protocol}://: cannot be opened: {one_line(error)}") from error
    if protocol in ("s3", "s3a"):
        filesystem.retries = 1
    return filesystem, kind._strip_protocol(uri)


def _check_address(uri: str) -> None:
    """Refuse an address that no request can be sent to."""
    try:
        place = urlsplit(uri)
        if place.path and place.port is None and not place.hostname and place.scheme in _SERVERS:
            raise ValueError("it names no host")
    except ValueError as error:
        raise RecipeError(f"{uri}: is no address: {error}") from error


def with_retries(
    what: str, action: Callable[[], T], attempts: int = ATTEMPTS, first_delay: float = FIRST_DELAY
) -> T:
    """The result of `action`, which is called up to `attempts` times while faults are transient.

    The wait starts at `first_delay` seconds and doubles, with jitter, so that a thousand workers do not
    return at the same moment. Errors that a retry cannot change are raised at once: missing, exists, no
    permission, a disk that is full or read-only, and anything that is not a fault of storage.

    Args:
        what: verb and object for the error, such as "read s3://bucket/name".
        action: the request.
        attempts: maximum number of calls, at least 1.
        first_delay: seconds.

    Raises:
        OutageError: the last attempt failed too.
        StorageError: at once, where the user has to change something first; it says what.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except Exception as raised:
            error = seen_through(raised)
            if remedy := remedy_of(error):
                _forget_clients()
                told = one_line(error).partition(": Bucket name must match")[0]
                raise StorageError(f"cannot {what}: {told}; {remedy}") from error
            lasting = lasting_of(error)
            if lasting is raised:
                raise
            if lasting is not None:
                raise lasting from error
            if attempt >= attempts:
                raise OutageError(f"cannot {what}: {attempts} attempts, last: {one_line(error)}") from error
        time.sleep(min(MAX_DELAY, first_delay * 2 ** (attempt - 1)) * random.uniform(0.5, 1))
    raise ValueError(f"attempts is {attempts}; allowed: 1 or more")


def _forget_clients() -> None:
    """A client of S3 keeps what it found at first, such as no credentials; the next call makes another."""
    if s3fs := sys.modules.get("s3fs"):
        s3fs.S3FileSystem.clear_instance_cache()


class _Object(io.RawIOBase):
    """An object in a bucket as a file; each read is a request, with retries."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._position = uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        )
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        data = fetch_range(self._uri, self._position, end) if end > self._position else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def get_range(filesystem: Any, path: str, start: int, end: int | None) -> tuple[bytes, str]:
    """Bytes of an object, fewer where it is shorter, and its version; empty where the store does not send it.

    A range is always requested, since s3fs would otherwise ask for the size first.
    """
    try:
        if hasattr(filesystem, "call_s3"):
            found: tuple[bytes, str] = sync(filesystem.loop, _get_s3, filesystem, path, start, end)
            return found
        return filesystem.cat_file(path, start=start, end=end), ""
    except Exception as error:
        # A range of an empty object, or beyond the end of another, cannot be satisfied.
        if error_code(error) in ("InvalidRange", "416") or http_status(error) == 416:
            return b"", ""
        raise


async def _get_s3(filesystem: Any, path: str, start: int, end: int | None) -> tuple[bytes, str]:
    """The same as s3fs's own `cat_file`, which drops everything of the answer but its bytes."""
    bucket, key, _ = filesystem.split_path(path)
    part = f"bytes={start}-{'' if end is None else end - 1}"
    answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=key, Range=part)
    try:
        return await answer["Body"].read(), str(answer.get("ETag") or "").strip('"')
    finally:
        answer["Body"].close()


def split_uri(uri: str) -> tuple[str, str]:
    """Protocol and rest; "file" for a path. This is no URL parsing: `#`, `%` and `?` are part of a name."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if match is None:
        return "file", uri
    protocol = match[1].lower()
    return ("file" if protocol == "local" else protocol), uri[match.end() :]


MISSING = "missing"
"""The version of an object that does not exist or may not be looked at."""


class Content(NamedTuple):
    """The content of a file or object when it was listed."""

    version: str
    size: int
    """Size in bytes; also 0 where the store did not report it."""

    def differs(self, version: str, data: bytes) -> bool:
        """Whether a read has found another content.

        Args:
            version: the version that came with the bytes; may be empty.
            data: the bytes.
        """
        if version:
            return version != self.version
        return self.version == MISSING or (self.size > 0 and not data)


def of_stat(stat: os.stat_result) -> str:
    """The version of a file: size and modification time."""
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def is_md5(version: str) -> bool:
    """Whether a version is the MD5 of the whole content, as Google writes it."""
    return len(version) == 24 and version.endswith("==")


def md5_of(data: bytes) -> str:
    """The MD5 of a content, as Google writes it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
