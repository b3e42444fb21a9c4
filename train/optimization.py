"""Optimizers and their groups of parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hat.errors import ConfigError

from .config import OptimConfig

__all__ = ["build_optimizer", "parameter_groups", "set_learning_rate"]


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Sort the trainable parameters by learning rate and weight decay.

    The TFC stages are ``model.dsa``; they learn at `OptimConfig.tfc_rate_factor` times the rate of the rest (paper Sec. 4.2).
    The CNN, ``model.mfe``, has groups of its own where it begins to learn later than the rest.

    Args:
        model: A HAT, or any module with a child ``dsa``.
        config: Rates and weight decay.

    Returns:
        Groups for an optimizer, each with its ``name`` and ``rate_factor``, and ``frozen_epochs`` where it learns nothing for
        so many; in a fixed order, none empty.

    Raises:
        ConfigError: The model has no trainable parameter.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        of_tfc = name.startswith("dsa.")
        decayed = config.decay_norms_and_biases or not _is_norm_or_bias(name, parameter)
        waits = config.backbone_frozen_epochs > 0 and name.startswith("mfe.")
        key = ("tfc" if of_tfc else "backbone" if waits else "rest") + ("" if decayed else "_without_decay")
        group = groups.setdefault(
            key,
            {
                "name": key,
                "params": [],
                "rate_factor": config.tfc_rate_factor if of_tfc else 1.0,
                "weight_decay": config.weight_decay if decayed else 0.0,
                **({"frozen_epochs": config.backbone_frozen_epochs} if waits else {}),
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise ConfigError("the model has no trainable parameter")
    return [groups[key] for key in sorted(groups)]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Make the optimizer, with the fused kernels that update all parameters in one pass."""
    groups = parameter_groups(model, config)
    for group in groups:
        group["lr"] = config.lr * group["rate_factor"]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, epoch: int) -> None:
    """Give every group ``lr`` times its own factor, and 0 before the epoch, counted from 0, in which it begins to learn."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if epoch < group.get("frozen_epochs", 0) else lr * group["rate_factor"]


def _is_norm_or_bias(name: str, parameter: nn.Parameter) -> bool:
    # A (1, 1, C) CLS token and a (1, N, C) position embedding are added like biases, so decay pulls them the same wrong way.
    return parameter.ndim <= 1 or name.endswith(("cls_token", "pos_embedding", "position_embedding"))
