"""Standard streams: their reader may be gone, and lines that are not the program's own go to a log file.

What cannot be written is lost, and no work ends by it.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from batch_nst.console import Shown, shows, warn

if TYPE_CHECKING:
    from typing_extensions import Buffer


def keep_streams() -> None:
    """Make standard output and error of this process such streams; closed ones lead to nowhere.

    `batch-nst generate auvers.yaml 2>&1 | head -1` then runs on. Nothing changes where a program or a test
    has put streams of its own there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # a file that is opened later must not become this one
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _opened(1, sys.stdout, sys.stdout.errors if sys.stdout else None)
    if sys.stderr is sys.__stderr__:
        # A descriptor of its own, which no other process gets: 2 may lead to a file later on.
        sys.stderr = _opened(os.dup(2), sys.stderr, "backslashreplace")


def tell(line: str, stream: TextIO) -> None:
    """Write a line of figures at once; if the stream takes none, a warning, unless its reader has gone."""
    print(line, file=stream, flush=True)
    raw = _raw(stream)
    if raw and raw.fault:
        warn(f"warning: the figures could not be written to standard output: {raw.fault}")


@dataclass(frozen=True)
class _Aside:
    path: Path
    stream: TextIO


_aside: _Aside | None = None


def set_aside() -> TextIO | None:
    """From now on only `sys.stderr` leads to standard error; what else is written there goes to a log file.

    So does what is printed, and what processes write that are started later. The file lies in the temporary
    folder, as it must be there before Ray is, and as Ray's own folder is deleted with Ray.

    Returns:
        The stream of that file. None where lines stay where they are: everything is to be shown, a program
        or test has put a stream of its own there, or the temporary folder takes no file.
    """
    global _aside
    if _aside is None and _raw(sys.stderr) and not shows(Shown.LIBRARIES):
        try:
            descriptor, path = tempfile.mkstemp(prefix="batch-nst-", suffix=".log")
        except OSError:  # Ray needs this folder too and says what is wrong with it
            return None
        os.dup2(descriptor, 2)
        os.close(descriptor)
        _aside = _Aside(Path(path), _opened(2, None, "backslashreplace"))
        sys.stdout = _aside.stream
    return _aside.stream if _aside else None


def end_aside(keep: bool) -> str:
    """Remove the log file, unless it is to be kept and is not empty.

    Returns:
        Its path if it was kept, else "".
    """
    global _aside
    aside, _aside = _aside, None
    if aside is None:
        return ""
    if keep and os.fstat(2).st_size:
        return str(aside.path)
    aside.path.unlink(missing_ok=True)
    return ""


class _Lossy(io.FileIO):
    fault = ""

    def write(self, data: Buffer) -> int:
        """Write what the file takes; the rest counts as written."""
        try:
            written = super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.fault = os.strerror(error.errno or errno.EIO)
            written = None
        return memoryview(data).nbytes if written is None else written


def _raw(stream: TextIO | None) -> _Lossy | None:
    """The file below a stream of `keep_streams`; None for others."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Lossy) else None


def _opened(number: int, before: TextIO | None, errors: str | None) -> TextIO:
    raw = _Lossy(number, "w", closefd=False)
    encoding = before.encoding if before else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)
