"""The errors that batch_nst raises on purpose, and the exit code of a command that ends with each.

    BatchNSTError             1
      RecipeError             2
        WeightsError
        DeviceError
      StorageError            1
        OutageError
      ClusterError            1
      IncompleteError         1
      AuditError              1
      GateError               3
      LeaseError              4
      JobError                the job's own
    Stopped                 143

Any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import re

from batch_nst.credentials import redacted

_FIRST_KIND = re.compile(r"^(?: .*|.*\(pid=.*\))\n([^\s:]+)", re.MULTILINE)
"""The first name of an exception in a traceback of Ray: it follows lines of code, or the worker's line."""


class BatchNSTError(Exception):
    """Base of every error raised on purpose. Its text is one line that names the culprit; no credentials.

    `figures` are those of the run so far: a dataclass or a mapping, for `as_json`.
    """

    exit_code = 1

    def __init__(self, message: str, figures: object | None = None) -> None:
        """`message` is one line."""
        super().__init__(redacted(message))
        self.figures = figures


class RecipeError(BatchNSTError):
    """The recipe, an argument or a file it names is wrong. Says the key, what was given, what is allowed."""

    exit_code = 2


class WeightsError(RecipeError):
    """A weights file is missing, has another digest, or lacks a layer."""


class DeviceError(RecipeError, RuntimeError):
    """The requested device is not available."""


class StorageError(BatchNSTError):
    """An object store or disk failed, after retries where these can help."""


class OutageError(StorageError):
    """A fault that may pass lasted longer than the retries."""


class ClusterError(BatchNSTError):
    """Ray cannot be started, joined or used, or the cluster has no node for the command. Says what to do."""


class IncompleteError(BatchNSTError):
    """The command ended in order, but not everything that was requested is done."""


class AuditError(BatchNSTError):
    """Units do not hold what was planned; nothing is sealed."""


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
    """SIGTERM arrived; finished work is kept. `figures` are as those of `BatchNSTError`.

    Like KeyboardInterrupt it is not an Exception: Ray and others catch those, and report a bug of their own.
    """

    exit_code = 143

    def __init__(self, message: str) -> None:
        """`message` is one line."""
        super().__init__(message)
        self.figures: object | None = None


class RayLost(Stopped):
    """The Ray of a command has died on its machine; finished work is kept."""

    exit_code = 1


def reason_of(error: Exception) -> str:
    """What to report of an error: the text of one raised on purpose; only the kind of a bug.

    A bug's text may hold secrets. A bug in a worker arrives as Ray's RayTaskError without its cause. Its
    text is a traceback, where the first kind is the original one. Ray's error for workers that keep dying
    counts as a bug too.

        reason_of(KeyError("password"))  # "a bug: KeyError"
    """
    if isinstance(error, BatchNSTError):
        return str(error)
    kind = type(error).__name__
    if kind.startswith("RayTaskError") and (first := _FIRST_KIND.search(str(error))):
        kind = f"{first[1]}, in a worker"
    return f"a bug: {kind}"
