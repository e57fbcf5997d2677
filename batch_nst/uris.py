"""Names that look like a URI or a variable and would become a folder."""

from __future__ import annotations

import re

_DISK = {"file", "local"}
_PROTOCOLS = {*_DISK, "abfs", "abfss", "az", "ftp", "gcs", "gs", "hdfs", "hf", "http", "https", "s3", "s3a"}


def meant_by(name: str) -> str | None:
    """What a name was probably meant to be, in words for a message; None where it means what it says.

    meant_by("s3:/bucket/out")  # "s3://bucket/out": a slash was lost, as in str(Path("s3://bucket/out"))
    meant_by("$HOME/out")  # "the value of $HOME, which is not filled in here"
    """
    found = re.match(r"\s*([A-Za-z][A-Za-z0-9]*):(/*)(.*)", name)
    protocol, slashes, rest = (found[1].lower(), found[2], found[3]) if found else ("", "", "")
    if protocol in _DISK and slashes in ("/", "//"):
        return f"/{rest.removeprefix('localhost/')}"
    if protocol in _PROTOCOLS - _DISK and (slashes == "/" or name != name.lstrip()):
        return f"{protocol}://{rest}"
    if variable := re.search(r"^~[\w.-]*(?=/|$)|(?<![^/])\$\w+(?=/|$)|\$\{\w+\}", name):
        return f"the value of {variable[0]}, which is not filled in here"
    return None


def meant_within(path: str) -> str | None:
    """The same for a path that such a name has become the end of.

    meant_within("/home/me/s3:/bucket/x")  # "s3://bucket/x"
    """
    if "://" in path:
        return None
    parts = path.split("/")
    ends = ("/".join(parts[first:]) for first in range(len(parts)))
    return next(filter(None, map(meant_by, ends)), None)
