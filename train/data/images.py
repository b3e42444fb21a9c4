"""Where training images come from: the device's memory, the host's, or the disk, as configured or as it fits."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hat.console import progress
from hat.data import iterate_batches, load_images
from hat.preprocessing import Preprocessing

from ..config import DataConfig
from ..distributed import DistributedContext


class ImageSource(Protocol):
    """Gives batches of training images by index."""

    def batches(self, plan: npt.NDArray[np.int64]) -> Iterator[Tensor]:
        """For a (num_batches, B) plan of indices, (B, 3, H, W) uint8 RGB batches on the training device."""


def open_images(
    paths: Sequence[str], preprocessing: Preprocessing, config: DataConfig, context: DistributedContext
) -> ImageSource:
    """Open the training images.

    Args:
        paths: Paths of all images, which indices refer to.
        preprocessing: How an image becomes a (3, H, W) uint8 tensor.
        config: Where to hold them.
        context: This process; the first one shows how decoding gets on.

    Raises:
        ImageError: An image cannot be used; the message begins with its path.
    """
    num_bytes = len(paths) * 3 * preprocessing.height * preprocessing.width
    cache = choose_cache(config, num_bytes, context.device)
    if cache == "none":
        return StreamingImages(paths, preprocessing, context.device, config.num_workers)
    with progress() if context.is_main else contextlib.nullcontext() as display:
        task = display.add_task("decoding", total=len(paths), info="") if display else None
        return InMemoryImages.decode(
            paths,
            preprocessing,
            storage=context.device if cache == "device" else torch.device("cpu"),
            device=context.device,
            num_workers=config.num_workers,
            advance=None if display is None or task is None else functools.partial(display.advance, task),
        )


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


def choose_cache(config: DataConfig, num_bytes: int, device: torch.device) -> Literal["device", "host", "none"]:
    """Return where images that take ``num_bytes`` are held: what the configuration says, or the first place where they fit."""
    if config.cache != "auto":
        return config.cache
    if num_bytes <= config.cache_fraction * free_memory_bytes(device):
        return "device"
    if device.type != "cpu" and num_bytes <= config.cache_fraction * free_memory_bytes(torch.device("cpu")):
        return "host"
    return "none"


def free_memory_bytes(device: torch.device) -> int:
    """Memory that can still be taken: of a GPU, or of the host within the limits of its control group (a container's)."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    available = [_available_on_host()]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        available.append(max(0, int(text) - int(used.read_text())))
    return min(available)


def _available_on_host() -> int:
    table = Path("/proc/meminfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # No way to ask without another library: half a gigabyte is there on every machine that can train.
    return 2**30
