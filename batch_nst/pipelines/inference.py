"""`load_model` and `stylize`: the fast model and slow transfer for pictures in Python, without Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from numbers import Integral
from typing import Any, TypeAlias, TypedDict, TypeVar, Unpack, cast, get_args, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from batch_nst.console import log, progress_bar
from batch_nst.data.dataset.manifest import SETTINGS
from batch_nst.data.images.codec import Pixels, resize_short_side
from batch_nst.data.images.picture import LIMITS, File, Picture, is_several, read_picture
from batch_nst.data.images.style import StyleImage
from batch_nst.data.models import registry
from batch_nst.data.models.files import ModelFiles, read_model
from batch_nst.data.models.registry import ModelCard
from batch_nst.data.storage.store import Store
from batch_nst.engine.device import Device, Precision, choose_device, choose_dtype
from batch_nst.engine.fast_model.compiled import MAX_WHOLE, Backend, best_backend, compile_net, is_half
from batch_nst.engine.fast_model.model_io import load_net, one_at_a_time, stylize_image, weights_of
from batch_nst.engine.fast_model.tiling import stylize_tiles
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.slow_transfer import Optimizer, optimise
from batch_nst.errors import RecipeError
from batch_nst.pipelines.objective import Objectives, to_pixels, to_tensor
from batch_nst.recipe import Loss, Vgg

Kind = TypeVar("Kind", Pixels, Tensor, Image.Image)
"""What is answered in kind; a file is answered with a PIL image."""

AnyPicture: TypeAlias = Picture | Tensor


@dataclass(frozen=True)
class FastModel:
    """A fast style-transfer model; call it with a picture, or with several.

    model = load_model("s3://bucket/output")
    model("photo.jpg").save("painted.png")
    stylized = model(np.asarray(Image.open("photo.jpg").convert("RGB")))
    """

    net: TransformerNet
    card: ModelCard
    device: torch.device
    dtype: torch.dtype = torch.float32
    """Type that the convolutions compute in."""
    compiled: Callable[[Pixels], Pixels] | None = None
    """The same on a CPU, by OpenVINO; None where torch computes."""

    @property
    def backend(self) -> Backend:
        """What computes; images in tiles are torch's."""
        return "openvino" if self.compiled else "torch"

    @property
    def engine(self) -> str:
        """Backend and precision in words."""
        return f"{self.backend} {'bf16' if self.dtype == torch.bfloat16 else 'fp32'}"

    @overload
    def __call__(self, picture: Kind) -> Kind: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, picture: File) -> Image.Image: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, picture: Iterable[Kind]) -> list[Kind]: ...
    @overload
    def __call__(self, picture: Iterable[File]) -> list[Image.Image]: ...
    def __call__(self, picture: object) -> object:
        """Stylize a picture, or several one after the other, with progress on a terminal.

        Args:
            picture: a picture, H and W at least 16: a path or URI, a PIL image of any mode, or an array or
                tensor, uint8 (H, W), (H, W, 3) or (H, W, 4), 0..255, sRGB. Transparency is composed over
                white. Or a list of such, or an array (B, H, W, 3).

        Returns:
            The stylized picture, RGB, of the same height and width, in kind: a PIL image for a PIL image and
            for a path, else an array or a tensor on the CPU, uint8 (H, W, 3). A list for a list, and
            (B, H, W, 3) for that. A photo that EXIF says is turned comes out upright.

        Raises:
            ValueError: it is no picture, or too small; or the list is empty.
            FileNotFoundError, PermissionError: a path cannot be read.
            OutageError: a store did not answer, after retries.
            MemoryError: it does not fit into the device's memory, in tiles either.
        """
        least = LIMITS.min_side
        if not is_several(picture):
            return _in_kind(picture, self._paint(_pixels(picture, "picture", least)))
        given = _several(picture, "pictures")
        stylized = []
        with _steps("stylize", len(given), "pictures") as step:
            for index, each in enumerate(given):
                stylized.append(_in_kind(each, self._paint(_pixels(each, f"pictures[{index}]", least))))
                step()
        return _together(picture, stylized)

    def _paint(self, picture: Pixels) -> Pixels:
        height, width, _ = picture.shape
        large = height * width > MAX_WHOLE[self.backend]
        if self.compiled and not large:
            return self.compiled(picture)
        image = torch.from_numpy(np.array(picture))
        for way in (stylize_image, stylize_tiles)[large:]:
            with suppress(torch.OutOfMemoryError):
                return self._stylized(way, image)
            torch.cuda.empty_cache()
        raise MemoryError(f"{width} x {height} pixels are too many for the memory of {self.device}")

    def _stylized(
        self, way: Callable[[TransformerNet, Tensor, torch.device], Tensor], image: Tensor
    ) -> Pixels:
        half = self.dtype == torch.bfloat16
        # A cache of cast weights would be shared by all threads.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            stylized: Pixels = way(self.net, image, self.device).numpy()
        return stylized


