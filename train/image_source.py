"""Where training images come from: the device's memory, the host's, or the disk, as configured or as it fits."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hat.console import progress
from hat.preprocessing import Preprocessing

from .config import DataConfig
from .distributed import Place
from .in_memory import InMemoryImages
from .streaming import StreamingImages

__all__ = ["ImageSource", "choose_cache", "free_memory_bytes", "open_images"]


class ImageSource(Protocol):
    """Gives batches of training images by index."""

    def batches(self, plan: npt.NDArray[np.int64]) -> Iterator[Tensor]:
        """For a (num_batches, B) plan of indices, (B, 3, H, W) uint8 RGB batches on the training device."""


def open_images(paths: Sequence[str], preprocessing: Preprocessing, config: DataConfig, place: Place) -> ImageSource:
    """Open the training images.

    Args:
        paths: Paths of all images, which indices refer to.
        preprocessing: How an image becomes a (3, H, W) uint8 tensor.
        config: Where to hold them.
        place: This process; the first one shows how decoding gets on.

    Raises:
        ImageError: An image cannot be used; the message begins with its path.
    """
    num_bytes = len(paths) * 3 * preprocessing.height * preprocessing.width
    cache = choose_cache(config, num_bytes, place.device)
    if cache == "none":
        return StreamingImages(paths, preprocessing, place.device, config.num_workers)
    with progress() if place.is_main else contextlib.nullcontext() as display:
        task = display.add_task("decoding", total=len(paths), info="") if display else None
        return InMemoryImages.decode(
            paths,
            preprocessing,
            storage=place.device if cache == "device" else torch.device("cpu"),
            device=place.device,
            num_workers=config.num_workers,
            advance=None if display is None or task is None else functools.partial(display.advance, task),
        )


def choose_cache(config: DataConfig, num_bytes: int, device: torch.device) -> Literal["device", "host", "none"]:
    """Where images that take ``num_bytes`` are held: what the configuration says, or the first place where they fit."""
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
