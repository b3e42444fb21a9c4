"""Named models. A preset holds only what differs from the defaults of `ModelConfig`, which are the paper's on ResNet-50."""

from __future__ import annotations

import difflib
from typing import Any

from hat.config import config_from_dict, merge
from hat.errors import ModelError
from hat.model.config import ModelConfig

__all__ = ["list_models", "model_config"]

_HEADS_OF_32 = {"num_heads": None, "head_dim": 32}
"""Stages of few channels have few heads: GPU kernels of attention want heads of at least 16 channels."""

_NARROW = {**_HEADS_OF_32, "ffn_dim": None, "ffn_ratio": 2.0}

_PRESETS: dict[str, dict[str, Any]] = {
    "hat_resnet50": {},
    "hat_resnet50_released": {
        "backbone": {"stem_relu": False},
        "transformer": {"norm_order": "pre", "head_dim": 64, "attention_scale": "model_dim"},
        "last_nea": True,
    },
    "hat_resnet18": {"backbone": {"name": "resnet18"}, "transformer": _NARROW},
    "hat_resnet34": {"backbone": {"name": "resnet34"}, "transformer": _NARROW},
    "hat_resnet101": {"backbone": {"name": "resnet101"}},
    "hat_resnet152": {"backbone": {"name": "resnet152"}},
    "hat_resnext50_32x4d": {"backbone": {"name": "resnext50_32x4d"}},
    "hat_wide_resnet50_2": {"backbone": {"name": "wide_resnet50_2"}},
    "hat_googlenet": {"backbone": {"name": "googlenet"}, "transformer": _HEADS_OF_32},
    "hat_convnext_tiny": {"backbone": {"name": "convnext_tiny", "last_stride": 2}, "transformer": _HEADS_OF_32},
    # The edge family: narrow tokens, few blocks, one bottleneck a level. Most operations stay in the CNN.
    "hat_mobilenet_v2": {
        "backbone": {"name": "mobilenet_v2"},
        "depths": (1, 1, 2, 0),
        "widths": (64, 128, 256, 256),
        "num_bottlenecks": 1,
        "transformer": _NARROW,
    },
    # Plain convolutions and ReLU, which int8 suits; of timm. Its last map shrinks: at stride 16 it would cost as much again.
    "hat_mobilenet_v4_medium": {
        "backbone": {"name": "timm/mobilenetv4_conv_medium", "last_stride": 2},
        "depths": (1, 1, 2, 0),
        "widths": (96, 192, 320, 320),
        "num_bottlenecks": 1,
        "transformer": _NARROW,
    },
    "hat_mobilenet_v3_large": {
        "backbone": {"name": "mobilenet_v3_large"},
        "depths": (1, 1, 2, 0),
        "widths": (64, 128, 256, 256),
        "num_bottlenecks": 1,
        "transformer": _NARROW,
    },
    "hat_mobilenet_v3_small": {
        "backbone": {"name": "mobilenet_v3_small"},
        "depths": (1, 1, 2, 0),
        "widths": (48, 96, 192, 192),
        "num_bottlenecks": 1,
        "transformer": _NARROW | {"head_dim": 16},
    },
}


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    return list(_PRESETS)


def model_config(name: str, **overrides: Any) -> ModelConfig:
    """The configuration of a named model.

    Args:
        name: One of `list_models`.
        **overrides: Fields of `ModelConfig` to change; nested ones as dictionaries: ``backbone={"last_stride": 2}``.

    Raises:
        ModelError: The name is unknown.
        ConfigError: An override is unknown, has the wrong type, or contradicts another field.
    """
    if name not in _PRESETS:
        near = difflib.get_close_matches(name, _PRESETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_PRESETS)}"
        raise ModelError(f"unknown model {name!r}; {hint}")
    return config_from_dict(ModelConfig, merge(_PRESETS[name], overrides), where=f"model {name}")
