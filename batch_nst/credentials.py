"""Passwords and signatures in URIs are never printed and never written to disk."""

from __future__ import annotations

import re

_PASSWORD = r"(://[^/\s:@]*):[^/\s]*@"
_USER = r"((?i:https?)://)[^/\s:@]+@"
_QUERY = r"((?i:https?)://[^\s?]+)\?[^\s'\")]+"
"""Only web addresses have queries; in a bucket, `?` is part of a name."""
_SIGNED = (
    r"(?i:https?://[^?]*\?(.*&)?((x-(amz|goog)-(signature|credential|security-token))|signature|sig|"
    r"(access_)?token|api_?key|password)=)"
)

PATTERN = f"{_PASSWORD}|{_USER}|{_SIGNED}"
"""Matches a URI with a password, with a user of a web server, or with a query that grants access."""


def holds_credentials(uri: str) -> bool:
    """Whether a URI matches `PATTERN`."""
    return re.search(PATTERN, uri) is not None


def redacted(text: str) -> str:
    """A text with `***` for passwords and users in its URIs and for the queries of its web addresses."""
    text = re.sub(_PASSWORD, r"\1:***@", text)
    return re.sub(_QUERY, r"\1?***", re.sub(_USER, r"\1***@", text))
