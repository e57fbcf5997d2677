"""The report of a run: one file, nothing in it trusted, nothing in it fetched."""

import json
import math
import re
import time
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from batch_nst.data.dataset.records import BadPhoto
from batch_nst.data.images.contact_sheet import contact_sheet
from batch_nst.data.models.evaluation import SizeTimes, SpeedTable
from batch_nst.pipelines.cost.requests import Requests
from batch_nst.pipelines.reports.html import digest, settings
from batch_nst.pipelines.reports.night import (
    Cost,
    DatasetFacts,
    DeviceHours,
    EarlierNight,
    Night,
    Report,
    Triple,
    render,
)
from tests.support.browser import Browser
from tests.support.places import SAMPLES

EVIL = '<script>alert("1")</script>/"onerror=x/&.jpg'
VOID = {"meta", "img", "br", "hr", "wbr", "link", "input"}


def _picture(name: str, encoding: str = "WEBP", shape: tuple[int, int] = (48, 48)) -> bytes:
    file = BytesIO()
    with Image.open(SAMPLES / f"content/{name}.jpg") as image:
        ImageOps.fit(image, shape).save(file, encoding)
    return file.getvalue()


R_IN_WORDS = "its pictures score 2.65 times what 100 iterations reach (95 % interval: 2.40 to 2.90)"


def _losses(total: float, **more: float) -> dict[str, float]:
    return {"total": total, "content": total / 5, "style": total / 100, "checkerboard": 0.567, **more}


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    losses = {
        "photo": _losses(125e3),
        "optimised": _losses(9.8e3, distance=0.0, ssim=1.0),
        "model": _losses(1.234e6, distance=0.51, ssim=0.37),
    }
    photo, made = _picture("panda"), _picture("coffee", "PNG")
    bad = BadPhoto(f"s3://photos/{EVIL}", "rejected", "not_an_image", EVIL, "u")
    return {
        "title": "Auvers & <friends>",
        "style": (SAMPLES / "styles/van_gogh_auvers.jpg").read_bytes(),
        "triples": [
            Triple(name, photo, made, _picture("moose", "JPEG"), losses, larger)
            for name, larger in (("a/b.jpg", None), (EVIL, (_picture("panda", shape=(96, 96)), made, made)))
        ],
        "evaluation": {
            "photos": 2,
            "size": 48,
            "engine": "cpu bf16",
            "ratios": {
                "total": 2.65,
                "content": 1.25,
                "style": 3.75,
                "iterations": 100,
                "verdict": R_IN_WORDS,
            },
            "curve": [125e3 / (1 + step) ** 0.5 for step in range(101)],
            **losses,
            "model": _losses(26e3, distance=0.51, ssim=0.42),
            "worth_iterations": 23,
            "worth_interval": [17, 40],
            "verdict": "worth 23 iterations of the optimisation (95 % interval: 17 to 40)",
            "seconds_per_image": {"model": 0.05, "optimised": 7.1},
            "baseline": {
                "photos": 2,
                "model": {"total": 26e3},
                "lbfgs": {
                    "curve": [125e3 / (1 + step) ** 0.25 for step in range(101)],
                    "worth_iterations": None,
                    "verdict": "worse than the photo",
                    "seconds_per_image": 31.0,
                },
                "engine": {
                    "curve": [125e3 / (1 + step) ** 0.5 for step in range(101)],
                    "worth_iterations": 22,
                    "verdict": "worth 22 iterations of the optimisation",
                    "seconds_per_image": 7.2,
                },
            },
            "larger": {
                "size": 96,
                "photos": 1,
                "left_out": {"too_small": 3, "vanished": 1},
                "photo": _losses(111e3, distance=0.7, ssim=0.2),
                "optimised": _losses(19e3, distance=0.0, ssim=1.0),
                "model": _losses(31e3, distance=0.6, ssim=0.31),
                "curve": [111e3 / (1 + step) ** 0.5 for step in range(34)],
                "worth_iterations": 11,
                "worth_interval": [11, 11],
                "verdict": "worth 11 iterations of the optimisation",
                "seconds_per_image": {"model": 0.2, "optimised": 9.0},
            },
        },
        "speed": SpeedTable(
            machine={"processor": "a & b", "threads": 2, "device": "cpu"},
            precision="cpu bf16",
            timed_iterations=5,
            iterations=[100, 500],
            sizes=[
                SizeTimes(1024, 1.06, 0.5, {"100": 106.0, "500": 530.0}, {"100": 212.0, "500": 1060.0}),
                SizeTimes(2048),
            ],
        ),
        "history": [
            {"step": step, "loss": 3 - step / 1e3, "style": 9e4 / step} for step in range(10, 1000, 10)
        ],
        "dataset": DatasetFacts(
            images=76,
            counts={"ok": 72, "held_out": 2, "rejected": 2},
            bad=[bad],
            total_loss=[9e3 * 1.05**number for number in range(72)],
            snapshot=1,
            digest="3fa9c1d2e4b5a697",
        ),
        "run": {"command": "nightly", "seconds": 3725.0, "machine": EVIL, "phases": {"train_seconds": 90}},
        "recipe": settings({"output": f"s3://models/{EVIL}", "generate": {"iterations": 300}}),
        "pairs": [("one.jpg", photo, made), (EVIL, photo, made)],
        "panel": [("photo", photo), ("optimised", made), ("step 250", made), ("step 500", photo)],
    }


