"""All training images as one uint8 tensor, from which batches are gathered by index.

On the training device nothing is decoded or copied while training, so that a fast GPU is not starved by JPEG files.
Market-1501 at 256 x 128 takes 1.3 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hat.data import iterate_batches, load_images
from hat.preprocessing import Preprocessing

__all__ = ["InMemoryImages"]

_CHUNK = 256


class InMemoryImages:
    """Training images held in memory.

    Args:
        images: (N, 3, H, W) uint8 RGB, on the training device or on the CPU.
        device: Where batches are wanted.
    """

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images = images
        self.device = device

    @classmethod
    def decode(
        cls,
        paths: Sequence[str],
        preprocessing: Preprocessing,
        *,
        storage: torch.device,
        device: torch.device,
        num_workers: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> InMemoryImages:
        """Decode all images once.

        Args:
            paths: The images.
            preprocessing: Resizes them.
            storage: Where to hold them: the training device or the CPU.
            device: Where batches are wanted.
            num_workers: Threads that decode; None is one for each core.
            advance: Called with the number of images read since its last call.

        Raises:
            ImageError: An image cannot be used; the message begins with its path.
        """
        if storage.type == "cpu":
            return cls(load_images(paths, preprocessing, num_workers=num_workers, progress=advance), device)
        # Chunk by chunk, so that the host needs no room for all of them.
        images = torch.empty((len(paths), 3, *preprocessing.size), dtype=torch.uint8, device=storage)
        done = 0
        for chunk in iterate_batches(paths, preprocessing, _CHUNK, num_workers=num_workers):
            images[done : done + len(chunk)].copy_(chunk)
            done += len(chunk)
            if advance is not None:
                advance(len(chunk))
        return cls(images, device)

    def batches(self, plan: npt.NDArray[np.int64]) -> Iterator[Tensor]:
        """Gather batches.

        Args:
            plan: (num_batches, B) int64, indices of images.

        Yields:
            (B, 3, H, W) uint8 RGB on the training device.
        """
        indices = torch.from_numpy(np.ascontiguousarray(plan)).to(self.images.device)
        for row in indices:
            batch = self.images.index_select(0, row)
            if batch.device != self.device:
                # From pinned memory the copy to a GPU runs beside its work.
                batch = batch.pin_memory().to(self.device, non_blocking=True)
            yield batch
