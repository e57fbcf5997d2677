"""Laws of `model.onnx`: what torch paints, at any size, and by a program without torch."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from batch_nst.data.images import codec
from batch_nst.data.models import card
from batch_nst.engine.fast_model.model_io import stylize_image, weights_of
from batch_nst.engine.fast_model.onnx_graph import OPSET, onnx_bytes
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.recipe import NETWORKS
from tests.support.photos import turned
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "models.md").read_text()
SHAPES = [(1, 3, 16, 16), (2, 3, 37, 50), (1, 3, 192, 192), (1, 3, 131, 300), (1, 3, 401, 16)]
ALONE = "import sys; sys.modules.update(dict.fromkeys(['torch', 'batch_nst', 'ray', 'onnx']))\n"


@pytest.fixture(scope="module", params=NETWORKS)
def net(request: pytest.FixtureRequest) -> TransformerNet:
    """Of the default width."""
    torch.manual_seed(0)
    net = TransformerNet(32, request.param)
    with torch.no_grad():
        net.head.weight *= 4  # so that black and white are overshot
    return net.eval()


@pytest.fixture(scope="module")
def graph(net: TransformerNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(onnx_bytes(weights_of(net), net.network))
    return path


def test_it_agrees_with_torch_at_any_size_and_batch(net: TransformerNet, graph: Path) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (image,), (stylized,) = session.get_inputs(), session.get_outputs()
    for end, name in ((image, "image"), (stylized, "stylized")):
        assert (end.name, end.type, end.shape) == (name, "tensor(float)", ["batch", 3, "height", "width"])
    for shape in SHAPES:
        picture = torch.rand(shape)
        with torch.no_grad():
            expected = net(picture).clamp(0, 1).numpy()
        (found,) = session.run(["stylized"], {"image": picture.numpy()})
        assert (found.dtype, found.min(), found.max()) == (np.float32, 0, 1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1 / 255 / 10)


def test_it_is_one_file_of_one_operator_set(graph: Path) -> None:
    model = onnx.load_from_string(graph.read_bytes())
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_the_same_weights_are_the_same_bytes_also_channels_last(net: TransformerNet, graph: Path) -> None:
    again = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert onnx_bytes(weights_of(again), again.network) == graph.read_bytes()


@pytest.mark.parametrize("net", ["johnson"], indirect=True)
def test_the_program_without_torch_paints_as_the_model_does(
    net: TransformerNet, graph: Path, tmp_path: Path
) -> None:
    """Of one network: the program is the same for all, and each graph agrees with torch."""
    (program,) = re.findall(r"```python\n(import sys\n.*?)```", PAGE, re.DOTALL)
    assert len(program.splitlines()) <= 20
    (tmp_path / "turned.jpg").write_bytes(turned(6))
    noise = np.random.default_rng(0).integers(0, 256, (50, 37, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    for name in ("turned.jpg", "noise.png"):
        source, target = tmp_path / name, tmp_path / f"painted {name}.png"
        subprocess.run([sys.executable, "-c", ALONE + program, graph, source, target], check=True)
        photo = codec.decode(source.read_bytes(), min_side=16, max_bytes=1 << 20, max_pixels=1 << 20)
        expected = stylize_image(net, torch.from_numpy(photo)).numpy()
        with Image.open(target) as painted:
            assert np.abs(np.asarray(painted, int) - expected).max() <= 1


def test_page_and_card_show_the_same_program_and_state_the_operator_set() -> None:
    assert f"```python\n{card.EXAMPLE}```" in PAGE
    for text in (PAGE, card._TEMPLATE):
        assert f"operator set {OPSET}" in text
