"""docs/performance.md shows no figure that the page it names does not have."""

import re

from tests.support.places import ROOT

DOCS = ROOT / "docs"
ROWS = re.findall(r"^\| (.*) \| \[\w+\]\((\w+\.md)[#\w-]*\) \|$", (DOCS / "performance.md").read_text(), re.M)


def figures(row: str) -> list[str]:
    """Of a row: after what it is about, without commands."""
    cells = [cell for cell in row.split(" | ")[1:] if "`" not in cell]
    return [figure for cell in cells for figure in re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?(?: ?[%x])?", cell)]


def test_every_figure_stands_in_the_page_that_its_row_names() -> None:
    assert len(ROWS) == 21
    for row, page in ROWS:
        assert figures(row), row
        text = (DOCS / page).read_text()
        missing = [f for f in figures(row) if not re.search(rf"(?<![\d.,]){re.escape(f)}(?![\d])", text)]
        assert missing == [], f"{row}: {page} has no {missing}"
