"""Laws of the page that paints in a browser: the painter's pixels, nothing sent anywhere, errors in words."""

import json
import os
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from batch_nst import load_model
from batch_nst.data.images import codec
from batch_nst.data.images.blend import Blend
from batch_nst.data.models import registry
from batch_nst.data.models.files import read_model, zoo_names
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.model_io import stylize_image, weights_of
from batch_nst.engine.fast_model.network import read_weights
from batch_nst.engine.fast_model.onnx_graph import onnx_bytes
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.errors import RecipeError
from batch_nst.pipelines import commands
from batch_nst.pipelines.reports import painter
from batch_nst.pipelines.zoo import export_zoo
from batch_nst.recipe import Recipe
from tests.support import fake_night
from tests.support.browser import Browser
from tests.support.calls import Call
from tests.support.photos import DISPLAY_P3
from tests.support.places import ROOT, SAMPLES
from tests.support.static_site import static_site

PARTS = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE = {
    *("index.html", "page.css", "page.js", "worker.js", "model.onnx", "sample.jpg", "LICENSES.txt"),
    *("onnxruntime/ort.wasm.min.js", "onnxruntime/ort-wasm-simd-threaded.js"),
    *("onnxruntime/ort-wasm-simd-threaded.wasm", "onnxruntime/LICENSE"),
}
DONE = "document.querySelector('#status').textContent.startsWith('Painted ')"
WRONG = "(document.querySelector('#status.wrong')?.textContent ?? '')"


def package(folder: Path, **changes: str) -> Path:
    """A folder that looks like the npm package."""
    (folder / "dist").mkdir(parents=True)
    about = {"name": "onnxruntime-web", "version": "1.30.0", "license": "MIT"} | changes
    (folder / "package.json").write_text(json.dumps(about))
    for name in PARTS:
        (folder / "dist" / name).write_text(f"the bytes of {name}")
    return folder


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, Store, str]:
    monkeypatch.chdir(tmp_path)
    return fake_night.finish(fake_night.begin(tmp_path), {"0.png": 1.0})


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_page_is_all_that_a_static_server_needs_and_can_be_written_again(
    trained: tuple[Recipe, Store, str], tmp_path: Path
) -> None:
    recipe, store, version = trained
    runtime = package(tmp_path / "npm")
    figures = commands.export(recipe, page="site/here", runtime=str(runtime))
    site = tmp_path / "site" / "here"
    assert figures["page"] == "site/here/index.html"  # type: ignore[typeddict-item]
    assert names(site) == PAGE
    assert (site / "model.onnx").read_bytes() == store.read(registry.model_object(version, registry.GRAPH))
    for name in PARTS:
        copied = site / "onnxruntime" / name.replace(".mjs", ".js")
        assert copied.read_bytes() == (runtime / "dist" / name).read_bytes()
    index, licences = (site / "index.html").read_text(), (site / "LICENSES.txt").read_text()
    assert f"Model {version}" in index
    assert "http" not in index.replace("http-equiv", "").replace("http.server", "").replace(
        "http://localhost:8000", ""
    )
    for words in (version, "the weights: unknown", "onnxruntime-web 1.30.0", "CC0", "MIT License"):
        assert words in licences
    assert "Microsoft" in (site / "onnxruntime" / "LICENSE").read_text()
    (site / "index.html").write_text((site / "index.html").read_text().replace(version, "an older one"))
    commands.export(recipe, page="site/here", runtime=str(runtime))
    assert (site / "index.html").read_text() == index
    assert "page" not in commands.export(recipe)


def test_names_are_shown_as_they_are() -> None:
    card = {"version": "1", "licenses": {"weights": "A & B", "style": "<c>", "photos": "unknown"}}
    runtime = painter.Runtime("1.30.0", {})
    title = painter.title_of("s3://x/<b>Evil_&.jpg")
    parts = painter.page_files([painter.PageModel(title, card, b"")], runtime)  # type: ignore[arg-type]
    assert b"&lt;b&gt;Evil &amp;</h1>" in parts["index.html"]
    assert b"the weights: A & B\n" in parts["LICENSES.txt"]
    assert list(parts)[-1] == "index.html"


def test_a_licence_of_the_package_is_its_own(tmp_path: Path) -> None:
    folder = package(tmp_path / "npm", license="Other")
    with pytest.raises(RecipeError, match="has the licence Other and no file LICENSE; allowed: MIT, or "):
        painter.page_place(str(tmp_path / "site"), str(folder))
    (folder / "LICENSE").write_text("as you like")
    place = painter.page_place(str(tmp_path / "site"), str(folder))
    assert place is not None
    assert place.runtime.files["onnxruntime/LICENSE"] == b"as you like"


