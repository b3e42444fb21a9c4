"""Configuration of a HAT: one frozen dataclass, checked when it is made, and the named models.

A preset holds only what differs from the defaults of `ModelConfig`, which are the paper's on ResNet-50.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from hat.config import config_dataclass, config_from_dict, merge
from hat.errors import ModelError, unknown_name

PositiveInt = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]


@config_dataclass
class BackboneConfig:
    """The CNN that extracts features at four levels: the paper's Multi-scale Feature Extractor, MFE (Sec. 3.1)."""

    name: str = "resnet50"
    """A name of `hat.model.list_backbones`, or ``timm/NAME`` for any model of timm that gives feature maps."""

    last_stride: Literal[1, 2] = 1
    """Stride of the fourth level relative to the third: 1 keeps its map at 1/16 of the image, 2 lets it shrink to 1/32."""

    stem_relu: bool = True
    """The ReLU after a ResNet's first batch norm. Differs: HAT's released code left it out."""

    stride_in_1x1: bool = False
    """Halve the map in a ResNet bottleneck's first 1x1 convolution (v1) and not in its 3x3 (v1.5, torchvision)."""


@config_dataclass
class TransformerConfig:
    """The transformer blocks of all TFC stages (paper Sec. 3.2, Eq. 1-4)."""

    norm_order: Literal["post", "pre"] = "post"
    """Layer norm after the residual sum (paper Eq. 2-3) or before each sub-layer (released code)."""

    num_heads: PositiveInt | None = 16
    """Number of attention heads in every stage; None: as many of at least `head_dim` channels as share the width evenly."""

    head_dim: PositiveInt | None = None
    """Width of a head; None divides the stage's width C_p by the number of heads (paper). Released code: 64 everywhere.
    GPU kernels of attention begin at 16."""

    attention_scale: Literal["head_dim", "model_dim"] = "head_dim"
    """Logits of attention are divided by the square root of this width: the head's (Eq. 1) or the stage's (released code)."""

    ffn_dim: PositiveInt | None = 2048
    """Width inside the feed-forward network; None makes it `ffn_ratio` times the stage's width."""

    ffn_ratio: Annotated[float, Field(gt=0)] = 2.0
    """Used where `ffn_dim` is None."""

    dropout: Rate = 0.1
    """Dropout of position-embedded tokens, of attention's output and inside the feed-forward network."""

    def __post_init__(self) -> None:
        if self.num_heads is None and self.head_dim is None:
            raise ValueError("num_heads and head_dim cannot both be null: one of them decides the other")

    @property
    def width_unit(self) -> int:
        """Number of which the width of a stage is a multiple, so that heads share it evenly."""
        return self.num_heads if self.num_heads is not None and self.head_dim is None else 1

    def head_shape(self, width: int) -> tuple[int, int]:
        """Return the number of heads of a stage and the width of each, for tokens of a width."""
        if self.num_heads is not None:
            return self.num_heads, width // self.num_heads if self.head_dim is None else self.head_dim
        num_heads = max(1, width // (self.head_dim or width))
        while width % num_heads:
            num_heads -= 1
        return num_heads, width // num_heads


@config_dataclass
class ModelConfig:
    """The architecture of a HAT. The defaults are the paper's model on ResNet-50, ``hat_resnet50``."""

    image_size: tuple[PositiveInt, PositiveInt] = (256, 128)
    """(height, width) of the input in pixels; both multiples of 16, and of 32 where `downscale` is 32."""

    backbone: BackboneConfig = BackboneConfig()
    """The CNN."""

    transformer: TransformerConfig = TransformerConfig()
    """The transformer blocks of every TFC."""

    depths: tuple[Depth, Depth, Depth, Depth] = (3, 3, 6, 0)
    """Transformer blocks n_s at each level, Res2 to Res5 (Table 2). Depth 0: the level has no TFC and is not used by DSA.
    (0, 0, 0, 0) is the paper's baseline, the MFE alone."""

    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] | None = None
    """Width C_p of the tokens at each level, read where the depth is not 0. None: as wide as what the stage is given (channels
    of the level and of the stage before it), and the last of several as wide as the CNN's last map: 256, 768, 2048 for
    ResNet-50. Differs: the paper's last would be 1792 wide."""

    downscale: Literal[8, 16, 32] = 16
    """Every level is scaled to 1/d of the image before aggregation (Table 4)."""

    num_bottlenecks: Annotated[int, Field(ge=0)] = 3
    """Residual blocks on each used level before scaling (Sec. 3.2; three in the released code)."""

    bottleneck_reduction: PositiveInt = 4
    """A residual block is this many times narrower inside."""

    pooling: Literal["avg", "gem"] = "avg"
    """Pooling of the CNN's last map into the MFE feature: by its mean (released code), or by a generalized mean with a learned
    power, which looks more at what stands out."""

    mfe_supervision: bool = True
    """Supervise the CNN's own last feature (Table 3, "MFE supervision"). Without it the embedding is the last CLS alone, and
    levels of the CNN above the last one that DSA uses are not built."""

    auxiliary_loss: bool = True
    """Supervise the TFC stages before the last one too (deep supervision; Table 3)."""

    nea: bool = True
    """Neighborhood Adjustment: convolutions over a stage's token map before the next stage (Eq. 5; Table 3)."""

    projection_dim: PositiveInt | None = None
    """Width of the embedding where one more linear layer makes it of the concatenated features. Labels do not train it, a
    teacher does (`hat.train.config.DistillConfig`). None: the embedding is the concatenation (paper, Sec. 3.1)."""

    last_nea: bool = False
    """Build the NeA of the last stage too. Nothing reads its output, so it is frozen; the released checkpoints hold one."""

    def __post_init__(self) -> None:
        if not self.branches:
            raise ValueError("depths of (0, 0, 0, 0) are the MFE alone, and without mfe_supervision nothing is left")
        unit = max(16, self.downscale)
        if any(side % unit for side in self.image_size):
            height, width = self.image_size
            raise ValueError(f"image_size {height} x {width} is no multiple of {unit} in both directions")
        heads = self.transformer.width_unit
        for width, depth in zip(self.widths or (), self.depths if self.widths else (), strict=True):
            if depth and width % heads:
                raise ValueError(f"width {width} is no multiple of num_heads {heads}; set transformer.head_dim")

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels that have a TFC, counted from 1 (Res2) to 4 (Res5)."""
        return tuple(level for level, depth in enumerate(self.depths, start=1) if depth)

    @property
    def token_grid(self) -> tuple[int, int]:
        """(rows, columns) of the token map of every stage."""
        height, width = self.image_size
        return (height // self.downscale, width // self.downscale)

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the supervised branches, in the order of their losses: ``"mfe"``, then ``"tfc1"`` ... ``"tfc4"``."""
        tfcs = self.levels if self.auxiliary_loss else self.levels[-1:]
        return (("mfe",) if self.mfe_supervision else ()) + tuple(f"tfc{level}" for level in tfcs)

    @property
    def embedding_branches(self) -> tuple[str, ...]:
        """Branches whose BN-necked features are concatenated into the embedding (Sec. 3.1)."""
        return (("mfe",) if self.mfe_supervision else ()) + tuple(f"tfc{level}" for level in self.levels[-1:])


