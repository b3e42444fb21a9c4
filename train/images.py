"""Sources of training images: the device's memory, the host's, or the disk, as configured or as it fits."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hat.console import progress
from hat.data import iterate_batches
from hat.data.loading import default_num_workers
from hat.preprocessing import Preprocessing

from .config import DataConfig
from .distributed import DistributedContext, num_local_processes

_CHUNK = 256

Plan = npt.NDArray[np.int64]
"""(num_batches, B) indices of training images."""

ImageSource = Callable[[Plan], Iterator[Tensor]]
"""For a plan, batches of training images on the training device: (B, 3, H, W) uint8 RGB."""


def open_images(
    paths: Sequence[str], preprocessing: Preprocessing, config: DataConfig, context: DistributedContext
) -> ImageSource:
    """Open the training images, which indices refer to in this order; the first process shows how decoding gets on.

    An image that cannot be used is an ImageError that begins with its path, here or, where images are not kept, in its batch.
    """
    shape = (len(paths), 3, *preprocessing.size)
    cache = choose_cache(config, int(np.prod(shape)), context.device)
    num_workers = config.num_workers or max(1, default_num_workers() // num_local_processes())
    if cache == "none":
        return partial(_read_batches, paths, preprocessing, num_workers, context.device)
    images = torch.empty(shape, dtype=torch.uint8, device=context.device if cache == "device" else "cpu")
    with progress() if context.is_main else contextlib.nullcontext() as display:
        task = display.add_task("decoding", total=len(paths), info="") if display else None
        done = 0
        # Chunk by chunk, so that the host needs no room for what a GPU is to hold.
        for chunk in iterate_batches(paths, preprocessing, _CHUNK, num_workers=num_workers):
            images[done : done + len(chunk)].copy_(chunk)
            done += len(chunk)
            if display is not None and task is not None:
                display.update(task, completed=done)
    return partial(_select_batches, images, context.device)


def _select_batches(images: Tensor, device: torch.device, plan: Plan) -> Iterator[Tensor]:
    for row in torch.from_numpy(np.ascontiguousarray(plan)).to(images.device):
        yield _moved(images.index_select(0, row), device)


def _read_batches(
    paths: Sequence[str], preprocessing: Preprocessing, num_workers: int, device: torch.device, plan: Plan
) -> Iterator[Tensor]:
    """Decode images when they are needed, by threads that work some batches ahead; not beside a step that needs all cores."""
    planned = [paths[index] for index in plan.ravel().tolist()]
    in_turns = device.type == "cpu"
    for batch in iterate_batches(planned, preprocessing, plan.shape[1], num_workers=num_workers, in_turns=in_turns):
        yield _moved(batch, device)


def _moved(batch: Tensor, device: torch.device) -> Tensor:
    # From pinned memory the copy to a GPU runs beside its work.
    return batch if batch.device == device else batch.pin_memory().to(device, non_blocking=True)


def choose_cache(config: DataConfig, num_bytes: int, device: torch.device) -> Literal["device", "host", "none"]:
    """Return where images that take ``num_bytes`` are held: what the configuration says, or the first place where they fit.

    Each process holds all of them, and those of one machine share its memory.
    """
    if config.cache != "auto":
        return config.cache
    of_host = free_memory_bytes(torch.device("cpu")) / num_local_processes()
    if num_bytes <= config.cache_fraction * (of_host if device.type == "cpu" else free_memory_bytes(device)):
        return "device"
    if device.type != "cpu" and num_bytes <= config.cache_fraction * of_host:
        return "host"
    return "none"


def free_memory_bytes(device: torch.device) -> int:
    """Memory that can still be taken: of a GPU, or of the host within the limits of its control group (a container's)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    table, limit, used = (
        Path(name) for name in ("/proc/meminfo", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
    )
    free = 2**30  # where no file tells: so much is there on every machine that can train
    if table.is_file():
        lines = dict(line.split(":") for line in table.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free
