"""Training a HAT: the paper's recipe (Sec. 4.2), configurable, resumable, on one device or many.

Names are imported when they are first used, so that ``hat train --help`` costs no import of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import TrainConfig
    from .launch import train_model
    from .loop import Trainer, TrainingResult
    from .losses import LossParts, batch_hard_triplet, hat_loss, smoothed_cross_entropy
    from .presets import compose_config, describe_preset, list_presets, load_preset
    from .sampler import IdentitySampler

__all__ = [
    "IdentitySampler",
    "LossParts",
    "TrainConfig",
    "Trainer",
    "TrainingResult",
    "batch_hard_triplet",
    "compose_config",
    "describe_preset",
    "hat_loss",
    "list_presets",
    "load_preset",
    "smoothed_cross_entropy",
    "train_model",
]

_HOMES = {
    "IdentitySampler": ".sampler",
    "LossParts": ".losses",
    "TrainConfig": ".config",
    "Trainer": ".loop",
    "TrainingResult": ".loop",
    "batch_hard_triplet": ".losses",
    "compose_config": ".presets",
    "describe_preset": ".presets",
    "hat_loss": ".losses",
    "list_presets": ".presets",
    "load_preset": ".presets",
    "smoothed_cross_entropy": ".losses",
    "train_model": ".launch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hat.train' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
