"""A training run: from data sets and a configuration, or from the step it stopped at, to its product."""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hat.config import config_to_dict
from hat.console import stderr
from hat.data import merge_training
from hat.data.datasets import ReIDDataset, Split
from hat.data.images import set_gray_bits
from hat.data.loading import default_num_workers, without_bad_images
from hat.embedder import Embedder
from hat.errors import ConfigError, DataError, UsageError, WorkError, describe_failure, is_out_of_memory
from hat.evaluation import check_rankable, evaluate
from hat.io.checkpoint import save_checkpoint
from hat.model import HAT
from hat.process_settings import keep_freed_memory
from hat.processor import emulation
from hat.runtime import TorchRuntime

from .config import TrainConfig
from .distillation import Distillation
from .distributed import DistributedContext, process_group
from .images import open_images
from .initial_model import initial_model
from .optimizer import lr_scale
from .run.log import RunLog, RunningMeans
from .run.run_folder import FORMAT_VERSION, RunFolder, RunState, check_same_run, describe_data, read_state, write_state
from .run.stopping import StopRequest
from .sampler import RandomIdentitySampler
from .step import Batch, TrainingStep
from .teacher import open_teacher

_ASKED_EVERY_STEPS = 20
"""After so many steps at the latest processes ask each other whether to stop."""


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training run."""

    folder: Path  # a checkpoint that `hat.load_checkpoint` reads
    num_steps: int  # taken in all
    num_images: int  # trained on since this process began, those of other processes included
    seconds: float  # that this process took for them, evaluations included
    metrics: dict[str, float]  # means of the losses over the last epoch, or what was done of it
    best: dict[str, float] | None  # metrics of the best evaluation, if any
    stopped: str | None = None  # why the run was ended before its end, if it was


def train_model(
    config: TrainConfig,
    datasets: Sequence[ReIDDataset],
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    skip_bad: bool = False,
    stop_after_s: float | None = None,
) -> TrainingResult:
    """Train a HAT. Started by torchrun, every process calls this and they train one model together; the first alone speaks.

    Args:
        config: The run.
        datasets: All are trained on together; the first that has query and gallery is evaluated where that is asked for.
        out: The run's folder, afterwards a checkpoint that `hat.load_checkpoint` reads.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        resume: Go on with the run in that folder.
        force: Replace the run in that folder.
        skip_bad: Leave out images that cannot be read, and say how many; otherwise the first is an error.
        stop_after_s: Stop after so many seconds with the state written, but after one step at the least, as SIGTERM and SIGINT
            do; decoding of the images counts.

    Raises:
        UsageError: The folder may not be written to or another training works in it, the device is not there, or the time is
            not above 0.
        ConfigError: The configuration does not suit the data, the processes, or the run to be resumed.
        DataError: There are no training images, or nothing can be ranked where evaluation is asked for.
        ImageError: An image cannot be read.
        WeightsError: Backbone weights cannot be had or do not fit.
        CheckpointError: The state to be resumed from, or the teacher, cannot be read.
        MissingExtraError: Something asked for needs a library that is not installed.
        WorkError: A loss is not finite, memory ran out, or files cannot be written.
    """
    if stop_after_s is not None and not stop_after_s > 0:
        raise UsageError(f"stop_after_s is above 0, got {stop_after_s:g}")
    keep_freed_memory()
    if config.gray_bits is not None:
        set_gray_bits(config.gray_bits)
    stop_at = None if stop_after_s is None else time.monotonic() + stop_after_s
    folder = RunFolder(Path(out))
    with process_group(device) as context, contextlib.ExitStack() as stack:
        if context.is_main:
            folder.check(resume=resume, force=force)
            folder.check_inputs(config, resume=resume)
            stack.enter_context(folder.lock())
        stack.enter_context(_one_sentence(folder))
        evaluated_index = next((i for i, dataset in enumerate(datasets) if len(dataset.query) and len(dataset.gallery)), None)
        if skip_bad:
            evaluated = evaluated_index if config.eval.every_epochs else None
            datasets = [_without_bad_images(dataset, i == evaluated, context) for i, dataset in enumerate(datasets)]
        train = _training_images(datasets)
        evaluation = None if evaluated_index is None else datasets[evaluated_index]
        trainer = Trainer(config, train, folder, context, resume=resume, evaluation=evaluation)
        if context.world_size > 1:
            dist.barrier()  # all have read the state before the first process writes
        if context.is_main:
            folder.begin(config, resume=resume)
            for name, note in [(dataset.name, note) for dataset in datasets for note in dataset.notes]:
                stderr.print(f"{name}: {note}")
            stderr.print(trainer.announcement(len(train), train.num_pids))
        result = trainer.run(stop_at)
        if result.stopped is not None and context.is_main:
            where = f"epoch {trainer.epoch + 1}, step {trainer.epoch_step} of {trainer.num_steps}"
            stderr.print(f"stopped after {where}: {result.stopped}. The state is written; go on with --resume")
        return result


@contextlib.contextmanager
def _one_sentence(folder: RunFolder) -> Iterator[None]:
    """Turn what a machine lacks, memory above all, into an error that says what to lower and what is kept."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        state = folder.describe_state()
        if is_out_of_memory(error):
            raise WorkError(
                "memory ran out: lower sampler.num_identities or model.image_size, set compute.precision=bf16, hold the images "
                f"elsewhere (data.cache=host or none), or lower eval.batch_size if it was an evaluation; {state}"
            ) from error
        if isinstance(error, OSError):
            raise WorkError(f"{describe_failure(error)}; {state}") from error
        raise


