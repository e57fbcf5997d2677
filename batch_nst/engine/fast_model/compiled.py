"""The fast model on CPUs, compiled by OpenVINO: the function of `stylize_image`, faster.

It compiles the graph of `model.onnx`. In bf16 a network that whitens is cut into pieces: OpenVINO has one
precision for a graph, and the roots of covariances stay fp32. Nothing here needs torch, which takes seconds
to import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from batch_nst.engine.fast_model.network import Weights
from batch_nst.engine.fast_model.onnx_graph import is_root, onnx_bytes, pieces
from batch_nst.recipe import Network

_CONVERTER = "openvino.tools.ovc"

Pixels: TypeAlias = npt.NDArray[np.uint8]

Backend = Literal["openvino", "torch"]
"""What computes the fast model: OpenVINO on CPUs, torch on GPUs, and on CPUs that have no OpenVINO."""

MAX_WHOLE: dict[Backend, int] = {"torch": 2048 * 2048, "openvino": 1664 * 1664}
"""Pixels of the largest image that is processed whole, at some 640 and 950 bytes each; others in tiles."""

_LARGE = 1024 * 1024
"""Pixels above which pieces return their memory: half as much in all, for the time to ask for it again."""
_IMAGE, _STYLIZED = "image", "stylized"


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
    """Compile a network for this machine's CPU; takes about 0.2 s, in pieces 0.4 s.

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
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads or 0,
        "NUM_STREAMS": 1,
        # Pinned threads of two processes would share cores while others idle.
        "ENABLE_CPU_PINNING": False,
    }
    core, graph, there = openvino.Core(), onnx_bytes(weights, network), list[str]()
    compiled = []
    for made, may_be_half in pieces(network) if half else [([_STYLIZED], False)]:
        model, given = _cut(core.read_model(graph), there, made)
        precision = "bf16" if may_be_half else "f32"
        model = core.compile_model(model, "CPU", settings | {"INFERENCE_PRECISION_HINT": precision})
        compiled.append(_Piece(given, made, model, model.create_infer_request()))
        there += made
    one = Lock()

    def stylize(image: Pixels) -> Pixels:
        batch = np.ascontiguousarray(image.reshape(-1, *image.shape[-3:]))
        values = {_IMAGE: openvino.Tensor(batch)}
        is_large = len(compiled) > 1 and batch.size > 3 * _LARGE
        with one:  # pieces have memory for one call, and each call computes on all threads
            for piece in compiled:
                piece.run(values, is_large)
            stylized: Pixels = values[_STYLIZED].data.reshape(image.shape).copy()
        return stylized

    return stylize


class _Piece(NamedTuple):
    """A part of the graph, compiled."""

    given: list[str]
    """Names of what it reads."""
    made: list[str]
    compiled: Any
    request: Any
    """Its memory for a call."""

    def run(self, values: dict[str, Any], is_large: bool) -> None:
        """Add to the values what this piece makes of them; for a large picture, return its memory."""
        request = self.compiled.create_infer_request() if is_large else self.request
        for place, name in enumerate(self.given):
            request.set_input_tensor(place, values[name])
        request.infer()
        values |= {name: request.get_output_tensor(place) for place, name in enumerate(self.made)}
        if is_large:
            del request
            self.compiled.release_memory()


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


def _cut(model: Any, there: list[str], made: list[str]) -> tuple[Any, list[str]]:
    """The part of a graph that makes these of the image and of what is there already; names of its inputs."""
    from openvino import Model
    from openvino import opset13 as op

    is_last = made == [_STYLIZED]
    ends = model.get_results() if is_last else [op.result(_output(model, name)) for name in made]
    inputs = {_IMAGE: model.input(0).node}
    for name in there:
        if output := _output(model, name):  # else no node needs it that is left
            inputs[name] = op.parameter(output.partial_shape, np.float32, name)
            for reader in output.get_target_inputs():
                reader.replace_source_output(inputs[name].output(0))
    part = Model(ends, list(inputs.values()), "part")
    return _with_types(part, list(inputs), made), list(inputs)


def _output(model: Any, name: str) -> Any:
    """The output of a node with this name; None if no node has one."""
    outputs = (output for node in model.get_ops() for output in node.outputs())
    return next((output for output in outputs if name in output.get_names()), None)


def _with_types(model: Any, given: list[str], made: list[str]) -> Any:
    """A part from and to uint8 (B, H, W, 3), and to others in bf16, but for the roots."""
    from openvino import Layout, Type
    from openvino import opset13 as op
    from openvino.preprocess import PrePostProcessor

    ends = PrePostProcessor(model)
    for place, name in enumerate(given):
        if name == _IMAGE:
            ends.input(place).tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
            ends.input(place).model().set_layout(Layout("NCHW"))
            ends.input(place).preprocess().convert_element_type(Type.f32).scale(255.0)
        elif not is_root(name):
            ends.input(place).tensor().set_element_type(Type.bf16)
    for place, name in enumerate(made):
        if name == _STYLIZED:
            ends.output(place).model().set_layout(Layout("NCHW"))
            levels = ends.output(place).postprocess()
            levels.custom(
                lambda shown: op.round(op.multiply(shown, np.float32(255)), "half_to_even").output(0)
            )
            levels.convert_element_type(Type.u8)
            ends.output(place).tensor().set_layout(Layout("NHWC"))
        elif not is_root(name):
            ends.output(place).tensor().set_element_type(Type.bf16)
    return ends.build()
