"""Laws of `load_model` and `stylize`: what they take, that they answer in kind, and what they refuse."""

import contextlib
import os
import pty
import re
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import batch_nst
from batch_nst.data.models.files import ModelFiles
from batch_nst.data.models.registry import ModelCard
from batch_nst.engine.fast_model.model_io import model_bytes, stylize_image
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.errors import RecipeError
from batch_nst.pipelines.inference import FastModel, painter
from tests.support.photos import turned
from tests.support.places import ROOT

OUTPUT = ROOT / "tests" / "compatibility" / "made_by_580efb4" / "output"
COLOUR = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
GREY, ALPHA = COLOUR[:, :, 0], np.full((24, 32), 128, np.uint8)


@pytest.fixture(scope="module")
def model() -> FastModel:
    torch.manual_seed(0)
    return FastModel(TransformerNet(4).eval(), {}, torch.device("cpu"))


Paint = Callable[..., Any]


@pytest.fixture(params=["the fast model", "slow transfer"])
def paint(request: pytest.FixtureRequest, model: FastModel) -> Paint:
    """Both ways, called alike."""
    if request.param == "the fast model":
        return model

    def slowly(pictures: Any) -> Any:
        return batch_nst.stylize(
            pictures, COLOUR, style_size=24, iterations=1, device="cpu", precision="fp32"
        )

    return slowly


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Image.fromarray(COLOUR).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_answer_is_of_the_kind_of_what_is_given(paint: Paint, path: Path) -> None:
    expected = paint(COLOUR)
    assert (expected.dtype, expected.shape) == (np.uint8, COLOUR.shape)
    tensor = paint(torch.from_numpy(COLOUR))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    for given in (Image.fromarray(COLOUR), path, str(path)):
        answer = paint(given)
        assert isinstance(answer, Image.Image)
        assert answer.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(answer), expected)


def test_grey_and_transparent_pictures_are_taken_in_every_kind(paint: Paint) -> None:
    over_white = Image.new("RGB", (32, 24), "white")
    over_white.paste(Image.fromarray(COLOUR), mask=Image.fromarray(ALPHA))
    for given, shown in (
        (GREY, np.dstack([GREY] * 3)),
        (np.dstack([COLOUR, ALPHA]), np.asarray(over_white)),
    ):
        expected = paint(shown)
        np.testing.assert_array_equal(paint(given), expected)
        np.testing.assert_array_equal(np.asarray(paint(Image.fromarray(given))), expected)


def test_several_are_answered_each_in_its_kind_and_in_their_order(paint: Paint, path: Path) -> None:
    other = np.ascontiguousarray(COLOUR.transpose(1, 0, 2))
    answers = paint([COLOUR, path, other, Image.fromarray(other)])
    assert [type(answer).__name__ for answer in answers] == ["ndarray", "Image", "ndarray", "Image"]
    for answer, alone in zip(answers, [paint(COLOUR)] * 2 + [paint(other)] * 2, strict=True):
        assert np.abs(np.asarray(answer).astype(int) - alone).max() <= 1
    assert [image.size for image in paint(iter([path, path]))] == [(32, 24)] * 2
    stack = paint(np.stack([COLOUR, COLOUR]))
    assert isinstance(stack, np.ndarray)
    assert isinstance(paint(torch.from_numpy(np.stack([COLOUR, COLOUR]))), torch.Tensor)
    assert stack.shape == (2, *COLOUR.shape)


def test_a_photo_that_lies_on_its_side_comes_out_upright(paint: Paint, tmp_path: Path) -> None:
    (tmp_path / "turned.jpg").write_bytes(turned(6))
    with Image.open(tmp_path / "turned.jpg") as opened:
        assert opened.width < opened.height
        assert paint(opened).size == paint(tmp_path / "turned.jpg").size == opened.size[::-1]


WRONG = [None, 3, b"x", [], [None], COLOUR / 255, COLOUR[None, None], np.zeros((0, 9, 9, 3), np.uint8)]


