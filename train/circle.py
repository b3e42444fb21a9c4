"""Circle loss over all pairs of a batch (Sun et al., "Circle Loss", CVPR 2020, Eq. 4-8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["circle_loss"]


def circle_loss(
    features: Tensor,
    pids: Tensor,
    margin: float,
    scale: float,
    *,
    pool_features: Tensor | None = None,
    pool_pids: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Circle loss: each pair's cosine is pulled with a force that grows with its distance from where it should be.

    For an anchor with cosines p to images of its own identity and n to others, with m the margin and g the scale:
    log(1 + sum exp(g [n + m]+ (n - m)) * sum exp(-g [1 + m - p]+ (p - 1 + m))). The forces [.]+ carry no gradient.

    Args:
        features: (B, C) anchors, float32 or wider, of any length.
        pids: (B,) int64.
        margin: m, in [0, 1).
        scale: g, above 0.
        pool_features: (N, C) what anchors are compared with, they themselves among them; the anchors if None.
        pool_pids: (N,) int64.
        first: Where the anchors stand in the pool.

    Returns:
        Scalar, the mean over the anchors. An anchor without a positive or without a negative in the pool adds 0.
    """
    anchors = F.normalize(features, dim=1)
    pool = anchors if pool_features is None else F.normalize(pool_features, dim=1)
    labels = pids if pool_pids is None else pool_pids
    cosines = anchors @ pool.T  # (B, N)
    same = pids[:, None] == labels[None, :]  # (B, N)
    itself = torch.arange(len(pids), device=pids.device)[:, None] + first == torch.arange(len(labels), device=pids.device)
    pull = (1 + margin - cosines.detach()).clamp(min=0)
    push = (cosines.detach() + margin).clamp(min=0)
    nothing = torch.finfo(cosines.dtype).min / 4  # finite, so that the gradient of a sum over no pair is 0 and not NaN
    positives = (-scale * pull * (cosines - 1 + margin)).masked_fill(~same | itself, nothing)
    negatives = (scale * push * (cosines - margin)).masked_fill(same, nothing)
    return F.softplus(positives.logsumexp(dim=1) + negatives.logsumexp(dim=1)).mean()
