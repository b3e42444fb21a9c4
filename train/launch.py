"""From data sets and a configuration to a finished run, in one process or in each of several."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch.distributed as dist

from hat.console import stderr
from hat.data import check_images, merge_training
from hat.data.datasets import ReIDDataset, Split
from hat.data.images import set_gray_bits
from hat.errors import DataError, UsageError, WorkError, describe_failure, is_out_of_memory
from hat.process_settings import keep_freed_memory

from .config import TrainConfig
from .distributed import DistributedContext, process_group
from .run.run_folder import RunFolder
from .trainer import Trainer, TrainingResult


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
    """Train a HAT.

    Started by torchrun, every process calls this and they train one model together; all but the first keep silent.

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
        DataError: There are no training images.
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
            stack.enter_context(folder.lock())
        stack.enter_context(_one_sentence(folder))
        train = _training_images(datasets, skip_bad, context)
        evaluation = next((dataset for dataset in datasets if len(dataset.query) and len(dataset.gallery)), None)
        trainer = Trainer(config, train, folder, context, resume=resume, evaluation=evaluation)
        if context.world_size > 1:
            dist.barrier()  # all have read the state before the first process writes
        if context.is_main:
            folder.begin(config, resume=resume)
            for name, note in [(dataset.name, note) for dataset in datasets for note in dataset.notes]:
                stderr.print(f"{name}: {note}")
            stderr.print(_announcement(trainer, train))
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
        kept = folder.describe_state()
        if is_out_of_memory(error):
            raise WorkError(
                "memory ran out: lower sampler.num_identities or model.image_size, set compute.precision=bf16, hold the images "
                f"elsewhere (data.cache=host or none), or lower eval.batch_size if it was an evaluation; {kept}"
            ) from error
        if isinstance(error, OSError):
            raise WorkError(f"{describe_failure(error)}; {kept}") from error
        raise


def _training_images(datasets: Sequence[ReIDDataset], skip_bad: bool, context: DistributedContext) -> Split:
    sources = [dataset for dataset in datasets if len(dataset.train)]
    if not sources:
        raise DataError(f"no training images in {', '.join(dataset.name for dataset in datasets) or 'no data set'}")
    for place, dataset in enumerate(sources if skip_bad else ()):
        kept, bad = check_images(dataset.train)
        if bad and context.is_main:
            path, reason = bad[0]
            stderr.print(f"{dataset.name}: {len(bad)} images cannot be used and are left out, such as {path}: {reason}")
        sources[place] = ReIDDataset(dataset.name, kept, dataset.query, dataset.gallery, dataset.notes)
    return merge_training(sources)


def _announcement(trainer: Trainer, train: Split) -> str:
    config, context = trainer.config, trainer.context
    where = f"{context.world_size} processes, {context.device.type}" if context.world_size > 1 else str(context.device)
    start = f"from epoch {trainer.epoch + 1}, step {trainer.epoch_step + 1}" if trainer.global_step else trainer.weights_note
    taught = f"; it learns from {config.distill.teacher}" if config.distill.teacher else ""
    return (
        f"{config.model_name}: {len(train)} images of {train.num_pids} identities, {config.num_epochs} epochs of "
        f"{trainer.num_steps} steps of {config.optim.accumulate * trainer.sampler.batch_size} images, "
        f"{config.compute.precision} on {where}; {start}{taught}"
    )
