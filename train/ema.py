"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .config import EMAConfig

__all__ = ["MovingAverage"]


class MovingAverage:
    """A second model whose weights follow those of the trained one.

    Floating-point buffers (the running statistics of batch norms) are averaged like weights, because statistics of the current
    weights do not fit averaged ones; counters are copied.

    Args:
        model: The model to follow; it is copied, and the copy is set to evaluation mode.
        config: Decay and its warm-up.
    """

    def __init__(self, model: nn.Module, config: EMAConfig) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.config = config
        self.num_updates = 0

    def decay(self, num_updates: int) -> float:
        """Part of the old average that the update after ``num_updates`` others keeps."""
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + num_updates) / (10 + num_updates))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards ``model``: average = decay * average + (1 - decay) * weights."""
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, 1 - self.decay(self.num_updates))
        self.num_updates += 1