FETCH = "`npm install onnxruntime-web`, then --runtime node_modules/onnxruntime-web"


@pytest.mark.parametrize("name", ["package.json", *(f"dist/{name}" for name in PARTS)])
def test_a_package_that_lacks_a_file_is_refused_with_the_way_to_get_it(tmp_path: Path, name: str) -> None:
    folder = package(tmp_path / "npm")
    (folder / name).unlink()
    with pytest.raises(RecipeError) as refused:
        painter.page_place(str(tmp_path / "site"), str(folder))
    assert str(refused.value).startswith(f"--runtime {folder}: {name}: No such file or directory; allowed: ")
    assert FETCH in str(refused.value)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": "1.19.9"}, "is version 1.19.9; allowed: "),
        ({"version": "0.30.0"}, "is version 0.30.0; allowed: "),
        ({"version": "new"}, "package.json names no package; allowed: "),
        ({"name": "onnxruntime-node"}, "is the package onnxruntime-node; allowed: "),
        ({"version": "2.0.0-dev.1"}, ""),
        ({"version": "1.20.0"}, ""),
    ],
)
def test_an_old_or_another_package_is_refused(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    folder = package(tmp_path / "npm", **changes)
    if not told:
        assert painter.page_place(str(tmp_path / "site"), str(folder))
        return
    with pytest.raises(RecipeError) as refused:
        painter.page_place(str(tmp_path / "site"), str(folder))
    assert str(refused.value).startswith(f"--runtime {folder}: {told}")
    assert "1.20 or newer" in str(refused.value)
    assert FETCH in str(refused.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "recipe.yaml --page site",
            f"--page site: needs --runtime FOLDER, the npm package onnxruntime-web, 1.20 or newer: {FETCH}",
        ),
        ("recipe.yaml --runtime npm", "--runtime npm: is for a page; allowed: beside --page DIR"),
        (
            "recipe.yaml --page file --runtime npm",
            "--page file: file is a file; allowed: a folder of this machine",
        ),
        ("recipe.yaml --page file/x --runtime npm", "file is a file; allowed: a folder of this machine"),
        ("recipe.yaml --page full --runtime npm", "--page full: holds other files; allowed: a folder of"),
        ("recipe.yaml --page s3://a/b --runtime npm", "--page s3://a/b: is no path; allowed: a folder of"),
        ("recipe.yaml --page site --runtime nowhere", "--runtime nowhere: package.json: No such file or"),
        ("--zoo", "--zoo: writes a page of all models of the zoo; allowed: with --page DIR"),
        ("recipe.yaml --zoo", "--zoo: given with the recipe recipe.yaml; allowed: one of the two"),
        ("--page site --runtime npm", "RECIPE: missing; allowed: a recipe, or --zoo"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_written(
    trained: tuple[Recipe, Store, str], tmp_path: Path, call: Call, given: str, told: str
) -> None:
    package(tmp_path / "npm")
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "index.html").write_text("<html>mine")
    before = names(tmp_path)
    ended = call("export", *given.split(), folder=tmp_path)
    assert ended.code == 2
    assert told in ended.stderr
    assert names(tmp_path) == before


def test_a_wheel_has_all_that_a_page_is_made_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folder = ROOT / "batch_nst"
    packed = {
        path
        for glob in project["tool"]["setuptools"]["package-data"]["batch_nst"]
        for path in folder.glob(glob)
    }
    templates = {path for path in (folder / "pipelines/reports/templates").iterdir() if path.is_file()}
    assert templates <= packed


def test_a_page_of_the_zoo_has_every_model_and_its_painting(tmp_path: Path, call: Call) -> None:
    site, runtime = tmp_path / "site", package(tmp_path / "npm")
    figures = call("export", "--zoo", "--page", site, "--runtime", runtime).figures
    assert (figures["page"], figures["models"]) == (str(site / "index.html"), zoo_names())
    graphs = {f"models/{name}.onnx" for name in zoo_names()}
    paintings = {f"models/{name}.jpg" for name in zoo_names()}
    assert names(site) == PAGE - {"model.onnx"} | graphs | paintings
    for name in zoo_names():
        files = read_model(f"zoo:{name}")
        graph = onnx_bytes(read_weights(files.weights, files.card), files.card["architecture"]["name"])
        assert (site / f"models/{name}.onnx").read_bytes() == graph
        assert files.card["version"] in (site / "LICENSES.txt").read_text()


# --- in a real browser, with the real package


@pytest.fixture(scope="module")
def runtime() -> Path:
    folder = Path(os.environ.get("ONNXRUNTIME_WEB") or ROOT / "node_modules" / "onnxruntime-web")
    if not (folder / "package.json").is_file():
        pytest.skip("no onnxruntime-web (npm install --no-save onnxruntime-web, or set ONNXRUNTIME_WEB)")
    return folder


@pytest.fixture(scope="module")
def net() -> TransformerNet:
    torch.manual_seed(0)
    net = TransformerNet(4)
    with torch.no_grad():
        net.head.weight *= 4  # so that black and white are overshot
    return net.eval()


@pytest.fixture(scope="module")
def site(net: TransformerNet, runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page that `export` has written."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recipe, store, version = fake_night.finish(fake_night.begin(folder), {"0.png": 1.0})
        card = registry.require_card(store, version)
        graph = registry.write_part(store, version, registry.GRAPH, onnx_bytes(weights_of(net), net.network))
        card["digests"][registry.GRAPH] = graph
        registry.write_card(store, version, card)
        commands.export(recipe, page="page", runtime=str(runtime))
    with static_site(folder / "page") as address:
        yield address


def photo_of(shape: tuple[int, int], mode: str = "RGB") -> Image.Image:
    with Image.open(SAMPLES / "content" / "coffee.jpg") as image:
        photo = image.resize(shape).convert(mode)
    if mode == "RGBA":
        photo.putalpha(Image.linear_gradient("L").resize(shape))
    return photo


def paint(browser: Browser, photo: Path) -> str:
    """Choose a photo, wait until it is painted or refused, and read what the page says."""
    browser.choose("#file", photo)
    browser.until(f"{DONE} || {WRONG}")
    return str(browser.value("document.querySelector('#status').textContent"))


def blend(browser: Browser, percent: int) -> None:
    browser.value(f"(strength.value = {percent}, strength.dispatchEvent(new Event('input')))")


def saved(browser: Browser, folder: Path, name: str) -> codec.Pixels:
    """The picture that the page saves."""
    browser.save_into(folder)
    file = folder / name
    file.unlink(missing_ok=True)
    browser.click("#save")
    end = time.monotonic() + 30
    while not file.is_file():
        assert time.monotonic() < end, list(folder.iterdir())
        time.sleep(0.05)
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_browser_paints_what_the_painter_does_and_asks_nobody_else(
    browser: Browser, site: str, net: TransformerNet, tmp_path: Path, mode: str
) -> None:
    photo_of((96, 72), mode).save(tmp_path / "cup.png")
    photo = codec.decode(
        (tmp_path / "cup.png").read_bytes(), min_side=16, max_bytes=1 << 20, max_pixels=10**6
    )
    expected = stylize_image(net, torch.from_numpy(photo)).numpy()
    look = browser.look(site, 390)
    assert 370 < look.width <= 390
    assert paint(browser, tmp_path / "cup.png").startswith("Painted 96 x 72 pixels in ")
    painted = saved(browser, tmp_path, "cup-painted.png")
    assert painted.shape == expected.shape
    apart = np.abs(painted.astype(int) - expected)
    assert apart.mean() < (0.02 if mode == "RGB" else 1)
    assert (apart <= 1).mean() > (0.999 if mode == "RGB" else 0.99)
    look = browser.seen()
    assert 370 < look.width <= 390
    assert look.troubles == []
    assert {url for url in look.requests if not url.startswith(("blob:", site))} == set()
    assert f"{site}model.onnx" in look.requests  # those of the worker are seen
    blend(browser, 40)
    mixed = saved(browser, tmp_path, "cup-painted.png")
    if mode == "RGB":
        np.testing.assert_array_equal(mixed, Blend(strength=0.4).of(photo, painted))
    blend(browser, 0)
    shown = saved(browser, tmp_path, "cup-painted.png")
    assert np.abs(shown.astype(int) - photo).max() <= (0 if mode == "RGB" else 1)


def test_the_colours_of_a_profile_are_nearly_those_of_the_decoder(
    browser: Browser, site: str, tmp_path: Path
) -> None:
    photo_of((96, 72)).save(tmp_path / "wide.png", icc_profile=DISPLAY_P3)
    data = (tmp_path / "wide.png").read_bytes()
    expected = codec.decode(data, min_side=16, max_bytes=1 << 20, max_pixels=10**6).astype(int)
    with Image.open(tmp_path / "wide.png") as image:
        assert np.abs(expected - np.array(image)).max() > 20  # the profile counts
    browser.look(site, 1280)
    paint(browser, tmp_path / "wide.png")
    blend(browser, 0)
    shown = saved(browser, tmp_path, "wide-painted.png")
    assert np.abs(shown - expected).max() <= 2


def test_neither_page_nor_worker_can_reach_another_host(browser: Browser, site: str) -> None:
    browser.look(site, 1280)
    other = "http://localhost:9/"
    script = f"fetch('{other}').then(() => 'reached', error => String(error))"
    assert "TypeError" in browser.value(script)
    worker = (
        f"new Promise(done => {{ const worker = new Worker(URL.createObjectURL(new Blob([`fetch('{other}')"
        ".then(() => 'reached', () => 'failed'); addEventListener('securitypolicyviolation', event => "
        "postMessage(event.violatedDirective))`], {type: 'text/javascript'})), {type: 'module'});"
        " worker.onmessage = ({data}) => done(data); })"
    )
    assert browser.value(worker) == "connect-src"


def test_what_cannot_be_painted_is_said_in_words(browser: Browser, site: str, tmp_path: Path) -> None:
    browser.look(site, 390, dark=True)
    photo_of((300, 15)).save(tmp_path / "thin.png")
    (tmp_path / "text.png").write_text("no picture")
    browser.choose("#file", tmp_path / "thin.png")
    browser.until(WRONG)
    assert browser.value(WRONG) == "thin.png has 300 x 15 pixels; both sides need 16 or more."
    browser.choose("#file", tmp_path / "text.png")
    browser.until(f"{WRONG}.startsWith('text.png is no picture that this browser can read')")
    assert browser.seen().width <= 390


def test_a_large_photo_is_scaled_down_with_a_word_and_turned_upright(
    browser: Browser, site: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo_of((1000, 800)).save(tmp_path / "large.jpg", exif=exif)
    browser.look(site, 1280)
    browser.value("(most.value = '500000', 0)")
    told = paint(browser, tmp_path / "large.jpg")
    assert told.startswith("Painted 632 x 790 pixels in ")
    assert told.endswith("The photo has 800 x 1000 pixels, and was scaled down.")
    browser.click("#sample")
    browser.until("document.querySelector('#status').textContent.startsWith('Painted 451 x 300 ')")
    assert browser.seen().troubles == []


def test_keys_and_the_mouse_move_the_divider_and_keys_reach_every_control(
    browser: Browser, site: str
) -> None:
    browser.look(site, 1280)
    browser.click("#sample")
    browser.until(DONE)
    # Where the first key leads differs between versions of Chromium.
    reached = [browser.value("(file.focus(), document.activeElement.id)")]
    for _ in range(6):
        browser.press("Tab", 9)
        reached.append(browser.value("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["file", "sample", "most", "divider", "strength", "save", "A"]
    unnamed = browser.value(
        "[...document.querySelectorAll('input, select, button, progress')]"
        ".filter(each => !each.labels?.length && !each.ariaLabel && !each.textContent.trim()).length"
    )
    assert unnamed == 0
    browser.value("(frame.scrollIntoView(), 0)")
    left, top, width = browser.value(
        "(({left, top, width}) => [left, top, width])(frame.getBoundingClientRect())"
    )
    browser.drag((left + width / 2, top + 40), (left + width / 4, top + 40))
    divider = "[Math.round(divider.value), frame.style.getPropertyValue('--at')]"
    assert browser.value(divider)[0] == 25
    browser.press("ArrowRight", 39)
    assert browser.value(divider) == [26, "26%"]


def test_nothing_keeps_anyone_from_painting(browser: Browser, site: str, axe: str, tmp_path: Path) -> None:
    photo_of((96, 72)).save(tmp_path / "cup.png")
    browser.look(site, 390)
    assert browser.faults(axe) == []
    paint(browser, tmp_path / "cup.png")
    assert browser.faults(axe) == []


def test_a_painting_of_the_zoo_is_chosen_and_paints(
    browser: Browser, runtime: Path, axe: str, tmp_path: Path
) -> None:
    photo_of((48, 40)).save(tmp_path / "cup.png")
    export_zoo(str(tmp_path / "page"), str(runtime))
    with static_site(tmp_path / "page") as address:
        browser.look(address, 390)
        painted = []
        for number, name in enumerate(zoo_names()[:2]):
            browser.value(f"(document.querySelectorAll('input[name=model]')[{number}].click(), 0)")
            assert browser.value("document.querySelector('h1').textContent") == name.replace("_", " ")
            if not painted:
                browser.choose("#file", tmp_path / "cup.png")  # the second one paints it by itself
            browser.until(f"{DONE} || {WRONG}")
            painted.append(saved(browser, tmp_path, "cup-painted.png"))
            expected = load_model(f"zoo:{name}", precision="fp32")(np.asarray(photo_of((48, 40))))
            assert (np.abs(painted[-1].astype(int) - expected) <= 1).mean() > 0.999
        assert browser.faults(axe) == []
        look = browser.seen()
        assert (look.width <= 390, look.troubles) == (True, [])
