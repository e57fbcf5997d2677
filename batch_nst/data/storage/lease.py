"""The lease of an output: at most one writing command at a time, on any machines, without a server.

Leases are numbered objects `lease/000017.json`, each made by exclusive create. The highest number counts and
is the fencing token. A holder renews its own object until it releases it. A lease may be taken over when it
is released, when its time and CLOCK_SKEW have passed, or at once when its holder is dead and ran on this
host.

Taking over never edits the earlier lease. So an old holder that was only asleep finds the higher number in
`Lease.check`, which is called right before any write that must not happen twice. A check and the write after
it are not one step; exclusive create of what is written closes that gap.
"""

from __future__ import annotations

import getpass
import os
import random
import socket
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from batch_nst.console import warn
from batch_nst.data.storage.store import Store
from batch_nst.errors import LeaseError, RecipeError, StorageError

SECONDS = 60.0
"""Seconds that a lease lasts without renewal."""
CLOCK_SKEW = 10.0
"""Seconds by which the clocks of two hosts may differ; a lease counts as expired only this long after its
time.

The holder itself uses its own monotonic clock and stops at the expiry, without this allowance. With a larger
difference two commands may run at the same time for a while; the fencing token still lets only the later one
publish.
"""


class Owner(BaseModel):
    """The process that holds a lease."""

    model_config = ConfigDict(frozen=True)

    host: str
    boot_id: str
    pid_namespace: str
    """Containers share host name and boot id, so a pid identifies a process only within its namespace."""
    pid: Annotated[int, Field(gt=0, lt=1 << 31)]
    start_time: int
    """Start of the process in clock ticks since boot, since pids are reused."""
    user: str
    command: str

    @classmethod
    def this_process(cls, command: str) -> Owner:
        """The owner to write into a lease that this process takes."""
        return cls(
            host=socket.gethostname(),
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
            pid=os.getpid(),
            start_time=_start_time(os.getpid()) or 0,
            user=_user(),
            command=command,
        )

    def is_dead(self) -> bool:
        """Whether the process is known to be gone; False for one on another host or before another boot."""
        here = (socket.gethostname(), _boot_id(), _pid_namespace())
        if not all(here) or here != (self.host, self.boot_id, self.pid_namespace):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # alive, of another user
        started = _start_time(self.pid)
        return started is not None and started != self.start_time

    def __str__(self) -> str:
        """For messages."""
        return f"{self.user}@{self.host} (pid {self.pid}, {self.command})"


class Record(BaseModel):
    """The content of a lease object."""

    model_config = ConfigDict(frozen=True)

    id: str
    """Random for each attempt to take it; a holder recognises its own lease by it after a lost answer."""
    owner: Owner
    acquired: AwareDatetime
    """Time in UTC, as is `expires`."""
    expires: AwareDatetime
    released: bool = False

    def is_free(self) -> bool:
        """Whether another command may take the output now."""
        expired = datetime.now(UTC) - timedelta(seconds=CLOCK_SKEW) > self.expires
        return self.released or expired or self.owner.is_dead()


class Lease:
    """A held lease, renewed by a thread until it is released; a context manager that releases it."""

    def __init__(self, store: Store, token: int, record: Record, seconds: float, taken: float) -> None:
        """Called by `acquire`. `taken` is time.monotonic() before the lease was written."""
        self.store = store
        self.token = token
        """The fencing token: higher than that of any earlier lease of the output."""
        self._record = record
        self._seconds = seconds
        self._valid_until = taken + seconds
        self._fault: StorageError | None = None
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name=f"lease-{token}", daemon=True)
        self._renewer.start()

    def check(self) -> None:
        """Return if this process may still write.

        Raises:
            LeaseError: the lease was taken over or released.
            StorageError: it could not be renewed in time.
        """
        what = f"lease {self.token} of {self.store.uri}"
        if self._ended.is_set():
            raise LeaseError(f"{what} has been released")
        latest = max(_numbers(self.store), default=0)
        if latest > self.token:
            newer = _read(self.store, latest)
            raise LeaseError(f"{what} was taken over by {newer.owner if newer else f'lease {latest}'}")
        if time.monotonic() > self._valid_until:
            why = f"; last error: {self._fault}" if self._fault else ""
            raise StorageError(f"{what} could not be renewed within {self._seconds:g} s{why}")

    def release(self) -> None:
        """Stop renewing and let others take the output at once.

        Raises:
            StorageError: the release cannot be written.
        """
        if self._ended.is_set():
            return
        self._ended.set()
        self._renewer.join()  # a concurrent renewal would undo the release
        self._write(self._record.model_copy(update={"released": True}))

    def __enter__(self) -> Lease:
        """The lease itself, held already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release, whatever ended the block."""
        try:
            self.release()
        except StorageError as fault:
            if error is None:
                raise
            # What ended the command matters more; the lease ends by itself.
            error.add_note(f"lease {self.token} was not released: {fault}")

    def _renew(self) -> None:
        while not self._ended.wait(self._seconds / 3):
            started = time.monotonic()
            expires = datetime.now(UTC) + timedelta(seconds=self._seconds)
            record = self._record.model_copy(update={"expires": expires})
            try:
                self._write(record)
            except StorageError as fault:
                self._fault = fault  # for check(), once the time is up
            else:
                self._record = record
                self._valid_until = started + self._seconds

    def _write(self, record: Record) -> None:
        self.store.replace(_name(self.token), _encode(record))


