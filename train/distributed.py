"""Several processes that train one model: who this process is, and the two collectives that carry gradients.

Processes are started by torchrun, which tells each of them its place by environment variables; without them there is one
process.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hat.errors import UsageError
from hat.runtime import choose_device

__all__ = [
    "Place",
    "first_row",
    "gather_with_gradient",
    "gather_without_gradient",
    "process_group",
    "sum_over_processes",
]


@dataclass(frozen=True)
class Place:
    """This process among all.

    Attributes:
        device: Where it computes.
        rank: Its number, from 0.
        world_size: Number of processes.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0


@contextmanager
def process_group(device_name: str) -> Iterator[Place]:
    """Join the other processes for as long as the context lasts; NCCL between GPUs, gloo between CPUs.

    Raises:
        UsageError: The device is not there, or torchrun's variables are incomplete.
    """
    world_size = _number_from_environment("WORLD_SIZE", 1)
    device = choose_device(device_name, _number_from_environment("LOCAL_RANK", 0))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Place(device)
        return
    rank = _number_from_environment("RANK", None)
    # The others wait while the first process evaluates, which takes minutes on a large gallery.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(hours=2))
    try:
        yield Place(device, rank, world_size)
    finally:
        dist.destroy_process_group()


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Rows of all processes, in the order of ranks; gradients of every process's use of them find their way back.

    Args:
        tensor: (B, ...), the same shape in every process.

    Returns:
        (world_size * B, ...).
    """
    return tensor if _alone() else _apply(_Gather, tensor)


def gather_without_gradient(tensor: Tensor) -> Tensor:
    """(B, ...) of all processes as (world_size * B, ...), in the order of ranks: labels, and what else needs no gradient."""
    return tensor if _alone() else _gather(tensor)


def first_row(num_rows: int) -> int:
    """Where this process's rows stand among the gathered ones, when each process has equally many."""
    return 0 if _alone() else dist.get_rank() * num_rows


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes; its gradient is the sum of theirs."""
    return tensor if _alone() else _apply(_Sum, tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every process took a loss from these rows: what belongs to ours is the sum over all of them. torch's own gather needs
        # a reduce-scatter for this, which gloo lacks.
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _gather(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _apply(function: type[torch.autograd.Function], tensor: Tensor) -> Tensor:
    result: Tensor = function.apply(tensor)
    return result


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def _number_from_environment(name: str, default: int | None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdigit():
        raise UsageError(f"the environment variable {name} is a whole number set by torchrun, got {text!r}")
    return int(text)
