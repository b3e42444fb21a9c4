"""Training a HAT: the paper's recipe (Sec. 4.2), configurable, resumable, on one device or many.

Names are imported when they are first used, so that ``hat train --help`` costs no import of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names

if TYPE_CHECKING:
    from .config import TrainConfig
    from .data.sampler import RandomIdentitySampler
    from .launch import train_model
    from .losses import LossParts, batch_hard_triplet, hat_loss, smoothed_cross_entropy
    from .presets import compose_config, describe_preset, list_presets, load_preset
    from .trainer import Trainer, TrainingResult

__all__ = [
    "LossParts",
    "RandomIdentitySampler",
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
    "RandomIdentitySampler": ".data.sampler",
    "LossParts": ".losses",
    "TrainConfig": ".config",
    "Trainer": ".trainer",
    "TrainingResult": ".trainer",
    "batch_hard_triplet": ".losses",
    "compose_config": ".presets",
    "describe_preset": ".presets",
    "hat_loss": ".losses",
    "list_presets": ".presets",
    "load_preset": ".presets",
    "smoothed_cross_entropy": ".losses",
    "train_model": ".launch",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