_HEADS_OF_32 = {"num_heads": None, "head_dim": 32}
"""Stages of few channels have few heads: GPU kernels of attention want heads of at least 16 channels."""

_NARROW = {**_HEADS_OF_32, "ffn_dim": None, "ffn_ratio": 2.0}

_EDGE = {"depths": (1, 1, 2, 0), "num_bottlenecks": 1, "transformer": _NARROW}
"""The edge family: narrow tokens, few blocks, one bottleneck a level. Most operations stay in the CNN."""

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
    "hat_mobilenet_v2": {**_EDGE, "backbone": {"name": "mobilenet_v2"}, "widths": (64, 128, 256, 256)},
    # Plain convolutions and ReLU, which int8 suits; of timm. Its last map shrinks: at stride 16 it would cost as much again.
    "hat_mobilenet_v4_medium": {
        **_EDGE,
        "backbone": {"name": "timm/mobilenetv4_conv_medium", "last_stride": 2},
        "widths": (96, 192, 320, 320),
    },
    "hat_mobilenet_v3_large": {**_EDGE, "backbone": {"name": "mobilenet_v3_large"}, "widths": (64, 128, 256, 256)},
    "hat_mobilenet_v3_small": {
        **_EDGE,
        "backbone": {"name": "mobilenet_v3_small"},
        "widths": (48, 96, 192, 192),
        "transformer": _NARROW | {"head_dim": 16},
    },
}


def list_models() -> list[str]:
    """Return the names that `create_model` takes."""
    return list(_PRESETS)


def model_config(name: str, **overrides: Any) -> ModelConfig:
    """Return the configuration of a named model.

    Args:
        name: One of `list_models`.
        **overrides: Fields of `ModelConfig` to change; nested ones as dictionaries: ``backbone={"last_stride": 2}``.

    Raises:
        ModelError: The name is unknown.
        ConfigError: An override is unknown, has the wrong type, or contradicts another field.
    """
    if name not in _PRESETS:
        raise ModelError(unknown_name(f"model {name!r}", name, _PRESETS))
    return config_from_dict(ModelConfig, merge(_PRESETS[name], overrides), where=f"model {name}")
