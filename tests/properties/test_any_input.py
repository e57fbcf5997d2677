"""Whatever lies below an input is a photo, holds photos, or is counted by suffix or reason; none is lost."""

import io
import os
import tarfile
from collections import Counter
from itertools import count
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from batch_nst.data.dataset.plan import survey
from batch_nst.data.sources.passed import Passed
from batch_nst.data.sources.photos import list_photos
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError
from batch_nst.globs import MAGIC, Glob, fixed_part
from batch_nst.recipe import Recipe
from tests.support.mutations import outcome

FOLDERS = ["2026", "d.jpg", "[1]", "_x", ".thumbs", "@eaDir", "$RECYCLE.BIN", "_temporary"]
PHOTOS = ["a.jpg", "B.JPEG", "_DSC1.jpg", "c.heic"]
CONTAINERS = ["e.csv", "f.tar", "g.tar.gz", "h.parquet"]
OTHERS = ["c", "d.jp2", "i.jfif", "j.jpg~", "k.zip", "l.jpg.part", "m.12345678901234567"]
UNSEEN = [".f.jpg", "._a.jpg", "Thumbs.db", ".DS_Store"]
REASONS = dict.fromkeys([".thumbs", *UNSEEN], "hidden") | dict.fromkeys(
    [*FOLDERS[5:], "Thumbs.db"], "of a system"
)
LABELS = {"c": "no suffix", "j.jpg~": ".jpg~", "m.12345678901234567": "others", "g.tar.gz": ".gz"}

PARENTS = st.lists(st.sampled_from(FOLDERS), max_size=3).map(lambda parts: "/".join([*parts, ""]))
NAMES = st.sampled_from([*PHOTOS * 3, *CONTAINERS, *OTHERS, *UNSEEN])
PATHS = st.tuples(PARENTS, NAMES).map("".join)
TREES = st.lists(PATHS, min_size=1, max_size=12, unique=True)

_numbers = count()


def _label(path: str) -> str:
    """What the counts call a file that is no photo."""
    name = path.rpartition("/")[2]
    return LABELS.get(name, PurePosixPath(name).suffix.lower())


def _expected(tree: list[str], whole_folders: bool) -> tuple[set[str], list[str], Counter[str]]:
    """Photos, containers and counts of a tree, told by its names alone.

    Args:
        tree: paths of files.
        whole_folders: a folder that is not looked into counts once, as on a disk.
    """
    photos, containers, passed, seen = set(), [], Counter[str](), set()
    for path in tree:
        parts = path.split("/")
        barred = next((number for number, part in enumerate(parts) if part in REASONS), None)
        if barred is not None:
            hidden = any(REASONS.get(part) == "hidden" for part in parts)
            unit = "/".join(parts[: barred + 1]) if whole_folders else path
            reason = REASONS[parts[barred]] if whole_folders else ("hidden" if hidden else "of a system")
            passed[reason] += unit not in seen
            seen.add(unit)
        elif parts[-1] in PHOTOS:
            photos.add(path)
        elif parts[-1] in CONTAINERS:
            containers.append(path)
        else:
            passed[_label(path)] += 1
    return photos, containers, passed


@given(tree=TREES, on_disk=st.booleans())
@example(tree=["a.jpg", "e.csv"], on_disk=True)
@example(tree=[f"{number}/a.jpg" for number in range(198)] + ["e.csv", "f.tar"], on_disk=False)
@example(tree=[f"{number}/a.jpg" for number in range(199)] + ["e.csv", "f.tar"], on_disk=False)
@example(tree=["a.jpg", "e.csv", "f.tar"], on_disk=False)
def test_each_file_is_a_photo_or_counted(tmp_path: Path, tree: list[str], on_disk: bool) -> None:
    root = str(tmp_path / str(next(_numbers))) if on_disk else f"memory://any-input/{next(_numbers)}"
    store = fsspec.filesystem("memory")
    for path in tree:
        if on_disk:
            Path(root, path).parent.mkdir(parents=True, exist_ok=True)
            Path(root, path).touch()
        else:
            store.pipe_file(f"{root.removeprefix('memory:/')}/{path}", b"x")
    photos, containers, expected = _expected(tree, on_disk)
    passed = Passed()
    found, told = outcome(lambda: list_photos(root, passed=passed), RecipeError)
    if photos and len(containers) > 1 and len(containers) >= 0.01 * (len(photos) + len(containers)):
        assert f"{len(photos)} photos and {len(containers)} like " in told
    elif photos:
        assert {photo.key for photo in found or ()} == photos
        assert passed == expected + Counter(map(_label, containers))
        assert len(tree) == len(photos) + sum(passed.values()) or on_disk
    else:
        assert found is None
        assert "no photos in" in told or containers


KINDS = {
    "file": tarfile.REGTYPE,
    "link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "folder": tarfile.DIRTYPE,
}


