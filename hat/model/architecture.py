"""HAT: a CNN's levels aggregated by transformers under deep supervision (paper Sec. 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.errors import ModelError
from hat.model.aggregation import DSA, stage_widths
from hat.model.backbone import build_backbone
from hat.model.blocks import ResidualBlock
from hat.model.config import ModelConfig
from hat.model.pooling import build_pooling
from hat.preprocessing import Preprocessing

__all__ = ["HAT", "Branch"]


class Branch(NamedTuple):
    """What a supervised branch gives to its losses."""

    feature: Tensor
    """(B, C) before the BN neck: for the triplet loss (Eq. 8)."""

    logits: Tensor
    """(B, num_classes) of the BN-necked feature: for the cross entropy (Eq. 7)."""

    necked: Tensor
    """(B, C) after the BN neck, a part of the embedding: for learning a teacher's embeddings."""


class HAT(nn.Module):
    """Hierarchical Aggregation Transformers.

    In training mode it gives what each supervised branch needs for its losses; in evaluation mode, embeddings.

    Args:
        config: The architecture.
        num_classes: Number of identities to tell apart in training.
        preprocessing: How images become input; by default ImageNet's normalization at the configuration's image size.

    Attributes:
        config: The architecture.
        num_classes: Number of identities.
        preprocessing: How images become input.
        embed_dim: Width of an embedding.
        mfe: The CNN (Sec. 3.1).
        pooling: From its last map to the MFE feature, where the MFE is supervised.
        bottlenecks: Stage name -> residual blocks on its level (Sec. 3.2).
        dsa: Stage name -> TFC (Sec. 3.2-3.3).
        necks: Branch name -> batch norm without a learned bias (BNNeck, Sec. 3.4).
        classifiers: Branch name -> linear classifier without bias (Sec. 3.4).

    Raises:
        ModelError: The backbone is unknown or cannot be built as configured.
    """

    def __init__(self, config: ModelConfig, num_classes: int, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        if num_classes < 1:
            raise ModelError(f"num_classes is at least 1, got {num_classes}")
        height, width = config.image_size
        self.config = config
        self.num_classes = num_classes
        self.preprocessing = preprocessing or Preprocessing(height=height, width=width)
        if self.preprocessing.size != config.image_size:
            raise ModelError(f"preprocessing gives images of {self.preprocessing.size}, the model takes {config.image_size}")

        num_levels = 4 if config.mfe_supervision else config.levels[-1]
        self.mfe = build_backbone(config.backbone, num_levels)
        if config.mfe_supervision:
            self.pooling = build_pooling(config.pooling)
        channels = self.mfe.channels
        self.bottlenecks = nn.ModuleDict(
            {f"tfc{level}": _bottlenecks(channels[level - 1], config) for level in config.levels},
        )
        self.dsa = DSA(config, channels, mfe_dim=channels[-1])

        widths = stage_widths(config, channels, mfe_dim=channels[-1])
        dims = {"mfe": channels[-1]} | {f"tfc{level}": width for level, (_, width) in widths.items()}
        self.necks = nn.ModuleDict({name: _neck(dims[name]) for name in config.branches})
        self.classifiers = nn.ModuleDict({name: nn.Linear(dims[name], num_classes, bias=False) for name in config.branches})
        self.embed_dim = sum(dims[name] for name in config.embedding_branches)
        for classifier in self.classifiers.parameters():
            nn.init.normal_(classifier, std=0.001)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Features of all branches before their necks, whether supervised or not.

        Args:
            images: (B, 3, H, W): floating point and normalized, or uint8 RGB; H and W multiples of 16.

        Returns:
            Branch name -> (B, C): ``"mfe"`` where the MFE is supervised, and every stage.

        Raises:
            ModelError: The input has another shape.
        """
        images = self._prepare(images)
        levels = self.mfe(images)
        maps = {name: blocks(levels[int(name[-1]) - 1]) for name, blocks in self.bottlenecks.items()}
        features: dict[str, Tensor] = {}
        if self.config.mfe_supervision:
            features["mfe"] = self.pooling(levels[-1])  # (B, C)
        height, width = images.shape[-2:]
        features |= self.dsa(maps, (height, width))
        return features

    def forward(self, images: Tensor) -> dict[str, Branch] | Tensor:
        """Run the network.

        Args:
            images: (B, 3, H, W): floating point and normalized, or uint8 RGB, which is normalized here; H and W multiples of
                16.

        Returns:
            Training: branch name -> `Branch`, in the order of ``config.branches``. Evaluation: embeddings, (B, embed_dim), rows
            of unit length, floating point.

        Raises:
            ModelError: The input has another shape.
        """
        features = self.features(images)
        if self.training:
            return {name: self._head(name, features[name]) for name in self.config.branches}
        necked = [self.necks[name](features[name]) for name in self.config.embedding_branches]
        return F.normalize(torch.cat(necked, dim=1).float(), dim=1)

    def _head(self, name: str, feature: Tensor) -> Branch:
        necked = self.necks[name](feature)
        return Branch(feature, self.classifiers[name](necked), necked)

    def _prepare(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1] != 3:
            raise ModelError(f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
        unit = max(16, self.config.downscale)
        if images.shape[2] % unit or images.shape[3] % unit or min(images.shape[2:]) < unit:
            raise ModelError(
                f"expected images whose height and width are multiples of {unit}, got {images.shape[2]} x {images.shape[3]}"
            )
        return images if images.is_floating_point() else self.preprocessing.normalize(images)


def _bottlenecks(channels: int, config: ModelConfig) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, config.bottleneck_reduction) for _ in range(config.num_bottlenecks)))


def _neck(dim: int) -> nn.BatchNorm1d:
    neck = nn.BatchNorm1d(dim)
    neck.bias.requires_grad_(False)
    return neck
