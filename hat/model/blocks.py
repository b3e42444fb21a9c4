"""The convolutional block that HAT adds to its CNN: a residual bottleneck that keeps its shape (paper Sec. 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResidualBlock"]


class ResidualBlock(nn.Module):
    """ResNet's bottleneck with as many channels out as in: 1x1 down, 3x3, 1x1 up, each with batch norm, added to the input.

    Used on each level of the CNN before scaling ("bottleneck", Sec. 3.2) and, after a stage's transformer blocks, as the
    neighborhood-enhanced aggregation NeA (Eq. 5).

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
