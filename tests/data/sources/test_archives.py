"""Laws of `batch_nst.data.sources.archives`: members where they lie, and nothing that a hostile tar wants."""

import io
import random
import tarfile
from pathlib import Path

import pytest

from batch_nst.data.sources.archives import Member, _parse_pax, list_members, read_member
from batch_nst.data.sources.passed import Passed
from batch_nst.data.sources.photos import list_photos
from batch_nst.data.storage.fetch import TooLarge
from batch_nst.errors import RecipeError

LONG = "deep/" * 60 + "é\n #%.jpg"
NAMES = ["a.jpg", "./b/c.jpg", "../../etc/d.jpg", "/abs/e.jpg", "空.png", LONG, "f.json"]
FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}


def content(name: str) -> bytes:
    return random.Random(name).randbytes(len(name) * 40)


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, mtime: int = 7) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mtime = size, kind, mtime
    return info


def write(path: Path, names: list[str], tar_format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name in names:
            tar.addfile(member(name, len(content(name))), io.BytesIO(content(name)))
    return path


def members(path: Path) -> list[Member]:
    return list(list_members(str(path), path.stat().st_size, Passed()))


def read(path: Path, found: Member, max_bytes: int = 1 << 20) -> bytes:
    return read_member(str(path), found.offset, found.length, found.version, max_bytes)


@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS)
def test_members_are_found_and_read_where_they_lie(tmp_path: Path, tar_format: int) -> None:
    path = write(tmp_path / "a.tar", NAMES, tar_format)
    found = members(path)
    assert [one.name for one in found] == NAMES
    assert [one.version for one in found] == [f"{len(content(name))}-7" for name in NAMES]
    assert [read(path, one) for one in found] == [content(name) for name in NAMES]
    with tarfile.open(path) as tar:
        assert [(one.offset, one.length) for one in found] == [
            (info.offset_data, info.size) for info in tar.getmembers()
        ]


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = member(f"{kind.decode()}.jpg", kind=kind)
            info.linkname = "/etc/passwd" * 20
            tar.addfile(info)
        tar.addfile(member("a.jpg", 3), io.BytesIO(b"abc"))
    (found,) = members(path)
    assert (found.name, read(path, found)) == ("a.jpg", b"abc")


def test_sparse_files_are_passed_over(tmp_path: Path) -> None:
    old = bytearray(member("sparse.jpg", 512, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    old[482] = 1  # a block with more of its map follows
    old[148:156] = b" " * 8
    old[148:156] = f"{sum(old[:512]):06o}\0 ".encode()
    new = member("other.jpg", 512)
    new.pax_headers = {"GNU.sparse.major": "1"}
    path = tmp_path / "a.tar"
    path.write_bytes(
        bytes(old)
        + bytes(512)  # of the map
        + b"x" * 512
        + new.tobuf(tarfile.PAX_FORMAT)
        + b"y" * 512
        + member("a.jpg", 3).tobuf()
        + b"abc".ljust(512, b"\0")
        + bytes(1024)
    )
    (found,) = members(path)
    assert (found.name, read(path, found)) == ("a.jpg", b"abc")


def test_a_tar_that_is_cut_off_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    names = NAMES[:3]
    whole = write(tmp_path / "a.tar", names).read_bytes()
    end = max(one.offset + one.length for one in members(tmp_path / "a.tar"))
    path = tmp_path / "cut.tar"
    for length in [*range(0, end, 97), end, end + 511]:
        path.write_bytes(whole[:length])
        with pytest.raises(RecipeError, match=r"cut\.tar: "):
            members(path)
    path.write_bytes(whole[: -(-end // 512) * 512 + 512])  # one block of the end mark
    assert [one.name for one in members(path)] == names


def test_what_is_no_tar_is_refused_by_name(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.tar", NAMES).read_bytes()
    path = tmp_path / "b.tar"
    chance = random.Random(0)
    huge = member("x" * 200, 1)
    for data in (
        b"no tar" * 1000,
        chance.randbytes(4096),
        b"\x1f\x8b" + whole,
        member("a", 1 << 70).tobuf(tarfile.GNU_FORMAT) + bytes(4096),
        member("././@LongLink", 1 << 40, tarfile.GNUTYPE_LONGNAME).tobuf() + bytes(4096),
        member("././@LongLink", 3 << 20, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20),
        member("pax", 20, tarfile.XHDTYPE).tobuf() + b"99999 path=x\n".ljust(512, b"\0") + huge.tobuf(),
        member("pax", 15, tarfile.XHDTYPE).tobuf() + b"15 size=999999\n".ljust(512, b"\0") + huge.tobuf(),
        member("pax", 20, tarfile.XHDTYPE).tobuf() + b"0 path=x\n".ljust(512, b"\0") + huge.tobuf(),
    ):
        path.write_bytes(data)
        with pytest.raises(RecipeError, match=r"b\.tar: "):
            members(path)


def test_a_tar_that_cannot_be_opened_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.tar").symlink_to("nowhere")
    with pytest.raises(RecipeError, match=r"b\.tar: cannot be read: .*No such file"):
        list_photos(str(tmp_path))


def test_a_damaged_header_never_does_worse_than_an_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.tar", NAMES).read_bytes()
    path = tmp_path / "b.tar"
    chance = random.Random(1)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(2048)] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            found = members(path)
        except RecipeError:
            continue
        assert all(0 <= one.offset <= one.offset + one.length <= len(whole) for one in found)


def test_a_member_of_a_tar_that_was_written_anew_is_gone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", ["a.jpg", "b.jpg"])
    first, second = members(path)
    with pytest.raises(TooLarge):
        read(path, second, max_bytes=len(content("b.jpg")) - 1)
    write(path, ["longer name.jpg", "b.jpg"])
    for one in (first, second):
        with pytest.raises(FileNotFoundError, match=r"a\.tar"):
            read(path, one)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(FileNotFoundError):
        read(path, first)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(path, first)


def test_a_header_of_many_small_records_takes_no_longer_than_its_length() -> None:
    records = b"".join(b"9 a=%04d\n" % number for number in range(10_000)) * 10 + b"\0" * 100
    assert _parse_pax(records, 0, "x.tar") == {"a": "9999"}
    with pytest.raises(RecipeError, match="a broken extended header"):
        _parse_pax(b"9 a=0001\n5 a=00\n", 0, "x.tar")
