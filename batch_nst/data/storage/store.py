"""The objects below an output root: read, list, replace, and create unless they exist.

All promises of the project about crashes and races rest on `Store.create`: an object appears completely or
not at all, and exactly one of several writers makes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from batch_nst.credentials import holds_credentials
from batch_nst.data.storage.faults import error_code, one_line
from batch_nst.data.storage.fetch import (
    LIBRARIES,
    T,
    get_range,
    open_filesystem,
    split_uri,
    with_retries,
)
from batch_nst.errors import RecipeError, StorageError
from batch_nst.uris import meant_by

_NO_LINKS = {errno.EINVAL, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
"""What disks say that have no hard links, or no exclusive rename."""
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # of Linux
_TEMPORARY = ".tmp"  # below a local root, so that a temporary file shares the file system of the final one


@dataclass(frozen=True)
class Store:
    """An output root: a folder on disk, or a prefix in a bucket. It is pickled by its uri.

    Names are relative to the root, use `/`, and do not lead out of it. Transient faults are retried. A
    request that fails raises StorageError, or OutageError where the fault may pass. A root of another kind,
    or one with credentials, raises RecipeError in the constructor.

    store = Store("s3://bucket/monet")
    store.create("notes/first.txt", b"hello")  # True; False the next time
    """

    uri: str
    """Root without a trailing slash; a local one becomes an absolute path."""

    def __post_init__(self) -> None:
        """Check the protocol and make a local root absolute."""
        if holds_credentials(self.uri):
            raise RecipeError(f"output {self.uri}: allowed: credentials from the environment alone")
        if not self.uri.strip():
            raise RecipeError(f"output {self.uri!r}: allowed: a folder, or a prefix of a bucket")
        if meant := meant_by(self.uri):
            raise RecipeError(f"output {self.uri}: no folder gets such a name; probably meant: {meant}")
        protocol, path = split_uri(self.uri)
        if protocol == "file":
            uri = str(Path(path).absolute())
        elif protocol in LIBRARIES:
            uri = f"{protocol}://{path.rstrip('/')}"
            if not path.partition("/")[0]:
                raise RecipeError(f"output {self.uri}: names no bucket; allowed: {protocol}://BUCKET/NAME")
        else:
            buckets = ", ".join(f"{name}://" for name in LIBRARIES)
            raise RecipeError(
                f"output {self.uri}: given {protocol}://; allowed: a local path, or a bucket ({buckets})"
            )
        object.__setattr__(self, "uri", uri)

    @property
    def local_path(self) -> Path | None:
        """The root as a path when it is on a local disk, else None."""
        return Path(self.uri) if split_uri(self.uri)[0] == "file" else None

    def join(self, name: str) -> str:
        """The full URI of a name."""
        return f"{self.uri}/{name}"

    def read(self, name: str) -> bytes:
        """The bytes of an object; FileNotFoundError where it is missing."""
        return self._attempt("read", name, lambda: self._place.read(name))

    def view(self, name: str, look: Callable[[IO[bytes]], T]) -> T:
        """The result of `look` on an opened object; `look` is called again after a transient fault."""

        def action() -> T:
            with self._place.open(name) as file:
                return look(file)

        return self._attempt("read", name, action)

    def exists(self, name: str) -> bool:
        """Whether an object has this name; folders do not count."""
        return self._attempt("look for", name, lambda: self._place.exists(name))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object that must not exist yet: True when this call made it, False when it exists already.

        After a lost answer the retry finds what the first attempt made and returns False too. So False does
        not say who made the object; a caller that must know compares the content, see `establish`.
        """
        return self._attempt("create", name, lambda: self._place.create(name, data))

    def establish(self, name: str, data: bytes) -> bool:
        """`create`, but an existing object with the same bytes counts: whether it holds these bytes now."""
        return self.create(name, data) or self.read(name) == data

    def replace(self, name: str, data: bytes) -> None:
        """Write an object over any earlier one; readers see either the old bytes or the new ones."""
        self._attempt("write", name, lambda: self._place.replace(name, data))

    def list(self, prefix: str = "") -> list[str]:
        """Sorted names of all files below a folder ("" is the root), at any depth; [] if it does not exist.

        The list contains everything that any process wrote before the call.
        """
        return self._attempt("list", prefix, lambda: self._place.list(prefix.rstrip("/")))

    def numbered(self, folder: str, suffix: str) -> dict[int, str]:
        """Names of the objects `folder/000001<suffix>` by number, sorted; other objects are skipped."""
        found = (re.fullmatch(rf"{folder}/(\d+){re.escape(suffix)}", name) for name in self.list(folder))
        return dict(sorted((int(match[1]), match[0]) for match in found if match))

    def delete(self, name: str) -> None:
        """Remove an object; does nothing where it is missing."""
        self._attempt("delete", name, lambda: self._place.delete(name))

    def tidy(self) -> None:
        """Remove the folder of temporary files, which only disks have, if nothing is in it."""
        if path := self.local_path:
            with contextlib.suppress(OSError):  # not there, or another process writes
                (path / _TEMPORARY).rmdir()

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
            # A missing object is an answer; a missing bucket is a fault.
            if isinstance(error, FileNotFoundError) and error_code(error) != "NoSuchBucket":
                raise
            if (blocked := self._file_in_place()) is not None:
                what = "" if blocked == self.local_path else f"{blocked} "
                raise RecipeError(
                    f"output {self.uri}: {what}is a file; allowed: a folder, or a prefix of a bucket"
                ) from error
            remedy = "; make the bucket first, or name another" if error_code(error) == "NoSuchBucket" else ""
            raise StorageError(f"cannot {what}: {one_line(error)}{remedy}") from error

    def _file_in_place(self) -> Path | None:
        """The file where a folder of the root has to be; None if no file is in the way."""
        path = self.local_path
        return next((each for each in (path, *path.parents) if each.is_file()), None) if path else None


