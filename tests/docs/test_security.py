"""SECURITY.md points to what is there."""

import re

from tests.support.places import ROOT

PAGE = (ROOT / "SECURITY.md").read_text()


def test_every_test_and_page_that_it_names_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/.]+)`", PAGE)) | set(
        re.findall(r"\(((?:docs/)[\w/.]+)(?:#|\))", PAGE)
    )
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_it_is_one_page() -> None:
    assert len(PAGE.splitlines()) <= 70


def test_every_line_of_what_limits_what_names_its_test() -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 8
    assert all(re.search(r"`tests/", row[3]) for row in rows)


def test_its_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)", PAGE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
