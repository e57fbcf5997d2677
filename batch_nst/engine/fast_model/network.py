"""The networks of the fast model as sizes, and the numbers in a file of weights. Without torch.

`transformer_net` builds them for torch, `compiled` for OpenVINO.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from batch_nst.errors import WeightsError
from batch_nst.recipe import NETWORKS, Network

Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
"""The weights of a network by torch's names."""

RESIDUAL_BLOCKS: Final = 5
NORM_EPSILON: Final = 1e-5
"""What instance normalisation adds to a variance; torch's default."""
WHITENING_STEPS: Final = 5
WHITENING_EPSILON: Final = 1e-5
"""Least part of all variance that a direction counts as having, so that none is enlarged without bound."""

_MOST_WIDTH = 1024


class Architecture(TypedDict):
    """The network of a model."""

    name: Network
    width: int


class Description(TypedDict):
    """The keys of `model.json` that `read_weights` reads; either may be missing or invalid."""

    architecture: Architecture
    digests: dict[str, str]


@dataclass(frozen=True)
class Shape:
    """The sizes of a network; channels in multiples of its width."""

    fold: int
    """Side of the square of pixels that become the channels of one."""
    ends: int
    """Kernel of the first and the last convolution."""
    down: tuple[int, ...]
    """Channels after each halving; before the first there is one times the width."""
    up: tuple[int, ...]
    """Channels after each doubling."""
    bottleneck: bool = False
    """Whether a residual block has one convolution on half of its channels, in place of two on all."""
    white: bool = False
    """Whether maps are whitened after a doubling."""
    skip: bool = False
    """Whether a doubled map is joined with the one of its size before the halving."""

    @property
    def colours(self) -> int:
        """Channels of the photo as the network takes it."""
        return 3 * self.fold**2

    def halvings(self, width: int) -> list[tuple[int, int]]:
        """Channels that each halving takes and makes."""
        made = [width * each for each in self.down]
        return list(zip([width, *made], made, strict=False))

    def doublings(self, width: int) -> list[tuple[int, int]]:
        """Channels that each doubling takes and makes."""
        before = [given for given, _ in reversed(self.halvings(width))]
        made = [width * each for each in self.up]
        below = [width * self.down[-1], *made]
        joined = before if self.skip else [0] * len(made)
        return [(one + other, new) for one, other, new in zip(below, joined, made, strict=False)]

    def block(self, channels: int) -> list[tuple[int, int, int]]:
        """The convolutions of a residual block: channels that it takes and makes, and its kernel."""
        if not self.bottleneck:
            return [(channels, channels, 3)] * 2
        half = channels // 2
        return [(channels, half, 1), (half, half, 3), (half, channels, 1)]


SHAPES: Final[Mapping[Network, Shape]] = {
    "johnson": Shape(fold=1, ends=9, down=(2, 4), up=(2, 1)),
    "small": Shape(fold=1, ends=9, down=(2, 4), up=(2, 1), bottleneck=True),
    "half": Shape(fold=2, ends=5, down=(4,), up=(2,)),
    "white": Shape(fold=2, ends=5, down=(4,), up=(2,), white=True),
    "skip": Shape(fold=1, ends=5, down=(2, 4), up=(2, 1), white=True, skip=True),
}


def weight_shapes(network: Network, width: int) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of a network, by torch's names."""
    shape, shapes = SHAPES[network], dict[str, tuple[int, ...]]()

    def add(name: str, given: int, made: int, kernel: int) -> None:
        shapes[f"{name}.0.weight"] = (made, given, kernel, kernel)
        shapes[f"{name}.1.weight"] = shapes[f"{name}.1.bias"] = (made,)

    add("stem", shape.colours, width, shape.ends)
    for place, (given, made) in enumerate(shape.halvings(width)):
        add(f"down.{place}", given, made, 3)
    for residual in range(RESIDUAL_BLOCKS):
        for place, convolution in enumerate(shape.block(width * shape.down[-1])):
            add(f"residual.{residual}.{2 * place}", *convolution)  # a ReLU lies between two
    for place, (given, made) in enumerate(shape.doublings(width)):
        add(f"up.{place}", given, made, 3)
    shapes["head.weight"] = (shape.colours, width * shape.up[-1], shape.ends, shape.ends)
    shapes["head.bias"] = (shape.colours,)
    return shapes


def read_architecture(card: Description) -> Architecture:
    """The network that a `model.json` names.

    Raises:
        WeightsError: it is unknown.
    """
    found = card.get("architecture")
    match found:
        case {"name": str(name), "width": int(width)} if name in NETWORKS and 0 < width <= _MOST_WIDTH:
            return found
    raise WeightsError(
        f"model.json: architecture is {found!r}; "
        f"allowed: name {' or '.join(map(repr, NETWORKS))}, and a width from 1 to {_MOST_WIDTH}"
    )


def read_weights(weights: bytes, card: Description) -> dict[str, npt.NDArray[np.float32]]:
    """The numbers in a `model.safetensors`, checked.

    Args:
        weights: the file; its tensors are float16, or float32 in models of version 0.1.0.
        card: the content of `model.json`: `architecture` with a name among `NETWORKS`, and, optionally,
            `digests["model.safetensors"]`, SHA-256 in hex.

    Raises:
        WeightsError: the digest differs, the architecture is unknown, or `weights` is not a safetensors file;
            or a tensor is missing, unexpected, of another shape or type, or not finite.
    """
    expected_digest = card.get("digests", {}).get("model.safetensors")
    digest = hashlib.sha256(weights).hexdigest()
    if expected_digest is not None and digest != expected_digest:
        raise WeightsError(f"model.safetensors: sha256 is {digest}, but model.json says {expected_digest}")
    architecture = read_architecture(card)
    try:
        found = load(weights)
    except (SafetensorError, KeyError, TypeError) as error:  # the latter two: types that numpy lacks
        raise WeightsError(f"model.safetensors: not a safetensors file: {error}") from error
    expected = weight_shapes(architecture["name"], architecture["width"])
    for name in sorted(expected.keys() | found.keys()):
        given, wanted = found.get(name), expected.get(name)
        if given is None or given.shape != wanted or given.dtype not in (np.float16, np.float32):
            form = "missing" if given is None else f"{given.dtype} {list(given.shape)}"
            allowed = "missing" if wanted is None else f"float16 {list(wanted)}"
            raise WeightsError(f"model.safetensors: tensor {name!r} is {form}, expected: {allowed}")
        if not np.isfinite(given).all():  # its images would be black, with finite losses
            raise WeightsError(f"model.safetensors: tensor {name!r} holds NaN or infinite values")
    return {name: tensor.astype(np.float32) for name, tensor in found.items()}
