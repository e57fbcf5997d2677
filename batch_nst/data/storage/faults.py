"""What an error of a store means: it may pass, it lasts, or the user has something to mend."""

from __future__ import annotations

import errno
import re

_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
NOTHING = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
"""Errors that mean that no such file exists: an impossible name, links in a circle, a socket."""
_NO_NAMES = {errno.EINVAL, errno.EILSEQ}
"""Errors by which a disk refuses the characters of a name. Stores' clients use the first for other faults."""
_NO_ROOM = {errno.EDQUOT, errno.ENOSPC, errno.EROFS}
_CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "http", "requests", "urllib3"}
# S3 answers these with 403 too, but they concern the caller and not the object: a photo must not be
# given up because a token expired.
_CALLER_FAULTS = {
    "AccountProblem",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
_HEADERS = {
    *("411", "501", "InvalidArgument", "InvalidRequest", "MissingContentLength", "NotImplemented"),
    *("XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"),
}
"""What S3's lookalikes answer to headers that they do not know."""
_REGION = {"301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_CREDENTIALS = {
    "DefaultCredentialsError": "set GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth "
    "application-default login`",
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; or give this "
    "machine a role",
    "PartialCredentialsError": "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "ProfileNotFound": "set AWS_PROFILE to one of ~/.aws/config",
}
"""Errors of clients that find no credentials, and what helps. They keep looking no more, so no retry does."""
_ASK_AGAIN = {407, 408, 409, 421, 423, 425, 429}
"""Statuses from 400 to 499 of a web server that say nothing about the object."""


def seen_through(error: Exception) -> Exception:
    """The fault behind a FileNotFoundError: fsspec raises one from whatever goes wrong at a web server."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception) or error_code(error):
        return error
    missing = isinstance(lasting_of(cause), FileNotFoundError)
    return cause if _is_fault(cause) and not missing else error


def lasting_of(error: Exception) -> Exception | None:
    """The error to raise at once because a retry cannot help; None for a fault that may pass."""
    if isinstance(error, PermissionError) and error_code(error) in _CALLER_FAULTS:
        return None
    if isinstance(error, _LASTING):
        return error
    if isinstance(error, OSError) and (
        error.errno in NOTHING or (error.errno in _NO_NAMES and error.filename is not None)
    ):
        return FileNotFoundError(one_line(error))
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return FileNotFoundError(one_line(error))  # no file name has a zero byte
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return error
    status = http_status(error)
    # gcsfs reports 403 as a plain OSError.
    if status in (401, 403) or (isinstance(error, OSError) and str(error).startswith("Forbidden: ")):
        return PermissionError(one_line(error))
    if status in (404, 410) or type(error).__name__ in ("InvalidUrlClientError", "ParamValidationError"):
        return FileNotFoundError(one_line(error))
    of_a_server = type(error).__module__.startswith("aiohttp")
    if of_a_server and status and 400 <= status < 500 and status not in _ASK_AGAIN:
        return FileNotFoundError(one_line(error))
    return None if _is_fault(error) else error


def _is_fault(error: Exception) -> bool:
    """Whether a disk, a store or the client of one raised it; others are bugs."""
    of_a_client = type(error).__module__.partition(".")[0] in _CLIENTS
    return of_a_client or isinstance(error, (OSError, EOFError))


def remedy_of(error: Exception) -> str:
    """What the user has to change before a request can succeed; "" where no such thing is known."""
    text, code = str(error), error_code(error)
    if code in _REGION:
        return "set AWS_DEFAULT_REGION to the region of the bucket"
    of_headers = code in _HEADERS or re.search("aws-chunked|trailer|x-amz-", text)
    if code and code != "BadDigest" and of_headers and not isinstance(error, _LASTING):
        return (
            "where a store does not know the headers of checksums, set AWS_REQUEST_CHECKSUM_CALCULATION and "
            "AWS_RESPONSE_CHECKSUM_VALIDATION to when_required; for an output it must know If-None-Match"
        )
    if "Invalid bucket name" in text:
        return "allowed: s3://BUCKET/NAME, the bucket of letters, digits, dots, hyphens and underscores"
    return _CREDENTIALS.get(type(error).__name__, "")


def error_code(error: Exception) -> str:
    """S3's own name for an error, which s3fs keeps in the cause; "" for other errors."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def http_status(error: Exception) -> int | None:
    """The HTTP status in an error of aiohttp, azure or gcsfs."""
    found = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    return next(
        (int(status) for status in found if isinstance(status, int | str) and str(status).isdigit()), None
    )


def one_line(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
