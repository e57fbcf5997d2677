"""Laws of the check of wording: each kind of fault is told with its place, and good text passes."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT

CHECK = ROOT / "docs" / "check_wording.py"
LONG = " ".join(["word"] * 36)


def run(*files: Path) -> tuple[int, list[str]]:
    """The exit code, and the faults."""
    ended = subprocess.run([sys.executable, CHECK, *files], capture_output=True, text=True, check=False)
    assert not ended.stderr
    return ended.returncode, ended.stdout.splitlines()


def check(folder: Path, source: str, name: str = "given.py") -> tuple[int, list[str]]:
    """The same of one file, without its name."""
    file = folder / name
    file.write_text(source)
    code, found = run(file)
    return code, [line.removeprefix(f"{file}:") for line in found]


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (f'"""{LONG}."""\n', "1: 36 words in a sentence"),
        (f"x = 1\n# {LONG}\n", "2: 36 words in a sentence"),
        (f'log("{LONG}")\n', "1: 36 words in a sentence"),
        (f'log(f"{{x}} {LONG}")\n', "1: 37 words in a sentence"),
        ('def f():\n    """Of the photo."""\n', "2: begins with `Of the photo.`"),
        ("x = 1  # by the number of photos\n", ""),
        ('"""It is made anew."""\n', "1: `anew` in `It is made anew.`: again"),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path: Path, source: str, fault: str) -> None:
    code, found = check(tmp_path, source)
    assert (code, len(found)) == ((1, 1) if fault else (0, 0))
    assert not fault or found[0].startswith(fault)


def test_what_is_said_well_passes(tmp_path: Path) -> None:
    half = " ".join(["word"] * 20)
    entries = "\n".join(f"    {name}: {half}" for name in ("first", "second"))
    assert check(tmp_path, f'"""{half}. {half}.\n\nArgs:\n{entries}\n"""\n# {half}.\n# {half}\n') == (0, [])


def test_code_is_one_word_and_holds_no_word_to_avoid(tmp_path: Path) -> None:
    assert check(tmp_path, f'"""Calls `{LONG} anew`."""\n') == (0, [])


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        (f"# A page\n\n{LONG}.\n", "3: 36 words in a sentence"),
        (f"It is\nmade.\n\n- One.\n- {LONG}\n  word.\n", "5: 37 words in a sentence"),
        (f"**They do.** {LONG}.\n", "1: 36 words in a sentence"),
        ("```sh\nls\n```\nIt is\nmade anew.\n", "4: `anew` in `It is made anew.`: again"),
        ("1. It is made [anew](page.md).\n", "1: `anew` in `It is made anew.`: again"),
    ],
)
def test_a_fault_of_a_page_is_told_with_its_place(tmp_path: Path, page: str, fault: str) -> None:
    code, found = check(tmp_path, page, "page.md")
    assert (code, len(found)) == (1, 1)
    assert found[0].startswith(fault)


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
def test_what_is_no_prose_of_a_page_is_left_out(tmp_path: Path, page: str) -> None:
    assert check(tmp_path, page, "page.md") == (0, [])


def test_all_pages_are_checked_and_pass() -> None:
    globs = runpy.run_path(str(CHECK))["EVERY"]
    pages = {page for glob in globs if glob.endswith(".md") for page in ROOT.glob(glob)}
    assert pages == {*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")} - {ROOT / "CHANGELOG.md"}
    assert run(*pages) == (0, [])
