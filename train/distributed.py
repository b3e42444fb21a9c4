"""Several processes that train one model: who this process is, and the one collective that carries gradients.

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
    """This process among all: where it computes, its number from 0, and the number of processes."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files and messages."""
        return self.rank == 0


@contextmanager
def process_group(device_name: str) -> Iterator[DistributedContext]:
    """Join the other processes for as long as the context lasts; NCCL between GPUs, gloo between CPUs."""
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


def num_local_processes() -> int:
    """Return the number of processes that share this machine's cores and memory."""
    return max(1, _number_from_environment("LOCAL_WORLD_SIZE", 1))


def _number_from_environment(name: str, default: int | None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdigit():
        raise UsageError(f"the environment variable {name} is a whole number set by torchrun, got {text!r}")
    return int(text)


def _is_alone() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


class _Sum(torch.autograd.Function):
    """Sums over processes, forward and backward: each took a loss from the sum, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0])


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes; its gradient is the sum of theirs."""
    result: Tensor = tensor if _is_alone() else _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return result


def gather_rows(tensor: Tensor) -> Tensor:
    """Return the rows (B, ...) of all processes as (world_size * B, ...), in the order of ranks.

    Gradients of every process's use of them find their way back. The rows are summed into zeros, because gloo has no
    reduce-scatter, which the gradient of torch's own gather needs; a batch of features is small beside the weights.
    """
    if _is_alone():
        return tensor
    offset, num_rows = row_offset(len(tensor)), dist.get_world_size() * len(tensor)
    before, after = (tensor.new_zeros((count, *tensor.shape[1:])) for count in (offset, num_rows - offset - len(tensor)))
    return sum_over_processes(torch.cat([before, tensor, after]))


def row_offset(num_rows: int) -> int:
    """Return where this process's rows stand among the gathered ones, when each process has equally many."""
    return 0 if _is_alone() else dist.get_rank() * num_rows


class _NormalizeOverProcesses(torch.autograd.Function):
    """Batch norm of (B, C, ...) values by the statistics of all processes' values, equally many each, from torch's own kernels.

    Means and variances forward and two sums backward are all that processes exchange. Torch's kernels and not plain operations
    compute them and what follows: with the latter two processes of a CPU trained on fewer images a second than one.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.stack(torch.batch_norm_update_stats(values, None, None, 0.0))  # (2, C): means and biased variances
        means, variances = gather_rows(own[None]).unbind(1)  # (world_size, C) each
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(values, weight, mean, variance)
        ctx.eps, ctx.count = eps, count
        ctx.mark_non_differentiable(mean, variance)
        return torch.batch_norm(values, weight, bias, mean, variance, False, 0.0, eps, False), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, variance = ctx.saved_tensors
        gradient = gradients[0]
        if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        scale = torch.rsqrt(variance + ctx.eps)
        _, weight_gradient, bias_gradient = torch.ops.aten.native_batch_norm_backward(
            gradient, values, weight, None, None, mean, scale, True, ctx.eps, [False, True, True]
        )
        input_gradient = None
        if ctx.needs_input_grad[0]:
            # With z the normalized values and means over all processes: scale * weight * (g - mean(g) - z * mean(g * z)), which
            # is a line in the values and one in their gradient, for each channel.
            mean_product, mean_gradient = sum_over_processes(torch.stack([weight_gradient, bias_gradient])) / ctx.count
            slope = scale if weight is None else scale * weight
            bend = -slope * scale * mean_product
            offset = -slope * mean_gradient - bend * mean
            ones = torch.ones_like(mean)
            line = torch.batch_norm(values, bend, offset, torch.zeros_like(mean), ones, False, 0.0, 0.0, False)
            input_gradient = line.addcmul_(gradient, slope.view([1, -1] + [1] * (values.dim() - 2)))
        if weight is None:
            weight_gradient = bias_gradient = None
        return input_gradient, weight_gradient, bias_gradient, None, None


class GlobalBatchNorm(_BatchNorm):
    """A batch norm with running statistics whose statistics are those of all processes' batches, equally many values each.

    torch.nn.SyncBatchNorm refuses CPUs. Means and variances come from each process's own, so they are as exact as those of a
    batch norm over the whole batch.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's name)
        return

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalize (B, C, ...) over all axes but the second and over all processes; with running statistics in evaluation."""
        if not self.training or self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return _apply_what_follows(self, super().forward(input))
        # Under autocast maps come as bfloat16; their statistics need float32, as torch's own batch norm has it.
        values = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        count = values.numel() // values.shape[1] * (1 if _is_alone() else dist.get_world_size())
        normalized, mean, variance = _NormalizeOverProcesses.apply(  # type: ignore[no-untyped-call]
            values, self.weight, self.bias, self.eps, count
        )
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), momentum)
        return _apply_what_follows(self, normalized.to(input.dtype))


class _SyncBatchNormAct(nn.SyncBatchNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        return _apply_what_follows(self, super().forward(input))


def _apply_what_follows(norm: nn.Module, normalized: Tensor) -> Tensor:
    """Apply the dropout and the activation that timm's batch norms hold, in whose own forward pass they are a part."""
    for name in ("drop", "act"):
        if isinstance(layer := getattr(norm, name, None), nn.Module):
            normalized = layer(normalized)
    return normalized


def synchronize_batch_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Make all batch norms of a model ones over the global batch, in place where that can be, and return it.

    On CUDA they become torch.nn.SyncBatchNorm, elsewhere `GlobalBatchNorm`; parameters, buffers and their names stay the same,
    and so do the activations inside timm's.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        for module in converted.modules():
            if isinstance(module, nn.SyncBatchNorm):
                module.__class__ = _SyncBatchNormAct
        return converted
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.__class__ = GlobalBatchNorm  # type: ignore[assignment]  # the same tensors, another forward pass
    return model
