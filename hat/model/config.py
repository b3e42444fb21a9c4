"""Everything that decides the shape of a HAT: one frozen dataclass, checked when it is made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hat.config import config_dataclass

__all__ = ["NUM_LEVELS", "BackboneConfig", "ModelConfig", "TransformerConfig"]

NUM_LEVELS = 4
"""A HAT aggregates four levels of its CNN: Res2, Res3, Res4 and Res5 (paper Sec. 3.1)."""

PositiveInt = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]


@config_dataclass
class BackboneConfig:
    """The CNN that extracts features at four levels: the paper's MFE (Sec. 3.1)."""

    name: str = "resnet50"
    """A name of `hat.model.list_backbones`, or ``timm/NAME`` for any model of timm that gives feature maps."""

    last_stride: Literal[1, 2] = 1
    """Stride of the fourth level relative to the third: 1 keeps its map at 1/16 of the image, 2 lets it shrink to 1/32."""

    stem_relu: bool = True
    """Whether a ResNet has the ReLU after its first batch norm. Differs: HAT's released code left it out."""

    stride_in_1x1: bool = False
    """Where a ResNet bottleneck halves its map: in its 3x3 convolution (v1.5, torchvision) or in its first 1x1 (v1)."""


@config_dataclass
class TransformerConfig:
    """The transformer blocks of all TFC stages (paper Sec. 3.2, Eq. 2-4)."""

    norm_order: Literal["post", "pre"] = "post"
    """Layer norm after the residual sum (paper Eq. 2-3) or before each sub-layer (released code)."""

    num_heads: PositiveInt = 16
    """Number of attention heads in every stage."""

    head_dim: PositiveInt | None = None
    """Width of a head; None divides the stage's width by the number of heads (paper). Released code: 64 everywhere."""

    attention_scale: Literal["head_dim", "model_dim"] = "head_dim"
    """Logits of attention are divided by the square root of this width: the head's (paper) or the stage's (released code)."""

    ffn_dim: PositiveInt | None = 2048
    """Width inside the feed-forward network; None makes it `ffn_ratio` times the stage's width."""

    ffn_ratio: Annotated[float, Field(gt=0)] = 2.0
    """Used where `ffn_dim` is None."""

    dropout: Rate = 0.1
    """Dropout of position-embedded tokens, of attention's output and inside the feed-forward network."""


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
    """Transformer blocks at each level, Res2 to Res5 (Table 2). Depth 0: the level has no TFC and is not used by DSA."""

    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] | None = None
    """Width of the tokens at each level, read where the depth is not 0. None: as wide as what the stage is given (the level's
    channels and those of the stage before it), and the last stage as wide as the MFE feature: 256, 768, 2048 for ResNet-50."""

    downscale: Literal[8, 16, 32] = 16
    """Every level is scaled to 1/d of the image before aggregation (Table 4)."""

    num_bottlenecks: Annotated[int, Field(ge=0)] = 3
    """Residual blocks on each used level before scaling (Sec. 3.2; three in the released code)."""

    bottleneck_reduction: PositiveInt = 4
    """A residual block is this many times narrower inside."""

    pooling: Literal["avg", "gem"] = "avg"
    """How the CNN's last map becomes the MFE feature: by its mean (paper), or by a generalized mean with a learned power, which
    looks more at what stands out."""

    mfe_supervision: bool = True
    """Supervise the CNN's own last feature (Table 3, "MFE supervision"). Without it the embedding is the last CLS alone, and
    levels of the CNN above the last one that DSA uses are not built."""

    auxiliary_loss: bool = True
    """Supervise the TFC stages before the last one too (deep supervision; Table 3)."""

    nea: bool = True
    """Neighborhood-enhanced aggregation: convolutions over a stage's token map before the next stage (Eq. 5; Table 3)."""

    last_nea: bool = False
    """Build the NeA of the last stage too. Nothing reads its output, so it is frozen; the released checkpoints hold one."""

    def __post_init__(self) -> None:
        if not any(self.depths):
            raise ValueError("at least one level needs a depth above 0, got (0, 0, 0, 0)")
        unit = max(16, self.downscale)
        if any(side % unit for side in self.image_size):
            height, width = self.image_size
            raise ValueError(f"image_size {height} x {width} is no multiple of {unit} in both directions")
        if self.transformer.head_dim is None and self.widths is not None:
            heads = self.transformer.num_heads
            for width, depth in zip(self.widths, self.depths, strict=True):
                if depth and width % heads:
                    raise ValueError(f"width {width} is no multiple of num_heads {heads}; set transformer.head_dim")

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that have a TFC, counted from 1 (Res2) to 4 (Res5)."""
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
        return (("mfe",) if self.mfe_supervision else ()) + (f"tfc{self.levels[-1]}",)
