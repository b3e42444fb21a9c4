"""Checkpoints of HAT's released code: their names translated into ours, what nothing reads dropped and named.

The released code is a fork of a strong baseline for re-ID; its model differs from the paper in the points that the preset
``hat_resnet50_released`` sets. Its checkpoints also hold linear layers that no forward pass touches: a quarter of their
parameters. Backbone, depths and widths are read from the tensors; the stride of the last level leaves no trace in them.
"""

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hat.config import apply_overrides
from hat.errors import WeightsError
from hat.model.backbone import import_torchvision, list_backbones
from hat.model.config import ModelConfig, model_config
from hat.model.dsa import stage_widths

_HEAD_DIM = 64
"""Heads leave no trace in the tensors; the released code has 64 channels in each at every width."""

_DEAD = re.compile(r"(HAT\.TFC_S\d\.transformer\.Non\w*\.|base\.fc\.|base\.conv1\.bias).*")
"""Tensors that nothing reads, above all linear layers of the released transformer that are built and never called."""

_STAGE, _BLOCK = r"HAT\.TFC_S([123])\.", r"HAT\.TFC_S([123])\.transformer\.layers\.(\d+)\."

_NAMES = {
    r"base\.(.+)": r"mfe.\1",
    r"bottleneck_b\.(.+)": r"necks.mfe.\1",
    r"bottleneck_t([123])\.(.+)": r"necks.tfc\1.\2",
    r"classifier_b\.(.+)": r"classifiers.mfe.\1",
    r"classifier_t([123])\.(.+)": r"classifiers.tfc\1.\2",
    r"non_linear([123])\.(.+)": r"bottlenecks.tfc\1.\2",
    rf"{_STAGE}patch_to_embedding\.(.+)": r"dsa.tfc\1.patch_embed.\2",
    rf"{_STAGE}cls_token": r"dsa.tfc\1.cls_token",
    rf"{_STAGE}pos_embedding": r"dsa.tfc\1.position_embedding",
    rf"{_STAGE}NeA\.(.+)": r"dsa.tfc\1.nea.\2",
    rf"{_BLOCK}0\.fn\.norm\.(\w+)": r"dsa.tfc\1.blocks.\2.norm1.\3",
    rf"{_BLOCK}0\.fn\.fn\.to_qkv\.(\w+)": r"dsa.tfc\1.blocks.\2.attention.to_qkv.\3",
    rf"{_BLOCK}0\.fn\.fn\.to_out\.0\.(\w+)": r"dsa.tfc\1.blocks.\2.attention.to_out.\3",
    rf"{_BLOCK}1\.fn\.norm\.(\w+)": r"dsa.tfc\1.blocks.\2.norm2.\3",
    rf"{_BLOCK}1\.fn\.fn\.net\.0\.(\w+)": r"dsa.tfc\1.blocks.\2.ffn.up.\3",
    rf"{_BLOCK}1\.fn\.fn\.net\.3\.(\w+)": r"dsa.tfc\1.blocks.\2.ffn.down.\3",
}
"""Pattern of a whole released name -> ours."""


class Translation(NamedTuple):
    """A released state dict in our names."""

    state: dict[str, Tensor]
    """Our name -> tensor, the same object; shapes are not checked."""
    dropped: dict[str, Tensor]
    """Released name -> tensor that no forward pass reads."""
    unknown: tuple[str, ...]
    """Released names that mean nothing here."""


def is_released_state(state: Mapping[str, Tensor]) -> bool:
    """Tell the released code's names from others."""
    return any(name.startswith("HAT.TFC_S") for name in state) and any(name.startswith("base.") for name in state)


def translate_released_state(state: Mapping[str, Tensor]) -> Translation:
    """Translate a state dict of the released code into the names of ``hat_resnet50_released``."""
    dropped = {name: value for name, value in state.items() if _DEAD.fullmatch(name)}
    ours = {name: _our_name(name) for name in state if name not in dropped}
    translated = {name: state[released] for released, name in ours.items() if name is not None}
    return Translation(translated, dropped, tuple(released for released, name in ours.items() if name is None))


def released_config(
    state: Mapping[str, Tensor], *, last_stride: Literal[1, 2], image_size: tuple[int, int] | None = None, source: str
) -> ModelConfig:
    """Read the architecture of a released model from the shapes of its tensors, in our names.

    Shapes do not determine ``last_stride``. An ``image_size`` of None follows from the number of positions, where images are
    twice as high as wide. A `WeightsError` says which tensor is missing, that the backbone is no ResNet that is known, or that
    the image size is needed; ``source`` is what it says the state is.
    """
    levels = [level for level in range(1, 5) if any(name.startswith(f"dsa.tfc{level}.") for name in state)]
    last = f"dsa.tfc{max(levels, default=1)}"

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
    widths = [shape(f"dsa.tfc{level}.cls_token")[-1] if level in levels else 1 for level in range(1, 5)]
    channels = tuple(_channels(state, level) for level in range(1, 5))
    config = model_config(
        "hat_resnet50_released",
        image_size=image_size,
        backbone={"name": _resnet_of(state, source), "last_stride": last_stride},
        depths=depths,
        num_bottlenecks=_count(state, f"bottlenecks.tfc{levels[0]}."),
        transformer={
            "num_heads": shape(f"{last}.blocks.0.attention.to_qkv.weight")[0] // (3 * _HEAD_DIM),
            "head_dim": _HEAD_DIM,
            "ffn_dim": shape(f"{last}.blocks.0.ffn.up.weight")[0],
        },
        nea=len(levels) == 1 or f"dsa.tfc{levels[0]}.nea.conv1.weight" in state,
        last_nea=f"{last}.nea.conv1.weight" in state,
    )
    default = {level: width for level, (_, width) in stage_widths(config, channels).items()}
    if default == {level: widths[level - 1] for level in levels}:
        return config
    return apply_overrides(config, {"widths": widths})


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _channels(state: Mapping[str, Tensor], level: int) -> int:
    """Return the channels of a level: those of the last batch norm of its first block."""
    norms = [name for name in state if re.match(rf"^mfe\.layer{level}\.0\.bn\d\.weight$", name)]
    return len(state[max(norms)]) if norms else 0


def _resnet_of(state: Mapping[str, Tensor], source: str) -> str:
    """Return the name of the ResNet whose layers have these shapes."""
    given = _layers(state)
    for candidate in list_backbones():
        if "resn" in candidate and _known_layers(candidate) == given:
            return candidate
    raise WeightsError(f"{source}: the layers of its backbone are those of none of {', '.join(list_backbones())}")


@cache
def _known_layers(name: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return _layers(getattr(import_torchvision("models"), name)(weights=None).state_dict())


def _layers(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shapes of a ResNet's convolutions and norms by name, those of its stem and classifier left out."""
    weights = {name.removeprefix("mfe."): tensor.shape for name, tensor in state.items() if name.endswith("weight")}
    return {name: shape for name, shape in weights.items() if name.startswith("layer")}


def _our_name(name: str) -> str | None:
    for pattern, ours in _NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None
