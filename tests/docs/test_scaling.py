"""docs/scaling.md and the README's costs are what the formulas of the project give."""

import pytest

from batch_nst.data.dataset import plan_files
from batch_nst.data.dataset.units import listed_folders
from batch_nst.pipelines.cost.requests import Traffic, generate_requests
from batch_nst.recipe import Generate
from tests.docs.test_costs import PAIR_MIB, PAIR_SECONDS, UNIT_IMAGES, cost_row
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "scaling.md").read_text()
SIZES = [10**4, 10**5, 10**6, 10**7, 10**8]


def power(photos: int) -> str:
    return f"10^{len(str(photos)) - 1}"


def units_of(photos: int) -> int:
    return -(-photos // UNIT_IMAGES)


def groups_of(photos: int) -> int:
    """Row groups of the plan."""
    return -(-units_of(photos) // plan_files.GROUP_UNITS)


def size_row(photos: int) -> str:
    """What there is after the first night, and its days on as many devices as a recipe asks for at most."""
    days = photos * PAIR_SECONDS / 86400 / Generate(input=".").actors[1]
    cells = (
        f"{units_of(photos):,}",
        f"{plan_files.segments_for(groups_of(photos), UNIT_IMAGES):,}",
        f"{len(listed_folders(units_of(photos))):,}",
        f"{photos * PAIR_MIB / 1024:,.0f} GiB",
        f"{days:,.2f}",
    )
    return f"| {power(photos)} | {' | '.join(cells)} |"


def later_row(photos: int) -> str:
    """A night in which a hundredth as many photos are new."""
    new = photos // 100
    traffic = Traffic(
        photo_reads=new,
        units=units_of(new),
        listed=photos + new,
        single_reads=2,
        output=True,
        new_segments=plan_files.segments_for(groups_of(new), UNIT_IMAGES),
        chunks=groups_of(new),
        segments=plan_files.segments_for(groups_of(photos), UNIT_IMAGES),
        planned=units_of(photos),
        done=units_of(photos),
        leases=2,
        snapshots=1,
    )
    requests = generate_requests(traffic)
    cells = (f"{n:,}" for n in (requests.reads, requests.writes, requests.lists))
    return f"| {power(photos)} | {new:,} | {new * PAIR_SECONDS / 3600:,.1f} | {' | '.join(cells)} |"


@pytest.mark.parametrize("photos", SIZES, ids=power)
def test_sizes_are_the_formulas(photos: int) -> None:
    assert size_row(photos) in PAGE.splitlines()


@pytest.mark.parametrize("photos", SIZES, ids=power)
def test_later_nights_are_the_formulas(photos: int) -> None:
    assert later_row(photos) in PAGE.splitlines()


@pytest.mark.parametrize("photos", [10**4, 10**6], ids=power)
def test_the_first_screen_tells_the_costs_of_their_page(photos: int) -> None:
    assert cost_row(photos) in (ROOT / "README.md").read_text().splitlines()
