"""Laws of `sources.photos`: which photos there are, under which ids, on which side of the split."""

import io
import os
import re
import tarfile
from pathlib import Path

import fsspec
import pytest

from batch_nst.data.sources.listing import version_of
from batch_nst.data.sources.passed import Passed
from batch_nst.data.sources.photos import (
    Photo,
    is_held_out,
    key_hash,
    list_containers,
    list_photos,
    photo_id,
)
from batch_nst.data.storage.fetch import fetch
from batch_nst.errors import RecipeError
from batch_nst.uris import meant_by

ODD = ["a b#1.jpg", "100%20.jpg", "é/ü?x=1&y.jpg", "日本/[0]*.JPG", "new\nline.png", "a+b::c.jpeg"]
PLAIN = ["a.jpg", "deep/er/b.png", "deep/c.JPG"]
OTHERS = [".hidden.jpg", ".thumbs/d.jpg", "deep/._c.jpg", "readme.txt", "jpg", "movie.mp4", "deep/e.jpg.part"]


class Place:
    """A folder of photos on a disk or in a bucket."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        on_disk = "://" not in uri
        self.files = fsspec.filesystem("file", auto_mkdir=True) if on_disk else fsspec.filesystem("s3")

    def put(self, *names: str, data: bytes | None = None) -> None:
        """Each holds these bytes, or its name."""
        for name in names:
            self.files.pipe_file(f"{self.uri}/{name}", name.encode() if data is None else data)


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    root = str(tmp_path) if request.param == "disk" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    return Place(f"{root}/photos")


def keys(source: str | list[str]) -> list[str]:
    return [photo.key for photo in list_photos(source)]


def ids(source: str | list[str]) -> dict[str, bytes]:
    return {photo.key: photo_id(photo.key, photo.version, 0) for photo in list_photos(source)}


# --- ids


def test_an_id_is_pinned() -> None:
    assert photo_id("2026/a b.jpg", "d41d8cd9", 0).hex() == "fb85fc7c9309d4041d1740debb8bb73e"
    assert photo_id("2026/a b.jpg", "d41d8cd9", 1).hex() == "33da03efcd05c301db543858af445b18"
    assert key_hash("2026/a b.jpg") == pytest.approx(0.8539930290839007, abs=1e-15)


def test_every_part_counts_and_none_runs_into_the_next() -> None:
    named = [("a", "b", 0), ("a", "b", 1), ("a", "c", 0), ("b", "b", 0)]
    ambiguous = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("a", "b\0"), ("a\0", "b")]
    found = {photo_id(*parts) for parts in [*named, *((key, version, 0) for key, version in ambiguous)]}
    assert [len(identity) for identity in found] == [16] * 10


def test_a_photo_keeps_its_id_when_others_come_and_go(place: Place) -> None:
    place.put("b.jpg", "c.jpg")
    before = ids(place.uri)
    place.put("a.jpg", "z/d.jpg")
    place.files.rm_file(f"{place.uri}/c.jpg")
    after = ids(place.uri)
    assert sorted(after) == ["a.jpg", "b.jpg", "z/d.jpg"]
    assert after["b.jpg"] == before["b.jpg"]


# --- the split


def test_held_out_is_a_fair_draw_from_the_key_alone() -> None:
    names = [f"photos/{index}.jpg" for index in range(10_000)]
    for fraction in (0.0, 0.05, 0.5, 1.0):
        held_out = sum(is_held_out(name, fraction) for name in names)
        assert abs(held_out - 10_000 * fraction) <= 4 * (10_000 * fraction * (1 - fraction)) ** 0.5
    assert all(0 <= key_hash(name) < 1 for name in names)


def test_a_larger_holdout_only_adds() -> None:
    names = [f"{index}" for index in range(1000)]
    small = {name for name in names if is_held_out(name, 0.05)}
    assert small < {name for name in names if is_held_out(name, 0.1)}


def test_some_are_held_out_whatever_their_hash_says() -> None:
    assert is_held_out("a.jpg", 0.0, ["a.jpg"])
    assert not is_held_out("b.jpg", 0.0, ["a.jpg"])


# --- listing


def test_a_folder_gives_its_photos_and_nothing_else(place: Place) -> None:
    place.put(*PLAIN, *ODD, *OTHERS)
    found = list_photos(place.uri)
    assert [photo.key for photo in found] == sorted([*PLAIN, *ODD])
    assert [fetch(photo.source, 100).decode() for photo in found] == sorted([*PLAIN, *ODD])
    assert list_photos(place.uri + "/") == found


def test_a_neighbour_whose_name_begins_alike_is_not_in_the_folder(place: Place) -> None:
    place.put("2026/a.jpg", "20267/b.jpg", "2026.jpg")
    assert keys(f"{place.uri}/2026") == ["a.jpg"]


def test_globs_lists_and_folders_agree(place: Place, tmp_path: Path) -> None:
    place.put(*PLAIN, *OTHERS)
    folder = {photo.source: photo for photo in list_photos(place.uri)}
    assert keys(f"{place.uri}/*.jpg") == ["a.jpg"]
    assert keys(f"{place.uri}/**/*.[jp][pn]g") == ["a.jpg", "deep/er/b.png"]
    assert keys(f"{place.uri}/**.jpg") == ["a.jpg"]
    deep = list_photos(f"{place.uri}/*/c.*")  # a fixed part after the wild one
    assert deep == [folder[f"{place.uri}/deep/c.JPG"]]
    assert deep[0].key == "deep/c.JPG"
    uris = sorted(folder)
    listed = list_photos([*uris, uris[0]])
    assert listed == [folder[uri]._replace(key=uri) for uri in uris]
    (tmp_path / "list.txt").write_bytes(f"\ufeff{uris[0]}\n\n {uris[1]}\r\n{uris[2]}\n".encode())
    assert list_photos(str(tmp_path / "list.txt"), [place.uri]) == listed


def test_a_text_file_in_the_place_itself_may_name_its_neighbours(place: Place) -> None:
    names = ["a.jpg", "deep/b\u2028\x0b c.png"]  # characters at which splitlines would break
    place.put(*names)
    place.put("list.txt", data="\n".join(names).encode())
    found = list_photos(f"{place.uri}/list.txt")
    assert [photo.key for photo in found] == [f"{place.uri}/{name}" for name in names]
    assert [fetch(photo.source, 100).decode() for photo in found] == names


def test_a_single_photo_is_an_input_too(place: Place) -> None:
    place.put("deep/[0]*.jpg", "deep/b.jpg")
    assert keys(f"{place.uri}/deep/[0]*.jpg") == ["[0]*.jpg"]


def test_a_folder_may_have_the_name_of_a_glob(place: Place) -> None:
    place.put("old [2025]/a.jpg", "old 2/b.jpg")
    assert keys(f"{place.uri}/old [2025]") == ["a.jpg"]


def test_a_listed_photo_that_does_not_exist_stays(place: Place) -> None:
    place.put("a.jpg")
    uris = [f"{place.uri}/a.jpg", f"{place.uri}/gone.jpg", f"{place.uri}/a.jpg/below.jpg"]
    found = {photo.source: photo for photo in list_photos(uris)}
    assert sorted(found) == sorted(uris)
    assert found[uris[1]].version == "missing"


@pytest.mark.parametrize("uri", [f"/{'x' * 5000}.jpg", "/a\0b.jpg"], ids=["long", "zero byte"])
def test_a_name_that_a_disk_cannot_have_stays(uri: str) -> None:
    assert list_photos([uri]) == [Photo(uri, uri, "missing", length=0)]
    with pytest.raises(FileNotFoundError):
        fetch(uri, 10)


@pytest.mark.parametrize("name", ["none/*.jpg", "empty", "blank.txt"])
def test_nothing_to_find_is_the_recipes_fault(place: Place, name: str) -> None:
    place.put("a.jpg", "empty/readme.md")
    place.put("blank.txt", data=b"\n \n")
    with pytest.raises(RecipeError, match=r"generate\.input"):
        list_photos(f"{place.uri}/{name}")


def test_a_bucket_that_does_not_exist_is_the_recipes_fault(s3: str) -> None:
    with pytest.raises(RecipeError, match=r"generate\.input"):
        list_photos("s3://no-such-bucket/photos")


def test_a_list_that_is_no_text_is_the_recipes_fault(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read as a list of URIs"):
        list_photos(str(tmp_path / "list.txt"))
    with pytest.raises(RecipeError, match=r"generate\.input"):
        list_photos([])


# --- what is skipped


def test_a_few_tables_or_tars_among_photos_are_skipped_and_counted(place: Place) -> None:
    """As Hugging Face's ImageFolder has them, or a folder into which a tar strayed."""
    place.put(*PLAIN, "deep/metadata.csv", "x.jp2", "y.JP2", "no-suffix")
    passed = Passed()
    assert [photo.key for photo in list_photos(place.uri, passed=passed)] == sorted(PLAIN)
    assert passed == {".csv": 1, ".jp2": 2, "no suffix": 1}
    assert str(passed) == "passed over: 2 .jp2, 1 .csv, 1 no suffix"
    assert list_containers(place.uri) == []
    place.put("a.tar", "more.JPG")
    told = r"given 4 photos and 2 like a\.tar; .*/photos/\*\*/\*\.\{JPG,jpg,png\}$"
    with pytest.raises(RecipeError, match=told) as refused:
        list_photos(place.uri)
    glob = str(refused.value).rpartition(" ")[2]
    assert keys(glob) == sorted([*PLAIN, "more.JPG"])