@pytest.mark.parametrize("given", WRONG, ids=lambda given: type(given).__name__)
def test_what_is_no_picture_is_a_value_error(paint: Paint, given: Any) -> None:
    with pytest.raises(ValueError, match=r"^(picture|pictures|images)(\[0\])?: given .*; allowed: "):
        paint(given)


def test_the_wrong_one_of_several_is_told_by_its_place(paint: Paint, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"^(pictures|images)\[1\]: .*text\.jpg: not_an_image: "):
        paint([COLOUR, tmp_path / "text.jpg"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        paint([COLOUR, tmp_path / "nowhere"])


def test_the_fast_model_needs_16_pixels_a_side(model: FastModel) -> None:
    assert model(COLOUR[:16, :16]).shape == (16, 16, 3)
    for given in (COLOUR[:15], GREY[:, :15], Image.fromarray(COLOUR[:15])):
        with pytest.raises(
            ValueError, match=r"^picture: given \d+ x \d+ pixels; allowed: 16 a side or more$"
        ):
            model(given)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"iterations": 0}, "iterations: given 0; allowed: a whole number from 1"),
        ({"iterations": 2.5}, r"iterations: given 2\.5; allowed"),
        ({"style_size": -1}, "style_size: given -1; allowed"),
        ({"optimizer": "sgd"}, "optimizer: given 'sgd'; allowed: lbfgs, adam"),
        ({"precision": "half"}, "precision: given 'half'; allowed: auto, fp32, bf16"),
    ],
)
def test_wrong_options_of_slow_transfer_are_value_errors(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        batch_nst.stylize(COLOUR, COLOUR, **options)
    with pytest.raises(ValueError, match=r"^style: given list; allowed"):
        batch_nst.stylize(COLOUR, [COLOUR])  # type: ignore[call-overload]


def test_a_model_is_loaded_from_a_path_in_any_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(OUTPUT.parent))
    painted = [batch_nst.load_model(uri, "cpu", "fp32")(COLOUR) for uri in (OUTPUT, str(OUTPUT), "~/output")]
    assert all((each == painted[0]).all() for each in painted)
    net = batch_nst.load_model(OUTPUT, "cpu").net
    exact = stylize_image(net, torch.from_numpy(COLOUR)).numpy()
    assert np.abs(painted[0].astype(int) - exact).max() <= 1
    with pytest.raises(RecipeError, match="found neither models/CURRENT below it nor"):
        batch_nst.load_model(Path("/nowhere"))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Standard error is a terminal, until it is asked what it has shown."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, 120))
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)

        def shown() -> str:
            stream.close()  # what is on its way arrives, then there is an error
            found = b""
            with contextlib.suppress(OSError):
                while more := os.read(ours, 1 << 16):
                    found += more
            return found.decode()

        yield shown
    os.close(ours)


def test_progress_is_shown_on_a_terminal_and_nowhere_else(
    paint: Paint, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    paint([COLOUR, COLOUR, COLOUR[:16, :16]])
    assert capsys.readouterr() == ("", "")
    shown = request.getfixturevalue("terminal")
    paint([COLOUR, COLOUR, COLOUR[:16, :16]])
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown())
    assert re.search(r"stylize .* (3/3 .* pictures/s|2/2 .* iterations/s)", text)


def test_a_painter_says_what_computes_and_in_which_precision() -> None:
    for network in ("johnson", "skip"):
        net = TransformerNet(4, network)
        card = cast(ModelCard, {"architecture": {"name": network, "width": 4}, "digests": {}})
        files = ModelFiles("v", card, model_bytes(net), "here")
        for precision, backend in (("bf16", "openvino"), ("bf16", "torch"), ("fp32", "openvino")):
            engine = painter(files, torch.device("cpu"), precision, backend).engine
            assert engine == f"{backend} {precision}"
