"""Laws of `apply`: generation's decoding and accounting, names and formats kept, resumed, never mixed."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from batch_nst.data.images import codec
from batch_nst.data.images.blend import Blend
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.sandbox import Limits
from batch_nst.data.models import registry
from batch_nst.data.models.files import read_model
from batch_nst.data.sources.photos import Photo
from batch_nst.data.storage import fetch
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model import compiled
from batch_nst.engine.fast_model.compiled import best_backend, is_half
from batch_nst.engine.fast_model.model_io import model_bytes, stylize_image
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.errors import IncompleteError, RecipeError, WeightsError
from batch_nst.figures import JsonObject, as_json
from batch_nst.pipelines import inference
from batch_nst.pipelines.apply import tasks
from batch_nst.pipelines.apply.run import RECORD, apply
from batch_nst.pipelines.apply.tasks import (
    Outcome,
    PictureRecord,
    PictureTask,
    chunks_of,
    decode_photos,
    target_name,
)
from batch_nst.pipelines.generate.decode import Attempt
from batch_nst.pipelines.inference import FastModel, load_model
from batch_nst.recipe import NETWORKS, Network
from tests.support.photos import FORBIDDEN, KINDS, LIMITS, MAX_SECONDS, VANISHED, file_name, turned
from tests.support.places import ROOT
from tests.support.served import served
from tests.support.web_server import WebServer

SIZE = (44, 60)
ORIENTATION = 0x0112  # of EXIF


def publish(root: Path, seed: int, width: int = 4, network: Network = "johnson") -> str:
    """An untrained model; its address."""
    torch.manual_seed(seed)
    store, net = Store(str(root)), TransformerNet(width, network)
    digest = registry.write_part(store, "v", registry.WEIGHTS, model_bytes(net))
    card = {
        "version": "v",
        "architecture": {"name": network, "width": width},
        "digests": {registry.WEIGHTS: digest},
    }
    registry.write_card(store, "v", card)
    registry.point(store, "v", {}, 1)
    return store.uri


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return publish(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="module")
def loaded(model: str) -> FastModel:
    """What paints, in the precision of `paint`."""
    return load_model(model, "cpu", "fp32")


def noise(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def load(path: Path) -> Pixels:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.array(picture)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def assert_close(shown: Pixels, expected: Pixels) -> None:
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).max() <= 1


def assert_close_jpeg(shown: Path, expected: Pixels) -> None:
    assert np.abs(load(shown).astype(int) - codec.as_stored(expected, "jpeg")).mean() < 1


def paint(model: str, source: Path | str, target: Path | str, **options: Any) -> JsonObject:
    return as_json(apply(model, str(source), str(target), "cpu", **{"precision": "fp32", **options}))


def run_python(*words: object) -> str:
    """What it prints; it ends well."""
    ran = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# One picture, without Ray


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    save(tmp_path / "photo.png", noise(0))
    return tmp_path / "photo.png"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "painted.png"


@pytest.mark.parametrize(
    ("suffix", "format"), [("jpg", "JPEG"), ("jpeg", "JPEG"), ("png", "PNG"), ("WEBP", "WEBP")]
)
def test_the_suffix_of_the_target_is_the_format(
    model: str, loaded: FastModel, photo: Path, suffix: str, format: str
) -> None:
    target = photo.with_name(f"painted.{suffix}")
    figures = paint(model, photo, target)
    counts = {"found": 1, "ok": 1, "rejected": 0, "failed": 0, "pending": 0, "made": 1}
    assert figures == {**counts, "reasons": {}}
    with Image.open(target) as picture:
        assert picture.format == format
    if format == "JPEG":
        assert_close_jpeg(target, loaded(noise(0)))
    else:
        assert_close(load(target), loaded(noise(0)))


WITHOUT = """
import sys
sys.modules.update(torch=None, ray=None)
from batch_nst.pipelines.apply.run import apply
apply(*sys.argv[1:], precision="fp32")
"""


def test_one_picture_needs_neither_torch_nor_ray(
    model: str, loaded: FastModel, photo: Path, target: Path
) -> None:
    run_python("-W", "error", "-c", WITHOUT, model, photo, target)
    assert_close(load(target), loaded(noise(0)))


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_paints(network: Network, tmp_path: Path, photo: Path, target: Path) -> None:
    paint(publish(tmp_path, seed=0, network=network), photo, target)
    torch.manual_seed(0)
    expected = stylize_image(TransformerNet(4, network).eval(), torch.from_numpy(noise(0))).numpy()
    assert_close(load(target), expected)


def test_colours_and_strength_are_those_asked_for(
    model: str, loaded: FastModel, photo: Path, target: Path
) -> None:
    pixels, painting = noise(0), loaded(noise(0)).astype(float)
    paint(model, photo, target, strength=0)
    np.testing.assert_array_equal(load(target), pixels)
    paint(model, photo, target, strength=0.25)
    assert np.abs(load(target) - (0.75 * pixels + 0.25 * painting)).max() < 0.8
    paint(model, photo, target, keep_colors=True)
    kept = np.clip(pixels + (painting - pixels) @ np.array([[0.299], [0.587], [0.114]]), 0, 255)
    assert np.abs(load(target) - kept).max() < 1.6


def test_a_large_picture_is_painted_in_tiles_and_is_the_same(
    model: str, loaded: FastModel, photo: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (560, 530, 3), np.uint8)
    save(photo, pixels)
    for backend in ("torch", "openvino"):
        monkeypatch.setitem(compiled.MAX_WHOLE, backend, 1)
    paint(model, photo, target)
    assert_close(load(target), stylize_image(loaded.net, torch.from_numpy(pixels)).numpy())


MEGAPIXELS = int(os.environ.get("MEGAPIXELS", "3"))

PEAK = """
import sys
from pathlib import Path
from batch_nst.pipelines import inference
from batch_nst.pipelines.apply.run import apply
inference.MAX_WHOLE["openvino"] = inference.MAX_WHOLE["torch"] = 1  # in tiles, however small
apply(*sys.argv[1:], device="cpu")
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""
"""Paints, and prints the most KiB that its process held; `getrusage` would count its parent's as well."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("network", "fp32", "bf16"), [("johnson", 140, 120), ("skip", 232, 232)])
def test_a_megapixel_in_tiles_takes_so_many_bytes(
    network: Network, fp32: int, bf16: int, tmp_path: Path
) -> None:
    """By networks of the default width; at once Johnson's takes 640. `make megapixels` does it with 40."""
    model = publish(tmp_path / "model", seed=0, width=32, network=network)
    sizes, peaks = [(1250, 800), (8000, 125 * MEGAPIXELS)], []
    with Image.open(ROOT / "jobs" / "samples" / "content" / "great_wall.jpg") as photo:
        for size in sizes:
            photo.resize(size).save(tmp_path / "large.jpg")
            kib = run_python("-c", PEAK, model, tmp_path / "large.jpg", tmp_path / "painted.jpg")
            with Image.open(tmp_path / "painted.jpg") as painted:
                assert painted.size == size
            peaks.append(1024 * int(kib))
    pixels = [math.prod(size) for size in sizes]
    print(f"{network}, {pixels} pixels: {peaks} bytes")
    assert peaks[1] - peaks[0] < (bf16 if is_half("auto") else fp32) * (pixels[1] - pixels[0])


