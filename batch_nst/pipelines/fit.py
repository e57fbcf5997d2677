"""read pairs -> crop/flip -> TransformerNet -> loss: one Ray Train job and its worker."""

from __future__ import annotations

import json
import math
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.fs
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

from batch_nst.data.pairs import batches
from batch_nst.data.snapshot import Snapshot
from batch_nst.data.storage import Store, open_filesystem
from batch_nst.data.style import StylePicture
from batch_nst.engine.johnson import GEOMETRIC, Average, Weights, training_loss
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.pipelines.cluster import Workers, beside_driver
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.pipelines.progress import Meter, meter
from batch_nst.recipe import Recipe, Train, value_at

CHECKPOINTS = "checkpoints"
"""Below the output: what a training run that was cut off resumes from."""

_STATE = "state.pt"
_HISTORY = "history.json"
_WARM_UP_STEPS = 20
_LONGEST_GRADIENT = 10.0
_LOGGED = 200
"""Points in a training curve, about."""
_PATIENCE = 50
"""Steps that may be skipped one after the other."""


class Fitted(NamedTuple):
    """What came of a training."""

    net: TransformerNet
    """With averaged weights, on the CPU."""
    history: list[dict[str, float]]
    """The training curve."""
    skipped: int
    """Steps that were not taken, for want of a number in their gradients."""


@dataclass(frozen=True)
class Task:
    """What a training worker needs to know."""

    recipe: Recipe
    store: Store
    snapshot: Snapshot
    style: StylePicture
    workers: Workers
    board: Any
    """Handle of the actor that the driver's progress is read from."""


