"""Initial model of a run: a backbone with ImageNet weights, or the whole of a model that was trained before."""

import json
from pathlib import Path

import torch

from hat.config import config_to_dict, differences
from hat.errors import ConfigError, WeightsError
from hat.io.checkpoint import load_checkpoint, load_released_weights
from hat.io.weights import load_backbone_weights, load_state
from hat.model import HAT
from hat.model.dsa import TFC

from .config import TrainConfig
from .randomness import derive_seed

_INITIAL_WEIGHTS = 0  # tells the seed of initial weights from those of dropout


def initial_model(config: TrainConfig, num_classes: int) -> tuple[HAT, str]:
    """Make the model of a run with ``num_classes`` identities, and a sentence that says where its weights come from."""
    torch.manual_seed(derive_seed(config.seed, _INITIAL_WEIGHTS))
    model = HAT(config.model, num_classes)
    if config.initial_checkpoint is not None:
        if config.backbone_weights not in (None, "none"):
            raise ConfigError(
                "initial_checkpoint holds a whole model, the backbone included: leave out backbone_weights or set it to none"
            )
        return model, _continue_from(model, config.initial_checkpoint)
    if config.backbone_weights is None:
        raise ConfigError(
            "backbone_weights is not set: say --backbone-weights torchvision, timm, the path of a file, or none for random "
            "ones; or begin with a trained model by --initial-checkpoint"
        )
    return model, load_backbone_weights(model, config.backbone_weights)


def _continue_from(model: HAT, folder: str) -> str:
    """Copy a trained model: a checkpoint, or a file of the released code.

    Positions are resampled for another image size, and classifiers of other people begin again, as a projection does that only
    one of both has. Whatever leaves the shapes of all tensors as they are, the number of heads for example, may differ, and is
    named.
    """
    if Path(folder).expanduser().is_file():
        source, _ = load_released_weights(folder, last_stride=model.config.backbone.last_stride)
    else:
        source = load_checkpoint(folder)
    own, state = model.state_dict(), source.state_dict()
    own_stages = dict(model.dsa.items())
    for level, stage in source.dsa.items():
        own_stage = own_stages.get(level)
        if isinstance(stage, TFC) and isinstance(own_stage, TFC):
            state[f"dsa.{level}.position_embedding"] = stage.interpolate_pos_embed(*own_stage.grid).detach()
    identities_differ = source.num_classes != model.num_classes
    projection_differs = (model.projection is None) != (source.projection is None)
    reinitialized = tuple(
        prefix for prefix, differs in (("classifiers.", identities_differ), ("projection.", projection_differs)) if differs
    )
    state = {name: value for name, value in state.items() if not name.startswith(reinitialized)}
    state |= {name: value for name, value in own.items() if name.startswith(reinitialized)}
    fields = [
        field for field in differences(config_to_dict(model.config), config_to_dict(source.config)) if field[0] != "image_size"
    ]
    try:
        load_state(model, state, folder)
    except WeightsError as error:
        options = [
            f"--set model.{name}={before if isinstance(before, str) else json.dumps(before).replace(' ', '')}"
            for name, _, before in fields
            if name != "projection_dim"
        ]
        tail = f"; as {folder} has it: {' '.join(options)}" if options else ""
        raise WeightsError(
            f"{error}. Only image size, number of identities, a projection or none, and what changes no shape may differ{tail}"
        ) from None
    size, size_before = "x".join(map(str, model.config.image_size)), "x".join(map(str, source.config.image_size))
    resized = f", resampled from {size_before} to {size}" if size != size_before else ""
    differing = [f"{name} {value} instead of {before}" for name, value, before in fields]
    changed = f" and {', '.join(differing)}" if differing else ""
    return f"the model starts from {folder}{resized}, with {'new' if identities_differ else 'its own'} classifiers{changed}"
