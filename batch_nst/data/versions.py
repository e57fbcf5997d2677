"""What tells one content of a file or object from another, as its store tells it unasked."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Any, NamedTuple

MISSING = "missing"
"""The version of what does not exist, or may not be looked at."""


class Content(NamedTuple):
    """What a file or object held when it was listed."""

    version: str
    size: int
    """Bytes; 0 as well where the store did not tell."""

    def differs(self, version: str, data: bytes) -> bool:
        """Whether a read has found another content.

        Args:
            version: what came with the bytes; empty where none did.
            data: the bytes.
        """
        return version != self.version if version else self.size > 0 and not data


def of_stat(stat: os.stat_result) -> str:
    """Of a file: size and modification time."""
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def of_info(info: dict[str, Any]) -> str:
    """Of an object, from what fsspec tells of it: its ETag, or what comes nearest."""
    # Of the content first: Google's etag changes with an object's labels and storage class as well.
    for name in ("ETag", "md5Hash", "content_md5", "crc32c", "etag", "blob_id", "Last-Modified"):
        if info.get(name):
            return str(info[name]).strip('"')
    changed = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or ""
    return f"{info.get('size')}-{changed}"


def is_md5(version: str) -> bool:
    """Whether it is a digest of the whole content, as Google writes it."""
    return len(version) == 24 and version.endswith("==")


def md5_of(data: bytes) -> str:
    """That digest."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
