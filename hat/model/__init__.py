"""The HAT network (paper Sec. 3): a CNN's levels aggregated by transformers under deep supervision."""

from hat.model.architecture import HAT, Branch
from hat.model.backbone import build_backbone, list_backbones
from hat.model.config import BackboneConfig, ModelConfig, TransformerConfig
from hat.model.factory import create_model
from hat.model.presets import list_models, model_config

__all__ = [
    "HAT",
    "BackboneConfig",
    "Branch",
    "ModelConfig",
    "TransformerConfig",
    "build_backbone",
    "create_model",
    "list_backbones",
    "list_models",
    "model_config",
]
