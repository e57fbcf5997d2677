"""The fast model as an ONNX graph, written from its weights: for `model.onnx`, and for OpenVINO to compile.

It is the function of `transformer_net`. Nothing here needs torch, which takes seconds to import; its exporter
would take more to trace the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

from batch_nst.engine.fast_model.network import (
    NORM_EPSILON,
    RESIDUAL_BLOCKS,
    SHAPES,
    WHITENING_EPSILON,
    WHITENING_STEPS,
    Weights,
)
from batch_nst.recipe import Network

OPSET: Final = 18
"""ONNX operator set of the graphs, of December 2022."""
_FORMAT: Final = 8
"""Version of the ONNX file format that came with it. Runtimes refuse a newer one than they know."""

Array: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int64]


def onnx_bytes(weights: Weights, network: Network) -> bytes:
    """A network as one self-contained ONNX file; the same weights give the same bytes.

    Input `image` and output `stylized` are float32 (batch, 3, height, width), RGB in 0..1. Batch, height and
    width are free (at least 16 pixels); the output is clamped.

    Args:
        weights: of the network, by torch's names.
        network: its name.
    """
    shape, graph = SHAPES[network], _Graph()
    add = graph.add

    def block(x: str, name: str, steps: int = 1, white: bool = False) -> str:
        x = _convolved(graph, x, weights[f"{name}.0.weight"], steps=steps)
        gains, shifts = weights[f"{name}.1.weight"], weights[f"{name}.1.bias"]
        if white:
            return _whitened(graph, x, gains, shifts)
        return add("InstanceNormalization", x, gains, shifts, epsilon=NORM_EPSILON)

    x = add("Sub", add("Mul", "image", _value(2)), _value(1))
    x = add("Relu", block(_folded(graph, x, shape.fold), "stem"))
    before = []
    for place in range(len(shape.down)):
        before.append(x)
        x = add("Relu", block(x, f"down.{place}", steps=2))
    for residual in range(RESIDUAL_BLOCKS):
        branch = x
        for place in range(len(shape.block(0))):
            branch = block(add("Relu", branch) if place else branch, f"residual.{residual}.{2 * place}")
        x = add("Add", x, branch)
    for place in range(len(shape.up)):
        skipped = before.pop()
        x = _cut(graph, _doubled(graph, x), skipped)
        x = add("Concat", x, skipped, axis=1) if shape.skip else x
        x = add("Relu", block(x, f"up.{place}", white=shape.white))
    x = _convolved(graph, x, weights["head.weight"], weights["head.bias"])
    if shape.fold > 1:
        x = _cut(graph, add("DepthToSpace", x, blocksize=shape.fold, mode="CRD"), "image")
    x = add("Add", add("Mul", x, _value(0.5)), _value(0.5))
    return graph.file(add("Clip", x, _value(0), _value(1), output="stylized"))


@dataclass
class _Graph:
    """A graph that grows."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def add(self, operator: str, *inputs: str | Array, output: str = "", **attributes: Any) -> str:
        """Add a node on outputs of others and on constants; returns the name of its output."""
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], output, **attributes))
        return output

    def _constant(self, values: Array) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def file(self, output: str) -> bytes:
        image, stylized = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, "height", "width"])
            for name in ("image", output)
        )
        graph = helper.make_graph(self.nodes, "fast model", [image], [stylized], self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_FORMAT, producer_name="batch_nst")
        checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))


def _size(graph: _Graph, x: str) -> str:
    """Height and width."""
    return graph.add("Shape", x, start=2)


def _folded(graph: _Graph, x: str, side: int) -> str:
    """`transformer_net.folded`."""
    if side == 1:
        return x
    # As in Python, the remainder of a negative number is 0 or more.
    beyond = graph.add("Mod", graph.add("Neg", _size(graph, x)), _numbers(side))
    x = graph.add("Pad", x, graph.add("Concat", _numbers(*[0] * 6), beyond, axis=0), mode="reflect")
    cells = graph.add("SpaceToDepth", x, blocksize=side)
    # ONNX has the places of a cell before its colours, torch the colours before their places.
    order = np.arange(3 * side**2).reshape(side**2, 3).T.flatten()
    return graph.add("Gather", cells, _numbers(*order), axis=1)


def _doubled(graph: _Graph, x: str) -> str:
    """Nearest-neighbour upsampling by 2."""
    as_torch = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    return graph.add("Resize", x, "", _value([1, 1, 2, 2]), mode="nearest", **as_torch)


def _cut(graph: _Graph, x: str, other: str) -> str:
    """The first rows and columns, as many as another has: odd sides were rounded up before."""
    return graph.add("Slice", x, _numbers(0, 0), _size(graph, other), _numbers(2, 3))


def _convolved(graph: _Graph, x: str, weight: Array, *bias: Array, steps: int = 1) -> str:
    """A convolution with an odd kernel, with reflection padding of half its size."""
    if reach := weight.shape[2] // 2:
        around = _numbers(0, 0, reach, reach)
        x = graph.add("Pad", x, np.concatenate([around, around]), mode="reflect")
    return graph.add("Conv", x, weight, *bias, strides=[steps, steps])


def _whitened(graph: _Graph, x: str, gains: Array, shifts: Array) -> str:
    """`layers.Whitening`."""
    add, one = graph.add, np.eye(len(gains), dtype=np.float32)[None]
    last = add("Transpose", x, perm=[0, 2, 3, 1])
    rows = add("Reshape", last, _numbers(0, -1, len(gains)))  # (batch, positions, channels)
    rows = add("Sub", rows, add("ReduceMean", rows, _numbers(1), keepdims=1))
    positions = add("ReduceProd", _size(graph, x), keepdims=0)
    covariance = add("MatMul", add("Transpose", rows, perm=[0, 2, 1]), rows)
    covariance = add("Div", covariance, add("Cast", positions, to=TensorProto.FLOAT))
    trace = add("ReduceSum", add("Mul", covariance, one), _numbers(1, 2), keepdims=1)
    trace = add("Add", trace, _value(WHITENING_EPSILON))
    scaled = add("Add", add("Div", covariance, trace), _value(WHITENING_EPSILON) * one)
    root: str | Array = one
    for _ in range(WHITENING_STEPS):
        cubed = add("MatMul", add("MatMul", root, root), root)
        less = add("Mul", add("MatMul", cubed, scaled), _value(0.5))
        root = add("Sub", add("Mul", root, _value(1.5)), less)
    rooted = add("Mul", add("Div", root, add("Sqrt", trace)), gains[None, None, :])
    white = add("Add", add("MatMul", rows, rooted), shifts[None, None, :])
    return add("Transpose", add("Reshape", white, add("Shape", last)), perm=[0, 3, 1, 2])


def _value(given: float | list[int]) -> npt.NDArray[np.float32]:
    return np.asarray(given, np.float32)


def _numbers(*given: int) -> npt.NDArray[np.int64]:
    return np.asarray(given, np.int64)
