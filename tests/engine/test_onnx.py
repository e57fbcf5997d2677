"""Laws of `model.onnx`: what torch paints, at any size, and by the README's program without torch."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from batch_nst.data.images import codec
from batch_nst.data.models import card
from batch_nst.engine.model_io import OPSET, onnx_bytes, stylize_image
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.recipe import NETWORKS
from tests.support.photos import turned
from tests.support.places import ROOT

README = (ROOT / "README.md").read_text()
SIZES = [(16, 16), (37, 50), (256, 256), (131, 300), (401, 16)]
ALONE = "import sys; sys.modules.update(dict.fromkeys(['torch', 'batch_nst', 'ray', 'onnx']))\n"


@pytest.fixture(scope="module", params=NETWORKS)
def net(request: pytest.FixtureRequest) -> TransformerNet:
    """Of the default width."""
    torch.manual_seed(0)
    net = TransformerNet(32, request.param)
    with torch.no_grad():
        net.head.weight *= 2  # so that black and white are overshot
    return net.eval()


@pytest.fixture(scope="module")
def graph(net: TransformerNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(onnx_bytes(net))
    return path


def test_it_agrees_with_torch_at_five_sizes(net: TransformerNet, graph: Path) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for size in SIZES:
        picture = torch.rand(1, 3, *size)
        with torch.no_grad():
            expected = net(picture).clamp(0, 1).numpy()
        (found,) = session.run(["stylized"], {"image": picture.numpy()})
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1 / 255


def test_the_program_in_the_readme_paints_as_the_model_does(
    net: TransformerNet, graph: Path, tmp_path: Path
) -> None:
    (program,) = re.findall(r"```python\n(import sys\n.*?)```", README, re.DOTALL)
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


def test_both_readmes_show_the_same_program_and_state_the_operator_set() -> None:
    assert f"```python\n{card.EXAMPLE}```" in README
    for text in (README, card._TEMPLATE):
        assert f"operator set {OPSET}" in text
