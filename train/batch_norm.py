"""Batch norms that see the global batch, on CPUs as on GPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .distributed import sum_over_processes

__all__ = ["GlobalBatchNorm", "synchronize_batch_norms"]


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
