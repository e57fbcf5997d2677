"""What an actor of `generate` does on its device: the photos of a unit, optimised in batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from batch_nst.console import log
from batch_nst.data.dataset.records import PhotoRecord, UnitRecord
from batch_nst.data.images import codec
from batch_nst.data.images.style import StyleImage
from batch_nst.data.models.files import ModelFiles
from batch_nst.engine.device import choose_batch, run_in_batches
from batch_nst.engine.slow_transfer import ENGINE
from batch_nst.pipelines.generate.decode import (
    MOST_DEATHS,
    Attempt,
    StopCheck,
    first_attempt,
    given_up,
    never,
)
from batch_nst.pipelines.inference import FastModel, exact_model
from batch_nst.pipelines.objective import Objectives, optimise_photos, to_tensor
from batch_nst.recipe import Generate, Recipe

if TYPE_CHECKING:
    from batch_nst.pipelines.cluster.connect import Workers


class Stylizer:
    """Holds VGG-16 and the style's Gram matrices; optimises the ok photos of a unit in batches."""

    def __init__(
        self,
        style: StyleImage,
        recipe: Recipe,
        workers: Workers,
        model: ModelFiles | None = None,
        stop_reason: StopCheck = never,
        attempt: Attempt = first_attempt,
    ) -> None:
        """Loads nothing yet, see `load`. Without a model, images start from their photos."""
        self._style, self._recipe, self._workers = style, recipe, workers
        self._model, self._stop_reason, self._attempt = model, stop_reason, attempt

    def __call__(self, unit: UnitRecord) -> UnitRecord:
        """The unit with its ok photos optimised. An image whose loss is NaN or infinite twice has failed."""
        if unit.pending:
            return unit
        if self._stop_reason():
            return replace(unit, stopped=True)
        with self._attempt(f"stylize {unit.unit}") as deaths:
            if deaths < MOST_DEATHS:
                return self._made(unit)
        why = given_up(deaths)
        photos = tuple(photo.refused(why) if photo.ok else photo for photo in unit.photos)
        return replace(unit, photos=photos, began=time.time(), seconds=0.0)

    def _made(self, unit: UnitRecord) -> UnitRecord:
        start = time.perf_counter()
        self.load()
        began = time.time()
        made = iter(self.stylize([photo for photo in unit.photos if photo.is_pair]))
        photos = tuple(next(made) if photo.is_pair else photo for photo in unit.photos)
        return replace(unit, photos=photos, began=began, seconds=time.perf_counter() - start)

    def load(self) -> None:
        """Load the networks, if they are not loaded yet."""
        self._objectives.load()
        if self._model:
            _ = self._fast

    @cached_property
    def batch(self) -> int:
        """Number of images that are optimised together."""
        return choose_batch(self._recipe.generate.image_size, self._objectives.device)

    def stylize(
        self, photos: Sequence[PhotoRecord], iterations: int | None = None, from_model: bool = True
    ) -> list[PhotoRecord]:
        """Decoded photos with their optimised images and losses; those with a NaN or infinite loss fail.

        Args:
            photos: ok ones, with `content`.
            iterations: None: those of the recipe.
            from_model: whether to start from the model's pictures, if there is a model.
        """
        settings = self._recipe.generate
        if iterations is not None:
            settings = settings.model_copy(update={"iterations": iterations})
        model = self._model if from_model else None
        made = list(photos)

        def run(part: slice) -> None:
            made[part] = self._optimised(photos[part], settings, model)

        self.batch = run_in_batches(len(photos), self.batch, run, self._log_halved)
        return made

    def _log_halved(self, batch: int) -> None:
        log(f"out of memory on {self._objectives.device}: continuing with {batch} images at once")

    @cached_property
    def _objectives(self) -> Objectives:
        # Made in the first call, not in the constructor, which another thread runs: see `UnitActor`.
        workers = self._workers
        return Objectives.of_recipe(self._recipe, self._style, workers.device, workers.threads_here())

    @cached_property
    def _fast(self) -> FastModel:
        assert self._model  # only used if there is a model
        return exact_model(self._model, self._objectives.device)

    def _optimised(
        self, photos: Sequence[PhotoRecord], settings: Generate, model: ModelFiles | None
    ) -> list[PhotoRecord]:
        side = settings.image_size
        pixels = np.stack(
            [np.frombuffer(photo.content or b"", np.uint8).reshape(side, side, 3) for photo in photos]
        )
        found = optimise_photos(self._objectives, pixels, settings, self._start(pixels) if model else None)
        made = []
        for index, photo in enumerate(photos):
            if not found.good[index]:
                detail = "the loss is NaN or infinite, also in fp32"
                made.append(replace(photo, status="failed", reason="not_finite", detail=detail))
                continue
            again = index in found.again
            how = f"{self._objectives.device.type} fp32" if again else self._objectives.engine
            made.append(
                replace(
                    photo,
                    stylized=found.pictures[index].tobytes(),
                    content_loss=float(found.losses.content[index]),
                    style_loss=float(found.losses.style[index]),
                    total_loss=float(found.losses.total[index]),
                    init=f"model:{model.name}" if model and not again else "content",
                    engine=f"{ENGINE} {settings.optimizer} {how}",
                )
            )
        return made

    def _start(self, pixels: codec.Pixels) -> Tensor:
        """The fast model's stylized images of photos, uint8 (B, size, size, 3), as tensors to start from."""
        # One by one, and rounded as `apply` stores them: a start has the same bits whatever the batch.
        return to_tensor(np.stack([self._fast(photo) for photo in pixels]), self._objectives.device)
