"""HAT: a CNN's levels aggregated by transformers under deep supervision (paper Sec. 3)."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.errors import ModelError
from hat.model.backbone import Backbone, build_backbone
from hat.model.config import ModelConfig, model_config
from hat.model.dsa import DSA, stage_widths
from hat.model.layers import ResidualBlock, build_pooling
from hat.preprocessing import Preprocessing


class Branch(NamedTuple):
    """Loss inputs of one supervised branch."""

    feature: Tensor
    """(B, C) before the BNNeck: for the triplet loss (Eq. 8)."""

    logits: Tensor
    """(B, num_classes) of the BN-necked feature: for the cross entropy (Eq. 7)."""


class TrainingOutput(NamedTuple):
    """Output of a HAT in training mode."""

    branches: dict[str, Branch]
    """Branch name -> inputs of its losses, in the order of `ModelConfig.branches`."""

    embedding: Tensor
    """(B, embed_dim) rows of unit length: for learning a teacher's embeddings."""


class FeatureExtractor(nn.Module):
    """From pixels to the features of all branches: what training, inference graph and half-precision graph have in common."""

    config: ModelConfig
    preprocessing: Preprocessing
    embed_dim: int
    mfe: Backbone
    """The CNN (Sec. 3.1)."""
    pooling: nn.Module
    """From its last map to the MFE feature, where the MFE is supervised."""
    bottlenecks: nn.ModuleDict
    """Stage name -> residual blocks on its level (Sec. 3.2)."""
    dsa: DSA
    """Stage name -> TFC (Sec. 3.2-3.3)."""
    projection: nn.Linear | None
    """From the concatenated features to the embedding, where there is one."""

    def extract(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the features of normalized pixels (B, 3, H, W) before their necks, whether supervised or not.

        They are branch name -> (B, C): ``"mfe"`` where the MFE is supervised, and every stage.
        """
        levels = self.mfe(pixels)
        maps = {name: blocks(levels[int(name[-1]) - 1]) for name, blocks in self.bottlenecks.items()}
        features: dict[str, Tensor] = {"mfe": self.pooling(levels[-1])} if self.config.mfe_supervision else {}  # (B, C)
        height, width = pixels.shape[-2:]
        stages: dict[str, Tensor] = self.dsa(maps, (height, width))
        return features | stages

    def project(self, joined: Tensor) -> Tensor:
        """Lead unit rows (B, joined_dim) through `projection`, in the type that they and it have, whatever autocast says.

        Returns:
            (B, embed_dim), float32 or wider, rows of unit length: ``joined`` itself where there is no projection.
        """
        if self.projection is None:
            return joined
        device = joined.device.type  # "meta", where operations are counted, knows no autocast
        lowered = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        # The angles between embeddings are decided here. Without autocast nothing is entered, which an exporter would trace.
        with torch.autocast(device, enabled=False) if lowered else contextlib.nullcontext():
            return F.normalize(_at_least_float32(self.projection(joined)), dim=1)

    def check_shape(self, images: Tensor) -> None:
        """Refuse what is not (B, 3, H, W) with H and W multiples of 16, or of 32 where `ModelConfig.downscale` is 32."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ModelError(f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
        unit = max(16, self.config.downscale)
        height, width = images.shape[2:]
        if height % unit or width % unit or min(height, width) < unit:
            raise ModelError(f"expected images whose height and width are multiples of {unit}, got {height} x {width}")


class HAT(FeatureExtractor):
    """Hierarchical Aggregation Transformers.

    In training mode it gives what each supervised branch needs for its losses, and embeddings; in evaluation mode, these alone.

    Args:
        config: The architecture.
        num_classes: Number of identities to tell apart in training.
        preprocessing: How images become input; by default ImageNet's normalization at the configuration's image size.

    Attributes:
        necks: Branch name -> BNNeck: batch norm whose bias stays 0 (released code).
        classifiers: Branch name -> linear classifier without bias (released code).
        projection: Linear layer from the concatenated features to the embedding; None without `ModelConfig.projection_dim`.

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

        self.mfe = build_backbone(config.backbone, 4 if config.mfe_supervision else config.levels[-1])
        if config.mfe_supervision:
            self.pooling = build_pooling(config.pooling)
        channels = self.mfe.channels
        self.bottlenecks = nn.ModuleDict({f"tfc{level}": _bottlenecks(channels[level - 1], config) for level in config.levels})
        self.dsa = DSA(config, channels)

        widths = {f"tfc{level}": width for level, (_, width) in stage_widths(config, channels).items()}
        widths["mfe"] = channels[-1]
        self.necks = nn.ModuleDict({name: _neck(widths[name]) for name in config.branches})
        self.classifiers = nn.ModuleDict({name: nn.Linear(widths[name], num_classes, bias=False) for name in config.branches})
        for classifier in self.classifiers.parameters():
            nn.init.normal_(classifier, std=0.001)
        joined_dim = sum(widths[name] for name in config.embedding_branches)
        self.embed_dim = config.projection_dim or joined_dim
        # The last to draw random weights, so that all others are the same without it.
        self.projection = None if config.projection_dim is None else nn.Linear(joined_dim, config.projection_dim)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the features of all branches before their necks, see `extract`, of images as `forward` takes them."""
        self.check_shape(images)
        return self.extract(images if images.is_floating_point() else self.preprocessing.normalize(images))

    def joined(self, images: Tensor) -> Tensor:
        """Compute what `projection` reads: the BN-necked features side by side, (B, joined_dim), rows of unit length."""
        features = self.features(images)
        return self._join({name: self.necks[name](features[name]) for name in self.config.embedding_branches})

    def forward(self, images: Tensor) -> TrainingOutput | Tensor:
        """Run the network.

        Args:
            images: (B, 3, H, W): floating point and normalized, or uint8 RGB, which is normalized here; H and W multiples of
                16.

        Returns:
            Training: a `TrainingOutput`. Evaluation: embeddings, (B, embed_dim), rows of unit length, float32 or wider.

        Raises:
            ModelError: The input has another shape.
        """
        if not self.training:
            return self.project(self.joined(images))
        features = self.features(images)
        bn_features = {name: self.necks[name](features[name]) for name in self.config.branches}
        branches = {name: Branch(features[name], self.classifiers[name](bn)) for name, bn in bn_features.items()}
        return TrainingOutput(branches, self.project(self._join(bn_features)))

    def _join(self, bn_features: Mapping[str, Tensor]) -> Tensor:
        joined = torch.cat([bn_features[name] for name in self.config.embedding_branches], dim=1)
        return F.normalize(_at_least_float32(joined), dim=1)


def create_model(name: str, num_classes: int, *, preprocessing: Preprocessing | None = None, **overrides: Any) -> HAT:
    """Make a HAT with random weights: a plain ``nn.Module`` in training mode.

    Args:
        name: One of `hat.list_models`, such as ``"hat_resnet50"``.
        num_classes: Number of identities in the training set.
        preprocessing: How images become input; by default ImageNet's normalization at the model's image size.
        **overrides: Fields of `hat.ModelConfig` to change; nested ones as dictionaries: ``backbone={"last_stride": 2}``.

    Raises:
        ModelError: The name is unknown, or the model cannot be built as asked.
        ConfigError: An override is unknown, has the wrong type, or contradicts another field.
        MissingExtraError: The backbone needs a library that is not installed.
    """
    return HAT(model_config(name, **overrides), num_classes, preprocessing)


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _bottlenecks(channels: int, config: ModelConfig) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, config.bottleneck_reduction) for _ in range(config.num_bottlenecks)))


def _neck(width: int) -> nn.BatchNorm1d:
    neck = nn.BatchNorm1d(width)
    neck.bias.requires_grad_(False)
    return neck
