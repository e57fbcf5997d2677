"""read pairs -> crop/flip -> TransformerNet -> loss: one Ray Train job and its worker."""

from __future__ import annotations

import json
import math
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.pipelines.cluster import Workers
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.pipelines.progress import Meter, meter
from batch_nst.recipe import Recipe

CHECKPOINTS = "checkpoints"
"""Below the output: what a training run that was cut off resumes from."""

_STATE = "state.pt"
_HISTORY = "history.json"
_WARM_UP_STEPS = 20
_LONGEST_GRADIENT = 10.0
_LOGGED = 200
"""Points in a training curve, about."""


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
) -> tuple[TransformerNet, list[dict[str, float]]]:
    """Train, or resume the run named `version`; a finished one returns at once.

    Returns:
        The net with averaged weights on the CPU, and the training curve.
    """
    board = ray.remote(num_cpus=0)(_Board).remote()
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
    net = TransformerNet(recipe.train.width)
    net.load_state_dict(state["average"])
    return net.eval(), history


def _work(config: dict[str, Any]) -> None:
    """One worker: its share of every global batch, from the last checkpoint on."""
    task: Task = config["task"]
    settings = task.recipe.train
    context = ray.train.get_context()
    objectives = Objectives.on(
        task.style,
        task.recipe.loss,
        task.recipe.vgg,
        task.workers.device,
        settings.precision,
        task.workers.threads,
    )
    device, half = objectives.device, objectives.dtype == torch.bfloat16
    torch.manual_seed(settings.seed)
    bare = TransformerNet(settings.width).to(device)
    net = ray.train.torch.prepare_model(bare)
    average = Average(bare, settings.average)
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate)
    history: list[dict[str, float]] = []
    start = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = _load(Path(folder))
            history = json.loads((Path(folder) / _HISTORY).read_text())
        bare.load_state_dict(state["net"])
        average.weights = {name: tensor.to(device) for name, tensor in state["average"].items()}
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])

    def stylize(image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            stylized: torch.Tensor = net(image)
        return stylized.float()

    weights = Weights(settings.perceptual_weight, settings.feature_weight, settings.pixel_weight)
    reading = batches(
        task.store,
        task.snapshot,
        batch_size=settings.batch_size,
        seed=settings.seed,
        start=start,
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        crop_size=settings.crop_size,
    )
    every = max(1, settings.steps // _LOGGED)
    for step, batch in zip(range(start + 1, settings.steps + 1), reading, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, step / _WARM_UP_STEPS)
        loss, parts = training_loss(
            stylize,
            objectives.fast,
            weights,
            to_tensor(batch.content, device),
            to_tensor(batch.optimised, device),
        )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(net.parameters(), _LONGEST_GRADIENT)
        optimizer.step()
        average.update(bare, step)
        parts = _over_workers(parts, device)
        if context.get_world_rank() == 0:
            task.board.tell.remote(step, parts)
            if step % every == 0 or step in (1, settings.steps):
                history.append({"step": step, **parts})
        if step % settings.checkpoint_steps == 0 or step == settings.steps:
            state = {
                "net": bare.state_dict(),
                "average": average.weights,
                "optimizer": optimizer.state_dict(),
                "step": step,
            }
            _report(state, history, parts, context.get_world_rank())


def _over_workers(parts: dict[str, float], device: torch.device) -> dict[str, float]:
    """The parts of the loss over the global batch, from every worker's share."""
    if not torch.distributed.is_initialized():
        return parts
    logarithmic = [name in GEOMETRIC for name in parts]
    values = [
        math.log(value) if log else value for value, log in zip(parts.values(), logarithmic, strict=True)
    ]
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(shared)
    means = (shared / torch.distributed.get_world_size()).tolist()
    return {
        name: math.exp(mean) if log else mean
        for name, mean, log in zip(parts, means, logarithmic, strict=True)
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
