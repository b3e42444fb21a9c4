"""Making a model by name."""

from __future__ import annotations

from typing import Any

from hat.model.architecture import HAT
from hat.model.presets import model_config
from hat.preprocessing import Preprocessing

__all__ = ["create_model"]


def create_model(name: str, num_classes: int, *, preprocessing: Preprocessing | None = None, **overrides: Any) -> HAT:
    """Make a HAT with random weights.

    Args:
        name: One of `hat.list_models`, such as ``"hat_resnet50"``.
        num_classes: Number of identities in the training set.
        preprocessing: How images become input; by default ImageNet's normalization at the model's image size.
        **overrides: Fields of `hat.ModelConfig` to change; nested ones as dictionaries: ``backbone={"last_stride": 2}``.

    Returns:
        A plain ``nn.Module`` in training mode.

    Raises:
        ModelError: The name is unknown, or the model cannot be built as asked.
        ConfigError: An override is unknown, has the wrong type, or contradicts another field.
        MissingExtraError: The backbone needs a library that is not installed.
    """
    return HAT(model_config(name, **overrides), num_classes, preprocessing)
