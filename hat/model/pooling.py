"""From the CNN's last map to the MFE feature (paper Sec. 3.1): the mean over all places, or a generalized one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["GeneralizedMean", "Mean", "build_pooling"]


class Mean(nn.Module):
    """The mean over all places, as in the paper."""

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C)."""
        return feature_map.mean(dim=(2, 3))


class GeneralizedMean(nn.Module):
    """GeM: the p-th root of the mean of p-th powers (Radenovic et al., TPAMI 2019), computed in float32 at least.

    p = 1 is the mean and a large p the maximum; it is learned, one for all channels. Values below `floor` count as `floor`, so
    that the map should be one that a ReLU has left.

    Args:
        p: Where p begins.
        floor: The smallest value that is told apart from nothing.
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
        # With gradients a power by a learnt p costs three of its kind; the same as an exponential, half of that.
        powers = (values.log() * self.p).exp() if self.training else values.pow(self.p)
        pooled: Tensor = powers.mean(dim=(2, 3)).pow(1 / self.p)
        return pooled


def build_pooling(kind: Literal["avg", "gem"]) -> nn.Module:
    """Make the pooling that `ModelConfig.pooling` names."""
    return GeneralizedMean() if kind == "gem" else Mean()
