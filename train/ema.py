"""An exponential moving average of a model's weights."""

import copy

import torch
from torch import Tensor, nn

from .config import EMAConfig


class ModelEma:
    """A second model whose weights follow those of the trained one.

    Floating-point buffers (the running statistics of batch norms) are averaged like weights, because statistics of the current
    weights do not fit averaged ones; counters are copied.

    Args:
        model: The model to follow, on its device and in its layout; it is copied, and the copy is set to evaluation mode.
        config: Decay and its warm-up.

    Attributes:
        model: The copy.
        num_updates: Scalar float32 on the device, so that whether an update counts need not be known to Python.
    """

    def __init__(self, model: nn.Module, config: EMAConfig) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.config = config
        # A state dict shares its tensors with the model, which loads and steps in place: these lists stay right.
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._weights = [value for average, value in pairs if average.is_floating_point()]
        self._counters = [average for average, _ in pairs if not average.is_floating_point()]
        self._model_counters = [value for average, value in pairs if not average.is_floating_point()]
        self.num_updates = torch.zeros((), device=self._averages[0].device)

    def decay(self, num_updates: Tensor) -> Tensor:
        """Compute the part of the old average that the update after ``num_updates`` others keeps."""
        if not self.config.warmup:
            return torch.full_like(num_updates, self.config.decay)
        return ((1 + num_updates) / (10 + num_updates)).clamp(max=self.config.decay)

    @torch.no_grad()
    def update(self, skipped: Tensor | None = None) -> None:
        """Move the average towards the model: average = decay * average + (1 - decay) * weights.

        Args:
            skipped: Scalar on the device, 1 where the loss scaler has left the step out, and then nothing moves; else 0.
        """
        taken = 1.0 if skipped is None else 1 - skipped
        differences = torch._foreach_sub(self._weights, self._averages)
        torch._foreach_mul_(differences, (1 - self.decay(self.num_updates)) * taken)
        torch._foreach_add_(self._averages, differences)
        if self._counters:
            torch._foreach_copy_(self._counters, self._model_counters)
        self.num_updates += taken
