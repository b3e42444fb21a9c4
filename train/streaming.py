"""Training images decoded for every batch, for sets that fit into no memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hat.data import iterate_batches
from hat.preprocessing import Preprocessing

__all__ = ["StreamingImages"]


class StreamingImages:
    """Training images read when they are needed, by threads that work some batches ahead.

    Args:
        paths: The images.
        preprocessing: Resizes them.
        device: Where batches are wanted.
        num_workers: Threads that decode; None is one for each core.
    """

    def __init__(
        self, paths: Sequence[str], preprocessing: Preprocessing, device: torch.device, num_workers: int | None = None
    ) -> None:
        self.paths = list(paths)
        self.preprocessing = preprocessing
        self.device = device
        self.num_workers = num_workers

    def batches(self, plan: npt.NDArray[np.int64]) -> Iterator[Tensor]:
        """Decode batches.

        Args:
            plan: (num_batches, B) int64, indices of images.

        Yields:
            (B, 3, H, W) uint8 RGB on the training device.

        Raises:
            ImageError: An image cannot be used; the message begins with its path.
        """
        paths = [self.paths[index] for index in plan.ravel().tolist()]
        for batch in iterate_batches(paths, self.preprocessing, plan.shape[1], num_workers=self.num_workers):
            if self.device.type == "cuda":
                yield batch.pin_memory().to(self.device, non_blocking=True)
            else:
                yield batch