def test_what_was_looked_for_and_what_was_found_instead_is_said(place: Place) -> None:
    place.put("a.jp2", "b", ".c.jpg")
    told = r"no photos in .*; looked for \.jpg .*; passed over: 1 \.jp2, 1 hidden, 1 no suffix; a recipe's"
    with pytest.raises(RecipeError, match=told):
        list_photos(place.uri)


def test_a_pattern_takes_photos_by_their_keys(place: Place) -> None:
    place.put("0a1b2c", "deep/d3", "e.jfif", "f.jpg", "labels.csv", ".hidden", "Thumbs.db")
    passed = Passed()
    found = list_photos(place.uri, pattern="**", passed=passed)
    assert [photo.key for photo in found] == ["0a1b2c", "deep/d3", "e.jfif", "f.jpg"]
    assert passed == {".csv": 1, "hidden": 1, "of a system": 1}
    assert [photo.key for photo in list_photos(place.uri, pattern="*.{jfif,jpe}")] == ["e.jfif"]
    below = list_photos(f"{place.uri}/*", pattern="**")
    assert [photo.key for photo in below] == ["0a1b2c", "e.jfif", "f.jpg"]


def test_a_pattern_for_an_input_that_names_its_photos_is_refused(place: Place) -> None:
    place.put("a.csv", data=b"uri,etag\na.jpg,1\n")
    for source in ([f"{place.uri}/a.jpg"], f"{place.uri}/list.txt", place.uri):
        with pytest.raises(RecipeError, match=r"^generate\.pattern: given \*\*, but .* names its photos"):
            list_photos(source, pattern="**")


