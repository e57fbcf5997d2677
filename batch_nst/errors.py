"""The errors that batch_nst raises on purpose, and the exit code that each one ends a command with.

Anything else that escapes is a bug and shows its traceback.
"""

from __future__ import annotations

import re

from batch_nst.credentials import redacted

_FIRST_KIND = re.compile(r"^(?: .*|.*\(pid=.*\))\n([^\s:]+)", re.MULTILINE)
"""In a traceback of Ray what follows lines of code, or the worker's: an exception's name, and no message."""


class BatchNSTError(Exception):
    """Base of every error raised on purpose. Its text is one line that names the culprit, and no credentials.

    `figures` are the run's, as far as it came: a dataclass or a mapping, which `as_json` takes.
    """

    exit_code = 1

    def __init__(self, message: str, figures: object | None = None) -> None:
        """`message` is one line."""
        super().__init__(redacted(message))
        self.figures = figures


class RecipeError(BatchNSTError):
    """The recipe, an argument or a file that it names is wrong: key, what was given, what is allowed."""

    exit_code = 2


class WeightsError(RecipeError):
    """A weights file is missing, of another digest, or lacks a layer."""


class DeviceError(RecipeError, RuntimeError):
    """A device was asked for that is not here."""


class StorageError(BatchNSTError):
    """An object store or disk did not do what it was asked, after retries where these can help."""


class OutageError(StorageError):
    """A fault that may pass has outlasted the retries."""


class IncompleteError(BatchNSTError):
    """The command ended in order, but not everything that was asked for is done."""


class AuditError(BatchNSTError):
    """What units hold is not what was planned; nothing is sealed."""


class GateError(BatchNSTError):
    """A candidate model was refused by the recipe's `publish` section."""

    exit_code = 3


class LeaseError(BatchNSTError):
    """Another run holds the lease of this output."""

    exit_code = 4


class JobError(BatchNSTError):
    """A submitted job did not succeed; the command ends with the job's own exit code."""

    def __init__(self, message: str, exit_code: int, figures: object | None = None) -> None:
        """`exit_code` is not 0."""
        super().__init__(message, figures)
        self.exit_code = exit_code


class Stopped(BaseException):
    """SIGTERM arrived; what was finished is kept. `figures` are as those of `BatchNSTError`.

    No Exception, as KeyboardInterrupt is none: Ray and others catch those, and write of bugs in themselves.
    """

    exit_code = 143

    def __init__(self, message: str) -> None:
        """`message` is one line."""
        super().__init__(message)
        self.figures: object | None = None


def reason_of(error: Exception) -> str:
    """In a sentence. Of a bug, or of Ray's own word for workers that died again and again, the kind alone.

    A bug in a worker arrives as Ray's RayTaskError; what caused it is lost on the way from Ray Data,
    but for the traceback that is its text, where the first kind is the one that began it.
    """
    if isinstance(error, BatchNSTError):
        return str(error)
    kind = type(error).__name__
    if kind.startswith("RayTaskError") and (first := _FIRST_KIND.search(str(error))):
        kind = f"{first[1]}, in a worker"
    return f"a bug: {kind}"
