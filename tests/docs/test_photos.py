"""docs/photos.md says what the code does."""

from batch_nst.data.images.reasons import REASONS
from batch_nst.data.images.sandbox import Limits
from batch_nst.recipe import Generate
from tests.support.photos import KINDS
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "photos.md").read_text()
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ")
]


def test_the_table_of_kinds_is_that_of_the_tests() -> None:
    start = ROWS.index(["photo", "status", "reason"])
    table = ROWS[start + 2 : start + 2 + len(KINDS)]
    assert table == [[name, kind.status, kind.reason or ""] for name, kind in KINDS.items()]


def test_every_reason_for_a_rejection_is_there_as_the_code_tells_it() -> None:
    start = ROWS.index(["rejected", ""])
    assert ROWS[start + 2 : start + 2 + len(REASONS)] == [[*reason] for reason in REASONS.items()]


def test_defaults_are_those_of_the_recipe() -> None:
    told = dict(row[:2] for row in ROWS if len(row) == 3)
    limits = Generate(input=".")
    assert told["generate.max_bytes"] == f"{limits.max_bytes >> 20} MiB"
    assert told["generate.max_pixels"] == f"{limits.max_pixels:,}"
    for name in ("min_side", "max_seconds", "max_rejected"):
        assert float(told[f"generate.{name}"]) == getattr(limits, name)
    memory = Limits(limits.min_side, limits.max_bytes, limits.max_pixels, limits.max_seconds).memory
    assert f"{memory / 2**30:.1f} GiB" == told["memory, from the two above"]
