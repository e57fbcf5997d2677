"""Passwords and signatures in URIs: nobody is told them, and they are written nowhere."""

from __future__ import annotations

import re

_PASSWORD = r"(://[^/\s:@]*):[^/\s]*@"
_USER = r"((?i:https?)://)[^/\s:@]+@"
_QUERY = r"((?i:https?)://[^\s?]+)\?[^\s'\")]+"
"""Of web addresses alone: in a bucket, `?` is a letter of a name."""
_SIGNED = (
    r"(?i:https?://[^?]*\?(.*&)?((x-(amz|goog)-(signature|credential|security-token))|signature|sig|"
    r"(access_)?token|api_?key|password)=)"
)

PATTERN = f"{_PASSWORD}|{_USER}|{_SIGNED}"
"""Found in a URI with a password, with a user of a web server, or with a query that gives access."""


def holds_credentials(uri: str) -> bool:
    """Whether `PATTERN` is found in it."""
    return re.search(PATTERN, uri) is not None


def redacted(text: str) -> str:
    """A text without passwords and users in its URIs, and without the queries of its web addresses."""
    text = re.sub(_PASSWORD, r"\1:***@", text)
    return re.sub(_QUERY, r"\1?***", re.sub(_USER, r"\1***@", text))
