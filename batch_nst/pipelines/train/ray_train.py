"""The Ray Train job of `train` and its worker: read pairs, crop and flip, TransformerNet, loss."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, cast

import pyarrow.fs
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer

from batch_nst.console import ProgressBar, StepTimer, log, progress_bar
from batch_nst.data.dataset.sampler import Share
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.images.style import StyleImage
from batch_nst.data.models import registry
from batch_nst.data.models.files import ModelFiles
from batch_nst.data.models.registry import History
from batch_nst.data.storage.fetch import open_filesystem
from batch_nst.data.storage.store import Store
from batch_nst.engine.device import Precision
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.errors import IncompleteError
from batch_nst.pipelines.cluster.connect import Workers, on_this_node
from batch_nst.pipelines.objective import Objectives
from batch_nst.pipelines.train.batches import Blocks, Take, training_batches
from batch_nst.pipelines.train.log import TrainingLog, panel_steps, read_panel
from batch_nst.pipelines.train.progress import Progress, ProgressActor
from batch_nst.pipelines.train.trainer import Trainer, TrainerState, first_net, rate_at
from batch_nst.recipe import Recipe

CHECKPOINTS = "checkpoints"
"""Folder below the output from which an interrupted training resumes."""

_STATE = "state.pt"
_HISTORY = "history.json"
_MAX_FAILURES = 10
"""Worker failures tolerated; a bug therefore surfaces only after this many restarts."""
_WAIT_FOR_WORKERS = "10"
"""Seconds that Ray waits for workers to start. Ray polls the nodes three times a minute, so elastic training
may wait once or twice for a node that was just lost before it continues without it."""
_LOOK_AT_WORKERS = "0.5"
"""Seconds between Ray Train's looks at its workers, 2 by default. A checkpoint waits for the next one."""
_LOOK_FOR_MORE = 300.0
"""Seconds between checks for new nodes. Elastic training adds them by restarting from its last checkpoint."""
_MOST_DECODERS = 16


@dataclass(frozen=True)
class Pace:
    """Speed of a training since its last start, from its first batch on."""

    steps_per_second: float
    images_per_second: float
    busy: float
    """Fraction of the time in which the first worker was computing."""
    waiting: float
    """Fraction in which it waited for pairs."""
    writing: float
    """Fraction in which it wrote checkpoints and pictures."""
    start_up_seconds: float
    """Time until it had the first batch."""


class Checkpointed(TrainerState):
    """The content of `state.pt` in a checkpoint."""

    init: NotRequired[str]
    """What the first weights were: `random`, or the name of a model."""
    precision: NotRequired[str]
    """`fp32` or `bf16`."""


class Fitted(NamedTuple):
    """The result of a training."""

    net: TransformerNet
    """The network with averaged weights, on the CPU, in eval mode."""
    history: History
    """The training curve."""
    skipped: int
    """Number of steps that were skipped because their gradients were NaN or infinite."""
    init: str
    """What the first weights were: `random`, or the name of a model."""
    pace: Pace | None
    """None if Ray reports no metrics."""


@dataclass(frozen=True)
class Task:
    """What a training worker needs to know."""

    recipe: Recipe
    store: Store
    snapshot: Snapshot
    style: StyleImage
    version: str
    start: ModelFiles | None
    """The model whose weights training starts from; None: random weights."""
    workers: Workers
    progress: Any = None
    """Handle of the `ProgressActor`; `run_training` sets it."""


