"""The fast model on CPUs, compiled by OpenVINO: the function of `stylize_image`, faster.

It compiles the graph of `model.onnx`. Nothing here needs torch, which takes seconds to import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from batch_nst.engine.fast_model.network import Weights
from batch_nst.engine.fast_model.onnx_graph import onnx_bytes
from batch_nst.recipe import Network

_CONVERTER = "openvino.tools.ovc"

Pixels: TypeAlias = npt.NDArray[np.uint8]

Backend = Literal["openvino", "torch"]
"""What computes the fast model: OpenVINO on CPUs, torch on GPUs, and on CPUs that have no OpenVINO."""

MAX_WHOLE: dict[Backend, int] = {"torch": 2048 * 2048, "openvino": 1664 * 1664}
"""Pixels of the largest image that is processed whole; others in tiles.

Each takes some 640 bytes by torch, and 800 by OpenVINO in bf16, up to 1,550 in fp32.
"""


def is_installed() -> bool:
    """Whether there is an OpenVINO here; its wheels do not exist for every machine."""
    return find_spec("openvino") is not None


def best_backend(device: str) -> Backend:
    """The faster backend for a kind of device, `cpu` or `cuda`."""
    return "openvino" if device == "cpu" and is_installed() else "torch"


def is_half(precision: Literal["auto", "fp32", "bf16"]) -> bool:
    """Whether convolutions compute in bf16; `auto` does where the CPU has it, as OpenVINO itself would."""
    if precision != "auto":
        return precision == "bf16"
    return "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compile_net(
    weights: Weights, network: Network, threads: int | None = None, *, half: bool
) -> Callable[[Pixels], Pixels]:
    """Compile a network for this machine's CPU; takes about 0.2 s.

    Args:
        weights: of the network.
        network: its name.
        threads: CPU threads to compute on; None: one for each core.
        half: whether convolutions may compute in bf16; they do where the CPU can.

    Returns:
        A function from uint8 (H, W, 3) or (B, H, W, 3), RGB, H and W at least 16, to the same shape: clamped
        and rounded as by `stylize_image`, in fp32 at most one grey level apart. Threads may share it.
    """
    openvino = load_openvino()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads or 0,
        "NUM_STREAMS": 1,
        # Pinned threads of two processes would share cores while others idle.
        "ENABLE_CPU_PINNING": False,
    }
    core = openvino.Core()
    model = _for_pixels(core.read_model(onnx_bytes(weights, network)))
    request, one = core.compile_model(model, "CPU", settings).create_infer_request(), Lock()

    def stylize(image: Pixels) -> Pixels:
        batch = image.reshape(-1, *image.shape[-3:])
        with one:  # it has memory for one call, and each call computes on all threads
            stylized: Pixels = request.infer([batch])[0].reshape(image.shape)
        return stylized

    return stylize


def load_openvino() -> Any:
    """The package without its converter, which reports imports to its makers and leaves files at home."""
    kept = sys.modules.get(_CONVERTER)
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # so that importing it is an ImportError
    try:
        import openvino
    finally:
        del sys.modules[_CONVERTER]
        if kept:
            sys.modules[_CONVERTER] = kept
    return openvino


def _for_pixels(model: Any) -> Any:
    """A graph of `onnx_graph` from and to uint8 (B, H, W, 3)."""
    from openvino import Layout, Type
    from openvino import opset13 as op
    from openvino.preprocess import PrePostProcessor

    ends = PrePostProcessor(model)
    ends.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
    ends.input().model().set_layout(Layout("NCHW"))
    ends.input().preprocess().convert_element_type(Type.f32).scale(255.0)
    ends.output().model().set_layout(Layout("NCHW"))
    levels = ends.output().postprocess()
    levels.custom(lambda shown: op.round(op.multiply(shown, np.float32(255)), "half_to_even").output(0))
    levels.convert_element_type(Type.u8)
    ends.output().tensor().set_layout(Layout("NHWC"))
    return ends.build()
