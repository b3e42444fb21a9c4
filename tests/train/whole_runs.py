"""Whole runs in the test's own process, and how to compare what they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hat
from hat.data import merge_training
from hat.data.datasets import ReIDDataset
from hat.train import TrainConfig, Trainer, TrainingResult
from hat.train.distributed import DistributedContext
from hat.train.run.run_folder import RunFolder

CPU = DistributedContext(torch.device("cpu"))


def run(config: TrainConfig, dataset: ReIDDataset, out: Path, *, resume: bool = False, **options: Any) -> TrainingResult:
    trainer = Trainer(config, merge_training([dataset]), RunFolder(out), CPU, resume=resume, evaluation=dataset, **options)
    trainer.folder.begin(config, resume=resume)
    return trainer.run()


def run_lines(out: Path) -> list[dict[str, Any]]:
    """What a run wrote down, but for the time it took."""
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "images_per_s"} for entry in entries]


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(hat.load_checkpoint(folder).state_dict())


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, f"{len(different)} of {len(ours)} tensors differ, such as {different[0]}"


class InterruptionError(Exception):
    pass


class Stopping:
    """A source that ends the process's work, as far as a process can tell, when a batch is asked for."""

    def __init__(self, images: Any, num_batches: int) -> None:
        self.images, self.left = images, num_batches

    def batches(self, plan: np.ndarray) -> Iterator[Tensor]:
        for batch in self.images.batches(plan):
            if not self.left:
                raise InterruptionError
            self.left -= 1
            yield batch
