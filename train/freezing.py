"""Lower levels of the CNN that are left as they are: their filters are the same everywhere, and their maps the largest."""

from __future__ import annotations

from torch import nn

from hat.errors import ConfigError
from hat.model import HAT

__all__ = ["freeze_levels", "training_mode"]


def freeze_levels(model: nn.Module, num_levels: int) -> None:
    """Take the weights of the CNN's first levels out of training.

    Args:
        model: A HAT.
        num_levels: How many levels, Res2 first, the stem among them; 0 freezes nothing.

    Raises:
        ConfigError: The model is no HAT.
        ModelError: Its CNN cannot be taken apart.
    """
    for layer in _frozen_layers(model, num_levels):
        layer.requires_grad_(False)


def training_mode(model: nn.Module, num_levels: int) -> None:
    """Put a model into training mode, but for its frozen levels: their batch norms keep the statistics that they have."""
    model.train()
    for layer in _frozen_layers(model, num_levels):
        layer.eval()


def _frozen_layers(model: nn.Module, num_levels: int) -> list[nn.Module]:
    if not num_levels:
        return []
    if not isinstance(model, HAT):
        raise ConfigError(f"optim.frozen_levels is {num_levels}, and {type(model).__name__} has no levels")
    return model.mfe.layers_below(num_levels)