def test_stores_for_an_input_that_names_no_photos_elsewhere_are_refused(place: Place) -> None:
    place.put("a.jpg", data=b"photo")
    for source in (place.uri, f"{place.uri}/*.jpg", f"{place.uri}/a.jpg", [f"{place.uri}/a.jpg"]):
        with pytest.raises(RecipeError, match=r"^generate\.stores \(apply: --store\): given s3://more, but"):
            list_photos(source, ["s3://more"])
    place.put("list.txt", data=b"a.jpg\n")
    assert len(list_photos(f"{place.uri}/list.txt", ["s3://more"])) == 1


# --- what is not there


@pytest.mark.parametrize("name", ["none", "none.jpg", "none.txt", "none.tar", "a.jpg/b"])
def test_an_input_that_is_not_there_is_said_to_be_so(place: Place, name: str) -> None:
    place.put("a.jpg")
    with pytest.raises(RecipeError, match=rf"^generate\.input: .*{name}: there is no such file or folder$"):
        list_photos(f"{place.uri}/{name}")


def test_shards_are_named_as_their_writers_do(place: Place) -> None:
    for number in range(3):
        with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as tar:
            tar.addfile(tarfile.TarInfo(f"{number}.jpg"))
        place.put(f"t/{number:05}.tar", data=buffer.getvalue())
    assert keys(f"{place.uri}/t/{{00000..00001}}.tar") == ["00000.tar/0.jpg", "00001.tar/1.jpg"]
    assert len(keys(f"{place.uri}/{{s,t}}/*.tar")) == 3
    with pytest.raises(RecipeError, match=r"there is no 00003\.tar$"):
        list_photos(f"{place.uri}/t/{{00002..00004}}.tar")
    place.put("t/00003.tar.gz")
    told = r"given 00000\.tar and 00003\.tar\.gz; .* not compressed; .*/t/\*\*/\*\.tar$"
    with pytest.raises(RecipeError, match=told):
        list_photos(f"{place.uri}/t")
    place.put("z/00003.tgz")
    with pytest.raises(RecipeError, match=r"given 00003\.tgz; .* not compressed$"):
        list_photos(f"{place.uri}/z")


