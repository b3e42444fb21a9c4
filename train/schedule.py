"""The learning rate as a function of time, with no state of its own: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from .config import ScheduleConfig

__all__ = ["rate_factor"]


def rate_factor(config: ScheduleConfig, epoch: float, num_epochs: int) -> float:
    """Learning rate at a moment, relative to `optim.lr` (paper Sec. 4.2).

    Args:
        config: Kind of schedule, warm-up and milestones.
        epoch: Epochs done so far, with the part of the current one: step / steps_per_epoch.
        num_epochs: Length of the run.

    Returns:
        The factor, in (0, 1].
    """
    if epoch < config.warmup_epochs:
        done = epoch / config.warmup_epochs
        return config.warmup_factor + (1 - config.warmup_factor) * done
    if config.kind == "step":
        return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    if config.kind == "cosine":
        done = min(1.0, (epoch - config.warmup_epochs) / (num_epochs - config.warmup_epochs))
        return config.final_factor + (1 - config.final_factor) * 0.5 * (1 + math.cos(math.pi * done))
    return 1.0
