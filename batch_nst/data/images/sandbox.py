"""Decodes photos in a child process, so that no file can use up a worker's memory or time, or crash it.

`Decoder` owns the child process and is the only one that talks to it. The code of the child is at the end of
this module. The child sets its own limits in the kernel, so they bind C libraries too and hold after the
worker is gone. A photo that ends the child is tried once more in a new one.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np

from batch_nst.data.images import codec
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.reasons import BadImage
from batch_nst.errors import StorageError

_TRIES: Final = 2
_WALL: Final = 10
"""Seconds of wall time allowed for each second of processor time, since the machine may be busy."""
_NO_MEMORY: Final = errno.ENOMEM
"""The child's exit code when it reached its memory limit."""
_READY, _PART, _DONE, _BAD, _BUG = b"r", b"p", b"d", b"b", b"x"
"""First byte of the child's answers. They are not pickles: a process that has read a photo is not trusted."""

_DRAFT: Final = 3
"""Short side of a draft by the side of the square. With 3 the squares of ten photos of 2 to 20 megapixels
differ by 0.7 grey levels rms at most, with 2 by 1.9 (docs/photos.md)."""

_INHERITED = ("PATH", "PYTHON", "LD_", "DYLD_", "LANG", "LC_", "HOME", "TMPDIR", "MALLOC_", "GLIBC_")
"""Prefixes of the environment variables that the child inherits; credentials are not among them."""

_Wanted = tuple[int, Sequence[tuple[int, bytes]]] | None
"""A request for a photo: side of the squares, and number and seed of each; None: the whole picture."""


@dataclass(frozen=True)
class Limits:
    """Limits of a photo and of its decoding; see the keys of `recipe.Generate`."""

    min_side: int
    max_bytes: int
    max_pixels: int
    max_seconds: float
    """Seconds of processor time per photo."""
    draft: bool = False
    """Whether the centre square may be cut from a JPEG that is decoded at a part of its size."""

    @property
    def memory(self) -> int:
        """Bytes of address space in addition to the interpreter's: enough for any picture of `max_pixels`."""
        return (512 << 20) + 4 * self.max_bytes + 32 * self.max_pixels


STORED: Final = Limits(min_side=1, max_bytes=256 << 20, max_pixels=178_000_000, max_seconds=60)
"""Limits of the pictures in an output."""


class Decoder:
    """A process that decodes photos. It starts with the first photo and is kept for the others.

    Threads may share it; they are served one after the other. It ends with this object or this process.

    Decoder(limits).picture(data)  # uint8 (H, W, 3), or BadImage
    """

    def __init__(self, limits: Limits) -> None:
        """The process is not started yet."""
        self.limits = limits
        self._child: _Child | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None where no child is running."""
        return self._child.pid if self._child else None

    def crops(self, data: bytes, size: int, crops: Sequence[tuple[int, bytes]]) -> list[bytes]:
        """Square crops of a photo, by `codec.decode` and `codec.crop`.

        Args:
            data: the whole file.
            size: side of the squares in pixels.
            crops: number and seed of each.

        Returns:
            The pixels of each: raw uint8 (size, size, 3), sRGB.

        Raises:
            BadImage: the photo cannot be used.
            RuntimeError: a bug, with the child's traceback; or the child cannot be started.
        """
        return self._ask(data, (size, crops))

    def picture(self, data: bytes) -> Pixels:
        """A whole photo, by `codec.decode`, as a read-only array; raises what `crops` raises."""
        shape, pixels = self._ask(data, None)
        return np.frombuffer(pixels, np.uint8).reshape(*struct.unpack("<2I", shape), 3)

    def close(self) -> None:
        """End the child. The next photo starts a new one."""
        child, self._child = self._child, None
        if child:
            child.end()

    def _ask(self, data: bytes, wanted: _Wanted) -> list[bytes]:
        with self._lock:
            code = 0
            for _ in range(_TRIES):
                child = self._child = self._child or _Child(self.limits)
                try:
                    return child.ask(data, wanted)
                except (EOFError, OSError):
                    self._child = None
                    code = child.end()
                except BadImage:
                    raise
                except BaseException:  # a bug, or Ctrl-C: the pipe may hold half an answer
                    self.close()
                    raise
            raise self._refusal(code)

    def _refusal(self, code: int) -> BadImage:
        """The reason for rejecting a photo, from the child's exit code."""
        if code == _NO_MEMORY:
            return BadImage("needs_memory", f"more than {self.limits.memory >> 20} MiB")
        if code in (-signal.SIGPROF, -signal.SIGALRM):
            return BadImage("decoder_timeout", f"not decoded in {self.limits.max_seconds:g} s")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return BadImage("decoder_died", f"the decoder ended with {how}")


