"""What paints the pictures of `apply`: OpenVINO without torch, which takes seconds to import, or torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from batch_nst.data.images.codec import Pixels
from batch_nst.data.models.files import ModelFiles
from batch_nst.engine.fast_model.compiled import MAX_WHOLE, Backend, compile_net, is_half
from batch_nst.engine.fast_model.network import Weights, read_weights

if TYPE_CHECKING:
    from batch_nst.engine.device import Device, Precision

Paint = Callable[[Pixels], Pixels]
"""From uint8 (H, W, 3) to the same shape."""


def checked_weights(files: ModelFiles) -> Weights:
    """The weights of a model.

    Raises:
        WeightsError: its files do not belong together.
    """
    with files.naming_home():
        return read_weights(files.weights, files.card)


def by_openvino(
    files: ModelFiles, weights: Weights, precision: Precision, threads: int | None = None
) -> Paint:
    """A painter on CPUs; torch is imported for the first picture that is too large for one piece."""
    network = files.card["architecture"]["name"]

    @cache
    def whole() -> Paint:
        return compile_net(weights, network, threads, half=is_half(precision))

    @cache
    def in_tiles() -> Paint:
        return by_torch(files, "cpu", precision, "openvino", threads)

    def paint(picture: Pixels) -> Pixels:
        height, width, _ = picture.shape
        return (whole() if height * width <= MAX_WHOLE["openvino"] else in_tiles())(picture)

    return paint


def by_torch(
    files: ModelFiles,
    device: Device,
    precision: Precision,
    backend: Backend | None = None,
    threads: int | None = None,
) -> Paint:
    """A painter on any device; see `inference.painter`. With `threads` this process computes on so many."""
    # Tiles are made and freed again and again, and the kernel fills each of their pages with zeros: large
    # pages take it half the time. Torch reads this when it makes its first tensor.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch

    from batch_nst.engine.device import choose_device, keep_freed_memory
    from batch_nst.pipelines.inference import painter

    if threads:  # in a worker, which paints many
        keep_freed_memory()
        torch.set_num_threads(threads)
    return painter(files, choose_device(device), precision, backend)
