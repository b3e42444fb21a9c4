"""Checkpoints of HAT's released code: their names translated into ours, what nothing reads dropped and named.

The released code is a fork of a strong baseline for re-ID; its model differs from the paper in the points that the preset
``hat_resnet50_released`` sets. Its checkpoints also hold linear layers that no forward pass touches: a quarter of their
parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Translation", "is_released_state", "released_name", "translate_released_state"]

_DEAD = re.compile(r"^HAT\.TFC_S\d\.transformer\.Non\w*\.")
"""Linear layers of the released transformer that are built and never called."""

_BRANCHES = {"b": "mfe", "t1": "tfc1", "t2": "tfc2", "t3": "tfc3"}

_BLOCK_PARTS = {
    "0.fn.norm": "norm1",
    "0.fn.fn.to_qkv": "attention.to_qkv",
    "0.fn.fn.to_out.0": "attention.to_out",
    "1.fn.norm": "norm2",
    "1.fn.fn.net.0": "ffn.up",
    "1.fn.fn.net.3": "ffn.down",
}

_STAGE_PARTS = {"patch_to_embedding": "to_tokens", "cls_token": "cls_token", "pos_embedding": "position_embedding"}


@dataclass(frozen=True)
class Translation:
    """A released state dict in our names.

    Attributes:
        state: Our name -> tensor.
        dropped: Released names of tensors that no forward pass reads.
        num_dropped_params: How many values they hold.
        unknown: Released names that mean nothing here.
    """

    state: dict[str, Tensor]
    dropped: tuple[str, ...]
    num_dropped_params: int
    unknown: tuple[str, ...]


def is_released_state(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the released code's names."""
    return any(name.startswith("HAT.TFC_S") for name in state) and any(name.startswith("base.") for name in state)


def translate_released_state(state: Mapping[str, Tensor]) -> Translation:
    """Translate a state dict of the released code into the names of ``hat_resnet50_released``.

    Args:
        state: Released name -> tensor, for ResNet-50 as published.

    Returns:
        The translation. Tensors are the same objects; shapes are not checked here.
    """
    translated: dict[str, Tensor] = {}
    dropped: list[str] = []
    unknown: list[str] = []
    for name, value in state.items():
        ours = released_name(name)
        if _DEAD.match(name) or name.startswith(("base.fc.", "base.conv1.bias")):
            dropped.append(name)
        elif ours is None:
            unknown.append(name)
        else:
            translated[ours] = value
    num_dropped = sum(state[name].numel() for name in dropped)
    return Translation(translated, tuple(dropped), num_dropped, tuple(unknown))


def released_name(name: str) -> str | None:
    """Our name of a tensor of the released code, or None where there is none."""
    first, _, rest = name.partition(".")
    if first == "base":
        return f"mfe.{rest}"
    if match := re.match(r"^(bottleneck|classifier)_(b|t[123])$", first):
        part = "necks" if match[1] == "bottleneck" else "classifiers"
        return f"{part}.{_BRANCHES[match[2]]}.{rest}"
    if match := re.match(r"^non_linear([123])$", first):
        return f"bottlenecks.tfc{match[1]}.{rest}"
    if match := re.match(r"^TFC_S([123])\.(.+)$", rest) if first == "HAT" else None:
        inside = _inside_stage(match[2])
        return f"dsa.tfc{match[1]}.{inside}" if inside else None
    return None


def _inside_stage(name: str) -> str | None:
    first, _, rest = name.partition(".")
    if first in _STAGE_PARTS:
        return f"{_STAGE_PARTS[first]}.{rest}".rstrip(".")
    if first == "NeA":
        return f"nea.{rest}"
    if match := re.match(r"^transformer\.layers\.(\d+)\.(.+)\.(weight|bias)$", name):
        part = _BLOCK_PARTS.get(match[2])
        return f"blocks.{match[1]}.{part}.{match[3]}" if part else None
    return None