def test_a_folder_in_a_list_is_refused_and_so_is_a_glob(place: Place) -> None:
    place.put("more/a.jpg", "b.jpg")
    for item, what in (("more", "a folder"), ("*.jpg", "a glob")):
        told = rf"given .* in a list, {what}; allowed in a list: photos; a glob takes"
        with pytest.raises(RecipeError, match=told):
            list_photos([f"{place.uri}/b.jpg", f"{place.uri}/{item}"])
    assert keys(f"{place.uri}/{{more,.}}/**/*.jpg") == ["more/a.jpg"]


@pytest.mark.parametrize("slip", ["s3:/bucket/x.jpg", "gs:/b/x.jpg", "https:/host/a.jpg", "$HOME/a.jpg"])
def test_a_slip_is_refused_with_what_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slip: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(slip)
    told = rf"no such file or folder; probably meant: {re.escape(str(meant_by(slip)))}$"
    for source in (slip, [slip], "list.txt"):
        with pytest.raises(RecipeError, match=told):
            list_photos(source)
    Place(f"{tmp_path}/{slip.rpartition('/')[0]}").put("a.jpg", "x.jpg")
    assert len(list_photos(slip)) == 1  # unless it is there


# --- disks


def test_file_uris_are_paths(tmp_path: Path) -> None:
    Place(str(tmp_path)).put("a b.jpg")
    assert list_photos(f"file://{tmp_path}") == list_photos(str(tmp_path))
    listed = list_photos([f"file://{tmp_path}/a b.jpg"])[0]
    assert listed.version == list_photos(str(tmp_path))[0].version


def test_a_name_that_is_not_utf_8_becomes_a_row_that_fails(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    Path(tmp_path, "café.jpg").write_bytes(b"x")
    bad, good = list_photos(str(tmp_path))
    assert (bad.key, good.key) == (r"caf\xe9.jpg", "café.jpg")
    assert bad.source == f"{tmp_path}/{bad.key}"
    bad.source.encode()  # what is written down is text
    assert fetch(good.source, 10) == b"x"
    with pytest.raises(FileNotFoundError):
        fetch(bad.source, 10)


def test_links_to_photos_are_photos_even_broken_ones_and_those_in_a_circle(tmp_path: Path) -> None:
    Place(str(tmp_path)).put("real.jpg")
    links = {"link.jpg": "real.jpg", "broken.jpg": "nowhere", "circle.jpg": "circle.jpg", "deep": "deep"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "folder.jpg").mkdir()
    found = {photo.key: photo.version for photo in list_photos(str(tmp_path))}
    assert sorted(found) == ["broken.jpg", "circle.jpg", "link.jpg", "real.jpg"]
    assert found["broken.jpg"] == found["circle.jpg"] == "missing"
    assert found["link.jpg"] == found["real.jpg"]


def test_photos_of_a_linked_folder_are_photos(tmp_path: Path) -> None:
    Place(str(tmp_path)).put("elsewhere/a.jpg", "photos/b.jpg")
    (tmp_path / "photos" / "linked").symlink_to("../elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to("../photos")
    (tmp_path / "photos" / "up").symlink_to("..")  # which holds the output, perhaps
    passed = Passed()
    found = list_photos(str(tmp_path / "photos"), passed=passed)
    assert [photo.key for photo in found] == ["b.jpg", "linked/a.jpg"]
    assert [fetch(photo.source, 100).decode() for photo in found] == ["photos/b.jpg", "elsewhere/a.jpg"]
    assert passed == {"links in a circle": 2}


def test_a_version_speaks_of_content_where_the_store_tells_it() -> None:
    google = {"etag": "changes with labels", "md5Hash": "of the content", "crc32c": "too", "size": 3}
    assert version_of(google) == "of the content"
    assert version_of({name: google[name] for name in ("etag", "crc32c")}) == "too"
    assert version_of({"ETag": '"of S3"', "LastModified": "today"}) == "of S3"


def test_a_folder_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Place(str(tmp_path)).put("a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def locked(path: str) -> object:  # root may read everything, so a mode would not do
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(RecipeError, match=r"locked: cannot be listed: Permission denied"):
        list_photos(str(tmp_path))


def test_listing_a_disk_opens_no_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Place(str(tmp_path)).put(*PLAIN)
    with monkeypatch.context() as patch:
        for opens in ("builtins.open", "io.open", "io.FileIO", "os.open"):
            patch.setattr(opens, None)
        assert keys(str(tmp_path)) == sorted(PLAIN)
