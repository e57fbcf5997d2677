"""Laws of the blind test: a fair order, a key at the end, and answers that a browser counts."""

import io
import math
import re
from pathlib import Path

import pytest
from PIL import Image

from batch_nst.pipelines.reports.blind import MOST, blind_page, told_apart
from batch_nst.pipelines.reports.night import Triple
from tests.support.browser import Browser


def flat(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, "PNG")
    return file.getvalue()


def triples(number: int) -> list[Triple]:
    pictures = flat("grey"), flat("navy"), flat("orange")
    return [Triple(f"{index}.jpg", *pictures, {}, id=f"{index:032x}") for index in range(number)]


def key(page: str) -> list[str]:
    """Which side of each pair is the optimised one."""
    return re.findall(r"#(left|right)\d+:checked { counter-increment: answered right; }", page)


def shown(page: str) -> list[str]:
    return re.findall(r'<img src="(data:[^"]+)"', page)


def test_each_pair_is_in_random_order_and_the_key_is_at_the_end() -> None:
    page = blind_page(triples(30), "000001-aa")
    sides, pictures = key(page), shown(page)
    assert len(sides) == MOST
    assert len(pictures) == 2 * MOST
    optimised = {pictures[2 * pair + (side == "right")] for pair, side in enumerate(sides)}
    model = {pictures[2 * pair + (side == "left")] for pair, side in enumerate(sides)}
    assert (len(optimised), len(model), optimised & model) == (1, 1, set())
    assert 6 <= sides.count("left") <= MOST - 6
    assert page.rindex('<img src="') < page.index("<!-- The key. -->") < page.index("#left")
    assert blind_page(triples(30), "000001-aa") == page
    assert key(blind_page(triples(30), "000002-bb")) != sides
    assert blind_page([], "000001-aa") == ""


@pytest.mark.parametrize("pairs", range(1, 25))
def test_so_many_right_answers_are_rarely_a_guess(pairs: int) -> None:
    def by_guessing(right: int) -> float:
        return sum(math.comb(pairs, number) for number in range(right, pairs + 1)) / 2**pairs

    least = told_apart(pairs)
    if least is None:
        assert by_guessing(pairs) > 0.05
    else:
        assert by_guessing(least) <= 0.05 < by_guessing(least - 1)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_counts_the_answers(browser: Browser, tmp_path: Path, width: int) -> None:
    page = blind_page(triples(6), "000001-aa")
    (tmp_path / "blind.html").write_text(page)
    look = browser.look(tmp_path / "blind.html", width)
    assert width - 20 < look.width <= width  # beside it the bar that scrolls
    assert (look.pictures, look.undecoded) == (12, [])
    assert (look.troubles, look.requests) == ([], [])
    sides = key(page)
    wrong = {"left": "right", "right": "left"}
    chosen = [*sides[:4], wrong[sides[4]]]
    browser.click(*(f"#{side}{number}" for number, side in enumerate(chosen, 1)))
    assert "5 of 6 answered" in browser.text()
    assert "4 right" not in browser.text()
    browser.click("#done")
    assert "4 right" in browser.text()
    browser.click(f"#{wrong[sides[0]]}1", f"#{sides[5]}6")  # one may change an answer
    assert "6 of 6 answered" in browser.text()
    assert "4 right" in browser.text()


def test_nothing_keeps_anyone_from_answering(browser: Browser, axe: str, tmp_path: Path) -> None:
    (tmp_path / "blind.html").write_text(blind_page(triples(3), "000001-aa"))
    browser.look(tmp_path / "blind.html", 390)
    assert browser.faults(axe) == []