@pytest.fixture(scope="module")
def training(given: dict[str, Any]) -> dict[str, Any]:
    """What is known before there are scores."""
    return {name: given[name] for name in ("title", "style", "run", "recipe", "history", "panel")}


@pytest.fixture(scope="module")
def report(given: dict[str, Any]) -> str:
    return render(Report(**given))


class Page(HTMLParser):
    """What a browser would see; every tag must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def words(self) -> str:
        """All of its text, in one line and with plain spaces."""
        return " ".join(self.text.split())

    def images(self, alt: str) -> list[str]:
        return [str(attrs["src"]) for tag, attrs in self.tags if tag == "img" and attrs["alt"] == alt]


@pytest.mark.parametrize("of_a_night", [False, True], ids=["a run", "a night"])
def test_it_fetches_nothing_and_runs_nothing(given: dict[str, Any], report: str, of_a_night: bool) -> None:
    shown = _night(given) if of_a_night else report
    links = ("data:image/webp;base64,", "#", "blind.html", *(each.link for each in EARLIER))
    for tag, attrs in Page(shown).tags:
        assert tag not in {"script", "link", "iframe", "object", "base"}
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href"}:
                assert str(value).startswith(links)
    assert not re.search(r"https?://|@import|javascript:|script-src|url\((?!#)", shown)


STARTED = datetime(2026, 11, 25, 22, 50)
GATE = {
    "version": "000002-bbbbbbbbbbbb",
    "published": True,
    "previous": "000001-aaaaaaaaaaaa",
    "compared": {
        "objective": 26_123.0,
        "published": {"version": "000001-aaaaaaaaaaaa", "objective": 31_000.0},
        "margin": 0.02,
        "photos": 2,
    },
}
RIVAL = {"model": _losses(31e3, distance=0.6, ssim=0.3), "objectives": {"a": 30e3, "b": 32e3, "c": 1.0}}
MADE = {
    "photos": 19,
    "found": 76,
    "tried": 12,
    "made": 9,
    "ok": 70,
    "held_out": 2,
    "rejected": 3,
    "failed": 1,
    "pending": 0,
    "gone": 5,
    "reasons": {"not_an_image": 2, "<i>": 1},
}
COST = Cost(
    device_hours=DeviceHours(pairs=1.5, training=0.25, scoring=0.05),
    requests=Requests(reads=1100, writes=80, lists=54),
    bytes_read=12_300_000,
    bytes_written=4_560_000_000,
    step_seconds={"pairs": 2700.0, "training": 900.0, "graph": 3.1, "scoring": 121.9},
)
REFUSAL = "000002-bbbbbbbbbbbb: objective <b>99</b> & more; not published"
EARLIER = [
    EarlierNight(
        "../20261124T220000Z-000004-nightly/report.html", datetime(2026, 11, 24, 22), "refused", 60e3
    ),
    EarlierNight("../20261123T220000Z-000001-nightly/report.html", datetime(2026, 11, 23, 22), "cut off"),
]


def _night(given: dict[str, Any], rival: Any = RIVAL, **changes: Any) -> str:
    """A report of a night, with pictures of the model that was published before."""
    triples = [
        replace(triple, published=_picture("goldfish"), published_objective=31e3)
        for triple in given["triples"]
    ]
    evaluation = given["evaluation"] | {"objectives": {"a": 26e3, "b": 33e3, "d": 1.0}}
    changed = {
        "triples": triples,
        "evaluation": evaluation,
        "night": Night(MADE, {**GATE, **changes}, COST),
        "started": STARTED,
        "rival": rival,
        "earlier": EARLIER,
    }
    return render(Report(**given | changed))


def test_a_night_begins_with_its_verdict_what_was_new_its_cost_and_the_nights_before(
    given: dict[str, Any],
) -> None:
    page = Page(_night(given))
    for triple in given["triples"]:  # each photo after the old and the new model
        for kind in ("photo", "published model", "new model"):
            assert page.images(f"{triple.name}: {kind}")
    for told in (
        "night of 25 November 2026, 22:50 UTC A better model Model 000002-bbbbbbbbbbbb is "
        "published. On 2 held-out photos its objective is 26 123, "
        "15.7 % less than the 31 000 of the one before; the gate asks for 2 % less.",
        "found76 tried tonight12 new pairs9 done in all72 rejected4 pending0 gone5",
        "Rejected or failed tonight: 2 not an image, 1 <i>.",
        "time1 h 2 min device-hours1.8 requests1 234 read12.3 MB written4.56 GB",
        "pairs 45 min 0 s training 15 min 0 s graph 3.1 s scoring 2 min 2 s",
        "Device-hours: pairs 1.5, training 0.25, scoring 0.05. Requests to object stores for pairs, by the "
        "formula of plan: 1 100 reads, 80 writes, 54 lists.",
        "24 Nov, 22:00 refused, 60 k 23 Nov, 22:00 cut off",
        "The new model is the better one on 1.",
        "Published31 0006.2 k3100.60.3 Needed30 380 New26 123",
    ):
        assert told in page.words()
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == [*(each.link for each in EARLIER), "blind.html"]


def test_a_refused_night_begins_with_the_reason(given: dict[str, Any]) -> None:
    refused = {"why": REFUSAL, "max_objective": 1.0}
    text = Page(_night(given, published=False, previous=None, refused=refused)).words()
    assert "No new model Model 000002-bbbbbbbbbbbb is refused. On 2 held-out photos its objective" in text
    assert "The reason: objective <b>99</b> & more." in text
    text = Page(_night(given, refused={"why": REFUSAL}, compared=None, rival=None)).words()
    assert "is refused. The reason: objective <b>99</b> & more." in text
    assert "Old against new" not in text


def test_a_first_night_compares_with_nothing(given: dict[str, Any]) -> None:
    first = Night(MADE, {**GATE, "previous": None, "compared": None}, COST)
    text = Page(render(Report(**given, night=first, started=STARTED))).words()
    assert "is published. On 2 photos that it has never seen, its pictures score 2.65 times what 100" in text
    assert "Old against new" not in text
    assert "Earlier nights" not in text


def test_a_report_of_large_pictures_is_a_file_of_three_megabytes_at_most(given: dict[str, Any]) -> None:
    names = ("coffee", "moose", "chelsea", "rocket", "perch", "panda", "windmill", "crocodile")
    photos = [_picture(name, shape=(512, 512)) for name in names] * 2
    triples = [
        Triple(f"{number}.jpg", photo, photo, photo, {}, (photo, photo, photo), published=photo)
        for number, photo in enumerate(photos)
    ]
    column = contact_sheet([[photo] for photo in photos[:4]])
    changed = {
        "triples": triples,
        "pairs": [("x.jpg", photo, photo) for photo in photos[:8]],
        "panel": [(str(number), column) for number in range(9)],
        "night": Night(MADE, GATE, COST),
        "started": STARTED,
    }
    report = render(Report(**given | changed))
    assert len(report) < 3_000_000
    page = Page(report)
    assert [bool(page.images(f"{number}.jpg: photo")) for number in range(16)] == [True] * 8 + [False] * 8
    assert "Shown are 8 of 16." in page.words()


@pytest.fixture(scope="module")
def page(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a night, with all that a report may hold."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(_night(given, refused={"why": REFUSAL}))
    return file


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (320, False), (1280, False)])
def test_a_browser_shows_all_of_it_without_scrolling_sideways(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    look = browser.look(page, width, dark=dark)
    assert width - 20 < look.width <= width  # beside it the bar that scrolls
    assert look.undecoded == []
    assert look.troubles == []
    assert look.requests == []
    assert look.pictures == page.read_text().count("<img ")


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_keeps_anyone_from_reading_it(
    training: dict[str, Any], browser: Browser, axe: str, page: Path, tmp_path: Path, dark: bool
) -> None:
    browser.look(page, 1280, dark=dark)
    assert browser.faults(axe) == []
    other = tmp_path / "index.html"
    for under_way in (False, True):
        other.write_text(render(Report(**training, under_way=under_way)))
        browser.look(other, 390, dark=dark)
        assert browser.faults(axe) == []
    other.write_text('<html lang="en"><title>a page</title><main><h1>cats</h1><img src="data:,">')
    browser.look(other, 1280)
    assert [fault.partition(":")[0] for fault in browser.faults(axe)] == ["image-alt"]


def test_one_kind_of_picture_is_shown_alone_and_pixel_by_pixel(browser: Browser, page: Path) -> None:
    browser.look(page, 1280)
    shown = """[...document.querySelectorAll(".triples img")].filter(image => image.offsetWidth)
        .map(image => image.closest("figure").className)"""
    width = "document.querySelector('.triples .model img').offsetWidth"
    kinds = ["photo", "optimised", "published", "model"]
    assert browser.value(shown) == kinds * 2
    small = browser.value(width)
    for kind in kinds:
        browser.click(f"#shown-{kind}")
        assert browser.value(shown) == [kind] * 2
    assert browser.value(width) > 2 * small
    browser.click("#pixels")
    rendering = "getComputedStyle(document.querySelector('.triples .model img')).imageRendering"
    assert browser.value(rendering) == "pixelated"
    browser.click("#shown-all")
    assert browser.value(shown) == kinds * 2


@pytest.mark.parametrize("width", [390, 1280])
def test_a_picture_is_drawn_off_the_fast_models_like_a_curtain(
    browser: Browser, page: Path, width: int
) -> None:
    browser.look(page, width)
    browser.click("#from-photo")
    places = """(() => {
        const of = name => document.querySelector(`.triples .${name} img`).getBoundingClientRect();
        const curtain = document.querySelector(".triples .photo .curtain");
        const edge = curtain.firstElementChild.getBoundingClientRect();
        const [photo, model] = [of("photo"), of("model")].map(box => [box.x, box.y, box.width, box.height]);
        return JSON.stringify({photo, model, edge: edge.x + edge.width / 2 - photo[0]});
    })()"""
    for scrolled in (0, 0.25, 1):
        browser.value(f"document.querySelector('.photo .curtain').scrollLeft = {scrolled} * innerWidth")
        now = json.loads(browser.value(places))
        # One lies over the other, wherever the edge is.
        assert now["photo"] == pytest.approx(now["model"], abs=0.5)
        side = now["photo"][2]
        assert side > 300
        assert now["edge"] == pytest.approx(max(0, side - scrolled * width), abs=1)
    assert browser.seen().width <= width  # no page that scrolls sideways


def test_a_page_of_a_training_loads_itself_again_and_says_when_it_ends(
    training: dict[str, Any], browser: Browser, tmp_path: Path
) -> None:
    ends = datetime(2026, 11, 25, 23, 5)
    page, text = tmp_path / "index.html", render(Report(**training, under_way=True, ends=ends))
    page.write_text(text)
    assert browser.look(page, 390).troubles == []
    text = text.replace("30000", "300")  # milliseconds
    assert "it ends at <strong>23:05 UTC, 25 November</strong>" in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    page.write_text(re.sub(r"script-src [^\"]*", f"script-src {digest(script)}", text))
    browser.look(page, 390)
    browser.value("window.before = true")
    browser.until("!window.before")
    browser.click("#reload")
    browser.value("window.before = true")
    time.sleep(1)
    assert browser.value("window.before && !document.getElementById('reload').checked")
    page.write_text(page.read_text().replace("300", "299"))  # another script than the policy names
    assert any("script" in trouble for trouble in browser.look(page, 390).troubles)
    still = render(Report(**training))
    assert "<script" not in still
    assert "script-src" not in still


def test_the_browser_tells_of_what_would_be_wrong(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<meta name="viewport" content="width=device-width"><div style="width: 700px">x</div>'
        '<img alt="torn" src="data:image/webp;base64,AAAA"><img alt="gone" src="gone.png">'
        "<script>console.error('oh')</script>"
    )
    look = browser.look(page, 390)
    assert look.width > 390
    assert look.undecoded == ["torn", "gone"]
    assert look.requests == [(tmp_path / "gone.png").as_uri()]
    assert len(look.troubles) >= 2


def test_it_ends_with_the_command_that_paints(given: dict[str, Any]) -> None:
    text = Page(render(Report(**given, model="'a b/models/v'"))).text
    assert "batch-nst apply 'a b/models/v' photo.jpg painted.png" in text
    assert "batch-nst apply" not in Page(render(Report(**given))).text


def test_it_has_a_link_to_the_page_that_paints_where_the_recipe_names_one(given: dict[str, Any]) -> None:
    address = "https://paint.example.com/auvers?a=1&b=2"
    for page, links in ((address, 1), (None, 0)):
        html = render(Report(**given, model="models/v", page=page))
        assert html.count(f'<a href="{address.replace("&", "&amp;")}" rel="noreferrer">') == links


def test_every_name_is_shown_as_it_is(report: str) -> None:
    assert "<script" not in report
    page = Page(report)
    assert page.text.count(EVIL) == 6  # triple, bad photo and its detail, pair, recipe, run
    assert "Auvers & <friends>" in page.text


def test_every_triple_has_its_three_pictures(report: str, given: dict[str, Any]) -> None:
    page = Page(report)
    for triple in given["triples"]:
        shown = [page.images(f"{triple.name}: {kind}") for kind in ("photo", "optimised", "fast model")]
        times = [1, 1] if triple.name != EVIL else [2, 1]  # and in a pair
        assert [len(uris) for uris in shown[1:]] == times
        assert len({uri for uris in shown for uri in uris}) == 3


def test_seconds_are_told_by_size_and_what_did_not_fit_is_a_dash(report: str) -> None:
    text = Page(report).words()
    assert "on a & b, 2 threads; one image at a time" in text
    assert "median of 5 iterations (cpu bf16)" in text
    rows = dict(re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', report, re.DOTALL))
    cells = {size: re.findall(r"<td>(.*?)</td>", row) for size, row in rows.items()}
    assert cells["1\u202f024"] == ["106", "530", "0.5", "212 ×", "1.06\u202fk ×"]
    assert cells["2\u202f048"] == ["–"] * 5


def test_pictures_of_twice_the_size_are_shown_where_there_are_some(report: str) -> None:
    page = Page(report)
    (row,) = re.findall(r'<tr class="optimised"><th scope="row">33 iterations</th>(.*?)</tr>', report)
    assert re.findall(r"<td>(.*?)</td>", row) == ["3.8\u202fk", "190", "0", "1", "0.567", "19\u202fk"]
    for kind in ("photo", "optimised", "fast model"):
        assert len(page.images(f"{EVIL}: {kind} at twice the size")) == 1
        assert page.images(f"a/b.jpg: {kind} at twice the size") == []


def test_the_panel_is_shown_column_by_column(report: str) -> None:
    page = Page(report)
    for name in ("photo", "optimised", "step 250", "step 500"):
        assert len(page.images(f"Panel: {name}")) == 1


def test_ids_are_unique_and_references_resolve(report: str) -> None:
    ids = re.findall(r'\sid="([^"]*)"', report)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', report)) <= set(ids)


def test_plots_have_names_and_the_colours_of_the_page(report: str) -> None:
    plots = [attrs for tag, attrs in Page(report).tags if tag == "svg"]
    assert len(plots) == 6  # curve, baseline, twice the size, two parts of the loss, histogram
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in plots)
    drawn = "".join(re.findall(r"<svg.*?</svg>", report, re.DOTALL))
    assert not re.search(r": #[0-9a-f]{6}", drawn)


def test_figures_are_for_people(report: str) -> None:
    text = Page(report).words()
    for figure in (
        "1.23 M",
        "125 k",
        "0.51",
        "SSIM 0.42",
        "0.567",
        "142 ×",
        f"{R_IN_WORDS}; the fast model is worth 23 iterations of the optimisation (95 % interval: 17 to 40)",
        "times the objective after 100 iterations (cpu bf16): content 1.25, style 3.75",
        "7.1 s for 100 iterations",
        "1 h 2 min",
        "on the same photos, it is worth 22 iterations of the optimisation.",
        "Geometric means over 2 photos of 48 pixels,",
        "Geometric means over 1 photo. The",
        "photos cut from their originals at 96 pixels",
        "Left out: 3 too small, 1 vanished.",
        "the fast model is worth 11 iterations of the optimisation.",
    ):
        assert figure in text


def test_the_same_input_gives_the_same_bytes(report: str, given: dict[str, Any]) -> None:
    assert render(Report(**given)) == report


def test_the_painting_alone_is_enough(given: dict[str, Any]) -> None:
    report = render(Report(title=given["title"], style=given["style"], run={}, recipe=""))
    assert [tag for tag, _ in Page(report).tags if tag in {"section", "svg", "dl"}] == []


@pytest.mark.parametrize("nothing", [math.nan, None, math.inf])
def test_numbers_may_be_missing(given: dict[str, Any], nothing: Any) -> None:
    nowhere = dict.fromkeys(("total", "content", "style", "distance", "ssim"), nothing)
    evaluation = dict.fromkeys(("photo", "optimised", "model"), nowhere) | {
        "photos": 1,
        "curve": [nothing, 3.0, 2.0, nothing],
        "worth_iterations": None,
        "worth_interval": [None, None],
        "verdict": "worse than the photo",
        "seconds_per_image": {"model": nothing, "optimised": 0.0},
        "larger": {"size": 96, "photos": 0, "left_out": {"vanished": 1}},
    }
    triple = given["triples"][0]
    triple = Triple(triple.name, triple.photo, triple.optimised, triple.model, {"photo": nowhere})
    history = [{"step": 1, "loss": nothing, "style": 1.0}, {"step": 2, "loss": 1.0, "style": 1.0}]
    dataset = replace(given["dataset"], counts={"ok": 1}, bad=[], total_loss=[nothing, 1.0, 1.0])
    changed = {"triples": [triple], "evaluation": evaluation, "history": history, "dataset": dataset}
    report = render(Report(**given | changed | {"speed": None, "run": {"seconds": nothing}}))
    page = Page(report)
    assert "the fast model is worse than the photo." in page.words()
    assert "Left out: 1 vanished. No photo is left." in page.words()
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 3


def _against(usual: list[float]) -> dict[str, Any]:
    """An evaluation beside a baseline of this curve."""
    way = {"curve": [5.0, 3.0], "worth_iterations": 1}
    return {"baseline": {"model": {"total": 4.5}, "lbfgs": way | {"curve": usual}, "engine": way}}


@pytest.mark.parametrize(
    "evaluation",
    [
        {"curve": [5.0, 4.0], "model": {"total": 3.0}},  # better than all of it
        {"curve": [5.0, 4.0], "model": {"total": 6.0}},  # worse
        {"curve": [0.0, 0.0, 0.0], "model": {"total": 0.0}},
        {"curve": [5.0] * 3, "model": {"total": 5.0}},
        {"curve": [-1.0, -2.0], "model": {"total": -1.5}},
        {"curve": [10.0**-step for step in range(9)], "model": {"total": 1e-4}},
        *map(_against, ([5.0, 4.0], [0.0, 0.0], [math.nan, 5.0, 4.0], [5.0, math.nan], [])),
    ],
    ids=str,
)
def test_any_curve_can_be_drawn(given: dict[str, Any], evaluation: dict[str, Any]) -> None:
    nothing = {"dataset": None, "history": [], "triples": []}
    Page(render(Report(**given | nothing | {"evaluation": {"worth_iterations": 1, **evaluation}})))


def test_a_contact_sheet_is_a_grid_of_squares() -> None:
    wide = _picture("goldfish", shape=(64, 32))
    sheet = Image.open(BytesIO(contact_sheet([[wide, wide, wide], [wide]], side=32)))
    assert (sheet.format, sheet.size) == ("JPEG", (3 * 32 + 2, 2 * 32 + 1))
    assert Image.open(BytesIO(contact_sheet([[wide] * 3], side=256))).size == (3 * 256 + 8, 256)
    assert contact_sheet([[wide]], 32) == contact_sheet([[wide]], 32)


def test_a_painting_stands_whole_above_a_contact_sheet() -> None:
    square, tall = _picture("goldfish", shape=(32, 32)), _picture("chelsea", shape=(50, 100))
    sheet = Image.open(BytesIO(contact_sheet([[square] * 3], side=32, style=tall)))
    assert sheet.size == (3 * 32 + 2, 64 + 1 + 32)  # as wide as the row, or twice as high as it
    white = (np.asarray(sheet)[:64] > 250).all((0, 2))
    assert white[:30].all()  # but for what JPEG makes of a border
    assert white[-24:].all()
    assert not white[34:64].any()
