"""Bytes in and out of an output root: whole objects by name, exclusive create, and retries.

Everything that the project promises about crashes and races stands on `Store.create`: an object appears
whole or not at all, and of any number of writers exactly one makes it. Credentials come from the
environment or the platform, never from here; an S3 endpoint other than AWS from `AWS_ENDPOINT_URL_S3` or
`AWS_ENDPOINT_URL`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import fsspec
from fsspec.asyn import sync

from batch_nst.credentials import holds_credentials
from batch_nst.data import versions
from batch_nst.data.versions import Content
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
"""Protocols of the object stores that can create exclusively, and the package that speaks each."""

ATTEMPTS = 5
"""How often a request is tried in all before its fault counts as an outage."""
FIRST_DELAY = 0.5
"""Seconds before the second attempt; doubled for each further one; up to half is taken off at random."""
MAX_DELAY = 20.0
"""Seconds."""

_GOOGLE = {"gs", "gcs"}
_TEMPORARY = ".tmp"  # below a local root, so that a temporary file shares the file system of the final one
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_NOTHING = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
"""No file can have such a name; links in a circle; a socket."""
_NO_ROOM = {errno.EDQUOT, errno.ENOSPC, errno.EROFS}
_CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "http", "requests", "urllib3"}
# S3 answers these with 403 too, but they speak of the caller and not of the object: a photo must not be
# written off because a token ran out.
_OF_THE_CALLER = {
    "AccountProblem",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}


class TooLarge(ValueError):  # noqa: N818 - it says what the object is
    """An object has more bytes than the caller accepts."""

    def __init__(self, uri: str, size: int, max_bytes: int) -> None:
        """`size` and `max_bytes` in bytes."""
        super().__init__(uri, size, max_bytes)
        self.uri = uri
        self.size = size
        """Bytes of the object."""
        self.max_bytes = max_bytes

    def __str__(self) -> str:
        """One line."""
        return f"{self.uri}: {self.size} bytes, more than the {self.max_bytes} allowed"


@dataclass(frozen=True)
class Store:
    """An output root: a folder on disk, or a prefix in a bucket. Pickled by its uri; any number may be open.

    Names are relative to the root, use `/`, and do not lead out of it. Transient faults are retried. What
    cannot be done raises StorageError, OutageError where it may pass; a root of another kind, or with
    credentials, raises RecipeError when the Store is made.
    """

    uri: str
    """Without a trailing slash; a local root is made an absolute path."""

    def __post_init__(self) -> None:
        """Check the protocol and make a local root absolute."""
        if holds_credentials(self.uri):
            raise RecipeError(f"output {self.uri}: allowed: credentials from the environment alone")
        protocol, path = _split(self.uri)
        if protocol == "file":
            uri = str(Path(path).absolute())
        elif protocol in LIBRARIES:
            uri = self.uri.rstrip("/")
            if not path.partition("/")[0]:
                raise RecipeError(f"output {self.uri}: names no bucket; allowed: {protocol}://BUCKET/NAME")
        else:
            raise RecipeError(
                f"output {self.uri}: exclusive create is not atomic on {protocol}://; "
                f"allowed: a local path or {', '.join(LIBRARIES)}"
            )
        object.__setattr__(self, "uri", uri)

    @property
    def local_path(self) -> Path | None:
        """The root as a path when it is on a local disk, else None."""
        return Path(self.uri) if _split(self.uri)[0] == "file" else None

    def join(self, name: str) -> str:
        """The full URI of a name."""
        return f"{self.uri}/{name}"

    def read(self, name: str) -> bytes:
        """The bytes of an object; FileNotFoundError when there is none."""
        return self._attempt("read", name, lambda: self._place.read(name))

    def view(self, name: str, look: Callable[[IO[bytes]], T]) -> T:
        """What `look` finds in an object, opened to read parts of it; called anew after a transient fault."""

        def action() -> T:
            with self._place.open(name) as file:
                return look(file)

        return self._attempt("read", name, action)

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name; a folder is none."""
        return self._attempt("look for", name, lambda: self._place.exists(name))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object that must not exist yet: True when this call made it, False when it exists already.

        After a lost answer the retry finds what the first try made and returns False too: "it exists"
        says that an object is there, not whose. A caller to whom that matters compares the content, see
        `establish`.
        """
        return self._attempt("create", name, lambda: self._place.create(name, data))

    def establish(self, name: str, data: bytes) -> bool:
        """`create`, or find the same there: whether the object holds exactly these bytes now."""
        return self.create(name, data) or self.read(name) == data

    def replace(self, name: str, data: bytes) -> None:
        """Write an object, over any earlier one; a reader sees the old bytes or the new."""
        self._attempt("write", name, lambda: self._place.replace(name, data))

    def list(self, prefix: str = "") -> list[str]:
        """Sorted names of all files below a folder ("" is the root), at any depth; [] if there is no folder.

        Shows what was written before the call, by any process.
        """
        return self._attempt("list", prefix, lambda: self._place.list(prefix.rstrip("/")))

    def numbered(self, folder: str, suffix: str) -> dict[int, str]:
        """Names of the objects `folder/000001<suffix>`, by number, in order; others are passed over."""
        found = (re.fullmatch(rf"{folder}/(\d+){re.escape(suffix)}", name) for name in self.list(folder))
        return dict(sorted((int(match[1]), match[0]) for match in found if match))

    def delete(self, name: str) -> None:
        """Remove an object; a missing one is fine."""
        self._attempt("delete", name, lambda: self._place.delete(name))

    @property
    def _place(self) -> _Place:
        path = self.local_path
        return _Disk(path) if path else _Bucket(*open_filesystem(self.uri))

    def _attempt(self, verb: str, name: str, action: Callable[[], T]) -> T:
        what = f"{verb} {self.join(name)}"
        if name.startswith("/") or ".." in name.split("/"):
            raise StorageError(f"cannot {what}: the name leads out of {self.uri}")
        try:
            return with_retries(what, action)
        except OSError as error:
            # A missing object is an answer; a missing bucket is not.
            if isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket":
                raise
            raise StorageError(f"cannot {what}: {_text(error)}") from error


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
        max_bytes: bounds what is accepted and (except from a web server that ignores ranges) what is
            transferred.
        attempts: see `with_retries`.
        first_delay: in seconds, likewise.
        listed: what it must hold still. Disks and S3 tell that with the bytes, and Google's MD5 is held
            against them; of other stores only an object of which no byte is left is noticed.

    Raises FileNotFoundError and PermissionError at once, TooLarge with the object's size, OutageError when a
    fault outlasts the attempts, RecipeError for a protocol that is unknown or not installed.
    """
    if listed and listed.size > max_bytes:
        raise TooLarge(uri, listed.size, max_bytes)

    def compare(version: str, data: bytes) -> None:
        if listed and listed.differs(version, data):
            raise FileNotFoundError(f"{uri}: it was written anew")

    protocol, path = _split(uri)
    if protocol == "file":

        def read() -> bytes:
            with io.BufferedReader(_open_file(path)) as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read(max_bytes + 1) if size <= max_bytes else b""  # it may grow meanwhile
                compare(versions.of_stat(os.fstat(file.fileno())), data)
                if max(size, len(data)) > max_bytes:
                    raise TooLarge(uri, max(size, len(data)), max_bytes)
                return data

    else:
        filesystem, key = open_filesystem(uri)

        def read() -> bytes:
            data, version = _get(filesystem, key, 0, max_bytes + 1)
            if listed and protocol in _GOOGLE and versions.is_md5(listed.version):
                version = versions.md5_of(data)
            compare(version, data)
            if len(data) > max_bytes:
                raise TooLarge(uri, filesystem.size(key) or len(data), max_bytes)
            return data

    try:
        return with_retries(f"read {uri}", read, attempts, first_delay)
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(_text(error)) from error