def acquire(store: Store, command: str, wait: bool = False, seconds: float = SECONDS) -> Lease:
    """Take the lease of an output: `with acquire(store, command="generate") as lease: ...`.

    Args:
        store: the output.
        command: shown to other processes that want the lease.
        wait: poll until the lease is free, where another process holds it.
        seconds: how long the lease lasts after its last renewal.

    Raises:
        LeaseError: another process holds it; the text names that process.
        RecipeError: the store lets two processes create one object, which is tried each time.
        StorageError: the output cannot be read or written.
    """
    owner = Owner.this_process(command)
    logged: str | None = None
    while True:
        numbers = _numbers(store)
        latest = max(numbers, default=0)
        held = _read(store, latest) if latest else None
        if latest and held is None:
            continue  # meanwhile others took later ones and deleted this one
        if held and not held.is_free():
            until = held.expires.strftime("%Y-%m-%dT%H:%M:%SZ")
            if not wait:
                raise LeaseError(f"{store.uri} is held by {held.owner} until {until}; --wait waits for it")
            if held.id != logged:
                warn(f"waiting for {store.uri}, held by {held.owner}")
                logged = held.id
            time.sleep(seconds / 12 * random.uniform(0.5, 1))
            continue
        for number in numbers:
            if number < latest:  # it and ours stay, for people to look at
                store.delete(_name(number))
        taken, now = time.monotonic(), datetime.now(UTC)
        record = Record(
            id=uuid.uuid4().hex, owner=owner, acquired=now, expires=now + timedelta(seconds=seconds)
        )
        token = latest + 1
        if not store.create(_name(token), _encode(record)):
            other = _read(store, token)
            if other is None or other.id != record.id:
                continue
        if store.create(_name(token), _encode(record)) and _is_ignored(store, token):
            raise RecipeError(
                f"output {store.uri}: its store ignores If-None-Match, so two runs could both write; "
                "allowed: a store that creates exclusively (those of AWS, Google and Azure do), or a disk"
            )
        # A slow process may have created a number that others had already taken and deleted.
        if max(_numbers(store), default=0) == token:
            return Lease(store, token, record, seconds, taken)


def _is_ignored(store: Store, token: int) -> bool:
    """Whether it means nothing that an object exists, as ours was made twice; removes it.

    It does not where others took later leases meanwhile and deleted ours before it was made again.
    """
    store.delete(_name(token))
    return max(_numbers(store), default=0) < token


def is_latest(store: Store, token: int) -> bool:
    """Whether the lease with this token is still the latest of the output."""
    return max(_numbers(store), default=0) <= token


def _name(number: int) -> str:
    return f"lease/{number:06d}.json"


def _numbers(store: Store) -> list[int]:
    return list(store.numbered("lease", ".json"))


def _read(store: Store, number: int) -> Record | None:
    name = _name(number)
    try:
        return Record.model_validate_json(store.read(name))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StorageError(f"{store.join(name)} is not a lease: {error.errors()[0]['msg']}") from error


def _encode(record: Record) -> bytes:
    return record.model_dump_json(indent=1).encode()


def _boot_id() -> str:
    """Id of this host's boot; "" where the system has no such id: only time ends a lease there."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _pid_namespace() -> str:
    path = Path("/proc/self/ns/pid")
    return str(path.readlink()) if path.is_symlink() else ""


def _start_time(pid: int) -> int | None:
    """The start of a process in clock ticks since boot; 0 if it waits to be reaped, None if it is hidden."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The second field is the program's name in parentheses and may hold anything.
    state, *fields = stat.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(fields[18])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's uid without a name
        return str(os.getuid())
