"""Standard streams whose reader may be gone: what cannot be written is lost, and no work ends by it."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from batch_nst.console import log

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
        sys.stdout = _opened(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _opened(2, sys.stderr)


def tell(line: str, stream: TextIO) -> None:
    """Write a line of figures at once; if the stream takes none, a warning, unless its reader has gone."""
    print(line, file=stream, flush=True)
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    if isinstance(raw, _Lossy) and raw.fault:
        log(f"warning: the figures could not be written to standard output: {raw.fault}")


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


def _opened(number: int, before: TextIO | None) -> TextIO:
    encoding = before.encoding if before else "utf-8"
    errors = "backslashreplace" if number == 2 else (before.errors if before else None)
    raw = _Lossy(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)
