"""Laws of `batch_nst.data.sources.tables`: what columns say, and what is no table of photos."""

import datetime
import decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_nst.data.sources.photos import list_photos
from batch_nst.errors import RecipeError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
STORES = ["s3://a", "s3://b", "ftpp://c", 's3://a b,\n"c".jpg', "s3://日本.jpg"]
PHOTO = pa.array([{"bytes": b"x", "path": "a.jpg"}], IMAGE)


def versions(path: Path, columns: dict[str, object]) -> list[tuple[str, str]]:
    pq.write_table(pa.table(columns), path)
    return [(photo.key, photo.version) for photo in list_photos(str(path), STORES)]


def test_columns_are_taken_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert versions(path, {"url": ["s3://a"], "version": ["v"], "etag": ["e"]}) == [("s3://a", "v")]
    assert versions(path, {"uri": ["s3://a"], "size": [3], "mtime": [4.5]}) == [("s3://a", "3-4.5")]
    assert versions(path, {"uri": ["s3://a"], "key": ["k"], "id": [1], "etag": [7]}) == [("k", "7")]
    assert versions(path, {"uri": ["s3://a"], "id": [1], "etag": ["e"]}) == [("1", "e")]
    assert versions(path, {"image": ["/a"], "size": [3]}) == [("/a", "missing")]  # looked at
    assert versions(path, {"path": ["b.jpg"], "etag": ["e"]}) == [(f"{tmp_path}/b.jpg", "e")]
    same = pa.array(["s3://a", "s3://a"]).dictionary_encode()
    assert versions(path, {"uri": same, "etag": ["e", "f"]}) == [("s3://a", "e"), ("s3://a", "f")]
    long = pa.array(["s3://a"], pa.large_string())
    assert versions(path, {"uri": long, "etag": long}) == [("s3://a", "s3://a")]


def test_a_moment_is_the_same_in_whatever_unit(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, datetime.UTC)
    found = set()
    for kind in (pa.timestamp("ms", "UTC"), pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")):
        columns = {"uri": ["s3://a"], "size": [1], "mtime": pa.array([moment], kind)}
        found |= set(versions(tmp_path / "a.parquet", columns))
    assert found == {("s3://a", f"1-{int(moment.timestamp() * 1_000_000)}")}


def test_images_are_found_by_name_or_as_the_only_struct(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert versions(path, {"uri": ["s3://a"], "content": PHOTO})[0][0] == "a.parquet/a.jpg"  # before URIs
    assert versions(path, {"image": ["a cat"], "photo": PHOTO})[0][0] == "a.parquet/a.jpg"
    assert versions(path, {"image": PHOTO, "mask": PHOTO})[0][0] == "a.parquet/a.jpg"
    assert versions(path, {"png": pa.array([b"x"], pa.large_binary())})[0][0] == "a.parquet/0"


VALUES = {
    "list": [[1]],
    "struct": [{"a": 1}],
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    "binary": [b"\xff"],
    "bool": [True],
    "decimal": [decimal.Decimal("1.5")],
    "date": [datetime.date(2026, 1, 2)],
    "time": [datetime.time(1, 2)],
    "duration": [datetime.timedelta(1)],
    "null": [None],
    "no text": pa.array([None], pa.string()),
    "empty text": [""],
    "nan": [float("nan")],
    "dictionary": pa.array([b"x"]).dictionary_encode(),
    "fixed": pa.array([b"xy"], pa.binary(2)),
    "text": ["x"],
    "moment": [datetime.datetime(2026, 1, 2)],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("name", ["key", "id", "version", "etag", "mtime", "label", "path"])
def test_no_column_beside_the_picture_refuses_a_photo(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "a.parquet"
    if name != "path":  # text there would name a photo too
        ((key, version),) = versions(path, {"uri": ["/a"], "size": [3], name: value})
        assert key == "/a" or name in ("key", "id")
        assert version == "missing" or name in ("version", "etag", "mtime")
    for picture in (PHOTO, pa.array([b"x"])):
        ((key, _),) = versions(path, {"image": picture, name: value})
        assert key in ("a.parquet/a.jpg", "a.parquet/0") or name in ("key", "id")
    struct = pa.StructArray.from_arrays([pa.array([b"x"]), pa.array(value)], ["bytes", "path"])
    assert len(versions(path, {"image": struct})) == 1


def test_a_value_that_is_missing_is_made_up_for_row_by_row(tmp_path: Path) -> None:
    columns = {"uri": ["s3://a", "s3://b", "/b"], "key": ["k", "", None], "etag": ["1", "2", None]}
    found = versions(tmp_path / "a.parquet", columns)
    assert found == [("/b", "missing"), ("k", "1"), ("s3://b", "2")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": [1], "text": ["x"]},
            r"given the columns label \(int64\), text \(string\); allowed: one of image",
        ),
        ({"uri": ["s3://a"], "url": ["s3://b"]}, r"given the columns uri \(string\), url \(string\)"),
        ({"uri": [1]}, r"given the columns uri \(int64\)"),
        ({"photo": [b"x"]}, r"given the columns photo \(binary\)"),
        ({"jpg": [b"x"], "png": [b"x"]}, "given images in the columns jpg, png; allowed: in one"),
        ({"left": PHOTO, "right": PHOTO}, "given images in the columns left, right; allowed: in one"),
        ({"uri": ["s3://a", None]}, "the column uri has no value in row 1"),
        ({"uri": ["s3://a", ""]}, "the column uri has no value in row 1"),
    ],
)
def test_an_unclear_table_is_refused(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"generate\.input: .*a\.parquet: {message}"):
        versions(tmp_path / "a.parquet", columns)


def test_a_column_that_comes_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("uri,etag,uri\ns3://a,1,s3://b\n")
    with pytest.raises(RecipeError, match=r"a\.csv: the column uri comes 2 times; allowed: once"):
        list_photos(str(tmp_path))


def test_a_csv_file_is_text_as_it_stands(tmp_path: Path) -> None:
    text = '\ufeffid,uri,etag\n007,"s3://a b,\n""c"".jpg",1e5\n"é",s3://日本.jpg,NA\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert [tuple(photo)[:3] for photo in list_photos(str(tmp_path / "a.csv"), STORES)] == [
        ("007", 's3://a b,\n"c".jpg', "1e5"),
        ("é", "s3://日本.jpg", "NA"),
    ]


def test_a_protocol_that_nothing_speaks_is_refused_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="ftpp://: no such protocol"):
        versions(tmp_path / "a.parquet", {"uri": ["s3://a", "/b", "ftpp://c"], "etag": ["1", "2", "3"]})


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe\x00\x01" * 40,
        b"PAR1" + b"x" * 100 + b"PAR1",
        b"uri\n\xff\n",
        b"\x80\n",
        b"uri,id\n1\n",
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RecipeError, match=rf"generate\.input: .*{name}: "):
        list_photos(str(tmp_path))


def test_text_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"s3://\xff"]).buffers())
    pq.write_table(pa.table({"uri": bad, "etag": ["1"]}), tmp_path / "a.parquet")
    with pytest.raises(RecipeError, match=r"a\.parquet: cannot be read: .*UTF8"):
        list_photos(str(tmp_path))
