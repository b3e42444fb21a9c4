"""Layers that HAT puts on its CNN: the residual block, and the poolings from the last map to the MFE feature."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """ResNet's bottleneck with as many channels out as in: 1x1 down, 3x3, 1x1 up, each with batch norm, added to the input.

    Used on each level of the CNN before scaling ("bottleneck", Sec. 3.2) and, after a stage's transformer blocks, as the
    Neighborhood Adjustment NeA (Eq. 5), for which the paper asks for convolutions with batch norm and the released code takes
    this block.

    Args:
        channels: Channels in and out.
        reduction: How many times narrower the block is inside; at least one channel is kept.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.conv1 = nn.Conv2d(channels, inner, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        y = F.relu(self.bn1(self.conv1(x)))  # (B, C/r, h, w)
        y = F.relu(self.bn2(self.conv2(y)))  # (B, C/r, h, w)
        return F.relu(self.bn3(self.conv3(y)) + x)  # (B, C, h, w)


class Mean(nn.Module):
    """The mean over all positions, as in the released code; the paper names no pooling."""

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C)."""
        return feature_map.mean(dim=(2, 3))


class GeneralizedMean(nn.Module):
    """GeM: the p-th root of the mean of p-th powers (Radenovic et al., TPAMI 2019), computed in float32 at least.

    p = 1 is the mean and a large p the maximum; it is learned, one for all channels. Values below `floor` count as `floor`, so
    that the map should be one that a ReLU has left.

    Args:
        p: Where p begins.
        floor: The smallest value that differs from zero.
    """

    def __init__(self, p: float = 3.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.floor = floor

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C)."""
        # A cube leaves the range of float16 at 40, and most of bfloat16's digits are gone after two powers.
        values = feature_map.float() if feature_map.dtype in (torch.float16, torch.bfloat16) else feature_map
        values = values.clamp(min=self.floor)
        # With gradients a power by a learned p costs three of its kind; the same as an exponential, half of that.
        powers = (values.log() * self.p).exp() if self.training else values.pow(self.p)
        pooled: Tensor = powers.mean(dim=(2, 3)).pow(1 / self.p)
        return pooled


def build_pooling(kind: Literal["avg", "gem"]) -> nn.Module:
    """Make the pooling that `ModelConfig.pooling` names."""
    return GeneralizedMean() if kind == "gem" else Mean()