def run_training(task: Task, show: Callable[[History, int], None]) -> Fitted:
    """Train, or resume the training named by the version; a finished one returns at once.

    Args:
        task: what to train on, and how.
        show: called with the curve and the number of steps done, whenever the panel has new pictures.

    Raises:
        IncompleteError: the gradients of many steps in a row were NaN or infinite, or the training ended
            before its last step.
    """
    settings, workers = task.recipe.train, task.workers
    fewest, most = settings.worker_range
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _LOOK_AT_WORKERS)
    if fewest < most:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _WAIT_FOR_WORKERS)
    storage_path, storage_filesystem = _storage(task.store)
    actor = ray.remote(num_cpus=0, scheduling_strategy=on_this_node())(ProgressActor).remote()
    trainer = TorchTrainer(
        _training_worker,
        train_loop_config={"task": replace(task, progress=actor)},
        scaling_config=ScalingConfig(
            num_workers=most if fewest == most else (fewest, most),
            elastic_resize_monitor_interval_s=_LOOK_FOR_MORE,
            use_gpu=workers.device == "cuda",
            resources_per_worker={"CPU": workers.num_cpus, **({"GPU": 1} if workers.num_gpus else {})},
        ),
        run_config=RunConfig(
            name=task.version,
            storage_path=storage_path,
            storage_filesystem=storage_filesystem,
            failure_config=FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    fitting = _start(trainer)
    with progress_bar("train", settings.steps, "steps", (settings.batch_size, "images")) as bar:
        _watch(actor, fitting, bar, show)
    result = fitting.result()
    progress: Progress = ray.get(actor.read.remote())
    if progress.failure:
        failed = registry.model_object(task.version, registry.FAILED)
        task.store.replace(failed, f"{progress.failure}\n".encode())
        raise IncompleteError(f"training {task.version}: {progress.failure}")
    return _fitted(task, result)


def _fitted(task: Task, result: Result) -> Fitted:
    """The model of the last checkpoint.

    Raises:
        IncompleteError: the training ended before its last step.
    """
    settings = task.recipe.train
    with result.checkpoint.as_directory() as folder:
        state, history = _load(Path(folder))
    if state["step"] < settings.steps:
        raise IncompleteError(
            f"training {task.version} ended after {state['step']} of {settings.steps} steps; run it again"
        )
    net = TransformerNet(settings.width, settings.network)
    net.load_state_dict(state["average"])
    pace = (result.metrics or {}).get("pace")
    return Fitted(
        net.eval(),
        history,
        state.get("skipped", 0),
        state.get("init", "random"),
        Pace(**pace) if pace else None,
    )


def _training_worker(config: dict[str, Task]) -> None:
    """One worker: it trains on its share of every global batch, from the last checkpoint on."""
    started, start_up = time.perf_counter(), 0.0
    task = config["task"]
    settings = task.recipe.train
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    checkpoint = ray.train.get_checkpoint()
    saved = None
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            saved = _load(Path(folder))
    # No DDP: it sums gradients in their own precision, where the order matters.
    net: TransformerNet = ray.train.torch.prepare_model(
        first_net(settings, task.start), parallel_strategy=None
    )
    # The number of threads for an image must not depend on how many workers share a node or are left.
    threads = max(1, task.workers.threads // -(-settings.batch_size // settings.worker_range[1]))
    objectives = _objectives(task, threads, saved and saved[0].get("precision"))
    training = Trainer(settings, objectives, net, threads, max(1, task.workers.threads // threads))
    init = task.start.name if task.start else "random"
    if saved:
        training.restore(*saved)
        init = saved[0].get("init", init)
    precision = "bf16" if objectives.dtype == torch.bfloat16 else "fp32"
    reporter = _Reporter(task, training, world) if rank == 0 else None
    first, clock = training.step, StepTimer("busy", "waiting", "writing")
    side = task.recipe.generate.image_size
    share = Share(settings.seed, settings.batch_size, rank, world, settings.unpaired, side)
    reading = training_batches(_take(task, share, first), settings, share, _decoders(task.workers, world))
    while training.step < settings.steps:
        with clock.spends("waiting"):
            batch = next(reading)
        if training.step == first:  # start-up is not part of the pace
            start_up, clock = time.perf_counter() - started, StepTimer("busy", "waiting", "writing")
        try:
            with clock.spends("busy"):
                parts = training.train_step(batch)
        except FloatingPointError as error:  # the same on all workers and after every restart
            if rank == 0:
                ray.get(task.progress.fail.remote(str(error)))
            return
        with clock.spends("writing"):
            step = training.step
            pace = clock.pace(step - first, settings.batch_size)
            keep = step % settings.checkpoint_steps == 0 or step == settings.steps
            if reporter:
                reporter.step_done(parts, pace, keep)
            if keep:
                state: Checkpointed = {**training.state(), "init": init, "precision": precision}
                pace = {**pace, "start_up_seconds": round(start_up, 1)}
                _report(state, training.history, {"step": step, **parts, "pace": pace}, rank)


def _take(task: Task, share: Share, first: int) -> Take:
    """What gives this worker its pairs from a step on: a reader of its own, or the one of its group."""
    what = (task.store, task.snapshot, task.recipe.train, share, first)
    if share.world == 1:
        return partial(Blocks(*what).take, 0)
    # The reader of a group that has just ended may still be there, so each has a name of its own. It ends
    # with the first worker, and runs on its node.
    name, reader = f"reader-{uuid.uuid4().hex}", None
    if share.rank == 0:
        reader = ray.remote(num_cpus=0, scheduling_strategy=on_this_node())(Blocks)
        reader = reader.options(name=name).remote(*what)
    name = broadcast_from_rank_zero(name)
    handle: Any = reader or ray.get_actor(name)
    return lambda: cast(list[Any], ray.get(handle.take.remote(share.rank)))


def _decoders(workers: Workers, world: int) -> int:
    """Number of decoding tasks for each worker: the CPUs that trainers do not use, at least one."""
    beside = ray.cluster_resources().get("CPU", 0) / world - workers.num_cpus
    return max(1, min(int(beside), _MOST_DECODERS))


def _objectives(task: Task, threads: int, saved_precision: str | None) -> Objectives:
    """The style's objectives in the precision of the checkpoint, if any; the same on all workers."""
    settings, on_gpu = task.recipe.train, task.workers.device == "cuda"
    precision = settings.precision
    if precision == "auto" and saved_precision:
        precision = cast(Precision, saved_precision)
    objectives = Objectives.on(
        task.style,
        task.recipe.loss,
        task.recipe.vgg,
        task.workers.device,
        precision,
        # On a CPU the threads of the images already use all cores.
        threads if on_gpu else 1,
    )
    if torch.distributed.is_initialized():  # workers may have measured different precisions to be faster
        half = torch.tensor([int(objectives.dtype == torch.bfloat16)], device=objectives.device)
        torch.distributed.all_reduce(half, torch.distributed.ReduceOp.MIN)
        objectives.dtype = torch.bfloat16 if half else torch.float32
    return objectives


class _Reporter:
    """Reports from the first worker: to the progress actor, and to the training log."""

    def __init__(self, task: Task, training: Trainer, world: int) -> None:
        """Report the first step and the number of workers."""
        self._training, self._settings, self._progress = training, task.recipe.train, task.progress
        self._panel = read_panel(task.store, task.snapshot)
        self._panel_steps = panel_steps(self._settings.steps) if self._panel.photos else set()
        self._log = TrainingLog(task.store, task.version)
        self._log.begin(training.step, self._panel)
        self._progress.start.remote(training.step, world)

    def step_done(self, parts: dict[str, float], pace: dict[str, float], keep: bool) -> None:
        """Report the step that was just done; `keep`: its checkpoint follows."""
        step, history = self._training.step, self._training.history
        self._progress.set_step.remote(step, parts)
        if history and history[-1]["step"] == step:
            self._log.add(step, {**parts, **pace, "learning_rate": rate_at(self._settings, step)})
        if step in self._panel_steps:
            self._log.show(step, self._training.stylize_panel(self._panel.photos))
            self._progress.set_history.remote(history)
        if keep:
            self._log.flush(step)


def _report(
    state: Checkpointed, history: History, metrics: dict[str, float | dict[str, float]], rank: int
) -> None:
    """Report a checkpoint from rank 0; all ranks must report the same number of times."""
    if rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / _STATE)
        (Path(folder) / _HISTORY).write_text(json.dumps(history))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _load(folder: Path) -> tuple[Checkpointed, History]:
    """The state and the curve of a checkpoint."""
    # weights_only: a checkpoint comes from storage, and must not be able to run code.
    state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
    return cast(Checkpointed, state), json.loads((folder / _HISTORY).read_text())


def _storage(store: Store) -> tuple[str, pyarrow.fs.FileSystem | None]:
    """Path and file system where Ray Train keeps checkpoints; None: the local file system."""
    if store.local_path is not None:
        return str(store.local_path / CHECKPOINTS), None
    filesystem, path = open_filesystem(store.join(CHECKPOINTS))
    return path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))


def _start(trainer: TorchTrainer) -> Future[Result]:
    """Run the trainer in another thread, so that signals end this command as they end others.

    In the main thread Ray loses the exception of a SIGTERM handler, and turns Ctrl-C into exit code 0. The
    thread is a daemon: nobody waits for a training that was stopped; it ends with the Ray job.
    """
    fitting: Future[Result] = Future()

    def fit() -> None:
        try:
            fitting.set_result(trainer.fit())
        except BaseException as error:  # raised by `Future.result`
            fitting.set_exception(error)

    threading.Thread(target=fit, name="fit", daemon=True).start()
    return fitting


def _watch(
    actor: Any, fitting: Future[Result], bar: ProgressBar, show: Callable[[History, int], None]
) -> None:
    """Show what the first worker reports, once a second, until the training is over."""
    starts = seen = shown = 0
    while not fitting.done():
        wait([fitting], timeout=1.0)
        now: Progress = ray.get(actor.read.remote())
        if now.starts != starts:
            starts, seen = now.starts, now.first
            bar.resume(seen)
            if seen or starts > 1:
                log(f"training continues from step {seen}, workers: {now.workers}")
        if now.step != seen:
            parts = now.parts
            note = f"loss {parts['loss']:.3f} objective {parts['objective']:,.0f}"
            note = f"{note} content {parts['content']:,.0f} style {parts['style']:,.0f}"
            bar.advance(now.step - seen, note)
            seen = now.step
        if now.history and now.history[-1]["step"] != shown:
            shown = now.history[-1]["step"]
            show(now.history, seen)