def fetch_range(uri: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` (exclusive) of an object in one read; fewer where it ends before.

    Raises what `fetch` does, but for TooLarge.
    """
    protocol, path = _split(uri)
    if protocol == "file":

        def read() -> bytes:
            with io.BufferedReader(_open_file(path)) as file:
                file.seek(start)
                return file.read(end - start)

    else:
        filesystem, key = open_filesystem(uri)

        def read() -> bytes:
            data, _ = _get(filesystem, key, start, end)
            return data if len(data) <= end - start else data[start:end]  # a web server that ignores ranges

    try:
        return with_retries(f"read {uri}", read)
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(_text(error)) from error


def open_object(uri: str, size: int) -> io.RawIOBase:
    """An object of `size` bytes as a file to seek and read in; from a bucket each read is a request.

    Raises what `fetch_range` does, that of a bucket when it is read.
    """
    if is_remote(uri):
        return _Object(uri, size)
    try:
        return _open_file(open_filesystem(uri)[1])
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(_text(error)) from error


def _open_file(path: str) -> io.FileIO:
    """A regular file, to read; nothing else is one: a pipe would be waited for, and a device never end."""
    try:
        file = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as error:
        if error.errno in _NOTHING:
            raise FileNotFoundError(error.errno, error.strerror, path) from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(errno.ENOENT, "is no regular file", path)
    return file


def info_of(filesystem: Any, path: str) -> dict[str, Any]:
    """What fsspec tells of one object, in one try.

    S3 is asked with HEAD, whose answer has no room for a reason: 403 says that the object may not be read,
    that there is none (where the caller may not list), or that the caller's token ran out or its clock is
    wrong. A read of one byte is refused with the reason, and raises that.
    """
    try:
        info: dict[str, Any] = filesystem.info(path)
    except PermissionError as error:
        if _code(error) != "403":
            raise
        _get(filesystem, path, 0, 1)
        raise OSError("HEAD is refused, and GET is not") from error
    return info


def is_remote(uri: str) -> bool:
    """Whether reading this URI sends requests; a path on a local disk sends none."""
    return _split(uri)[0] != "file"


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI and the path within it; listings are never cached.

    On S3 each request is tried three times by botocore itself, so that one bad page does not undo a long
    listing; s3fs's own retries around these are off. Raises RecipeError when the protocol is unknown or
    not installed.
    """
    protocol, path = _split(uri)
    if protocol == "file":
        return fsspec.filesystem("file"), str(Path(path).absolute())
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
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        retries = {"mode": "standard", "total_max_attempts": 3}
        options["config_kwargs"] = {"retries": retries, "max_pool_connections": 64}
    elif LIBRARIES.get(protocol) == "adlfs" and (host := re.search(r"@([^./]+)\.(?:dfs|blob)\.", uri)):
        options["account_name"] = host[1]
    elif protocol not in LIBRARIES:
        options |= kind._get_kwargs_from_urls(uri)  # a host, for ftp:// and others
    try:
        filesystem = kind(**options)
    except (TypeError, ValueError, ImportError, OSError) as error:
        raise RecipeError(f"{protocol}://: cannot be opened: {_text(error)}") from error
    if protocol in ("s3", "s3a"):
        filesystem.retries = 1
    return filesystem, kind._strip_protocol(uri)


def with_retries(
    what: str, action: Callable[[], T], attempts: int = ATTEMPTS, first_delay: float = FIRST_DELAY
) -> T:
    """What `action` returns; called again, up to `attempts` times in all, while it meets transient faults.

    `what` names verb and object for the error ("read s3://..."). The wait starts at `first_delay` seconds
    and doubles, with jitter, so that a thousand workers do not come back at once. Raises OutageError
    when the last attempt fails too. An answer that will not change (missing, exists, no permission, a disk
    that is full or read-only) and anything that is no fault of storage is raised at once.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except Exception as error:
            lasting = _lasting(error)
            if lasting is error:
                raise
            if lasting is not None:
                raise lasting from error
            if attempt >= attempts:
                raise OutageError(f"cannot {what}: {attempts} attempts, last: {_text(error)}") from error
        time.sleep(min(MAX_DELAY, first_delay * 2 ** (attempt - 1)) * random.uniform(0.5, 1))
    raise ValueError(f"attempts is {attempts}; allowed: 1 or more")


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


class _Place(Protocol):
    """What a Store needs of a disk or bucket; one try each, raising what the layer below raises."""

    def read(self, name: str) -> bytes: ...
    def open(self, name: str) -> IO[bytes]: ...
    def exists(self, name: str) -> bool: ...
    def create(self, name: str, data: bytes) -> bool: ...
    def replace(self, name: str, data: bytes) -> None: ...
    def list(self, prefix: str) -> list[str]: ...
    def delete(self, name: str) -> None: ...


class _Disk:
    """A folder. Objects are written aside, synced, and then linked or renamed into place."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        return (self.root / name).open("rb")

    def exists(self, name: str) -> bool:
        return (self.root / name).is_file()

    def create(self, name: str, data: bytes) -> bool:
        with self._written(name, data) as temporary:
            try:
                os.link(temporary, self.root / name)
            except FileExistsError:
                return False
            return True

    def replace(self, name: str, data: bytes) -> None:
        with self._written(name, data) as temporary:
            temporary.replace(self.root / name)

    def list(self, prefix: str) -> list[str]:
        def refuse(error: OSError) -> None:
            # os.walk passes over unreadable folders in silence; only one that is none may be left out.
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                raise error

        names: list[str] = []
        for folder, folders, files in os.walk(self.root / prefix, onerror=refuse):
            below = Path(folder).relative_to(self.root)
            if below == Path() and _TEMPORARY in folders:
                folders.remove(_TEMPORARY)
            names.extend(str(below / file) for file in files)
        return sorted(names)

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _written(self, name: str, data: bytes) -> Iterator[Path]:
        """A temporary file that holds `data` on disk, gone at the end unless it was renamed."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        temporary = self.root / _TEMPORARY / uuid.uuid4().hex
        temporary.parent.mkdir(exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


class _Bucket:
    """A prefix in an object store, where a single write is atomic by itself."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self.filesystem = filesystem
        self.root = root

    def read(self, name: str) -> bytes:
        return _get(self.filesystem, f"{self.root}/{name}", 0, None)[0]

    def open(self, name: str) -> IO[bytes]:
        # What is asked for and no more: readers know which parts they want.
        file: IO[bytes] = self.filesystem.open(f"{self.root}/{name}", "rb", cache_type="none")
        return file

    def exists(self, name: str) -> bool:
        # Not filesystem.exists, which takes every error for a no.
        try:
            return bool(self.filesystem.info(f"{self.root}/{name}")["type"] == "file")
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise
            return False

    def create(self, name: str, data: bytes) -> bool:
        try:
            self.filesystem.pipe_file(f"{self.root}/{name}", data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs makes a FileExistsError of a failed If-None-Match only if the answer names that
            # condition, as AWS does. Others say 412 alone, which becomes errno 22 like many a bad
            # request; the code tells them apart.
            if _code(error) in ("PreconditionFailed", "412"):
                return False
            raise
        return True

    def replace(self, name: str, data: bytes) -> None:
        self.filesystem.pipe_file(f"{self.root}/{name}", data)

    def list(self, prefix: str) -> list[str]:
        folder = f"{self.root}/{prefix}" if prefix else self.root
        try:
            found = self.filesystem.find(folder)
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise
            return []
        # A key that ends in "/" is a console's mark for an empty folder.
        files = (path for path in found if path.startswith(f"{folder}/") and not path.endswith("/"))
        return sorted(path.removeprefix(f"{self.root}/") for path in files)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(f"{self.root}/{name}")


def _get(filesystem: Any, path: str, start: int, end: int | None) -> tuple[bytes, str]:
    """Bytes of an object, as far as it has them, and its version; empty where that does not come with them.

    As a range, else s3fs asks for the size first.
    """
    try:
        if hasattr(filesystem, "call_s3"):
            found: tuple[bytes, str] = sync(filesystem.loop, _get_s3, filesystem, path, start, end)
            return found
        return filesystem.cat_file(path, start=start, end=end), ""
    except Exception as error:
        # No range of an empty object, or beyond the end of another, can be satisfied.
        if _code(error) in ("InvalidRange", "416") or _status(error) == 416:
            return b"", ""
        raise


async def _get_s3(filesystem: Any, path: str, start: int, end: int | None) -> tuple[bytes, str]:
    """What s3fs's own `cat_file` does, which keeps the bytes of the answer alone."""
    bucket, key, _ = filesystem.split_path(path)
    part = f"bytes={start}-{'' if end is None else end - 1}"
    answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=key, Range=part)
    try:
        return await answer["Body"].read(), str(answer.get("ETag") or "").strip('"')
    finally:
        answer["Body"].close()


def _split(uri: str) -> tuple[str, str]:
    """Protocol and rest; "file" for a path. No URL parsing: `#`, `%` and `?` are letters of a name."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if match is None:
        return "file", uri
    protocol = match[1].lower()
    return ("file" if protocol == "local" else protocol), uri[match.end() :]


def _lasting(error: Exception) -> Exception | None:
    """What to raise at once, because trying again cannot help; None for a fault that may pass."""
    if isinstance(error, PermissionError) and _code(error) in _OF_THE_CALLER:
        return None
    if isinstance(error, _LASTING):
        return error
    if isinstance(error, OSError) and error.errno in _NOTHING:
        return FileNotFoundError(_text(error))
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return FileNotFoundError(_text(error))  # nor one with a zero byte
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return error
    status = _status(error)
    # gcsfs says 403 with a plain OSError.
    if status in (401, 403) or (isinstance(error, OSError) and str(error).startswith("Forbidden: ")):
        return PermissionError(_text(error))
    if status in (404, 410):
        return FileNotFoundError(_text(error))
    of_a_client = type(error).__module__.partition(".")[0] in _CLIENTS
    return None if of_a_client or isinstance(error, (OSError, EOFError)) else error


def _code(error: Exception) -> str:
    """S3's own name for an error, which s3fs keeps in the cause ("" for others)."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _status(error: Exception) -> int | None:
    """The HTTP status in an error of aiohttp, azure or gcsfs."""
    found = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    return next(
        (int(status) for status in found if isinstance(status, int | str) and str(status).isdigit()), None
    )


def _text(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
