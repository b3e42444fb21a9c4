"""The speed and memory of a step of `hat train`: by arithmetic, optimizer, memory layout, place of the images and teacher."""

import itertools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reporting import begin, noise

import hat
from hat.config import config_to_dict
from hat.runtime import TorchRuntime, choose_device
from hat.train import compose_config
from hat.train.distillation import Distillation
from hat.train.distributed import DistributedContext
from hat.train.images import open_images
from hat.train.step import Batch, TrainingStep
from hat.train.teacher import OnlineTeacher

ROWS = {
    "tf32": {},
    "fp32": {"compute": {"tf32": False}},
    "bf16": {"compute": {"precision": "bf16"}},
    "fp16": {"compute": {"precision": "fp16"}},
    "fp16_sgd": {"compute": {"precision": "fp16"}, "optim": {"name": "sgd"}},
    "bf16_host": {"compute": {"precision": "bf16"}, "data": {"cache": "host"}},
    "bf16_taught": {"compute": {"precision": "bf16"}, "distill": {"teacher": "another model of the same architecture"}},
    "bf16_channels_first": {"compute": {"precision": "bf16", "channels_last": False}},
    "bf16_compiled": {"compute": {"precision": "bf16", "compile": True}},
    "bf16_reduce_overhead": {"compute": {"precision": "bf16", "compile": "reduce-overhead"}},
}
"""Row -> what it changes of the paper's recipe."""


def main() -> None:
    session = begin(__doc__)
    batch = 64 if session.on_gpu else 4
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{number}.png") for number in range(batch)]
        for path, pixels in zip(paths, noise(session.create_model(), batch), strict=True):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
        for name in session.steps([*ROWS, "checkpoint"]):
            if name == "checkpoint":
                model, start = session.create_model(), time.monotonic()
                hat.save_checkpoint(model, Path(folder) / "run")
                session.report(name, seconds=round(time.monotonic() - start, 2))
                continue
            if "compile" in ROWS[name].get("compute", {}) and not session.on_gpu:
                session.report(name, skipped="compiling for a CPU takes longer than a rehearsal")
                continue
            durations, loss = measure(session, paths, ROWS[name])
            peak = torch.cuda.max_memory_allocated() / 2**30 if session.on_gpu else 0
            speed = batch / statistics.median(durations)
            session.report(name, batch=batch, images_per_s=round(speed, 1), peak_gib=round(peak, 2), last_loss=loss)


def measure(session, paths, changes):
    """Return the seconds of each step and the last loss."""
    model, context = session.create_model(), DistributedContext(choose_device(session.device))
    config = compose_config([("", {"model": config_to_dict(model.config)}), ("", changes)])
    if session.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    distillation = None
    if config.distill.teacher is not None:
        teacher = OnlineTeacher(TorchRuntime(session.create_model(), session.device), config.compute.precision)
        distillation = Distillation(config, teacher, model, context)
    step = TrainingStep(model, model.preprocessing, config, context, distillation)
    source = open_images(paths, model.preprocessing, config.data, context)
    indices = torch.arange(len(paths), device=context.device)
    pids = indices // 2 % model.num_classes
    images = itertools.chain.from_iterable(source(np.arange(len(paths))[None]) for _ in itertools.count())
    numbers, metrics = itertools.count(), {}

    def take() -> None:
        metrics.update(step([Batch(next(images), pids, indices, indices)], 0, next(numbers), 1e-4))

    durations = session.timed(take, share=0.07)
    return durations, round(metrics["loss"].item(), 3)


if __name__ == "__main__":
    main()
