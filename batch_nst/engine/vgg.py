"""VGG-16 (Simonyan and Zisserman, ICLR 2015, configuration D), cut off after the last requested layer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from batch_nst.errors import WeightsError
from batch_nst.recipe import VGG_LAYERS

Input = Literal["oxford", "torchvision"]

_WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}

# Mean and divisor of RGB, 0..255, in training; only torchvision's weights have a divisor.
_NORMALISATION: dict[Input, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "oxford": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
    "torchvision": ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
}


class Recorded(NamedTuple):
    """A forward pass, with what the backward pass needs."""

    activations: dict[str, Tensor]
    """Activations of all layers down to the deepest, (B, C, H', W') in the network's dtype."""
    winners: dict[str, Tensor]
    """Max-pooling indices, by the layer that follows the pooling."""


class Vgg16(nn.Module):
    """Activations of named layers; the parameters never need gradients.

    vgg = Vgg16(weights, ["relu1_2", "relu3_3"]).at("cuda", torch.bfloat16)
    activations = vgg(images)
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        weights: bytes,
        layers: Collection[str],
        convention: Input = "oxford",
        source: str = "VGG-16 weights",
    ) -> None:
        """Load the weights in fp32.

        Args:
            weights: a safetensors file with torchvision's names (`features.N.weight`, `features.N.bias`).
            layers: names among `VGG_LAYERS`; the network ends with the deepest of them.
            convention: input normalisation that the weights were trained with.
            source: name of the weights in error messages.

        Raises:
            WeightsError: the file is not safetensors, or a layer is missing or has a wrong shape.
        """
        super().__init__()
        try:
            tensors = safetensors.torch.load(weights)
        except SafetensorError as error:
            raise WeightsError(f"{source}: is not a safetensors file: {error}") from error
        self.layers = tuple(name for name in VGG_LAYERS if name in layers)
        depth = VGG_LAYERS.index(self.layers[-1]) + 1
        self.convolutions = nn.ModuleDict()
        fan_in, index = 3, 0
        for name in VGG_LAYERS[:depth]:
            if name.endswith("_1") and index:
                index += 1  # torchvision numbers pooling layers too
            fan_out = _WIDTHS[int(name[4])]
            conv = nn.Conv2d(fan_in, fan_out, 3, padding=1)
            for kind, parameter in conv.named_parameters():
                key = f"features.{index}.{kind}"
                if key not in tensors:
                    raise WeightsError(
                        f"{source}: lacks {key} ({name}); is it a VGG-16 with torchvision's names?"
                    )
                if tensors[key].shape != parameter.shape:
                    raise WeightsError(
                        f"{source}: {key} ({name}) has shape {list(tensors[key].shape)}, "
                        f"must be {list(parameter.shape)}"
                    )
                parameter.data.copy_(tensors[key])
            self.convolutions[name] = conv
            fan_in, index = fan_out, index + 2  # a convolution and its ReLU
        mean, std = _NORMALISATION[convention]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        # The adjoint of a convolution with stride 1 is one with the kernel rotated and its channels swapped.
        self.adjoints = nn.ParameterDict(
            {
                name: nn.Parameter(conv.get_parameter("weight").detach().flip(2, 3).transpose(0, 1))
                for name, conv in self.convolutions.items()
            }
        )
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        self._packed: dict[tuple[str, str], tuple[torch.Size, Tensor]] = {}

    def at(self, device: torch.device | str, dtype: torch.dtype) -> Vgg16:
        """Move the network to a device, convolutions in `dtype`; normalisation stays in fp32 or better."""
        self._packed.clear()
        self.to(device)
        self.convolutions.to(dtype)
        self.adjoints.to(dtype)
        if dtype == torch.float64:
            self.to(dtype)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Type of the convolutions, and so of the activations."""
        return next(self.convolutions.parameters()).dtype

    @property
    def least_side(self) -> int:
        """Smallest side of an image in pixels: the deepest layer then has one position."""
        return int(2 ** (int(self.layers[-1][4]) - 1))

    def forward(self, image: Tensor, layers: Collection[str] | None = None) -> dict[str, Tensor]:
        """Activations after ReLU.

        Args:
            image: (B, 3, H, W), RGB, 0..255.
            layers: return only these, among the layers of the network; deeper ones are not computed.

        Returns:
            By layer, (B, C, H', W') in the network's dtype, at least 0.
        """
        wanted = self.layers if layers is None else layers
        activations: dict[str, Tensor] = {}
        x = self.normalised(image)
        for name, conv in self.convolutions.items():
            if _is_behind_pooling(name):
                x = F.max_pool2d(x, 2)
            x = F.relu_(conv(x)) if torch.is_grad_enabled() else self._convolved(x, name, "relu")
            if name in wanted:
                activations[name] = x
            if len(activations) == len(wanted):
                break
        return activations

    @torch.no_grad()
    def record(self, image: Tensor) -> Recorded:
        """The forward pass without autograd; with `pull_back` it needs less time and memory.

        Args:
            image: (B, 3, H, W), RGB, 0..255.
        """
        activations, winners = {}, {}
        x = self.normalised(image)
        for name in self.convolutions:
            if _is_behind_pooling(name):
                x, winners[name] = F.max_pool2d(x, 2, return_indices=True)
            x = activations[name] = self._convolved(x, name, "relu")
        return Recorded(activations, winners)

    @torch.no_grad()
    def pull_back(self, recorded: Recorded, add_slope: Callable[[str, Tensor], None]) -> Tensor:
        """The backward pass: the gradient by the image of a function of the activations.

        Args:
            recorded: the forward pass of the image.
            add_slope: called for each layer, deepest first, with its name and the gradient from deeper
                layers. It adds in place the function's own derivative by that layer's activation.

        Returns:
            (B, 3, H, W), fp32 or better, contiguous.
        """
        names = list(self.convolutions)
        gradient = torch.zeros_like(recorded.activations[names[-1]])
        for name, before in zip(reversed(names), [*reversed(names[:-1]), None], strict=True):
            add_slope(name, gradient)
            gradient = torch.ops.aten.threshold_backward(gradient, recorded.activations[name], 0)
            gradient = self._convolved(gradient, name, "none")
            if before is not None and name in recorded.winners:
                gradient = torch.ops.aten.max_pool2d_with_indices_backward(
                    gradient,
                    recorded.activations[before],
                    *((2, 2), (2, 2), (0, 0), (1, 1), False),  # kernel, stride, padding, dilation, ceil
                    recorded.winners[name],
                )
        return gradient.to(self.mean.dtype).contiguous() / self.std

    def _convolved(self, x: Tensor, name: str, then: Literal["relu", "none"]) -> Tensor:
        """A layer without autograd: forward with ReLU, or, with `none`, the adjoint of its convolution.

        On a CPU it is one operation of oneDNN, which torch's compiler also uses, on weights in the layout
        that oneDNN computes in: to arrange them takes as long as a small picture. The layout of the last
        size is kept, as another size may have another one.
        """
        conv = self.convolutions[name]
        weight = conv.get_parameter("weight") if then == "relu" else self.adjoints[name]
        if x.device.type != "cpu" or not _can_fuse(x.dtype):
            return F.relu_(conv(x)) if then == "relu" else F.conv2d(x, weight, padding=1)
        ones = (1, 1)
        size, packed = self._packed.get((name, then), (None, weight))
        if size != x.shape:
            packed = torch.ops.mkldnn._reorder_convolution_weight(weight, ones, ones, ones, 1, x.shape)
            self._packed[name, then] = x.shape, packed
        bias = conv.get_parameter("bias") if then == "relu" else None
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, packed, bias, ones, ones, ones, 1, then, [], ""
        )
        return convolved

    def normalised(self, image: Tensor) -> Tensor:
        """The input of the first convolution for images (B, 3, H, W), RGB, 0..255."""
        return ((image - self.mean) / self.std).to(self.dtype, memory_format=torch.channels_last)


def _can_fuse(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a fused convolution in this type: bf16 needs a CPU with AVX-512."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _is_behind_pooling(name: str) -> bool:
    return name.endswith("_1") and name != "relu1_1"