def test_a_picture_that_the_net_cannot_reach_across_says_so(
    model: str, photo: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(photo, np.zeros((15, 200, 3), np.uint8))
    with pytest.raises(IncompleteError, match="1 of 1 pictures were not stylized") as ended:
        paint(model, photo, target)
    assert ended.value.figures["reasons"] == {"too_small": 1}
    assert "photo.png: too_small: PNG of 200 x 15 pixels; least side: 16" in capsys.readouterr().err
    assert not target.exists()
    save(photo, noise(0)[:16, :16])
    assert paint(model, photo, target)["ok"] == 1


def test_what_a_format_cannot_hold_is_refused(model: str, tmp_path: Path) -> None:
    save(tmp_path / "long.png", np.zeros((16, 16_384, 3), np.uint8))
    with pytest.raises(IncompleteError) as ended:
        paint(model, tmp_path / "long.png", tmp_path / "painted.webp")
    assert ended.value.figures["reasons"] == {"too_large_for_format": 1}
    assert list(tmp_path.glob("painted*")) == []


def test_a_copy_of_a_models_folder_is_that_model_wherever_it_lies(model: str, tmp_path: Path) -> None:
    shutil.copytree(Path(model) / "models" / "v", tmp_path / "my painter")
    copied = read_model(str(tmp_path / "my painter"))
    assert copied == replace(read_model(model), home=str(tmp_path / "my painter"))
    assert read_model(f"{model}/models/v/") == read_model(model)


def test_a_picture_directly_below_the_root_is_written_there(
    model: str, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[str] = []

    def written(record: PictureRecord, target: Store) -> Outcome:
        places.append(target.join(record.name))
        return Outcome(record.uri, record.name, "ok")

    monkeypatch.setattr("batch_nst.pipelines.apply.single.write_picture", written)
    monkeypatch.chdir(tmp_path)
    for target in ("/painted.png", "painted.png", "a/painted.png"):
        paint(model, photo, target)
    assert places == ["//painted.png", str(tmp_path / "painted.png"), str(tmp_path / "a/painted.png")]


def test_what_memory_does_not_hold_is_painted_in_tiles_or_is_a_failed_picture(
    model: str, loaded: FastModel, photo: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    expected = loaded(noise(0))
    monkeypatch.setattr(compiled, "is_installed", lambda: False)
    monkeypatch.setattr(inference, "stylize_image", full)
    paint(model, photo, target)
    assert_close(load(target), expected)
    monkeypatch.setattr(inference, "stylize_tiles", full)
    with pytest.raises(IncompleteError) as ended:
        paint(model, photo, target)
    assert (ended.value.figures["failed"], ended.value.figures["reasons"]) == (1, {"out_of_memory": 1})


NAMES = ["photo.jfif", "0a1b2c3d", "photo[1].jpg", "what?.png", "two words"]


@pytest.mark.parametrize("name", NAMES)
def test_one_picture_is_painted_whatever_it_is_called(
    model: str, loaded: FastModel, tmp_path: Path, target: Path, name: str
) -> None:
    photo = tmp_path / name
    photo.write_bytes(png(noise(0)))
    for place in ("", "file://"):
        assert paint(model, f"{place}{photo}", target)["made"] == 1
        assert_close(load(target), loaded(noise(0)))
    if name.endswith((".jpg", ".png")):
        with pytest.raises(RecipeError, match=r"^OUT: .*which lies in IN"):
            paint(model, photo, photo)
    with pytest.raises(
        RecipeError, match=r"^OUT: given .*allowed for one picture: a name that ends in \.jpg"
    ):
        paint(model, photo, tmp_path / "out")
    assert photo.read_bytes() == png(noise(0))


def test_a_url_with_a_query_is_one_picture(
    model: str, loaded: FastModel, tmp_path: Path, target: Path
) -> None:
    with served(WebServer()) as web:
        web.answer = lambda asked: png(noise(0)) if asked.path == "/photo?id=7&size=large" else 404
        paint(model, f"{web.url}/photo?id=7&size=large", target)
        assert_close(load(target), loaded(noise(0)))
        with pytest.raises(RecipeError, match=r"^IN: http://.* there is no such file"):
            paint(model, f"{web.url}/photo?id=8", tmp_path / "other.png")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("target", ["painted.png", "painted"])
@pytest.mark.parametrize("source", ["nope.jpg", "nope", "a.png/nope.jpg", "x" * 300])
def test_a_misspelt_picture_is_told_as_that(model: str, tmp_path: Path, source: str, target: str) -> None:
    save(tmp_path / "a.png", noise(0))
    with pytest.raises(RecipeError, match=r"^IN: .*: there is no such file"):
        paint(model, tmp_path / source, tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_folders_and_files_of_photos_are_no_one_picture_whatever_they_are_called(
    model: str, tmp_path: Path
) -> None:
    save(tmp_path / "folder.jpg" / "a.png", noise(0))
    (tmp_path / "a.parquet").touch()
    (tmp_path / "list.txt").touch()
    for source in ("folder.jpg", "a.parquet", "list.txt", "folder.jpg/*.png", "nowhere*"):
        with pytest.raises(RecipeError, match=r"^OUT: .*; allowed for a folder of pictures: a folder$"):
            paint(model, tmp_path / source, tmp_path / "painted.png")


def test_a_damaged_model_is_refused_in_one_line(model: str, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "models" / "v" / registry.WEIGHTS).write_bytes(b"damaged")
    save(tmp_path / "in" / "photo.png", noise(0))
    for source, target in (("in/photo.png", "x/painted.png"), ("in", "x")):
        with pytest.raises(WeightsError, match="sha256"):
            paint(str(tmp_path / "model"), tmp_path / source, tmp_path / target)
    assert not (tmp_path / "x").exists()


# From bytes to pixels


def test_every_kind_of_photo_has_the_outcome_that_it_has_in_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LIMITS", Limits(**LIMITS, max_seconds=MAX_SECONDS))  # those of the table
    kinds = [name for name in KINDS if name not in (VANISHED, FORBIDDEN)]
    for name in kinds:
        (tmp_path / file_name(name)).write_bytes(KINDS[name].data)
    photos = [Photo(name, str(tmp_path / file_name(name)), "") for name in [*kinds, VANISHED]]
    chunks = chunks_of(PictureTask(photo, "out.png") for photo in photos)
    records = [record for chunk in chunks for record in decode_photos(chunk)]
    assert sum(map(len, chunks)) == len(records)
    told = {record.uri: (record.status, record.reason) for record in records}
    assert told == {
        photo.source: (KINDS[photo.key].status, KINDS[photo.key].reason or "") for photo in photos
    }
    for record, photo in zip(records, photos, strict=True):
        if record.status == "ok":
            assert record.pixels == codec.decode(KINDS[photo.key].data, **LIMITS).tobytes()
        else:
            assert record.detail


def attempts(deaths: dict[str, int]) -> tuple[Attempt, list[str]]:
    """Steps that have ended so many workers, and those that were begun."""
    steps: list[str] = []

    @contextmanager
    def attempt(step: str) -> Iterator[int]:
        steps.append(step)
        yield deaths.get(step, 0)

    return attempt, steps


def test_of_photos_read_together_the_one_that_ends_workers_is_given_up(tmp_path: Path) -> None:
    names = ("a.png", "b.png")
    for name in names:
        save(tmp_path / name, noise(0))
    (chunk,) = chunks_of(PictureTask(Photo(name, str(tmp_path / name), ""), name) for name in names)
    deaths = {"decode b.png": 3}
    attempt, steps = attempts(deaths)
    assert [record.status for record in decode_photos(chunk, attempt)] == ["ok", "ok"]
    assert steps == ["decode from a.png on"]
    deaths["decode from a.png on"] = 1
    good, bad = decode_photos(chunk, attempt)
    assert steps[1:] == ["decode from a.png on", "decode a.png", "decode b.png"]
    assert good.status == "ok"
    assert (bad.status, bad.reason, bad.detail) == ("failed", "worker_died", "it has ended 3 workers")
    assert tasks.stylize_picture(bad, lambda: np.copy, Blend()) == bad


def test_an_outage_is_no_bad_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_DELAY", 0.01)
    (chunk,) = chunks_of([PictureTask(Photo("a.png", "http://127.0.0.1:1/a.png", ""), "a.png")])
    (record,) = decode_photos(chunk)
    assert (record.status, record.reason, record.pixels) == ("pending", "", b"")
    assert record.detail.startswith("cannot read http://127.0.0.1:1/a.png: 5 attempts")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("a.parquet/7", "a.parquet/7.png"),
        ("a.tar/../../etc/b.jpg", "a.tar/etc/b.jpg"),
        ("/photos/./b.jpg", "photos/b.jpg"),
        ("s3://photos/b.jpg", "s3:/photos/b.jpg"),
    ],
)
def test_a_painted_picture_lies_below_its_target(key: str, name: str) -> None:
    assert target_name(key) == name


def test_small_pictures_share_a_row_and_a_large_one_has_its_own() -> None:
    sizes = [3 << 20, 3 << 20, 3 << 20, 1 << 20, 20 << 20, 1 << 20]
    records = [PictureRecord("", str(number), pixels=bytes(size)) for number, size in enumerate(sizes)]
    rows = list(tasks.rows_of(records))
    assert [[one["name"] for one in row["pictures"]] for row in rows] == [["0", "1", "2"], ["3", "4"], ["5"]]
    assert [record for row in rows for record in tasks.records_in(row)] == records


def test_pictures_of_a_row_are_one_attempt_until_a_worker_dies_at_them() -> None:
    records = [PictureRecord("", name) for name in ("a.png", "b.png")]
    deaths: dict[str, int] = {}
    attempt, steps = attempts(deaths)

    def stylize(record: PictureRecord, each: Attempt) -> PictureRecord:
        with each(f"stylize {record.name}"):
            return record

    assert tasks.stylize_pictures(records, stylize, attempt) == records
    assert steps == ["stylize from a.png on"]
    deaths["stylize from a.png on"] = 1
    assert tasks.stylize_pictures(records, stylize, attempt) == records
    assert steps[1:] == ["stylize from a.png on", "stylize a.png", "stylize b.png"]


# Many pictures


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good photos of all formats in folders, and bad ones."""
    root = tmp_path_factory.mktemp("photos")
    for index, name in enumerate(("a.png", "deep/b.webp", "deep/er/c d.png", "e.bmp")):
        save(root / name, noise(index))
    (root / "turned.JPG").write_bytes(turned(8))
    save(root / "e.bmp.png", noise(4))  # by the name that the one before it is painted under
    (root / "broken.jpg").write_bytes(b"no picture")
    (root / "deep" / "short.png").write_bytes((root / "a.png").read_bytes()[:500])
    return root


PAINTED = {"a.png": 0, "deep/b.webp": None, "deep/er/c d.png": 2, "e.bmp.png": 3, "turned.JPG": None}
"""What must be there, and the seed of those that no encoder of the source has changed."""


First = tuple[Path, JsonObject]


@pytest.fixture(scope="module")
def first(ray_cluster: None, model: str, source: Path, tmp_path_factory: pytest.TempPathFactory) -> First:
    """A target after a first run, and its figures."""
    target = tmp_path_factory.mktemp("painted") / "out"
    with pytest.raises(IncompleteError, match="3 of 8 pictures were not stylized") as ended:
        paint(model, source, target)
    return target, ended.value.figures


def record_of(model: str) -> JsonObject:
    """Of a target's pictures, without what computed them, as before 0.2."""
    return {"keep_colors": False, "model": read_model(model).name, "precision": "fp32", "strength": 1.0}


def test_a_folder_is_painted_name_by_name_and_every_photo_is_accounted_for(
    first: First, model: str, loaded: FastModel
) -> None:
    target, figures = first
    counts = {"found": 8, "ok": 5, "rejected": 3, "failed": 0, "pending": 0, "made": 5}
    assert figures == {**counts, "reasons": {"not_an_image": 1, "same_name": 1, "truncated": 1}}
    assert files(target).keys() == {*PAINTED, RECORD}
    for name, seed in PAINTED.items():
        with Image.open(target / name) as picture:
            assert picture.format == {".webp": "WEBP", ".JPG": "JPEG"}.get(Path(name).suffix, "PNG")
            assert picture.getexif().get(ORIENTATION) is None
        if seed is not None:
            assert_close(load(target / name), loaded(noise(seed)))
    upright = codec.decode(turned(8), **LIMITS)
    assert upright.shape[1] > upright.shape[0]
    assert_close_jpeg(target / "turned.JPG", loaded(upright))
    assert json.loads((target / RECORD).read_text()) == record_of(model) | {"backend": best_backend("cpu")}


def test_a_second_run_paints_what_is_missing_and_nothing_else(
    first: First, model: str, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, figures = first
    before = files(target)
    (target / "deep" / "b.webp").unlink()
    times = {name: (target / name).stat().st_mtime_ns for name in before if name != "deep/b.webp"}
    with pytest.raises(IncompleteError) as ended:
        paint(model, source, target)
    assert ended.value.figures == {**figures, "made": 1}
    assert "4 pictures are there already" in capsys.readouterr().err
    assert files(target) == before
    assert {name: (target / name).stat().st_mtime_ns for name in times} == times


def test_pictures_of_another_model_or_other_options_are_not_mixed_with_those_there(
    first: First, model: str, source: Path, tmp_path: Path
) -> None:
    before = files(first[0])
    other = publish(tmp_path / "other", seed=1)
    changed: list[dict[str, Any]] = [{"strength": 0.5}, {"keep_colors": True}, {"precision": "bf16"}]
    for uri, options in ((other, {}), *((model, each) for each in changed)):
        with pytest.raises(RecipeError, match=r"^OUT .*: its apply\.json says .* allowed: .*--overwrite$"):
            paint(uri, source, first[0], **options)
    assert files(first[0]) == before


def test_pictures_are_painted_on_by_what_painted_the_first(
    first: First, model: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of before 0.2 do not say by what: it was torch."""
    used: list[str] = []

    def painted(model: object, chunks: object, target: object, *options: Any) -> Iterator[Outcome]:
        used.append(options[2])
        return iter(())

    monkeypatch.setattr("batch_nst.pipelines.apply.actors.stylize_photos", painted)
    for number, (said, by) in enumerate((({}, "torch"), ({"backend": "openvino"}, "openvino"))):
        target = tmp_path / str(number)
        shutil.copytree(first[0], target)
        (target / "a.png").unlink()
        (target / RECORD).write_text(json.dumps(record_of(model) | said))
        with pytest.raises(IncompleteError):  # for the bad photos
            paint(model, source, target)
        assert used.pop() == by
    monkeypatch.setattr(compiled, "is_installed", lambda: False)
    with pytest.raises(RecipeError, match=r"its apply\.json says backend openvino, .* pip install openvino"):
        paint(model, source, target)


def test_overwrite_paints_all_again_and_tells_no_model_of_what_it_did_not_paint(
    first: First, model: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    shutil.copytree(first[0], target)
    (target / "gone from in.png").write_bytes((target / "a.png").read_bytes())
    with pytest.raises(IncompleteError) as ended:
        paint(model, source, target, strength=0.0, overwrite=True)
    assert (ended.value.figures["ok"], ended.value.figures["made"]) == (5, 5)
    np.testing.assert_array_equal(load(target / "a.png"), noise(0))
    assert not (target / RECORD).exists()
    assert "1 pictures there were not stylized now, the first is gone from in.png" in capsys.readouterr().err
    before = files(target)
    with pytest.raises(RecipeError, match=r"no apply\.json that says of which model"):
        paint(model, source, target, strength=0.0)
    assert files(target) == before


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def test_photos_in_a_file_are_painted_too_and_one_bad_name_costs_one_picture(
    ray_cluster: None, model: str, loaded: FastModel, tmp_path: Path
) -> None:
    unusable = ["x" * 300, "a\0b", "x.png/below a file", "taken"]
    photos = dict(zip([*"xyz", *unusable], map(noise, range(7)), strict=True))
    table = pa.table({"image": list(map(png, photos.values())), "id": [*photos]})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "out" / "a.parquet" / "taken.png").mkdir(parents=True)
    save(tmp_path / "out" / "a.parquet" / "x.png", noise(0))
    with pytest.raises(IncompleteError) as ended:
        paint(model, tmp_path / "a.parquet", tmp_path / "out", overwrite=True)
    figures = ended.value.figures
    assert (figures["found"], figures["made"], figures["reasons"]) == (7, 3, {"unusable_name": 4})
    for seed, key in enumerate("xyz"):
        assert_close(load(tmp_path / "out" / "a.parquet" / f"{key}.png"), loaded(noise(seed)))


@pytest.mark.slow
def test_a_bucket_is_painted_into_a_bucket_by_a_model_in_it(
    model: str, loaded: FastModel, s3: str, tmp_path: Path
) -> None:
    home = Store(f"{s3}/apply")
    for name in Store(model).list():
        home.create(f"model/{name}", Store(model).read(name))
    for seed, name in enumerate(("a.png", "deep/b.png")):
        home.create(f"in/{name}", png(noise(seed)))
    for source, target, counts in (
        ("in", "out", {"found": 2, "ok": 2, "made": 2}),
        ("in", "out", {"found": 2, "ok": 2, "made": 0}),
        ("in/a.png", "one.png", {"found": 1, "ok": 1, "made": 1}),
    ):
        words = ["apply", *(home.join(name) for name in ("model", source, target)), "--precision", "fp32"]
        assert json.loads(run_python("-m", "batch_nst", *words)).items() >= counts.items()
    for seed, name in enumerate(("out/a.png", "out/deep/b.png")):
        (tmp_path / "painted.png").write_bytes(home.read(name))
        assert_close(load(tmp_path / "painted.png"), loaded(noise(seed)))
    assert home.read("one.png") == home.read("out/a.png")


@pytest.mark.slow
def test_how_fast_it_is_can_be_measured(tmp_path: Path) -> None:
    """What it finds depends on the machine; that there are three rows, and each tells its ratio, does not."""
    save(tmp_path / "photo.jpg", np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    told = run_python("docs/apply_speed.py", "--photos", tmp_path, "--files", 4, "--rounds", 1)
    rows = [line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith("| ")][2:]
    measured = [name.split(",")[0] for name, *_ in rows]
    assert measured == ["pixels to pixels", "files to files (JPEG)", "the same"]
    for _, *figures in rows:
        loop, ours, ratio = map(float, figures)
        assert loop > 0
        assert ratio == pytest.approx(loop / ours, rel=0.05, abs=0.01)


def test_nothing_to_paint_starts_no_ray_and_the_bad_ones_are_listed_as_far_as_one_reads(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in" / "a.png", noise(0))
    lines = [f"{tmp_path}/in/a.png"] * 26
    (tmp_path / "list.txt").write_text("\n".join(lines))
    name = target_name(lines[0])
    save(tmp_path / "out" / name, noise(1))
    (tmp_path / "out" / RECORD).write_text(json.dumps(record_of(model)))
    monkeypatch.setattr("batch_nst.pipelines.cluster.connect.connect", lambda: pytest.fail("Ray was started"))
    monkeypatch.setattr("batch_nst.pipelines.apply.run._LOG_SECONDS", 0.0)
    with pytest.raises(IncompleteError, match="25 of 26") as ended:
        paint(model, tmp_path / "list.txt", tmp_path / "out")
    assert ended.value.figures["reasons"] == {"same_name": 25}
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == ["listing: 26 pictures", "1 pictures are there already"]
    assert [line.startswith("rejected: ") for line in told[2:]] == [True] * 20 + [False]
    assert told[-1] == "... and 5 more"


@pytest.mark.parametrize("target", ["photos", "photos/painted", "photos/../photos", "photos/deep/a.png"])
def test_a_target_among_the_photos_is_refused(model: str, tmp_path: Path, target: str) -> None:
    save(tmp_path / "photos" / "deep" / "a.png", noise(0))
    before = files(tmp_path)
    given = "photos/deep/a.png" if target.endswith(".png") else "photos"
    for source in {given, "photos/**/*.png"} if given == "photos" else {given}:
        with pytest.raises(RecipeError, match=r"^OUT: given .* which lies in IN"):
            paint(model, tmp_path / source, Path(os.path.join(tmp_path, target)))
    assert files(tmp_path) == before
