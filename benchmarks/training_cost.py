"""What a training run is going to cost: operations, memory and, at an assumed share of a device's peak, time.

Operations are counted from the shapes of the layers (`hat.model.complexity`), three times the forward pass for a training step.
Activations are the tensors that autograd really keeps of a forward pass, on this machine's CPU at two small batches: what grows
with the batch grows in proportion. Time is operations by (share x peak). The share is an assumption of whoever asks, and time
and memory are estimates until they were measured.

    python benchmarks/training_cost.py market1501-plus --share 0.12
    python benchmarks/training_cost.py market1501-edge --share 0.015 --teacher hat_resnet50 --teacher-share 0.2
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from measuring import one_sentence_errors

from hat.config import parse_overrides
from hat.model import HAT, model_config
from hat.model.complexity import count_complexity
from hat.train import TrainConfig, compose_config, hat_loss
from hat.train.presets import preset_differences

NUM_PASSES = 3
"""A backward pass computes two products, of gradients with weights and with activations, for each one of the forward pass."""


def saved_bytes(model: HAT, config: TrainConfig, batch: int) -> int:
    """Bytes of the activations that a forward pass keeps for its backward pass, each storage counted once."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.zeros(batch, 3, *config.model.image_size)
    if config.compute.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    pids = torch.arange(batch) // 2
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.compute.precision)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=half, enabled=half is not None):
            outputs = model(images)
        loss = hat_loss(outputs.branches, pids, config.loss)  # kept until all is counted: a freed address may be given again
    del loss
    return sum(storages.values())


def activation_bytes(model: HAT, config: TrainConfig, batch: int) -> int:
    """The same for a batch that need not fit into this machine's memory."""
    few, more = saved_bytes(model, config, 2), saved_bytes(model, config, 4)
    return round(few + (more - few) / 2 * (batch - 2))


def estimate(config: TrainConfig, options: argparse.Namespace) -> dict[str, Any]:
    batch = config.sampler.num_identities * config.sampler.num_instances
    student = count_complexity(config.model)
    model = HAT(config.model, options.num_classes).train()
    if config.compute.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    num_images = options.images_per_epoch * config.num_epochs
    seconds = NUM_PASSES * student.total_operations * num_images / (options.share * options.peak_tflops * 1e12)
    teacher_seconds = 0.0
    if options.teacher is not None:
        teacher = count_complexity(model_config(options.teacher), cls_only=True)
        teacher_seconds = teacher.total_operations * num_images / (options.teacher_share * options.peak_tflops * 1e12)
    num_params = sum(parameter.numel() for parameter in model.parameters())
    states = 4 + (1 if config.ema.enabled else 0)  # weights, gradients, Adam's two means, the moving average
    height, width = config.model.image_size
    memory = {
        "weights, gradients, optimizer": 4 * states * num_params,
        "activations": activation_bytes(model, config, batch),
        "training images": 3 * height * width * options.images_per_epoch,
    }
    return {
        "GFLOP of a forward pass": student.total_operations / 1e9,
        "TFLOP of a step": NUM_PASSES * student.total_operations * batch / 1e12,
        "PFLOP of the run": NUM_PASSES * student.total_operations * num_images / 1e15,
        "batch": batch,
        "epochs": config.num_epochs,
        "images/s": num_images / (seconds + teacher_seconds),
        "minutes": (seconds + teacher_seconds) / 60,
        **{f"GB of {name}": value / 1e9 for name, value in memory.items()},
        "GB": sum(memory.values()) / 1e9,
    }


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", help="a recipe of hat train")
    parser.add_argument("--set", action="append", default=[], help="a change to it: model.image_size=[384,128]")
    parser.add_argument(
        "--images-per-epoch", type=int, default=11_840, help="default: Market-1501's 185 batches of 16 x 4, %(default)s"
    )
    parser.add_argument("--num-classes", type=int, default=751, help="training identities (default %(default)s)")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 (default: an H200's %(default)s)")
    parser.add_argument("--share", type=float, required=True, help="of the peak that is assumed to be reached, in (0, 1]")
    parser.add_argument("--teacher", help="a model's name whose forward pass runs beside")
    parser.add_argument("--teacher-share", type=float, default=0.2, help="its share of the peak (default %(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not 0 < options.share <= 1 or not 0 < options.teacher_share <= 1:
        parser.error("a share is above 0 and at most 1")
    config = compose_config([(options.preset, preset_differences(options.preset)), ("", parse_overrides(options.set))])
    found = estimate(config, options)
    lines = [f"{name:<34} {value:10.2f}" for name, value in found.items()]
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines))


if __name__ == "__main__":
    main()
