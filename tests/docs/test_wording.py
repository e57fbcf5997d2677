"""Laws of the check of wording: each kind of fault is told with its place, and good text passes."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.places import ROOT

SCRIPT = ROOT / "docs" / "check_wording.py"
CHECK = runpy.run_path(str(SCRIPT))
LONG = " ".join(["word"] * 36)

Check = Callable[..., list[str]]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """The faults of a file, without its name; there are some where the exit code says so."""

    def check(text: str, name: str = "given.py") -> list[str]:
        file = tmp_path / name
        file.write_text(text)
        code = CHECK["main"]([str(file)])
        found = capsys.readouterr().out.splitlines()
        assert code == (1 if found else 0)
        return [line.removeprefix(f"{file}:") for line in found]

    return check


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("given.py", f'"""{LONG}."""\n', "1: 36 words in a sentence"),
        ("given.py", f"x = 1\n# {LONG}\n", "2: 36 words in a sentence"),
        ("given.py", f'log("{LONG}")\n', "1: 36 words in a sentence"),
        ("given.py", f'log(f"{{x}} {LONG}")\n', "1: 37 words in a sentence"),
        ("given.py", 'def f():\n    """Of the photo."""\n', "2: begins with `Of the photo.`"),
        ("given.py", '"""It is made anew."""\n', "1: `anew` in `It is made anew.`: again"),
        ("page.md", f"# A page\n\n{LONG}.\n", "3: 36 words in a sentence"),
        ("page.md", f"It is\nmade.\n\n- One.\n- {LONG}\n  word.\n", "5: 37 words in a sentence"),
        ("page.md", f"**They do.** {LONG}.\n", "1: 36 words in a sentence"),
        ("page.md", "```sh\nls\n```\nIt is\nmade anew.\n", "4: `anew` in `It is made anew.`: again"),
        ("page.md", "1. It is made [anew](page.md).\n", "1: `anew` in `It is made anew.`: again"),
    ],
)
def test_a_fault_is_told_with_its_place(check: Check, name: str, text: str, fault: str) -> None:
    (found,) = check(text, name)
    assert found.startswith(fault)


def test_what_is_said_well_passes(check: Check) -> None:
    half = " ".join(["word"] * 20)
    entries = "\n".join(f"    {name}: {half}" for name in ("first", "second"))
    assert check(f'"""{half}. {half}.\n\nArgs:\n{entries}\n"""\n# {half}.\n# {half}\n') == []
    assert check("x = 1  # by the number of photos\n") == []


def test_code_is_one_word_and_holds_no_word_to_avoid(check: Check) -> None:
    assert check(f'"""Calls `{LONG} anew`."""\n') == []


@pytest.mark.parametrize(
    "page",
    [
        f"```sh\n{LONG} anew\n```\n",
        f"A tree:\n\n    {LONG} anew\n",
        f"| a | b |\n| --- | --- |\n| {LONG} | anew |\n",
        f"## {LONG} anew\n",
        f"[{LONG[5:]}](page.md#made-anew). `made\nanew`, [again\nit](page.md#told).\n",
        f"- {LONG[5:]}.\n- {LONG[5:]}\n\n{LONG[5:]}.\n",
        "Of all photos, by the number.\n",
    ],
    ids=["fenced", "indented", "table", "heading", "link", "short", "beginning"],
)
def test_what_is_no_prose_of_a_page_is_left_out(check: Check, page: str) -> None:
    assert check(page, "page.md") == []


def test_all_pages_are_checked_and_the_only_fault_is_one_beside_them(tmp_path: Path) -> None:
    globs = CHECK["EVERY"]
    pages = {page for glob in globs if glob.endswith(".md") for page in ROOT.glob(glob)}
    assert pages == {*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")} - {ROOT / "CHANGELOG.md"}
    wrong = tmp_path / "page.md"
    wrong.write_text("It is made anew.\n")
    ended = subprocess.run([sys.executable, SCRIPT, *pages, wrong], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout == f"{wrong}:1: `anew` in `It is made anew.`: again\n"
