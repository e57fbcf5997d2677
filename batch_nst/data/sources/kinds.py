"""What a file of an input is by its name: a photo, a container of photos, or neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from batch_nst.data.sources.listing import File, list_files
from batch_nst.data.sources.passed import Passed
from batch_nst.errors import RecipeError
from batch_nst.globs import MAGIC, Glob, fixed_part

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif")
"""Endings of photos in a folder. Other files are skipped; these count, even where they are broken."""

CONTAINERS = (".parquet", ".csv", ".tar")
"""Files that hold photos or name them. Where there are photos too, a few of these are skipped."""

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""Tars that cannot be read by ranges."""
_FEW = 0.01
"""Share of containers below which photos win; one container is always allowed."""
PHOTO = "photo"
"""The kind of a photo; that of a container is its suffix."""


def kind_of(name: str, glob: Glob | None = None) -> str | None:
    """`PHOTO`, the suffix of a container, or None; `glob` decides what a photo is in place of its suffix."""
    lower = name.lower()
    for suffix in (*CONTAINERS, *COMPRESSED):
        if lower.endswith(suffix):
            return suffix
    is_photo = glob.fits(name) if glob else lower.endswith(SUFFIXES)
    return PHOTO if is_photo else None


def files_of_one_kind(root: str, glob: Glob | None, passed: Passed) -> Iterator[File]:
    """The relevant files: all photos; or, where there are none, all files of one of `CONTAINERS`.

    Photos are given as they are found. Whether there are only a few containers beside them shows at the end.
    """
    photos, suffixes, containers = 0, set[str](), list[File]()
    for file in list_files(root, passed):
        kind = kind_of(file.key, glob)
        if kind == PHOTO:
            photos += 1
            if glob is None:
                suffixes.add(PurePosixPath(file.key).suffix)
            yield file
        elif kind:
            containers.append(file)
        else:
            passed.by_suffix(file.key)
    if photos:
        if len(containers) > 1 and len(containers) >= _FEW * (photos + len(containers)):
            raise _mixed(
                root, f"{photos:,} photos and {len(containers):,} like {containers[0].key}", sorted(suffixes)
            )
        for file in containers:
            passed.by_suffix(file.key)
        return
    for file in containers:
        kind, first = kind_of(file.key), kind_of(containers[0].key)
        if kind != first or kind in COMPRESSED:
            raise _mixed(root, " and ".join(dict.fromkeys((containers[0].key, file.key))), [str(first)])
    yield from containers


def _mixed(root: str, given: str, suffixes: list[str]) -> RecipeError:
    """The error for an input of several kinds, with the glob that takes the first one."""
    ending = suffixes[0] if len(suffixes) == 1 else f".{{{','.join(suffix[1:] for suffix in suffixes)}}}"
    folder = fixed_part(root) if MAGIC.search(root) else root.rstrip("/")
    glob = f"; a glob chooses: {folder}/**/*{ending}" if suffixes and ending not in COMPRESSED else ""
    return RecipeError(
        f"generate.input: {root}: given {given}; allowed: photos, with under 1 % of other kinds, or one of "
        f"{' '.join(CONTAINERS)}, not compressed{glob}"
    )
