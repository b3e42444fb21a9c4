"""The HAT network (paper Sec. 3): a CNN's levels aggregated by transformers under deep supervision."""

from hat.model.backbone import build_backbone, list_backbones
from hat.model.config import BackboneConfig, ModelConfig, TransformerConfig, list_models, model_config
from hat.model.hat import HAT, Branch, TrainingOutput, create_model

__all__ = [
    "HAT",
    "BackboneConfig",
    "Branch",
    "ModelConfig",
    "TrainingOutput",
    "TransformerConfig",
    "build_backbone",
    "create_model",
    "list_backbones",
    "list_models",
    "model_config",
]