def fit(
    recipe: Recipe, store: Store, snapshot: Snapshot, style: StylePicture, version: str, workers: Workers
) -> Fitted:
    """Train, or resume the run named `version`; a finished one returns at once."""
    board = ray.remote(num_cpus=0, scheduling_strategy=beside_driver())(_Board).remote()
    trainer = ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={"task": Task(recipe, store, snapshot, style, workers, board)},
        scaling_config=ScalingConfig(
            num_workers=recipe.train.workers,
            use_gpu=workers.device == "cuda",
            resources_per_worker={"CPU": workers.num_cpus, **({"GPU": 1} if workers.num_gpus else {})},
        ),
        run_config=RunConfig(
            name=version,
            **_storage(store),
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    with meter("train", recipe.train.steps, "steps") as progress, _watching(board, progress):
        result = trainer.fit()
    with result.checkpoint.as_directory() as folder:
        state = _load(Path(folder))
        history = json.loads((Path(folder) / _HISTORY).read_text())
    net = TransformerNet(recipe.train.width, recipe.train.network)
    net.load_state_dict(state["average"])
    return Fitted(net.eval(), history, state.get("skipped", 0))


def _work(config: dict[str, Any]) -> None:
    """One worker: its share of every global batch, from the last checkpoint on."""
    task: Task = config["task"]
    settings = task.recipe.train
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    # A piece of a batch is what is computed in one go. On CPUs that is an image, on threads of its own, as
    # many from one worker as from each of several that share a node: so its gradient is the same to the last
    # bit whoever computes it. Rounding that differs grows: through the kinks of ReLU it becomes a thousandth
    # of the loss within twenty steps. And no piece waits for another. A GPU takes its share in one piece.
    on_gpu = task.workers.device == "cuda"
    pieces = 1 if on_gpu else settings.batch_size // world
    threads = max(1, task.workers.threads // pieces)
    objectives = Objectives.on(
        task.style,
        task.recipe.loss,
        task.recipe.vgg,
        task.workers.device,
        settings.precision,
        # More of them beside those of the pieces would be more than there are cores.
        threads if on_gpu else 1,
    )
    device = objectives.device
    torch.manual_seed(settings.seed)
    # Not DDP, which adds up in the gradients' own precision, where the order counts.
    net = ray.train.torch.prepare_model(
        TransformerNet(settings.width, settings.network), parallel_strategy=None
    )
    objective = objectives.fast
    average = Average(net, settings.average)
    parameters = list(net.parameters())
    optimizer = torch.optim.Adam(parameters, lr=value_at(settings.learning_rate, 0.0))
    history: list[dict[str, float]] = []
    start = skipped = running = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = _load(Path(folder))
            history = json.loads((Path(folder) / _HISTORY).read_text())
        net.load_state_dict(state["net"])
        average.weights = {name: tensor.to(device) for name, tensor in state["average"].items()}
        optimizer.load_state_dict(state["optimizer"])
        start, skipped = int(state["step"]), int(state.get("skipped", 0))

    reading = batches(
        task.store,
        task.snapshot,
        batch_size=settings.batch_size,
        seed=settings.seed,
        start=start,
        rank=rank,
        world=world,
        crop_size=settings.crop_size,
    )
    every = max(1, settings.steps // _LOGGED)
    with ThreadPoolExecutor(
        min(pieces, task.workers.threads), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        # Only this thread knows which GPU it has.
        each = map if on_gpu else pool.map
        for step, batch in zip(range(start + 1, settings.steps + 1), reading, strict=False):
            part = (step - 1) / max(1, settings.steps - 1)
            rate = rate_at(settings, part, step)
            weighted = partial(gradient_of, net, objective, weights_at(settings, part))
            content, optimised = to_tensor(batch.content, device), to_tensor(batch.optimised, device)
            gradient, parts = mean_of(each(weighted, content.chunk(pieces), optimised.chunk(pieces)))
            if take_step(optimizer, parameters, gradient, rate):
                average.update(net, step)
                running = 0
                if rank == 0:
                    task.board.tell.remote(step, parts)
                    if step % every == 0 or step in (1, settings.steps):
                        history.append({"step": step, **parts})
            else:
                skipped, running = skipped + 1, running + 1
                if running == _PATIENCE:
                    raise FloatingPointError(
                        f"step {step}: there was no number in the gradients of {running} steps one after the "
                        "other; a lower train.learning_rate may help"
                    )
            if step % settings.checkpoint_steps == 0 or step == settings.steps:
                state = {
                    "net": net.state_dict(),
                    "average": average.weights,
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "skipped": skipped,
                }
                _report(state, history, parts, rank)


def gradient_of(
    net: torch.nn.Module,
    objective: PerceptualLoss,
    weights: Weights,
    content: torch.Tensor,
    optimised: torch.Tensor,
    measure_all: bool = True,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The gradient of a piece of a batch, all parameters' in one, flat, and the parts of its loss.

    In the precision of the objective's VGG-16; see `training_loss`.
    """
    half = objective.vgg.dtype == torch.bfloat16

    def stylize(image: torch.Tensor) -> torch.Tensor:
        # All threads would share the cache of cast weights, which are used once in a call.
        with torch.autocast(image.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            stylized: torch.Tensor = net(image)
        return stylized.float()

    loss, parts = training_loss(stylize, objective, weights, content, optimised, measure_all)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients]), parts


def weights_at(settings: Train, part: float) -> Weights:
    """The weights of the loss when `part` of the steps is done."""
    return Weights(
        perceptual=value_at(settings.perceptual_weight, part),
        feature=value_at(settings.feature_weight, part),
        pixel=value_at(settings.pixel_weight, part),
    )


def rate_at(settings: Train, part: float, step: int) -> float:
    """The learning rate of step `step` (from 1 on), when `part` of the steps is done."""
    return value_at(settings.learning_rate, part) * min(1.0, step / _WARM_UP_STEPS)


def take_step(
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    gradient: torch.Tensor,
    rate: float,
) -> bool:
    """Step along a gradient (all parameters', flat), cut to a bearable length.

    Returns:
        Whether it was taken. Where the gradient is not all numbers nothing changes, on every worker alike.
    """
    if not gradient.isfinite().all():
        return False
    for group in optimizer.param_groups:
        group["lr"] = rate
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, its in zip(parameters, gradient.split_with_sizes(sizes), strict=True):
        parameter.grad = its.view_as(parameter)
    torch.nn.utils.clip_grad_norm_(parameters, _LONGEST_GRADIENT)
    optimizer.step()
    return True


def mean_of(
    pieces: Iterable[tuple[torch.Tensor, dict[str, float]]],
) -> tuple[torch.Tensor, dict[str, float]]:
    """Gradient and parts of the loss over the global batch, from those of all workers' pieces of one size.

    Sums of fp32 numbers are exact in fp64, but for a rare last bit that fp32 does not have: so the mean is
    the same whatever is added up first.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    for gradient, parts in pieces:
        values = [math.log(value) if name in GEOMETRIC else value for name, value in parts.items()]
        shown = torch.tensor(values, dtype=torch.float64, device=gradient.device)
        total = total.to(gradient.device) + torch.cat([gradient.double(), shown])
        count += 1
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        count *= torch.distributed.get_world_size()
    mean = total / count
    means = zip(parts, mean[-len(parts) :].tolist(), strict=True)
    return mean[: -len(parts)].float(), {
        name: math.exp(value) if name in GEOMETRIC else value for name, value in means
    }


def _report(
    state: dict[str, Any], history: list[dict[str, float]], parts: dict[str, float], rank: int
) -> None:
    """A checkpoint of rank 0; all ranks must report the same number of times."""
    if rank != 0:
        ray.train.report(parts)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / _STATE)
        (Path(folder) / _HISTORY).write_text(json.dumps(history))
        ray.train.report({"step": state["step"], **parts}, checkpoint=Checkpoint.from_directory(folder))


def _load(folder: Path) -> dict[str, Any]:
    # weights_only: a checkpoint comes from storage, and nothing that could run code is ever loaded.
    return dict(torch.load(folder / _STATE, map_location="cpu", weights_only=True))


def _storage(store: Store) -> dict[str, Any]:
    """Where Ray Train keeps checkpoints, through the same file systems as everything else."""
    if store.local_path is not None:
        return {"storage_path": str(store.local_path / CHECKPOINTS)}
    filesystem, path = open_filesystem(store.join(CHECKPOINTS))
    wrapped = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))
    return {"storage_path": path, "storage_filesystem": wrapped}


class _Board:
    """What the training worker says of itself, for the driver to show."""

    def __init__(self) -> None:
        self.step = 0
        self.parts: dict[str, float] = {}

    def tell(self, step: int, parts: dict[str, float]) -> None:
        self.step, self.parts = step, parts

    def look(self) -> tuple[int, dict[str, float]]:
        return self.step, self.parts


@contextmanager
def _watching(board: Any, progress: Meter) -> Iterator[None]:
    """Show what the board says, once a second, while the block runs."""
    over = threading.Event()

    def watch() -> None:
        seen = 0
        while not over.wait(1.0):
            step, parts = ray.get(board.look.remote())
            if step != seen:
                note = f"loss {parts['loss']:.3f} objective {parts['objective']:,.0f}"
                progress.advance(step - seen, note)
                seen = step

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