@lru_cache(maxsize=3)
def decoder_for(limits: Limits) -> Decoder:
    """This process's decoder for these limits, kept from unit to unit.

    A command has three at most: for the style image, for photos and for the pictures of an output.
    """
    return Decoder(limits)


def stored_picture(data: bytes) -> Pixels:
    """A picture of an output, decoded in a child process because a command itself never decodes. Read-only.

    Raises:
        StorageError: it is damaged, or larger than any that is written.
    """
    try:
        return decoder_for(STORED).picture(data)
    except BadImage as error:
        raise StorageError(f"a picture cannot be read: {error}") from error


class _Child:
    """The process and the connection to it. They end together."""

    def __init__(self, limits: Limits) -> None:
        """Start it and wait until it can decode, so that errors of starting are not blamed on a photo."""
        connection, theirs = Pipe()
        command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), json.dumps(asdict(limits))]
        inherited = {name: value for name, value in os.environ.items() if name.startswith(_INHERITED)}
        with theirs:
            process = subprocess.Popen(
                command,
                # A worker's sys.path has more than its environment says. Threads of numpy would take memory.
                env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self.pid, self._process, self._connection = process.pid, process, connection
        self._end = weakref.finalize(self, _end, process, connection)
        try:
            connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"a decoder did not start: exit code {self.end()} of {command}") from error

    def end(self) -> int:
        """End it if it is running; returns its exit code, negative where a signal ended it."""
        self._end()
        return self._process.wait()

    def ask(self, data: bytes, wanted: _Wanted) -> list[bytes]:
        """The parts of the answer; raises EOFError or OSError where the child ended."""
        self._connection.send(wanted)
        self._connection.send_bytes(data)
        parts: list[bytes] = []
        for answer in iter(self._connection.recv_bytes, _DONE):
            kind, rest = answer[:1], answer[1:]
            if kind == _BAD:
                raise BadImage(*json.loads(rest))
            if kind == _BUG:
                raise RuntimeError(f"a photo could not be decoded:\n{rest.decode()}")
            parts.append(rest)
        return parts


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    process.kill()  # harmless where it is ending already
    process.wait()


def _serve(connection: Connection, limits: Limits) -> None:
    """Answer requests until the worker is gone: with crops and `_DONE`, or with the reason of a failure."""
    _limit(limits)
    connection.send_bytes(_READY)
    while True:
        wanted = connection.recv()
        data = connection.recv_bytes()
        _set_timers(limits.max_seconds)
        for answer in _answers(data, wanted, limits):
            connection.send_bytes(answer)
        _set_timers(0)


def _answers(data: bytes, wanted: _Wanted, limits: Limits) -> Iterator[bytes]:
    """The parts of an answer, one at a time: many large crops together would exceed the memory limit."""
    try:
        picture = codec.decode(
            data,
            min_side=limits.min_side,
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
            draft_side=_draft_side(wanted) if limits.draft else None,
        )
        if wanted is None:
            yield _PART + struct.pack("<2I", *picture.shape[:2])
            yield _PART + picture.tobytes()
        else:
            size, crops = wanted
            for number, seed in crops:
                yield _PART + codec.crop(picture, size, number, seed).tobytes()
        yield _DONE
    except BadImage as error:
        yield _BAD + json.dumps([error.reason, error.detail]).encode()
    except MemoryError:
        raise
    except Exception:
        yield _BUG + traceback.format_exc().encode()


def _draft_side(wanted: _Wanted) -> int | None:
    """The short side of a draft for this; None where it takes all pixels.

    Squares that are not at the centre begin at a whole pixel, of which a draft has others.
    """
    size, crops = wanted or (0, ())
    return _DRAFT * size if [number for number, _ in crops] == [0] else None


def _limit(limits: Limits) -> None:
    """Limit this process: no core files, and only as much address space as pictures of these limits need."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the worker
    for number in (signal.SIGPROF, signal.SIGALRM):  # a parent may have left them ignored or blocked
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF, signal.SIGALRM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # other kernels do not enforce it
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room, hard = pages * resource.getpagesize() + limits.memory, resource.getrlimit(resource.RLIMIT_AS)[1]
        room = room if hard == resource.RLIM_INFINITY else min(room, hard)
        resource.setrlimit(resource.RLIMIT_AS, (room, room))


def _set_timers(seconds: float) -> None:
    """Let the kernel end this process after this processor time, or after `_WALL` times as much wall time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, _WALL * seconds)


def _main(descriptor: str, limits: str) -> None:
    try:
        _serve(Connection(int(descriptor)), Limits(**json.loads(limits)))
    except MemoryError:
        os._exit(_NO_MEMORY)
    except (EOFError, ConnectionError):
        pass  # the worker is gone


if __name__ == "__main__":
    _main(*sys.argv[1:])
