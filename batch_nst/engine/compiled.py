"""The fast model on CPUs, compiled by OpenVINO: the function of `stylize_image`, faster.

The graph is built from the network's weights by OpenVINO's own operations. Pixels come and go as bytes, so
that torch copies nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.engine.whitening import EPSILON, STEPS, Whitening

if TYPE_CHECKING:
    from openvino import Model, Node

_CONVERTER = "openvino.tools.ovc"

Pixels: TypeAlias = npt.NDArray[np.uint8]


def is_installed() -> bool:
    """Whether there is an OpenVINO here; its wheels do not exist for every machine."""
    return find_spec("openvino") is not None


def compile_net(net: TransformerNet, threads: int, half: bool) -> Callable[[Pixels], Pixels]:
    """Compile a network for this machine's CPU; takes about 0.2 s.

    Args:
        net: a network on the CPU.
        threads: CPU threads to compute on.
        half: whether convolutions may compute in bf16; they do where the CPU can. Not for a network that
            whitens: its roots would be in bf16 too.

    Returns:
        A function from uint8 (H, W, 3) or (B, H, W, 3), RGB, H and W at least 16, to the same shape: clamped
        and rounded as by `stylize_image`, in fp32 at most one grey level apart. Threads may share it.
    """
    openvino = load_openvino()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Pinned threads of two processes would share cores while others idle.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(_graph(net), "CPU", settings)
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


def _graph(net: TransformerNet) -> Model:
    """The network from uint8 (B, H, W, 3) to uint8 (B, H, W, 3), of any batch, height and width."""
    from openvino import Model, PartialShape, Type
    from openvino import opset13 as op

    image = op.parameter(PartialShape([-1, -1, -1, 3]), Type.u8, name="image")
    x = op.transpose(op.convert(image, "f32"), _numbers([0, 3, 1, 2]))
    whole = _size(x)
    x = op.relu(
        _block(_folded(op.subtract(op.multiply(x, _value(2 / 255)), _value(1.0)), net.fold), net.stem)
    )
    before = []
    for down in net.down:
        before.append(x)
        x = op.relu(_block(x, down))
    for residual in net.residual:
        branch = x
        for part in residual.children():
            branch = op.relu(branch) if isinstance(part, nn.ReLU) else _block(branch, part)
        x = op.add(x, branch)
    for up in net.up:
        skipped = before.pop()
        x = _enlarged(x, _size(skipped))
        x = op.relu(_block(op.concat([x, skipped], 1) if net.skip else x, up))
    x = _convolution(x, net.head)
    if net.fold > 1:
        x = _cut(op.depth_to_space(x, "depth_first", net.fold), whole)
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


def _block(x: Node, block: nn.Module) -> Node:
    """What `transformer_net._conv_norm` made."""
    from openvino import opset13 as op

    conv, norm = block.children()
    if isinstance(norm, Whitening):
        return _whitened(_convolution(x, conv), norm)
    assert isinstance(norm, nn.InstanceNorm2d)
    normal = op.mvn(_convolution(x, conv), _numbers([2, 3]), True, norm.eps, "inside_sqrt")
    return op.add(op.multiply(normal, _channels(norm.weight)), _channels(norm.bias))


def _whitened(x: Node, norm: Whitening) -> Node:
    """`Whitening.forward`."""
    from openvino import opset13 as op

    channels = len(norm.weight)
    rows = op.subtract(x, op.reduce_mean(x, _numbers([2, 3]), keep_dims=True))
    rows = op.reshape(rows, _numbers([0, 0, -1]), special_zero=True)  # (batch, channels, positions)
    positions = op.convert(op.reduce_prod(_size(x), _numbers([0]), keep_dims=False), "f32")
    covariance = op.divide(op.matmul(rows, rows, False, True), positions)
    one = _value(np.eye(channels)[None])
    trace = op.reduce_sum(op.multiply(covariance, one), _numbers([1, 2]), keep_dims=True)
    trace = op.add(trace, _value(EPSILON))
    scaled = op.add(op.divide(covariance, trace), _value(EPSILON * np.eye(channels)[None]))
    root = one
    for _ in range(STEPS):
        cubed = op.matmul(op.matmul(root, root, False, False), root, False, False)
        less = op.matmul(cubed, scaled, False, False)
        root = op.subtract(op.multiply(root, _value(1.5)), op.multiply(less, _value(0.5)))
    gains = op.multiply(op.divide(root, op.sqrt(trace)), _value(_array(norm.weight)[None, :, None]))
    white = op.add(op.matmul(gains, rows, False, False), _value(_array(norm.bias)[None, :, None]))
    return op.reshape(white, op.shape_of(x), special_zero=False)


def _convolution(x: Node, conv: nn.Module) -> Node:
    """A convolution with an odd kernel, with reflection padding of half its size."""
    from openvino import opset13 as op

    assert isinstance(conv, nn.Conv2d)
    reach, steps = conv.kernel_size[0] // 2, list(conv.stride)
    if reach:
        around = _numbers([0, 0, reach, reach])
        x = op.pad(x, around, around, "reflect")
    x = op.convolution(x, _value(_array(conv.weight)), steps, [0, 0], [0, 0], [1, 1])
    return x if conv.bias is None else op.add(x, _channels(conv.bias))


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


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = tensor.detach().float().numpy()
    return found


def _channels(tensor: Tensor) -> Node:
    return _value(_array(tensor)[None, :, None, None])


def _value(given: Any) -> Node:
    from openvino import opset13 as op

    return op.constant(np.asarray(given, np.float32))


def _numbers(given: list[int]) -> Node:
    from openvino import opset13 as op

    return op.constant(np.asarray(given, np.int64))