def exact_model(files: ModelFiles, device: torch.device) -> FastModel:
    """The model on a device, in fp32 by torch.

    Raises:
        WeightsError: the files do not belong together.
    """
    return FastModel(_net(files).to(device), files.card, device)


def painter(
    files: ModelFiles, device: torch.device, precision: Precision = "auto", backend: Backend | None = None
) -> FastModel:
    """The model on a device, as fast as possible; it differs from `exact_model` by rounding only.

    Its `net` takes one image at a time.

    Args:
        files: of the model.
        device: where it computes.
        precision: of the convolutions.
        backend: what computes; by default `best_backend`.

    Raises:
        WeightsError: the files do not belong together.
    """
    net, compiled = _net(files), None
    if (backend or best_backend(device.type)) == "openvino":
        half = is_half(precision)
        dtype = torch.bfloat16 if half else torch.float32
        threads = torch.get_num_threads()
        compiled = _at_first_call(lambda: compile_net(weights_of(net), net.network, threads, half=half))
    else:
        dtype = choose_dtype(device, precision)
    faster = one_at_a_time(net).to(device).to(memory_format=torch.channels_last)
    return FastModel(faster, files.card, device, dtype, compiled)


def _net(files: ModelFiles) -> TransformerNet:
    with files.naming_home():
        return load_net(files.weights, files.card)


def _at_first_call(make: Callable[[], Callable[[Pixels], Pixels]]) -> Callable[[Pixels], Pixels]:
    """The function that `make` returns, made when it is called first: pictures in tiles need none."""
    made = cache(make)
    return lambda picture: made()(picture)


def load_model(uri: File, device: Device = "auto", precision: Precision = "auto") -> FastModel:
    """Load a model: the published one of an output, one in a folder models/VERSION, or one of the zoo.

        model = load_model("s3://bucket/output")
        model = load_model("zoo:great_wave")
        model = load_model(Path("out/models/000001-0123456789ab"), device="cpu")

    Args:
        uri: an output with a published model, a folder models/VERSION or a copy of one, or a name in the
            zoo: `zoo:NAME`, or NAME alone where no such path exists.
        device: where to compute; `auto` is the GPU if torch sees one.
        precision: `fp32` is exact, `bf16` is faster on some devices, and `auto` chooses it there.

    Raises:
        RecipeError: `uri` holds no model.
        WeightsError: its files do not belong together.
        DeviceError: torch sees no GPU, and `cuda` was asked for.
    """
    return painter(read_model(os.path.expanduser(os.fsdecode(uri))), choose_device(device), precision)


def read_start(uri: str, store: Store, key: str, otherwise: str) -> ModelFiles | None:
    """The model to start from; None if `uri` is an output without a published model, which is logged.

    That is the case in the first run of an output that starts from its own models.

    Args:
        uri: an output, or the folder of a version.
        store: the output of this run.
        key: the recipe's key that names the model.
        otherwise: what happens without a model, for the log.

    Raises:
        RecipeError: `uri` is neither a model nor an output, or the model's files do not belong together.
    """
    try:
        place = Store(uri)
        if (place.uri == store.uri or place.exists(SETTINGS)) and registry.current(place) is None:
            log(f"{key}: {uri} has no published model yet: {otherwise}")
            return None
        model = read_model(uri)
        exact_model(model, torch.device("cpu"))
    except RecipeError as error:
        raise RecipeError(f"{key}: {error}") from error
    return model


class Options(TypedDict, total=False):
    """The keyword arguments of `stylize`."""

    style_size: int
    iterations: int
    loss: Loss | None
    optimizer: Optimizer
    device: Device
    precision: Precision