@given(members=st.dictionaries(PATHS, st.sampled_from([*["file"] * 4, *KINDS]), min_size=1, max_size=8))
def test_each_member_of_a_tar_is_a_photo_or_counted(tmp_path: Path, members: dict[str, str]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in members.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = KINDS[kind], "elsewhere" if "link" in kind else ""
            tar.addfile(info)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    files = [name for name, kind in members.items() if kind == "file"]
    photos, containers, expected = _expected(files, whole_folders=False)
    expected.update(map(_label, containers))
    expected["no files in tars"] += sum(kind not in ("file", "folder") for kind in members.values())
    passed = Passed()
    found, told = outcome(lambda: list_photos(str(tmp_path / "a.tar"), passed=passed), RecipeError)
    assert {photo.key for photo in found or ()} == {f"a.tar/{name}" for name in photos}
    assert bool(found) != bool(told)
    assert passed == +expected
    assert sum(kind != "folder" for kind in members.values()) == len(photos) + sum(passed.values())


@given(tree=TREES, pattern=st.sampled_from(["**", "*", "**/*.jfif", "2026/**", "**/{c,*}", "**/[!a]*"]))
def test_a_pattern_takes_what_fits_it_and_the_rest_is_counted(
    tmp_path: Path, tree: list[str], pattern: str
) -> None:
    home = tmp_path / str(next(_numbers))
    for path in tree:
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).touch()
    usual, containers, expected = _expected(tree, whole_folders=True)
    if len(containers) > 1:
        return
    passed, glob = Passed(), Glob(pattern)
    units = len(usual) + len(containers) + expected.total()
    found, told = outcome(lambda: list_photos(str(home), pattern=pattern, passed=passed), RecipeError)
    if found is None:
        assert "no photos in" in told or containers
        return
    assert len(found) + passed.total() == units
    assert all(glob.fits(photo.key) for photo in found)
    assert not any(glob.fits(path) for path in usual - {photo.key for photo in found})


LINKS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=5, unique=True)


@given(links=LINKS)
@example(links=[(0, 0)])
@example(links=[(1, 2), (2, 1)])
def test_links_to_folders_are_followed_and_end(tmp_path: Path, links: list[tuple[int, int]]) -> None:
    home = tmp_path / str(next(_numbers))
    folders = [home, *(home / f"{number}" for number in range(1, 4)), home / "3" / "4"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / f"{number}.jpg").touch()
    for origin, target in links:
        (folders[origin] / f"to {target}").symlink_to(folders[target])

    def walked(folder: Path, above: tuple[str, ...]) -> tuple[set[str], int]:
        real = os.path.realpath(folder)
        if real in above:
            return set(), 1
        keys, circles = set(), 0
        for entry in folder.iterdir():
            if entry.is_dir():
                deeper, more = walked(entry, (*above, real))
                keys, circles = keys | deeper, circles + more
            else:
                keys.add(str(entry.relative_to(home)))
        return keys, circles

    passed = Passed()
    keys, circles = walked(home, ())
    assert {photo.key for photo in list_photos(str(home), passed=passed)} == keys
    assert passed == Counter({"links in a circle": circles} if circles else {})
    globbed = {photo.key for photo in list_photos(f"{home}/**/*.jpg")}
    assert globbed == keys


ROW = st.tuples(st.sampled_from("kl"), st.sampled_from("uvw"), st.sampled_from("12"))
Rows = list[tuple[str, str, str]]
"""Key, URI and version of each photo that a table names."""


@given(rows=st.lists(ROW, min_size=1, max_size=6), before=st.integers(0, 6), crops=st.integers(1, 2))
def test_two_photos_are_never_one(tmp_path: Path, rows: Rows, before: int, crops: int) -> None:
    home = tmp_path / str(next(_numbers))
    home.mkdir()
    Image.new("RGB", (16, 16)).save(home / "painting.png")
    document = {
        "output": str(home / "out"),
        "style": {"image": str(home / "painting.png"), "size": 16},
        "generate": {"input": str(home / "a.parquet"), "crops": crops},
    }
    recipe, store = Recipe.model_validate(document), Store(document["output"])
    for named in filter(None, (rows[:before], rows)):  # on two days
        columns = zip(*named, strict=True)
        pq.write_table(
            pa.table(dict(zip(("key", "uri", "version"), columns, strict=True))), home / "a.parquet"
        )
        meant: dict[tuple[str, str], set[str]] = {}
        for key, uri, version in named:
            meant.setdefault((key, version), set()).add(uri)
        plan, told = outcome(lambda: survey(recipe, store), RecipeError)
        assert ("names two photos of one version" in told) == any(len(uris) > 1 for uris in meant.values())
        assert bool(plan) != bool(told)
        if plan:
            assert plan.write_down(store).counts().photos == len(meant)
            assert plan.passed_over == +Counter({"named twice": len(named) - len(meant)})


GLOB_PARTS = ["*", "**", "?", "a*", "*.jpg", "[ab]", "[!a]*", "[a-c]?", "[]", "[z-a]", "[^a]", "a", "{a,b}"]
GLOB_NAMES = ["a", "ab", "b.jpg", "A.jpg", "é", "[a]", "-", "{a,b}"]
GLOBS = st.lists(st.sampled_from(GLOB_PARTS), min_size=1, max_size=3).map("/".join)


@given(text=GLOBS, path=st.lists(st.sampled_from(GLOB_NAMES), min_size=1, max_size=3).map("/".join))
def test_what_fits_a_glob_lies_in_folders_that_it_reaches_into(text: str, path: str) -> None:
    glob = Glob(text)
    assert not MAGIC.search(fixed_part(f"/data/{text}"))
    if glob.fits(path):
        assert Glob(glob.wide).fits(path)
        parts = path.split("/")
        assert all(glob.reaches_into("/".join(parts[:depth])) for depth in range(1, len(parts)))
