"""Laws of the check of wording: each kind of fault is told with its place, and good text passes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT

CHECK = ROOT / "docs" / "check_wording.py"
LONG = " ".join(["word"] * 36)


def check(folder: Path, source: str) -> tuple[int, list[str]]:
    """The exit code, and the faults without the name of the file."""
    file = folder / "given.py"
    file.write_text(source)
    ended = subprocess.run(
        [sys.executable, str(CHECK), str(file)], capture_output=True, text=True, check=False
    )
    assert not ended.stderr
    return ended.returncode, [line.removeprefix(f"{file}:") for line in ended.stdout.splitlines()]


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
