"""Laws of `batch_nst.globs`: which paths a glob fits, and which names of its ranges are missing."""

import glob
from itertools import product
from pathlib import Path

import pytest

from batch_nst.globs import MOST, Glob

PARTS = ["*", "**", "?", "a*", "*.jpg", "[ab]", "[!a]*", "[a-c]?", "a"]


@pytest.mark.parametrize(
    ("text", "fits", "does_not"),
    [
        ("*.jpg", ["a.jpg", ".jpg", "new\nline.jpg"], ["b/a.jpg", "a.JPG", "a.jpg2"]),
        ("**", ["a", "b/c", "b\n/c"], []),
        ("**/*.jpg", ["a.jpg", "b/a.jpg", "b/c/a.jpg"], ["a.png"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/xb", "ab"]),
        ("a?c", ["abc", "aéc"], ["a/c", "ac"]),
        ("[ab]1", ["a1", "b1"], ["c1", "1"]),
        ("[!ab]1", ["c1"], ["a1", "/1"]),
        ("[]a]", ["]", "a"], ["b"]),
        ("[a\\]", ["a", "\\"], ["]"]),
        ("x[z-a].jpg", ["xz.jpg", "x-.jpg", "xa.jpg"], ["xb.jpg"]),
        ("a[.jpg", ["a[.jpg"], ["a.jpg"]),
        ("*.{jpg,jp[e]}", ["a.jpg", "a.jp[e]"], ["a.jpe", "a.{jpg,jp[e]}"]),
        ("{000..010}.tar", ["000.tar", "007.tar", "010.tar"], ["7.tar", "011.tar", "0007.tar"]),
        ("{9..11}/{2..1}", ["9/1", "10/2"], ["09/1", "8/1", "9/3"]),
        ("{a..c}", ["{a..c}"], ["a", "b"]),
    ],
)
def test_a_glob_fits_what_a_shell_would_take(text: str, fits: list[str], does_not: list[str]) -> None:
    assert [path for path in [*fits, *does_not] if Glob(text).fits(path)] == fits


def test_it_is_the_glob_of_python(tmp_path: Path) -> None:
    """Where both speak the same language: no braces, links, nor names that begin with a dot."""
    files = ["/".join(parts) for parts in product(["a", "ab", "b.jpg", "[a]"], repeat=2)]
    for path in files:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    for parts in product(PARTS, repeat=2):
        text = "/".join(parts)
        expected = set(glob.glob(text, root_dir=tmp_path, recursive=True)) & set(files)
        assert set(filter(Glob(text).fits, files)) == expected, text


def test_a_range_names_its_first_file_that_is_not_there() -> None:
    pattern = Glob("{a,b}/{0..1}-{08..10}.tar")
    for name in ("a/0-08.tar", "b/0-09.tar", "a/1-10.tar", "x/0-10.tar"):
        pattern.fits(name)
    assert pattern.unseen() == "{a,b}/0-10.tar"
    for name in ("a/0-10.tar", "a/1-08.tar", "a/1-09.tar"):
        assert pattern.fits(name)
    assert pattern.unseen() is None
    assert Glob("*.{jpg,png}").unseen() is None


def test_a_range_of_too_many_names_is_refused() -> None:
    with pytest.raises(ValueError, match=f"ranges of 10,000,000 names; allowed: {MOST:,}"):
        Glob("{0..9999}/{0..999}.tar")


def test_case_counts() -> None:
    assert Glob("*.JPG").fits("A.JPG")
    assert not Glob("*.jpg").fits("A.JPG")
