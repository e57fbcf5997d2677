"""The members of a tar, from its headers alone, and one of them by one ranged read.

A tar is input from strangers: what a header claims is held against the file, extended headers are bounded,
and links, devices and sparse files are passed over. A name is only a name, whatever `..` it holds.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from batch_nst.data.storage import TooLarge, fetch_range, open_object
from batch_nst.errors import RecipeError

_BLOCK = 512
_WINDOW = 4096
"""Bytes that are read with a header: those of the small members that follow it."""
_MAX_EXTENDED = 1 << 20
"""Bytes of an extended header, which holds a long name."""
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    """As the tar has it; bytes that are no UTF-8 are shown by backslashes."""
    offset: int
    """Of its first byte in the tar."""
    length: int
    version: str
    """Size and modification time (seconds) of its header."""


def list_members(uri: str, size: int) -> Iterator[Member]:
    """The regular files in a tar of `size` bytes, as they lie; at most 4 KiB are read for one.

    Raises:
        RecipeError: it is no tar, or cut off; the text says where.
    """
    with open_object(uri, size) as opened:
        file = io.BufferedReader(opened, _WINDOW)
        position, name, pax = 0, "", dict[str, str]()
        while any(header := _read(file, position, _BLOCK, uri)):
            info = _parse(header, position, uri)
            start = position + _BLOCK
            if info.type == tarfile.GNUTYPE_SPARSE:
                start += _sparse_blocks(file, header, start, uri)
            length = info.size
            if re.fullmatch("[0-9]{1,18}", pax.get("size", "")):
                length = int(pax["size"])
            if not info.isreg() and info.type in tarfile.SUPPORTED_TYPES and not _is_extended(info):
                length = 0  # of links and folders, which have no bytes here
            if length < 0 or start + length > size:
                raise _refuse(uri, f"cut off: {info.name!r} should end at byte {start + length} of {size}")
            position = start + -(-length // _BLOCK) * _BLOCK
            if _is_extended(info):
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    name = _text(_extended(file, start, length, uri).rstrip(b"\0"))
                elif info.type in _PAX:
                    pax = _parse_pax(_extended(file, start, length, uri), start, uri)
                continue
            sparse = any(keyword.startswith("GNU.sparse.") for keyword in pax)
            if info.type in _FILES and not sparse:
                yield Member(pax.get("path") or name or info.name, start, length, _version(info))
            name, pax = "", {}


def read_member(uri: str, offset: int, length: int, version: str, max_bytes: int) -> bytes:
    """The bytes of a member, in one read with its header.

    Raises what `storage.fetch` does; FileNotFoundError when the tar was written anew since it was listed.
    """
    if length > max_bytes:
        raise TooLarge(uri, length, max_bytes)
    data = fetch_range(uri, offset - _BLOCK, offset + length)
    try:
        found = _version(tarfile.TarInfo.frombuf(data[:_BLOCK], "utf-8", "backslashreplace"))
    except tarfile.HeaderError:
        found = ""
    if found != version or len(data) != _BLOCK + length:
        raise FileNotFoundError(f"{uri}: the member at byte {offset} is another one now")
    return data[_BLOCK:]


def _version(info: tarfile.TarInfo) -> str:
    return f"{info.size}-{info.mtime}"


def _parse(header: bytes, position: int, uri: str) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        raise _refuse(
            uri, f"no tar header at byte {position} ({error}); compressed ones cannot be read"
        ) from error


def _is_extended(info: tarfile.TarInfo) -> bool:
    """Whether this is about the member that follows, or about all."""
    kinds = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, *_PAX)
    return info.type in kinds


def _sparse_blocks(file: BinaryIO, header: bytes, start: int, uri: str) -> int:
    """Bytes of the maps between the header of an old GNU sparse file and its data."""
    length, more = 0, header[482]
    while more:
        more = _read(file, start + length, _BLOCK, uri)[504]
        length += _BLOCK
    return length


def _extended(file: BinaryIO, start: int, length: int, uri: str) -> bytes:
    if length > _MAX_EXTENDED:
        raise _refuse(uri, f"an extended header of {length} bytes at byte {start}; allowed: {_MAX_EXTENDED}")
    return _read(file, start, length, uri)


def _parse_pax(data: bytes, start: int, uri: str) -> dict[str, str]:
    """Its records, each `length keyword=value\\n`."""
    records = {}
    data, position = data.rstrip(b"\0"), 0
    while position < len(data):
        digits = data[position : position + 8].partition(b" ")[0]
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = data[position + len(digits) + 1 : position + length]
        keyword, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise _refuse(uri, f"a broken extended header at byte {start}")
        records[_text(keyword)] = _text(value[:-1])
        position += length
    return records


def _read(file: BinaryIO, position: int, length: int, uri: str) -> bytes:
    file.seek(position)
    data = file.read(length)
    if len(data) < length:
        raise _refuse(uri, f"cut off: it ends at byte {position + len(data)} without an end mark")
    return data


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _refuse(uri: str, what: str) -> RecipeError:
    return RecipeError(f"generate.input: {uri}: {what}")
