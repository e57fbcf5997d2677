"""VGG-16 (Simonyan and Zisserman, ICLR 2015, configuration D), cut off after the last layer asked for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from batch_nst.errors import WeightsError
from batch_nst.recipe import VGG_LAYERS

Input = Literal["oxford", "torchvision"]

_WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}

# What the network was trained on: RGB, 0..255 minus the mean; torchvision's own weights divide as well.
_NORMALISATION: dict[Input, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "oxford": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
    "torchvision": ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
}


class Vgg16(nn.Module):
    """Activations of named layers; the parameters never need gradients."""

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
            convention: the input normalisation that the weights were trained with.
            source: what to call the weights in an error.

        Raises:
            WeightsError: not a safetensors file, or a layer is missing or of a wrong shape.
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
                index += 1  # a pooling layer takes a number in torchvision's sequence
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
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def at(self, device: torch.device | str, dtype: torch.dtype) -> Vgg16:
        """This network moved to a device, its convolutions in `dtype`; normalisation stays fp32 or better."""
        self.to(device)
        self.convolutions.to(dtype)
        if dtype == torch.float64:
            self.to(dtype)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Of the convolutions, and so of the activations."""
        return next(self.convolutions.parameters()).dtype

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Activations after ReLU.

        Args:
            image: (B, 3, H, W), RGB, 0..255.

        Returns:
            For each layer asked for (B, C, H', W') in the network's dtype, at least 0.
        """
        x = ((image - self.mean) / self.std).to(self.dtype, memory_format=torch.channels_last)
        activations = {}
        for name, conv in self.convolutions.items():
            if name.endswith("_1") and name != "relu1_1":
                x = F.max_pool2d(x, 2)
            x = F.relu_(conv(x))
            if name in self.layers:
                activations[name] = x
        return activations
