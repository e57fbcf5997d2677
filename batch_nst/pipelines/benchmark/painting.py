"""How fast the fast model paints: the painter that users get beside runtimes of others and a plain loop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

import numpy as np
import torch

from batch_nst.data.images.codec import Pixels, encode
from batch_nst.data.models import registry
from batch_nst.data.models.files import ModelFiles
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.compiled import load_openvino
from batch_nst.engine.fast_model.model_io import model_bytes, weights_of
from batch_nst.engine.fast_model.onnx_graph import onnx_bytes
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.timing import Spread, seconds, spread_of
from batch_nst.pipelines.benchmark.measure import peak_in
from batch_nst.pipelines.inference import exact_model, painter
from batch_nst.pipelines.train.trainer import first_net
from batch_nst.recipe import Train

Paint = Callable[[Pixels], Pixels]


class Painting(TypedDict):
    """Seconds of one picture, by who paints it; all take their turn in each round."""

    size: int
    """Side in pixels."""
    backend: str
    """What computes for the painter."""
    seconds: dict[str, Spread]
    """`painter`; `torch`, a plain loop in fp32; if they are installed, `onnxruntime` and `openvino` on the
    exported graph, by their own settings."""
    ratio: float | None
    """The faster of the two runtimes over the painter, least seconds each; None if neither is installed."""
    apart: dict[str, dict[str, float]]
    """Grey levels between a painter and the plain loop: `mean` and `most`."""


class Alone(TypedDict):
    """A photo that a command of its own paints into a file."""

    pixels: int
    seconds: float
    """From start to end of the command, with a warm file cache; of small photos the least of three."""
    peak: int | None
    """Peak memory of its process in bytes, without that of its decoder; None where it is unknown."""


_COMMAND = """
import atexit, sys
from pathlib import Path
from batch_nst.cli import main

status = Path("/proc/self/status")
atexit.register(lambda: status.exists() and Path("status").write_text(status.read_text()))
main(sys.argv[1:])
"""
"""The command, which leaves at its end what Linux says of its process."""
_SMALL = 4_000_000
"""Pixels below which a photo takes seconds."""


def measure_alone(device: torch.device, width: int, height: int) -> Alone:
    """Time `apply` on one photo of noise, by an untrained model."""
    with TemporaryDirectory() as folder:
        model = stored(untrained(), folder)
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        (Path(folder) / "photo.jpg").write_bytes(encode(noise, "jpeg"))
        words = ["apply", model, "photo.jpg", "painted.jpg", "--device", device.type, "-q"]
        command = [sys.executable, "-c", _COMMAND, *words]
        run = partial(subprocess.run, command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        took = min(seconds(run) for _ in range(3 if width * height < _SMALL else 1))
        return {"pixels": width * height, "seconds": took, "peak": peak_in(Path(folder) / "status")}


def untrained() -> ModelFiles:
    """A model of the network and width that recipes get; weights do not decide the time."""
    net = first_net(Train(), None)
    card = {"version": "untrained", "architecture": {"name": net.network, "width": net.width}}
    return ModelFiles("untrained", card, model_bytes(net), "")  # type: ignore[arg-type]


def stored(model: ModelFiles, folder: str) -> str:
    """Write a model below a folder; returns its address for `apply`."""
    store = Store(folder)
    registry.write_part(store, model.version, registry.WEIGHTS, model.weights)
    registry.write_card(store, model.version, model.card)
    return store.join(f"models/{model.version}")


def measure_painting(device: torch.device, size: int, rounds: int) -> Painting:
    """Time an untrained model on a picture of noise."""
    files = untrained()
    net = exact_model(files, torch.device("cpu")).net
    fast = painter(files, device)
    painters: dict[str, Paint] = {"painter": fast, "torch": _plain(net.to(device), device)}
    if device.type == "cpu":
        painters |= _runtimes(net)
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    made = {name: paint(picture) for name, paint in painters.items()}  # the first call chooses kernels
    times: dict[str, list[float]] = {name: [] for name in painters}
    for _ in range(rounds):
        for name, paint in painters.items():
            times[name].append(seconds(partial(paint, picture)))
    spreads = {name: spread_of(each) for name, each in times.items()}
    others = [spread["least"] for name, spread in spreads.items() if name not in ("painter", "torch")]
    exact = made.pop("torch").astype(int)
    apart = {name: np.abs(pixels - exact) for name, pixels in made.items()}
    return {
        "size": size,
        "backend": fast.backend,
        "seconds": spreads,
        "ratio": min(others) / spreads["painter"]["least"] if others else None,
        "apart": {name: {"mean": float(far.mean()), "most": float(far.max())} for name, far in apart.items()},
    }


def _plain(net: TransformerNet, device: torch.device) -> Paint:
    """The loop that anyone would write."""

    @torch.no_grad()
    def paint(picture: Pixels) -> Pixels:
        image = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
        levels = (net(image)[0].clamp(0, 1) * 255).round().byte()
        stylized: Pixels = levels.permute(1, 2, 0).cpu().numpy()
        return stylized

    return paint


def _runtimes(net: TransformerNet) -> dict[str, Paint]:
    """ONNX Runtime and OpenVINO on the graph that `export` writes, as anybody without this program has it."""
    graph = onnx_bytes(weights_of(net), net.network)
    found: dict[str, Paint] = {}
    if find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        found["onnxruntime"] = _by(lambda image: session.run(None, {"image": image})[0])
    if find_spec("openvino"):
        core = load_openvino().Core()
        compiled = core.compile_model(core.read_model(graph), "CPU")
        found["openvino"] = _by(lambda image: compiled([image])[0])
    return found


def _by(run: Callable[[np.ndarray], np.ndarray]) -> Paint:
    def paint(picture: Pixels) -> Pixels:
        image = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / 255
        stylized: Pixels = np.rint(run(image)[0] * 255).astype(np.uint8).transpose(1, 2, 0)
        return stylized

    return paint
