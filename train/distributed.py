"""Several processes that train one model: who this process is, and the two collectives that carry gradients.

Processes are started by torchrun, which tells each of them its place by environment variables; without them there is one
process.
"""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hat.errors import UsageError
from hat.runtime import choose_device


@dataclass(frozen=True)
class DistributedContext:
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
def process_group(device_name: str) -> Iterator[DistributedContext]:
    """Join the other processes for as long as the context lasts; NCCL between GPUs, gloo between CPUs.

    Raises:
        UsageError: The device is not there, or torchrun's variables are incomplete.
    """
    world_size = _number_from_environment("WORLD_SIZE", 1)
    device = choose_device(device_name, _number_from_environment("LOCAL_RANK", 0))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size == 1:
        yield DistributedContext(device)
        return
    rank = _number_from_environment("RANK", None)
    # The others wait while the first process evaluates, which takes minutes on a large gallery.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(hours=2))
    try:
        yield DistributedContext(device, rank, world_size)
    finally:
        dist.destroy_process_group()


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Return rows of all processes, in the order of ranks; gradients of every process's use of them find their way back.

    Args:
        tensor: (B, ...), the same shape in every process.

    Returns:
        (world_size * B, ...).
    """
    return tensor if _alone() else _apply(_Gather, tensor)


def gather_without_gradient(tensor: Tensor) -> Tensor:
    """(B, ...) of all processes as (world_size * B, ...), in the order of ranks: labels, and what else needs no gradient."""
    return tensor if _alone() else _gather(tensor)


def row_offset(num_rows: int) -> int:
    """Return where this process's rows stand among the gathered ones, when each process has equally many."""
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


class GlobalBatchNorm(_BatchNorm):
    """A batch norm whose statistics are those of all processes' batches, which hold equally many values each.

    torch.nn.SyncBatchNorm has fused kernels and refuses CPUs; this one is made of plain operations and differentiable sums, in
    two passes (mean, then squared distances from it), so it is as exact as a batch norm over the whole batch.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's name)
        return

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalize (B, C, ...) over all axes but the second and over all processes; with running statistics in evaluation."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(input)
        # Under autocast maps come as bfloat16; their statistics need float32, as torch's own batch norm has it.
        values = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        axes = [axis for axis in range(values.ndim) if axis != 1]
        shape = [1, -1] + [1] * (values.ndim - 2)
        ones = values.new_tensor([float(values.numel() // values.shape[1])])
        totals = sum_over_processes(torch.cat([values.sum(dim=axes), ones]))  # (C + 1,)
        count = totals[-1].detach()
        mean = totals[:-1] / count
        centered = values - mean.view(shape)
        variance = sum_over_processes(centered.square().sum(dim=axes)) / count
        self._remember(mean.detach(), variance.detach(), count)
        normalized = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * count / (count - 1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def synchronize_batch_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace all batch norms by ones over the global batch; parameters, buffers and their names stay the same.

    Args:
        model: Any module; it is changed in place where it can be.
        device: On CUDA the replacement is torch.nn.SyncBatchNorm, elsewhere `GlobalBatchNorm`.

    Returns:
        The model.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(parent, name, _global_copy(child))
    return model


def _global_copy(norm: _BatchNorm) -> GlobalBatchNorm:
    copy = GlobalBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    copy.weight, copy.bias = norm.weight, norm.bias
    copy.running_mean, copy.running_var = norm.running_mean, norm.running_var
    copy.num_batches_tracked = norm.num_batches_tracked
    return copy.train(norm.training)
