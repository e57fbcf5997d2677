"""CONTRIBUTING.md: the tests that prove what is promised are there, in the suites that it names."""

import re

import pytest

from tests.support.places import ROOT

ROWS = re.findall(
    r"^\| (?!\*\*).* \| `([\w/]+\.py)(?:::(\w+))?` \| (\w+) \|$",
    (ROOT / "CONTRIBUTING.md").read_text(),
    re.MULTILINE,
)


def test_there_are_promises() -> None:
    assert len(ROWS) > 70
    assert {suite for *_, suite in ROWS} == {"fast", "slow", "chaos"}


@pytest.mark.parametrize(("file", "name", "suite"), ROWS)
def test_a_promise_is_proved_where_the_table_says(file: str, name: str, suite: str) -> None:
    text = (ROOT / "tests" / file).read_text()
    marks = re.findall(r"^pytestmark = pytest\.mark\.(\w+)$", text, re.MULTILINE)
    if name:
        (decorators,) = re.findall(rf"((?:^@.*\n(?:^[ )].*\n)*)*)^def {name}\(", text, re.MULTILINE)
        marks += re.findall(r"^@pytest\.mark\.(slow|chaos)$", decorators, re.MULTILINE)
    expected = "chaos" if "chaos" in marks else "slow" if "slow" in marks else "fast"
    assert suite == expected
