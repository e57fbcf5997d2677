"""The fast model on CPUs, compiled by OpenVINO: the function of `stylize_image`, faster.

The graph is built from the weights by OpenVINO's own operations. Nothing here needs torch, which takes
seconds to import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from batch_nst.engine.network import (
    NORM_EPSILON,
    RESIDUAL_BLOCKS,
    SHAPES,
    WHITENING_EPSILON,
    WHITENING_STEPS,
    Shape,
    Weights,
)
from batch_nst.recipe import Network

if TYPE_CHECKING:
    from openvino import Model, Node

_CONVERTER = "openvino.tools.ovc"

Pixels: TypeAlias = npt.NDArray[np.uint8]
Array: TypeAlias = npt.NDArray[np.float32]

Backend = Literal["openvino", "torch"]
"""What computes the fast model: OpenVINO on CPUs, torch on GPUs, and on CPUs that have no OpenVINO."""

MAX_WHOLE: dict[Backend, int] = {"torch": 2048 * 2048, "openvino": 1664 * 1664}
"""Pixels of the largest image that is processed whole, at some 640 and 950 bytes each; others in tiles."""


def is_installed() -> bool:
    """Whether there is an OpenVINO here; its wheels do not exist for every machine."""
    return find_spec("openvino") is not None


def best_backend(device: str) -> Backend:
    """The faster backend for a kind of device, `cpu` or `cuda`."""
    return "openvino" if device == "cpu" and is_installed() else "torch"


def is_half(network: Network, precision: Literal["auto", "fp32", "bf16"]) -> bool:
    """Whether a network's convolutions compute in bf16.

    `auto` does where the CPU has it, as OpenVINO itself would. One that whitens stays in fp32: the roots of
    its covariances would be in bf16 too.
    """
    if SHAPES[network].white or precision == "fp32":
        return False
    if precision == "bf16":
        return True
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
    compiled = openvino.Core().compile_model(_graph(weights, SHAPES[network]), "CPU", settings)
    request, one = compiled.create_infer_request(), Lock()

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


def _graph(weights: Weights, shape: Shape) -> Model:
    """The network from uint8 (B, H, W, 3) to uint8 (B, H, W, 3), of any batch, height and width."""
    from openvino import Model, PartialShape, Type
    from openvino import opset13 as op

    def block(x: Node, name: str, steps: int = 1, white: bool = False) -> Node:
        x = _convolved(x, weights[f"{name}.0.weight"], steps)
        gains, shifts = weights[f"{name}.1.weight"], weights[f"{name}.1.bias"]
        return (_whitened if white else _normalised)(x, gains, shifts)

    image = op.parameter(PartialShape([-1, -1, -1, 3]), Type.u8, name="image")
    x = op.transpose(op.convert(image, "f32"), _numbers([0, 3, 1, 2]))
    whole = _size(x)
    x = _folded(op.subtract(op.multiply(x, _value(2 / 255)), _value(1.0)), shape.fold)
    x = op.relu(block(x, "stem"))
    before = []
    for place in range(len(shape.down)):
        before.append(x)
        x = op.relu(block(x, f"down.{place}", steps=2))
    for residual in range(RESIDUAL_BLOCKS):
        branch = x
        for place in range(len(shape.block(0))):
            branch = block(op.relu(branch) if place else branch, f"residual.{residual}.{2 * place}")
        x = op.add(x, branch)
    for place in range(len(shape.up)):
        skipped = before.pop()
        x = _enlarged(x, _size(skipped))
        x = op.concat([x, skipped], 1) if shape.skip else x
        x = op.relu(block(x, f"up.{place}", white=shape.white))
    x = op.add(_convolved(x, weights["head.weight"]), _channels(weights["head.bias"]))
    if shape.fold > 1:
        x = _cut(op.depth_to_space(x, "depth_first", shape.fold), whole)
    shown = op.add(op.multiply(x, _value(0.5)), _value(0.5))
    levels = op.round(op.multiply(op.clamp(shown, 0.0, 1.0), _value(255.0)), "half_to_even")
    return Model([op.convert(op.transpose(levels, _numbers([0, 2, 3, 1])), "u8")], [image], "fast model")


def _size(x: Node) -> Node:
    """Height and width."""
    from openvino import opset13 as op

    return op.slice(op.shape_of(x), _numbers([2]), _numbers([4]), _numbers([1]))


def _folded(x: Node, side: int) -> Node:
    """`transformer_net.folded`."""
    from openvino import opset13 as op

    if side == 1:
        return x
    # As numpy's, the remainder of a negative number is 0 or more.
    beyond = op.floor_mod(op.multiply(_size(x), _numbers([-1])), _numbers([side]))
    end = op.concat([_numbers([0, 0]), beyond], 0)
    return op.space_to_depth(op.pad(x, _numbers([0, 0, 0, 0]), end, "reflect"), "depth_first", side)


def _normalised(x: Node, gains: Array, shifts: Array) -> Node:
    """Instance normalisation."""
    from openvino import opset13 as op

    normal = op.mvn(x, _numbers([2, 3]), True, NORM_EPSILON, "inside_sqrt")
    return op.add(op.multiply(normal, _channels(gains)), _channels(shifts))


def _whitened(x: Node, gains: Array, shifts: Array) -> Node:
    """`layers.Whitening`."""
    from openvino import opset13 as op

    channels = len(gains)
    rows = op.subtract(x, op.reduce_mean(x, _numbers([2, 3]), keep_dims=True))
    rows = op.reshape(rows, _numbers([0, 0, -1]), special_zero=True)  # (batch, channels, positions)
    positions = op.convert(op.reduce_prod(_size(x), _numbers([0]), keep_dims=False), "f32")
    covariance = op.divide(op.matmul(rows, rows, False, True), positions)
    one = _value(np.eye(channels)[None])
    trace = op.reduce_sum(op.multiply(covariance, one), _numbers([1, 2]), keep_dims=True)
    trace = op.add(trace, _value(WHITENING_EPSILON))
    scaled = op.add(op.divide(covariance, trace), _value(WHITENING_EPSILON * np.eye(channels)[None]))
    root = one
    for _ in range(WHITENING_STEPS):
        cubed = op.matmul(op.matmul(root, root, False, False), root, False, False)
        less = op.matmul(cubed, scaled, False, False)
        root = op.subtract(op.multiply(root, _value(1.5)), op.multiply(less, _value(0.5)))
    rooted = op.multiply(op.divide(root, op.sqrt(trace)), _value(gains[None, :, None]))
    white = op.add(op.matmul(rooted, rows, False, False), _value(shifts[None, :, None]))
    return op.reshape(white, op.shape_of(x), special_zero=False)


def _convolved(x: Node, weight: Array, steps: int = 1) -> Node:
    """A convolution with an odd kernel, with reflection padding of half its size."""
    from openvino import opset13 as op

    if reach := weight.shape[2] // 2:
        around = _numbers([0, 0, reach, reach])
        x = op.pad(x, around, around, "reflect")
    return op.convolution(x, _value(weight), [steps] * 2, [0, 0], [0, 0], [1, 1])


def _enlarged(x: Node, size: Node) -> Node:
    """Nearest-neighbour upsampling by 2, cut to a size: odd sides were rounded up before."""
    from openvino import opset13 as op

    x = op.interpolate(
        x,
        _value([2.0, 2.0]),
        mode="nearest",
        shape_calculation_mode="scales",
        nearest_mode="floor",
        pads_begin=[0, 0, 0, 0],
        pads_end=[0, 0, 0, 0],
        coordinate_transformation_mode="asymmetric",
        axes=_numbers([2, 3]),
    )
    return _cut(x, size)


def _cut(x: Node, size: Node) -> Node:
    """Its first rows and columns, so many."""
    from openvino import opset13 as op

    return op.slice(x, _numbers([0, 0]), size, _numbers([1, 1]), _numbers([2, 3]))


def _channels(given: Array) -> Node:
    return _value(given[None, :, None, None])


def _value(given: Any) -> Node:
    from openvino import opset13 as op

    return op.constant(np.asarray(given, np.float32))


def _numbers(given: list[int]) -> Node:
    from openvino import opset13 as op

    return op.constant(np.asarray(given, np.int64))
