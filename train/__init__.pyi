"""The public names, said once: for type checkers, and for the package, which imports each at its first use."""

from .config import TrainConfig as TrainConfig
from .losses import LossParts as LossParts
from .losses import batch_hard_triplet as batch_hard_triplet
from .losses import hat_loss as hat_loss
from .losses import smoothed_cross_entropy as smoothed_cross_entropy
from .presets import compose_config as compose_config
from .presets import list_presets as list_presets
from .presets import load_preset as load_preset
from .sampler import RandomIdentitySampler as RandomIdentitySampler
from .trainer import Trainer as Trainer
from .trainer import TrainingResult as TrainingResult
from .trainer import train_model as train_model
