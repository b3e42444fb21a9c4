"""Optimizer: groups of parameters, frozen levels, the learning rate schedule, and the moving average of the weights."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from hat.errors import ConfigError
from hat.model import HAT

from .config import EMAConfig, OptimConfig, ScheduleConfig


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups for an optimizer, in a fixed order and none empty.

    The TFC stages, ``model.dsa``, learn at `OptimConfig.tfc_lr_scale` times the rate of the rest (paper Sec. 4.2). The CNN,
    ``model.mfe``, has groups of its own with ``frozen_epochs`` where it begins to learn later. A model without any trainable
    parameter is a ConfigError.
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
                "lr_scale": config.tfc_lr_scale if of_tfc else 1.0,
                "weight_decay": config.weight_decay if decayed else 0.0,
                **({"frozen_epochs": config.backbone_frozen_epochs} if waits else {}),
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise ConfigError("the model has no trainable parameter")
    return [groups[key] for key in sorted(groups)]


def build_optimizer(model: nn.Module, config: OptimConfig, *, skips_steps: bool = False) -> torch.optim.Optimizer:
    """Make the optimizer, with the fused kernels that update all parameters in one pass where the device has them.

    ``skips_steps``: a loss scaler leaves out steps whose gradients overflow.
    """
    groups = parameter_groups(model, config)
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    for group in groups:
        group["lr"] = config.lr * group["lr_scale"]
    if config.name == "sgd":
        # Where its first step is left out, torch's fused SGD goes on from momentum that nobody has written.
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused and not skips_steps)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, epoch: int) -> None:
    """Give every group ``lr`` times its own factor, and 0 before the epoch, counted from 0, in which it begins to learn."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if epoch < group.get("frozen_epochs", 0) else lr * group["lr_scale"]


def _is_norm_or_bias(name: str, parameter: nn.Parameter) -> bool:
    # A (1, 1, C) CLS token and a (1, N, C) position embedding are added like biases, so decay pulls them the same wrong way.
    return parameter.ndim <= 1 or name.endswith(("cls_token", "pos_embedding", "position_embedding"))


def lr_scale(config: ScheduleConfig, epoch: float, num_epochs: int) -> float:
    """Return the learning rate relative to `optim.lr` (paper Sec. 4.2), in (0, 1], after so many epochs and a part of one."""
    if epoch < config.warmup_epochs:
        done = epoch / config.warmup_epochs
        return config.warmup_factor + (1 - config.warmup_factor) * done
    if config.kind == "step":
        return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    if config.kind == "cosine":
        done = min(1.0, (epoch - config.warmup_epochs) / (num_epochs - config.warmup_epochs))
        return config.final_factor + (1 - config.final_factor) * 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def training_mode(model: nn.Module, num_frozen_levels: int) -> None:
    """Put a model into training mode, but for the CNN's first levels, the stem and Res2 first.

    Their weights stay as they are, and so do the statistics of their batch norms.
    """
    model.train()
    if not num_frozen_levels:
        return
    if not isinstance(model, HAT):
        raise ConfigError(f"optim.frozen_levels is {num_frozen_levels}, and {type(model).__name__} has no levels")
    for layer in model.mfe.layers_below(num_frozen_levels):
        layer.eval().requires_grad_(False)


class ModelEma:
    """A second model, on the same device and in evaluation mode, whose weights follow those of the trained one.

    Floating-point buffers (the running statistics of batch norms) are averaged like weights, because statistics of the current
    weights do not fit averaged ones; counters are copied. ``num_updates`` is a scalar float32 on the device, so that whether an
    update counts need not be known to Python.
    """

    def __init__(self, model: nn.Module, config: EMAConfig) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.config = config
        # A state dict shares its tensors with the model, which loads and steps in place: these lists stay right.
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._weights = [value for average, value in pairs if average.is_floating_point()]
        self._counters = [average for average, _ in pairs if not average.is_floating_point()]
        self._model_counters = [value for average, value in pairs if not average.is_floating_point()]
        self.num_updates = torch.zeros((), device=self._averages[0].device)

    def decay(self, num_updates: Tensor) -> Tensor:
        """Compute the part of the old average that the update after ``num_updates`` others keeps."""
        if not self.config.warmup:
            return torch.full_like(num_updates, self.config.decay)
        return ((1 + num_updates) / (10 + num_updates)).clamp(max=self.config.decay)

    @torch.no_grad()
    def update(self, skipped: Tensor | None = None) -> None:
        """Move the average: decay * average + (1 - decay) * weights; not where ``skipped``, a scalar on the device, is 1."""
        taken = 1.0 if skipped is None else 1 - skipped
        differences = torch._foreach_sub(self._weights, self._averages)
        torch._foreach_mul_(differences, (1 - self.decay(self.num_updates)) * taken)
        torch._foreach_add_(self._averages, differences)
        if self._counters:
            torch._foreach_copy_(self._counters, self._model_counters)
        self.num_updates += taken
