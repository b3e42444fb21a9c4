"""Checkpoints of HAT's released code: their names translated into ours, what nothing reads dropped and named.

The released code is a fork of a strong baseline for re-ID; its model differs from the paper in the points that the preset
``hat_resnet50_released`` sets. Its checkpoints also hold linear layers that no forward pass touches: a quarter of their
parameters. Backbone, depths and widths are read from the tensors; the stride of the last level leaves no trace in them.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hat.config import apply_overrides
from hat.errors import WeightsError
from hat.model.backbone import import_torchvision, list_backbones
from hat.model.config import ModelConfig, model_config
from hat.model.dsa import stage_widths

_HEAD_DIM = 64
"""Heads leave no trace in the tensors; the released code has 64 channels in each at every width."""

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

_STAGE_PARTS = {"patch_to_embedding": "patch_embed", "cls_token": "cls_token", "pos_embedding": "position_embedding"}


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
    """Tell the released code's names from others."""
    return any(name.startswith("HAT.TFC_S") for name in state) and any(name.startswith("base.") for name in state)


def translate_released_state(state: Mapping[str, Tensor]) -> Translation:
    """Translate a state dict of the released code into the names of ``hat_resnet50_released``.

    Args:
        state: Released name -> tensor.

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


def released_config(
    state: Mapping[str, Tensor], *, last_stride: Literal[1, 2], image_size: tuple[int, int] | None = None, source: str
) -> ModelConfig:
    """Read the architecture of a released model from the shapes of its tensors.

    Args:
        state: Our name -> tensor, as `translate_released_state` gives them.
        last_stride: Stride of the backbone's last level, which shapes do not tell.
        image_size: (height, width) of its images; None where the number of positions is that of images twice as high as wide.
        source: What the state is, for the error message.

    Raises:
        WeightsError: A tensor that decides is missing, the backbone is not a known ResNet, or the image size is needed.
    """
    levels = [level for level in range(1, 5) if any(name.startswith(f"dsa.tfc{level}.") for name in state)]
    last = f"dsa.tfc{levels[-1]}"

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise WeightsError(f"{source} does not fit: missing: {name}")
        return tuple(state[name].shape)

    num_positions = shape(f"{last}.position_embedding")[1] - 1
    if image_size is None:
        columns = math.isqrt(num_positions // 2)
        image_size = (32 * columns, 16 * columns)
    if (image_size[0] // 16) * (image_size[1] // 16) != num_positions:
        raise WeightsError(
            f"{source} has {num_positions} positions, which are not those of {image_size[0]} x {image_size[1]} images: "
            "say the size that it was trained at"
        )
    depths = tuple(_count(state, f"dsa.tfc{level}.blocks.") for level in range(1, 5))
    one, two, three, four = (shape(f"dsa.tfc{level}.cls_token")[-1] if level in levels else 1 for level in range(1, 5))
    widths = (one, two, three, four)
    channels = tuple(_channels(state, level) for level in range(1, 5))
    first = f"bottlenecks.tfc{levels[0]}."
    config = model_config(
        "hat_resnet50_released",
        image_size=image_size,
        backbone={"name": _resnet_of(state, source), "last_stride": last_stride},
        depths=depths,
        num_bottlenecks=_count(state, first),
        transformer={
            "num_heads": shape(f"{last}.blocks.0.attention.to_qkv.weight")[0] // (3 * _HEAD_DIM),
            "head_dim": _HEAD_DIM,
            "ffn_dim": shape(f"{last}.blocks.0.ffn.up.weight")[0],
        },
        nea=len(levels) == 1 or f"dsa.tfc{levels[0]}.nea.conv1.weight" in state,
        last_nea=f"{last}.nea.conv1.weight" in state,
    )
    default = {level: width for level, (_, width) in stage_widths(config, channels).items()}
    return (
        config
        if default == {level: widths[level - 1] for level in levels}
        else apply_overrides(config, {"widths": list(widths)})
    )


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _channels(state: Mapping[str, Tensor], level: int) -> int:
    """Return the channels of a level: those of the last batch norm of its first block."""
    norms = [name for name in state if re.match(rf"^mfe\.layer{level}\.0\.bn\d\.weight$", name)]
    return len(state[max(norms)]) if norms else 0


def _resnet_of(state: Mapping[str, Tensor], source: str) -> str:
    """Return the name of the ResNet whose layers have these shapes."""

    def layers(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, torch.Size]:
        weights = {name.removeprefix(prefix): value.shape for name, value in tensors.items() if name.endswith("weight")}
        return {name: shape for name, shape in weights.items() if name.startswith("layer")}

    given = layers(state, "mfe.")
    for candidate in (name for name in list_backbones() if "resn" in name):
        with torch.device("meta"):
            known = getattr(import_torchvision("models"), candidate)(weights=None).state_dict()
        if layers(known, "") == given:
            return candidate
    raise WeightsError(f"{source}: the layers of its backbone are those of none of {', '.join(list_backbones())}")


def released_name(name: str) -> str | None:
    """Return our name of a tensor of the released code, or None where there is none."""
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
