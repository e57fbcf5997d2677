"""One step of a training and the state that it changes, without Ray.

The only random numbers after the first weights are those of the batches, which depend on seed and position
alone. So a training that resumes from a `state` ends with the same weights as one that never stopped, on CPUs
to the last bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NotRequired, TypeAlias, TypedDict, cast

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from batch_nst.data.dataset.sampler import Batch
from batch_nst.data.images.codec import Pixels
from batch_nst.data.models.files import ModelFiles
from batch_nst.data.models.registry import CurvePoint, History
from batch_nst.engine.fast_model.model_io import load_net, one_at_a_time, stylize_image
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.training_loss import GEOMETRIC, Average, Weights, training_loss
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.pipelines.train.muon import Muon, matrices
from batch_nst.recipe import Train, value_at

OptimizerState: TypeAlias = dict[str, Any]
"""As `torch.optim.Optimizer.state_dict` returns it."""


class TrainerState(TypedDict):
    """Everything that `Trainer.restore` needs except the history; older checkpoints lack some keys."""

    net: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: OptimizerState
    """That of Adam."""
    muon: NotRequired[OptimizerState]
    """That of Muon, where it is used."""
    step: int
    skipped: NotRequired[int]
    running: NotRequired[int]
    """Steps in a row that were skipped, up to this one."""


_PAIRED = "paired"
"""The part of a piece's photos that have pairs, which travels with the parts of the loss."""
_OF_PAIRS = frozenset({"feature", "pixel"})
"""Parts of the loss that photos without pairs do not have."""
_WARM_UP_STEPS = 20
_LONGEST_GRADIENT = 10.0
_LOGGED = 200
"""Approximate number of points in a training curve."""
_PATIENCE = 50
"""Steps in a row that may be skipped; a shorter training fails if it skips all of its steps."""


def first_net(settings: Train, start: ModelFiles | None) -> TransformerNet:
    """The network with its first weights, on the CPU.

    Args:
        settings: network, width and seed are used.
        start: a model of this network and width, whose weights it gets; None draws them from the seed.

    Raises:
        WeightsError: the files of `start` do not belong together.
    """
    torch.manual_seed(settings.seed)
    net = TransformerNet(settings.width, settings.network)
    if start:
        net.load_state_dict(load_net(start.weights, start.card).state_dict())
    return net


