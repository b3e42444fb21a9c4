"""Named recipes. A preset holds only what differs from the defaults of `TrainConfig`, which are the paper's."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hat.config import config_from_dict, config_to_dict, merge
from hat.errors import ConfigError, first_line, unknown_name
from hat.model import model_config

from .config import TrainConfig

_EDGE: dict[str, Any] = {
    "model_name": "hat_mobilenet_v2",
    "model": {"image_size": [128, 64]},
    # Half the paper's padding for half its image size.
    "augmentation": {"pad": 5},
    "schedule": {"kind": "cosine", "warmup_epochs": 1},
}

# What public baselines found to help a ResNet-50 on Market-1501 beyond the paper's recipe, each as cheap as what it replaces:
# the strong baselines of FastReID (MODEL_ZOO.md: 86.1 mAP without, 88.2 with) pool by a generalized mean, anneal the rate along
# a cosine and let the CNN begin later; gray images are Gong et al., "Eliminate Deviation with Deviation" (2021).
_PLUS: dict[str, Any] = {
    "model": {"pooling": "gem"},
    "num_epochs": 120,
    "augmentation": {"grayscale": 0.05},
    "optim": {"backbone_frozen_epochs": 5},
    "schedule": {"kind": "cosine", "final_factor": 0.002},
    "ema": {"enabled": True},
    "compute": {"precision": "bf16"},
    "data": {"cache": "device"},
}

# A small model learns for longer, and a patient teacher is what it profits from most (Beyer et al., CVPR 2022). Its
# transformers are as small as its CNN and learn at the same rate.
_EDGE_PLUS = merge(
    _PLUS,
    {
        "model_name": "hat_mobilenet_v2",
        "num_epochs": 240,
        "optim": {"tfc_lr_scale": 1.0},
        "schedule": {"warmup_epochs": 5},
    },
)

_PRESETS: dict[str, dict[str, Any]] = {
    # The paper trains on all four sets alike, so there is nothing that differs.
    "market1501": {},
    "dukemtmc": {},
    "cuhk03": {},
    "msmt17": {},
    "market1501-plus": _PLUS,
    # The limits are the operations of Open Model Zoo's person-reidentification-retail-0287, -0286 and -0277: 0.55, 1.14 and
    # 1.96 GFLOP, counted from their files as ours are (a multiplication and an addition are two).
    "market1501-edge-small": merge(_EDGE_PLUS, {"model": {"image_size": [192, 96]}, "augmentation": {"pad": 8}}),
    "market1501-edge": _EDGE_PLUS,
    "market1501-edge-large": merge(_EDGE_PLUS, {"model_name": "hat_mobilenet_v4_medium"}),
    "market1501-cpu": merge(_EDGE, {"num_epochs": 12, "data": {"cache": "host"}}),
    # What learns something in 150 steps from nothing: plain residual blocks, a high rate, no obstacles. With MobileNetV2 or the
    # paper's rate, erasing and smoothing the ranking stays near chance for as long.
    "quick": merge(
        _EDGE,
        {
            "model_name": "hat_resnet18",
            "model": {"depths": [1, 1, 2, 0], "widths": [64, 128, 256, 256], "num_bottlenecks": 1},
            "backbone_weights": "none",
            "num_epochs": 6,
            "sampler": {"num_identities": 8},
            "augmentation": {"erasing": 0.0},
            "loss": {"label_smoothing": 0.0},
            "optim": {"lr": 2e-3},
            "log": {"every_steps": 5},
        },
    ),
}
"""What each is in words stands in the help of ``hat train``."""


def list_presets() -> list[str]:
    """Return names that `load_preset` and ``hat train`` take."""
    return list(_PRESETS)


def preset_differences(name: str) -> dict[str, Any]:
    """Return what a preset changes, as nested dictionaries; an unknown name is a ConfigError, here and below."""
    if name not in _PRESETS:
        raise ConfigError(unknown_name(f"preset {name!r}", name, _PRESETS))
    return merge(_PRESETS[name], {})


def load_preset(name: str) -> TrainConfig:
    """Return the whole configuration of a preset."""
    return compose_config([(f"preset {name}", preset_differences(name))])


def compose_config(layers: Iterable[tuple[str, Mapping[str, Any]]]) -> TrainConfig:
    """Lay changes over the defaults, one layer after the other; each says what it is, for error messages.

    A layer that names another model than the layers below it begins with that model's own architecture: what those changed in
    ``model`` was meant for theirs.

    Raises:
        ConfigError: A key is unknown or a value is wrong; it is named by its full path.
        ModelError: The name of a model is unknown.
    """
    config = TrainConfig()
    for where, changes in layers:
        tree = config_to_dict(config)
        name = changes.get("model_name", config.model_name)
        if isinstance(name, str) and name != config.model_name:
            tree["model"] = config_to_dict(model_config(name))
        config = config_from_dict(TrainConfig, merge(tree, changes), where=where)
    return config


def read_config_file(path: Path) -> dict[str, Any]:
    """Read changes from a YAML file, such as the ``config.yaml`` of another run."""
    try:
        content = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {first_line(error)}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path} holds no configuration: expected keys and values, got {type(content).__name__}")
    return content