def _without_bad_images(dataset: ReIDDataset, is_evaluated: bool, context: DistributedContext) -> ReIDDataset:
    usable, bad = without_bad_images(dataset, ("train", "query", "gallery") if is_evaluated else ("train",))
    if bad and context.is_main:
        path, reason = bad[0]
        stderr.print(f"{dataset.name}: {len(bad)} images cannot be used and are left out, such as {path}: {reason}")
    return usable


def _training_images(datasets: Sequence[ReIDDataset]) -> Split:
    sources = [dataset for dataset in datasets if len(dataset.train)]
    if not sources:
        raise DataError(f"no training images in {', '.join(dataset.name for dataset in datasets) or 'no data set'}")
    return merge_training(sources)


class Trainer:
    """Trains a HAT on images of identities 0 to n - 1.

    `RunFolder.begin` makes the folder ready before `run`. ``resume`` goes on from the folder's state, and from the beginning
    where a run was killed before it wrote one. ``images`` are opened as `DataConfig` says where none are given.

    Raises:
        ConfigError: The configuration does not suit the data, the processes, or the run to be resumed.
        DataError: Identities are not 0 to n - 1, or fewer than two; or nothing can be ranked where evaluation is asked for.
        HatError: Weights, teacher, images or state cannot be read.
    """

    def __init__(
        self,
        config: TrainConfig,
        train: Split,
        folder: RunFolder,
        context: DistributedContext,
        *,
        resume: bool = False,
        evaluation: ReIDDataset | None = None,
    ) -> None:
        self.config = config
        self.context = context
        self.folder = folder
        self.evaluation = evaluation
        if config.eval.every_epochs:
            if evaluation is None:
                raise ConfigError("eval.every_epochs is set and no data set given has both query and gallery; set it to 0")
            check_rankable(evaluation)  # now, and not when the first epoch has been trained
        self.pids = torch.from_numpy(_check_labels(train)).to(context.device)
        self.sampler = RandomIdentitySampler(train.pids, config.sampler, config.seed)
        self.sampler.shard(np.empty((0, self.sampler.batch_size), dtype=np.int64), context.rank, context.world_size)
        self.num_steps = self.sampler.num_batches // config.optim.accumulate
        if not self.num_steps:
            raise ConfigError(
                f"an epoch has {self.sampler.num_batches} batches and a step accumulates {config.optim.accumulate}; "
                "lower optim.accumulate or the batch"
            )
        goes_on = resume and folder.has_state
        if goes_on:  # the state has every weight: what the run began with need not be there any more
            self.model, self.weights_note = HAT(config.model, train.num_pids), ""
        else:
            self.model, self.weights_note = initial_model(config, train.num_pids)
        self._plain_config = config_to_dict(config)
        self._data = describe_data(train)
        self.teacher = open_teacher(config, train.paths, self._data, context)
        self._teacher_fingerprint = None if self.teacher is None else self.teacher.fingerprint
        self.distillation = None if self.teacher is None else Distillation(config, self.teacher, self.model, context)
        self.step = TrainingStep(self.model, self.model.preprocessing, config, context, self.distillation)
        self.epoch, self.epoch_step, self.global_step = 0, 0, 0
        self.best: dict[str, Any] | None = None
        self._state_written = time.monotonic()
        self.interval, self.whole_epoch = RunningMeans(), RunningMeans()
        if goes_on:
            self._restore(read_state(folder.last))
        self.images = open_images(train.paths, self.model.preprocessing, config.data, context)

    def run(self, stop_at: float | None = None) -> TrainingResult:
        """Train to the end, or until ``stop_at`` (as `time.monotonic` counts) or SIGTERM or SIGINT, but for at least one step.

        A run that is stopped writes its state after the step that is under way; resumed, it goes on as if it had never stopped.

        Raises:
            WorkError: A loss is not finite, or a file cannot be written. The last state that was written is kept.
            HatError: An image or the teacher's embeddings cannot be read.
        """
        if self.teacher is not None and self.epoch < max(1, self.config.num_epochs):
            self.teacher.begin(self.folder.path)
            if self.config.distill.projection_images and not self.global_step:
                self._fit_projection(self.config.distill.projection_images)
        if not self.config.num_epochs and self.context.is_main:
            self._save_weights(self.folder.path, None)
        began = self._state_written = time.monotonic()
        done = self.global_step
        metrics: dict[str, float] = {}
        stop = StopRequest(stop_at, self.context)
        log = RunLog(
            self.folder.path,
            self.config.num_epochs,
            self.num_steps,
            done,
            tensorboard=self.config.log.tensorboard,
            silent=not self.context.is_main,
        )
        with log, stop:
            while self.epoch < self.config.num_epochs and stop.reason is None:
                self._train_epoch(log, stop)
                metrics = self.whole_epoch.means()
                if stop.reason is None:
                    self.whole_epoch.reset()
                    self._finish_epoch(log)
        num_images = (self.global_step - done) * self.config.optim.accumulate * self.sampler.batch_size
        best = None if self.best is None else {name: float(value) for name, value in self.best.items()}
        seconds = time.monotonic() - began
        return TrainingResult(self.folder.path, self.global_step, num_images, seconds, metrics, best, stop.reason)

    def _fit_projection(self, num_images: int) -> None:
        assert self.distillation is not None
        total, size = len(self.pids), self.config.eval.batch_size
        chosen = np.linspace(0, total - 1, min(num_images, total)).round().astype(np.int64)  # of all identities
        parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        indices = (torch.from_numpy(part).to(self.pids.device) for part in parts)
        images = (next(self.images(part[None])) for part in parts)
        self.distillation.fit_projection(self.model, zip(images, indices, strict=True))
        if self.model.projection is not None and self.step.average is not None:
            self.eval_model().load_state_dict(self.model.state_dict())
        self.step.train_mode()

    def announcement(self, num_images: int, num_pids: int) -> str:
        """Return one sentence about what is to be trained, on what, where, and from where on."""
        config, context = self.config, self.context
        where = f"{context.world_size} processes, {context.device.type}" if context.world_size > 1 else str(context.device)
        start = f"from epoch {self.epoch + 1}, step {self.epoch_step + 1}" if self.global_step else self.weights_note
        taught = f"; it learns from {config.distill.teacher}" if config.distill.teacher else ""
        precision = config.compute.precision
        emulated = emulation(context.device.type, precision)
        slow = f"; {emulated}" if emulated else ""
        return (
            f"{config.model_name}: {num_images} images of {num_pids} identities, {config.num_epochs} epochs of "
            f"{self.num_steps} steps of {config.optim.accumulate * self.sampler.batch_size} images, "
            f"{precision} on {where}; {start}{taught}{slow}"
        )

    def _train_epoch(self, log: RunLog, stop: StopRequest) -> None:
        config, epoch, accumulate = self.config, self.epoch, self.config.optim.accumulate
        plan = self.sampler.plan(epoch)[self.epoch_step * accumulate : self.num_steps * accumulate]
        positions = np.arange(self.sampler.num_batches * self.sampler.batch_size).reshape(self.sampler.num_batches, -1)
        own_plan = self.sampler.shard(plan, self.context.rank, self.context.world_size)
        own_positions = torch.from_numpy(self.sampler.shard(positions, self.context.rank, self.context.world_size)).to(
            self.pids.device
        )
        batches = self.images(own_plan)
        indices = torch.from_numpy(own_plan).to(self.pids.device)  # (batches, B)
        labels = self.pids[indices]
        pending: list[tuple[int, dict[str, Tensor]]] = []
        interval_began, interval_steps = time.monotonic(), 0
        first, on_cpu = self.epoch_step, self.pids.device.type == "cpu"
        for step in range(first, self.num_steps):
            lr = config.optim.lr * lr_scale(config.schedule, epoch + step / self.num_steps, config.num_epochs)
            group = [
                Batch(next(batches), labels[index], own_positions[first * accumulate + index], indices[index])
                for index in range((step - first) * accumulate, (step - first + 1) * accumulate)
            ]
            metrics = self.step(group, epoch, step, lr)
            pending.append((step, metrics))
            self.epoch_step, self.global_step, interval_steps = step + 1, self.global_step + 1, interval_steps + 1
            last = step + 1 == self.num_steps
            write_line = last or self.global_step % config.log.every_steps == 0
            # On a CPU, where nothing waits for it, after every step: torchrun kills who has not ended after half a minute.
            together = write_line or on_cpu or self.global_step % _ASKED_EVERY_STEPS == 0
            save = stop.is_due(together=together) or (not last and self._state_is_due())
            # Metrics stay on a GPU until they are needed: to read them after each step would let it wait for Python.
            if write_line or save or on_cpu:
                self._count(pending)
                pending = []
            log.count_step(epoch)
            if write_line:
                seconds = max(time.monotonic() - interval_began, 1e-9)
                rate = interval_steps * accumulate * self.sampler.batch_size / seconds
                log.interval(epoch, self.interval.means(), lr, rate)
                self.interval.reset()
                interval_began, interval_steps = time.monotonic(), 0
            if save:
                self._write_state()
            if stop.reason is not None:
                return
        log.epoch_done(epoch, self.whole_epoch.means())

    def _count(self, steps: Sequence[tuple[int, Mapping[str, Tensor]]]) -> None:
        """Add the metrics of steps to the means, by one copy from the device; a loss that is not finite is a WorkError."""
        rows = torch.stack([torch.stack([value.float() for value in metrics.values()]) for _, metrics in steps]).tolist()
        for (step, metrics), row in zip(steps, rows, strict=True):
            values = dict(zip(metrics, row, strict=True))
            # An overflow of fp16 gradients is dealt with by the loss scale: the step is left out, and its norm says nothing.
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            if wrong := [f"{name} is {value}" for name, value in values.items() if name not in {*finite, "grad_norm"}]:
                raise self._diverged(f"epoch {self.epoch + 1}, step {step + 1} of {self.num_steps}: {', '.join(wrong)}")
            self.interval.add(finite)
            self.whole_epoch.add(finite)

    def _diverged(self, what: str) -> WorkError:
        remedy = "Lower optim.lr, set optim.clip_grad_norm, or use bf16 or fp32, not fp16"
        return WorkError(f"{what}; {self.folder.describe_state()}. {remedy}")

    def _finish_epoch(self, log: RunLog) -> None:
        """Evaluate and write what is asked for; the state comes last, so that it never claims what is not there."""
        config, number = self.config, self.epoch + 1
        # The last step of an epoch may spoil weights whose loss nobody computes any more.
        if not all(bool(weights.isfinite().all()) for weights in self.model.parameters()):
            raise self._diverged(f"epoch {number}: weights are not finite after its last step")
        last = number == config.num_epochs
        evaluated = None
        if config.eval.every_epochs and (last or number % config.eval.every_epochs == 0) and self.context.is_main:
            evaluated = self._evaluate()
            is_best = self.best is None or evaluated["mAP"] > self.best["mAP"]
            log.evaluated(self.epoch, evaluated, is_best=is_best)
            if is_best:
                self.best = {**evaluated, "epoch": number}
                self._save_weights(self.folder.path, evaluated)
        self.epoch, self.epoch_step = number, 0
        every = config.checkpoint.every_epochs
        if self.context.is_main and (last or (every > 0 and number % every == 0)):
            if self.best is None:
                self._save_weights(self.folder.path, None)
            self._save_weights(self.folder.last, evaluated)
            self._write_state()
        elif self._state_is_due():
            self._write_state()
        if self.context.world_size > 1:
            dist.barrier()

    def _evaluate(self) -> dict[str, float]:
        assert self.evaluation is not None
        device, compute = str(self.context.device), self.config.compute
        # The runtime would otherwise lay out the weights that are being trained in another way.
        runtime = TorchRuntime(self.eval_model(), device, compute.precision, channels_last=compute.channels_last)
        num_workers = self.config.data.num_workers or default_num_workers()
        embedder = Embedder(runtime, batch_size=self.config.eval.batch_size, num_workers=num_workers)
        try:
            result = evaluate(embedder, self.evaluation)
        except UsageError as error:  # embeddings that are not finite
            raise self._diverged(f"epoch {self.epoch + 1}: the model cannot be evaluated: {error}") from None
        self.step.train_mode()
        return {name: getattr(result, name) for name in ("mAP", "rank1", "rank5", "rank10", "mINP")}

    def eval_model(self) -> HAT:
        """Return the model that is evaluated and kept: the moving average where there is one."""
        model = self.model if self.step.average is None else self.step.average.model
        assert isinstance(model, HAT)
        return model

    def _save_weights(self, folder: Path, metrics: Mapping[str, Any] | None) -> None:
        epochs_done = self.epoch if self.epoch_step == 0 else self.epoch + 1
        training = {**self._plain_config, "epochs_done": epochs_done, "data": self._data}
        if metrics is not None and self.evaluation is not None:
            metrics = {**metrics, "dataset": self.evaluation.name}
        save_checkpoint(self.eval_model(), folder, training=training, metrics=metrics)

    def _state_is_due(self) -> bool:
        minutes, steps = self.config.checkpoint.every_minutes, self.config.checkpoint.every_steps
        by_time = minutes is not None and time.monotonic() - self._state_written >= 60 * minutes
        return by_time or (steps > 0 and self.global_step % steps == 0)

    def _write_state(self) -> None:
        if self.context.is_main:
            state: RunState = {
                **self.step.state(),
                "format_version": FORMAT_VERSION,
                "config": self._plain_config,
                "data": self._data,
                "teacher": self._teacher_fingerprint,
                "world_size": self.context.world_size,
                "epoch": self.epoch,
                "step": self.epoch_step,
                "global_step": self.global_step,
                "interval": self.interval.state(),
                "whole_epoch": self.whole_epoch.state(),
                "best": self.best,
            }
            write_state(state, self.folder.last)
        self._state_written = time.monotonic()  # in every process: one for which it stays due would wait for its GPU each step

    def _restore(self, state: RunState) -> None:
        check_same_run(state, self._plain_config, self._data, self._teacher_fingerprint)
        if state["step"] and self.config.num_epochs <= state["epoch"]:
            raise ConfigError(f"the run is in epoch {state['epoch'] + 1}, more than num_epochs={self.config.num_epochs}")
        if state["world_size"] not in (None, self.context.world_size) and self.context.is_main:
            change = f"processes: {state['world_size']} before, {self.context.world_size} now"
            stderr.print(f"{change}; the run will not end in the weights of one that never stopped")
        self.step.restore(state)
        self.epoch, self.epoch_step, self.global_step = state["epoch"], state["step"], state["global_step"]
        self.interval.restore(state["interval"])
        self.whole_epoch.restore(state["whole_epoch"])
        self.best = state["best"]


def _check_labels(train: Split) -> np.ndarray[Any, np.dtype[np.int64]]:
    found = np.unique(train.pids)
    if not len(found):
        raise DataError("there are no training images")
    if found[0] != 0 or found[-1] != len(found) - 1:
        raise DataError(
            f"identities of training images are 0 to {len(found) - 1}; got {found[0]} to {found[-1]}: use merge_training"
        )
    return train.pids