@overload
def stylize(images: Kind, style: AnyPicture, **options: Unpack[Options]) -> Kind: ...  # type: ignore[overload-overlap]
@overload
def stylize(  # type: ignore[overload-overlap]
    images: File, style: AnyPicture, **options: Unpack[Options]
) -> Image.Image: ...
@overload
def stylize(images: Iterable[Kind], style: AnyPicture, **options: Unpack[Options]) -> list[Kind]: ...
@overload
def stylize(images: Iterable[File], style: AnyPicture, **options: Unpack[Options]) -> list[Image.Image]: ...
def stylize(
    images: object,
    style: object,
    *,
    style_size: int = 256,
    iterations: int = 300,
    loss: Loss | None = None,
    optimizer: Optimizer = "lbfgs",
    device: Device = "auto",
    precision: Precision = "auto",
) -> object:
    """Slow transfer of pictures in memory or in files, with the bundled VGG-16 and progress on a terminal.

        stylize("photo.jpg", "painting.jpg").save("painted.png")
        (stylized,) = stylize([photo], style)

    Args:
        images: a picture or several, as `FastModel` takes them; those of one size are optimised together.
            They are not resized: time and memory grow with their pixels.
        style: the style image, a picture too.
        style_size: short side in pixels to which the style image is resized.
        iterations: steps for each image.
        loss: layers and weights; by default those of a recipe.
        optimizer: `lbfgs` or `adam`.
        device: where to compute.
        precision: type that VGG's convolutions compute in.

    Returns:
        The optimised images, RGB, in the order, the sizes and the kind of `images`, as `FastModel` answers.

    Raises:
        ValueError: one is no picture, or too small for the layers of the loss; the list is empty; or an
            option is not among those allowed.
        FileNotFoundError, PermissionError: a path cannot be read.
        OutageError: a store did not answer, after retries.
        DeviceError: torch sees no GPU, and `cuda` was asked for.
    """
    _check_options(style_size, iterations, optimizer, precision)
    several = is_several(images)
    given = _several(images, "images") if several else [images]
    photos = [_pixels(each, f"images[{index}]" if several else "images") for index, each in enumerate(given)]
    objectives = Objectives.on(
        StyleImage.of_pixels(resize_short_side(_pixels(style, "style"), style_size)),
        loss or Loss(),
        Vgg(),
        choose_device(device).type,
        precision,
        torch.get_num_threads(),
    )
    shapes = sorted({photo.shape for photo in photos})
    stylized: dict[int, object] = {}
    with _steps("stylize", len(shapes) * iterations, "iterations") as step:
        for shape in shapes:
            members = [index for index, photo in enumerate(photos) if photo.shape == shape]
            content = to_tensor(np.stack([photos[index] for index in members]), objectives.device)
            found = optimise(objectives.fast, content, iterations, optimizer, lambda _: step()).images
            for index, picture in zip(members, to_pixels(found), strict=True):
                stylized[index] = _in_kind(given[index], picture)
    answers = [stylized[index] for index in range(len(given))]
    return _together(images, answers) if several else answers[0]


def _check_options(style_size: int, iterations: int, optimizer: str, precision: str) -> None:
    for name, number in (("style_size", style_size), ("iterations", iterations)):
        if not isinstance(number, Integral) or number < 1:
            raise ValueError(f"{name}: given {number!r}; allowed: a whole number from 1")
    for name, word, kind in (("optimizer", optimizer, Optimizer), ("precision", precision, Precision)):
        if word not in get_args(kind):
            raise ValueError(f"{name}: given {word!r}; allowed: {', '.join(get_args(kind))}")


def _several(pictures: object, name: str) -> list[object]:
    """The pictures in an iterable.

    Raises:
        ValueError: it is empty.
    """
    given = list(cast(Iterable[object], pictures))
    if not given:
        raise ValueError(f"{name}: given none; allowed: 1 or more")
    return given


def _pixels(picture: object, name: str, least: int = 1) -> Pixels:
    """`read_picture`, of a tensor on any device as well, with at least so many pixels a side."""
    pixels = read_picture(picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture, name)
    height, width, _ = pixels.shape
    if min(height, width) < least:
        raise ValueError(f"{name}: given {width} x {height} pixels; allowed: {least} a side or more")
    return pixels


def _in_kind(given: object, stylized: Pixels) -> object:
    """A result as what the caller gave: a PIL image for a file, too."""
    if isinstance(given, str | os.PathLike | Image.Image):
        return Image.fromarray(stylized)
    return torch.from_numpy(stylized) if isinstance(given, Tensor) else stylized


def _together(given: object, answers: list[Any]) -> object:
    """Results as one array or tensor where the pictures were one; else as a list."""
    if isinstance(given, Tensor):
        return torch.stack(answers)
    return np.stack(answers) if hasattr(given, "__array__") else answers


@contextmanager
def _steps(what: str, total: int, unit: str) -> Iterator[Callable[[], None]]:
    """Progress on a terminal, a step a call; elsewhere nothing, as callers of a function expect."""
    if sys.stderr.isatty():
        with progress_bar(what, total, unit) as progress:
            yield progress.advance
    else:
        yield lambda: None
