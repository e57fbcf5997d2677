"""How fast a training step is: against a floor of its parts, and beside the baseline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from batch_nst.data.dataset.sampler import Batch
from batch_nst.engine.baselines import plain_activations, train_step
from batch_nst.engine.timing import Spread, seconds, spread_of, wait_for
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.pipelines.train.trainer import Trainer, first_net
from batch_nst.recipe import Train


class TrainingSpeed(TypedDict):
    """Seconds of a training step per image; all parts take their turn in each round."""

    size: int
    """Side of the crops in pixels."""
    batch: int
    step: Spread
    usual: Spread
    """The step of pytorch/examples' loop, in fp32."""
    record: Spread
    """VGG-16 forward, of which a step has three: the photo, the optimised image, the model's picture."""
    pull_back: Spread
    """VGG-16 back to the pixels, once a step."""
    network: float
    """The fast model forward and back: its operations at the rate of `record`."""
    floor: float
    """Three times `record`, once `pull_back`, and `network`; medians."""
    fraction: float
    """`floor` over the median of `step`."""


def measure_training(objectives: Objectives, size: int, batch: int, rounds: int) -> TrainingSpeed:
    """Time steps of the network that recipes get, untrained, on noise; pixels do not decide the time."""
    draw = np.random.default_rng(0)
    photos, optimised = draw.integers(0, 256, (2, batch, size, size, 3), np.uint8)
    pairs = Batch(photos, optimised)
    content, device = to_tensor(pairs.content, objectives.device), objectives.device
    settings = Train(steps=1000, batch_size=batch, crop_size=size)
    at_once = min(batch, torch.get_num_threads())
    threads = max(1, torch.get_num_threads() // at_once)
    training = Trainer(settings, objectives, first_net(settings, None).to(device), threads, at_once)
    net = first_net(settings, None).to(device)
    usual = plain_activations(objectives.exact.vgg)
    adam, vgg = torch.optim.Adam(net.parameters()), objectives.fast.vgg
    recorded = vgg.record(content)
    runs: dict[str, Callable[[], object]] = {
        "step": lambda: training.train_step(pairs),
        "usual": lambda: train_step(net, objectives.exact, usual, adam, content),
        "record": lambda: vgg.record(content),
        "pull_back": lambda: vgg.pull_back(recorded, lambda name, gradient: None),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            took = seconds(partial(_ended, run, device)) / batch
            if turn:  # the first one chooses kernels
                times[name].append(took)
    spreads = {name: spread_of(each) for name, each in times.items()}
    record, back = spreads["record"]["median"], spreads["pull_back"]["median"]
    # Back to its input and to its weights a network does its operations twice more.
    network = record * 3 * _operations(net, content / 255) / _operations(vgg, content)
    floor = 3 * record + back + network
    return {
        "size": size,
        "batch": batch,
        "step": spreads["step"],
        "usual": spreads["usual"],
        "record": spreads["record"],
        "pull_back": spreads["pull_back"],
        "network": network,
        "floor": floor,
        "fraction": floor / spreads["step"]["median"],
    }


def _ended(run: Callable[[], object], device: torch.device) -> None:
    run()
    wait_for(device)


def _operations(net: nn.Module, image: Tensor) -> int:
    """Floating-point operations of a forward pass; with autograd, as fused layers are not counted."""
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        net(image)
    return int(counter.get_total_flops())