class _Place(Protocol):
    """The operations of a disk or bucket: one attempt each, raising what the layer below raises."""

    def read(self, name: str) -> bytes: ...
    def open(self, name: str) -> IO[bytes]: ...
    def exists(self, name: str) -> bool: ...
    def create(self, name: str, data: bytes) -> bool: ...
    def replace(self, name: str, data: bytes) -> None: ...
    def list(self, prefix: str) -> list[str]: ...
    def delete(self, name: str) -> None: ...


class _Disk:
    """A folder. Objects are written to a temporary file, synced, and then linked or renamed into place."""

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
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._rename(temporary, self.root / name)
            return True

    def replace(self, name: str, data: bytes) -> None:
        with self._written(name, data) as temporary:
            temporary.replace(self.root / name)

    def list(self, prefix: str) -> list[str]:
        def refuse(error: OSError) -> None:
            # os.walk silently skips unreadable folders; only a missing one may be left out.
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

    def _rename(self, temporary: Path, path: Path) -> bool:
        """Rename unless the name is taken, on disks without hard links: exFAT, SMB and some of FUSE."""
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        here, names = ctypes.c_int(_AT_FDCWD), [os.fsencode(each) for each in (temporary, path)]
        if rename and not rename(here, names[0], here, names[1], ctypes.c_uint(_RENAME_NOREPLACE)):
            return True
        fault = ctypes.get_errno() if rename else errno.ENOSYS
        if fault == errno.EEXIST:
            return False
        if fault in _NO_LINKS:
            raise RecipeError(
                f"output {self.root}: its disk has neither hard links nor an exclusive rename (renameat2), "
                "so two runs could both write; allowed: another disk, or a bucket"
            )
        raise OSError(fault, os.strerror(fault), str(path))

    @contextlib.contextmanager
    def _written(self, name: str, data: bytes) -> Iterator[Path]:
        """A temporary file with `data`, synced to disk; removed at the end unless it was renamed."""
        temporary = self.root / _TEMPORARY / uuid.uuid4().hex
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # as in /proc, where no folder can be made
            raise StorageError(
                f"output {self.root}: no folder can be made there: {error.strerror}; allowed: a disk"
            ) from error
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                file = temporary.open("wb")
            except FileNotFoundError:  # another process has tidied up
                temporary.parent.mkdir(exist_ok=True)
                file = temporary.open("wb")
            with file:
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
        return get_range(self.filesystem, f"{self.root}/{name}", 0, None)[0]

    def open(self, name: str) -> IO[bytes]:
        # No read-ahead: readers know which parts they want.
        file: IO[bytes] = self.filesystem.open(f"{self.root}/{name}", "rb", cache_type="none")
        return file

    def exists(self, name: str) -> bool:
        # Not filesystem.exists, which returns False for every error.
        try:
            return bool(self.filesystem.info(f"{self.root}/{name}")["type"] == "file")
        except FileNotFoundError as error:
            if error_code(error) == "NoSuchBucket":
                raise
            return False

    def create(self, name: str, data: bytes) -> bool:
        try:
            self.filesystem.pipe_file(f"{self.root}/{name}", data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs raises FileExistsError for a failed If-None-Match only if the answer names that condition,
            # as AWS does. Other stores answer with 412 alone, which becomes errno 22 like many bad requests;
            # only the code distinguishes them.
            if error_code(error) in ("PreconditionFailed", "412"):
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
            if error_code(error) == "NoSuchBucket":
                raise
            return []
        # A key that ends in "/" marks an empty folder in a web console.
        files = (path for path in found if path.startswith(f"{folder}/") and not path.endswith("/"))
        return sorted(path.removeprefix(f"{self.root}/") for path in files)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(f"{self.root}/{name}")