class Trainer:
    """A network in training: everything that a step changes.

    Attributes:
        net: the network with the weights of the last step.
        average: the moving average of the weights, which becomes the model.
        step: number of steps done.
        skipped: number of those that changed nothing, because their gradients were NaN or infinite.
        history: the curve so far.
    """

    def __init__(
        self, settings: Train, objectives: Objectives, net: TransformerNet, threads: int, at_once: int
    ) -> None:
        """Start at step 0.

        Args:
            settings: the section `train` of the recipe.
            objectives: the objectives of the style.
            net: the network with its first weights, on the device of `objectives`.
            threads: CPU threads that compute one image.
            at_once: images that a CPU computes at the same time.
        """
        self.net, self.average = net, Average(net, settings.average)
        self.step = self.skipped = 0
        self.history: History = []
        self._settings, self._objectives = settings, objectives
        self._parameters = list(net.parameters())
        self._running = 0
        # On a CPU each image is computed by itself, on threads of its own. With the same number of threads
        # its gradient is the same to the last bit, whether one worker computes it or several that share a
        # node. Differences in rounding would grow: through the kinks of ReLU to a thousandth of the loss
        # within twenty steps. Also, no image waits for another. A GPU computes its share as one batch.
        self._pool = (
            ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(threads,))
            if objectives.device.type == "cpu"
            else None
        )
        self._stylizing = one_at_a_time(net) if self._pool else net
        rate = rate_at(settings, 1)
        large = matrices(net) if settings.optimizer == "muon" else []
        others = [weight for weight in self._parameters if not any(weight is each for each in large)]
        self._adam = torch.optim.Adam(others, lr=rate)
        # In the same pool, so that its products do not depend on the number of workers of a node either.
        self._muon = Muon(large, rate, self._pool.map if self._pool else map) if large else None

    def train_step(
        self, batch: Batch, progress: float | None = None, skip_unweighted: bool = False
    ) -> dict[str, float]:
        """Do the next step.

        Args:
            batch: this worker's share of the step's global batch.
            progress: fraction of the training that is done, 0..1; by default the fraction of its steps. A
                training that ends after a time gives that of its time.
            skip_unweighted: do not compute parts of the loss whose weight is 0. It saves time, but the curve
                lacks them.

        Returns:
            The parts of the loss over the global batch.

        Raises:
            FloatingPointError: the gradients of many steps in a row were NaN or infinite.
        """
        device = self._objectives.device
        step = self.step + 1
        if progress is None:
            progress = _progress(self._settings, step)
        weighted = partial(self._piece, weights_at(self._settings, progress), skip_unweighted)
        content, optimised = to_tensor(batch.content, device), to_tensor(batch.optimised, device)
        paired = batch.paired or (True,) * len(content)
        if self._pool:
            each = (content.chunk(len(content)), optimised.chunk(len(content)), [(one,) for one in paired])
            pieces = self._pool.map(weighted, *each)
        else:
            pieces = map(weighted, [content], [optimised], [paired])
        gradient, finite, parts = _mean(pieces)
        self.step = step
        if finite:
            optimizers = [self._adam, self._muon] if self._muon else [self._adam]
            take_step(optimizers, self._parameters, gradient, rate_at(self._settings, step, progress))
            self.average.update(self.net, step)
            self._running = 0
            every = max(1, self._settings.steps // _LOGGED)
            if not self.history or step % every == 0 or step == self._settings.steps:
                self.history.append(cast(CurvePoint, {"step": step, **parts}))
        else:
            self.skipped, self._running = self.skipped + 1, self._running + 1
            if self._running == min(_PATIENCE, self._settings.steps):
                raise FloatingPointError(
                    f"step {step}: the gradients of {self._running} steps in a row were NaN or infinite; "
                    "a lower train.learning_rate may help"
                )
        return parts

    def state(self) -> TrainerState:
        """Everything that `restore` needs except the history; tensors and numbers only."""
        state: TrainerState = {
            "net": self.net.state_dict(),
            "average": self.average.weights,
            "optimizer": self._adam.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "running": self._running,
        }
        if self._muon:
            state["muon"] = self._muon.state_dict()
        return state

    def restore(self, state: TrainerState, history: History) -> None:
        """Continue where another training was when it made this state."""
        self.net.load_state_dict(state["net"])
        device = self._objectives.device
        self.average.weights = {name: tensor.to(device) for name, tensor in state["average"].items()}
        self._adam.load_state_dict(state["optimizer"])
        if self._muon:
            self._muon.load_state_dict(state["muon"])
        self.step, self.skipped = int(state["step"]), int(state.get("skipped", 0))
        self._running = int(state.get("running", 0))
        self.history = list(history)

    def model(self) -> TransformerNet:
        """A network with the averaged weights, on the same device; shares none with the one in training."""
        net = copy.deepcopy(self.net)
        net.load_state_dict(self.average.weights)
        return net

    def stylize_panel(self, photos: list[Pixels]) -> list[Pixels]:
        """Photos of one size, stylized with the averaged weights in fp32; changes no state."""
        images = torch.from_numpy(np.stack(photos))
        return [picture.numpy() for picture in stylize_image(self.model(), images, self._objectives.device)]

    def _piece(
        self,
        weights: Weights,
        skip_unweighted: bool,
        content: Tensor,
        optimised: Tensor,
        paired: Sequence[bool],
    ) -> tuple[Tensor, list[str]]:
        """A piece of the batch: gradient, parts of the loss and number of images as `_mean` adds them."""
        objective = self._objectives.fast
        loss, parts = training_loss(
            self._stylize, objective, weights, content, optimised, skip_unweighted, paired
        )
        parts[_PAIRED] = loss.new_full((), sum(paired) / len(paired))
        gradients = torch.autograd.grad(loss, self._parameters)
        values = [*gradients, *parts.values(), loss.new_ones(())]
        sizes = [value.numel() for value in values]
        piece = loss.new_empty(sum(sizes), dtype=torch.float64)
        for place, value in zip(piece.split_with_sizes(sizes), values, strict=True):
            place.view(value.shape).copy_(value)
        return piece.mul_(len(content)), list(parts)

    def _stylize(self, image: Tensor) -> Tensor:
        half = self._objectives.dtype == torch.bfloat16
        if self._pool:
            image = image.contiguous(memory_format=torch.channels_last)
        # A cache of cast weights would be shared by all threads, and each weight is used only once in a call.
        with torch.autocast(self._objectives.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            stylized: Tensor = self._stylizing(image)
        return stylized.float()


def rate_at(settings: Train, step: int, progress: float | None = None) -> float:
    """The learning rate of a step, from 1 on; `progress` as in `Trainer.train_step`."""
    progress = _progress(settings, step) if progress is None else progress
    return value_at(settings.learning_rate, progress) * min(1.0, step / _WARM_UP_STEPS)


def _progress(settings: Train, step: int) -> float:
    """Fraction of the steps that is done when this one starts: 0 for the first, 1 for the last."""
    return (step - 1) / max(1, settings.steps - 1)


def weights_at(settings: Train, progress: float) -> Weights:
    """The weights of the loss when this fraction of the training is done."""
    return Weights(
        perceptual=value_at(settings.perceptual_weight, progress),
        feature=value_at(settings.feature_weight, progress),
        pixel=value_at(settings.pixel_weight, progress),
        checkerboard=value_at(settings.checkerboard_weight, progress),
        content_factor=value_at(settings.content_factor, progress),
    )


def take_step(
    optimizers: Sequence[torch.optim.Optimizer],
    parameters: list[torch.nn.Parameter],
    gradient: Tensor,
    rate: float,
) -> None:
    """Take one step of each optimiser along a finite gradient, clipped to a norm of at most 10.

    Args:
        optimizers: together they hold `parameters`.
        parameters: the parameters of the network.
        gradient: the gradients of all parameters, flattened and concatenated.
        rate: learning rate.
    """
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, its in zip(parameters, gradient.split_with_sizes(sizes), strict=True):
        parameter.grad = its.view_as(parameter)
    torch.nn.utils.clip_grad_norm_(parameters, _LONGEST_GRADIENT)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def _mean(pieces: Iterable[tuple[Tensor, list[str]]]) -> tuple[Tensor, bool, dict[str, float]]:
    """Mean gradient, whether it is finite, and parts of the loss over the global batch.

    A piece is a vector in fp64: gradient and parts times the number of its images, then that number. The sums
    are taken in fp64, where sums of fp32 numbers are exact except for a rare last bit beyond fp32.
    So the mean does not depend on the order of the pieces. Once a step the host waits for the device, here:
    a step whose gradient is not finite is skipped, on all workers.
    """
    (total, parts), *others = pieces
    for piece, _ in others:
        total += piece
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    mean = total[:-1] / total[-1]
    gradient = mean[: -len(parts)].float()
    *means, finite = torch.cat([mean[-len(parts) :], gradient.isfinite().all().double()[None]]).tolist()
    found = dict(zip(parts, means, strict=True))
    paired = found.pop(_PAIRED)
    for name in _OF_PAIRS & found.keys() if paired else ():
        found[name] /= paired
    return (
        gradient,
        bool(finite),
        {name: math.exp(value) if name in GEOMETRIC else value for name, value in found.items()},
    )
