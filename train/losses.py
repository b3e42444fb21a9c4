"""The losses of a HAT (paper, Eq. 7-9): cross entropy and batch-hard triplets, or circles, on every supervised branch."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hat.model import Branch

from .config import LossConfig
from .distributed import gather_rows, row_offset


class LossParts(NamedTuple):
    """A loss and what it is made of.

    Attributes:
        total: Scalar, float32 or wider, to be minimized: L of Eq. 9.
        parts: Unweighted scalars without gradient: ``"BRANCH_ce"``, ``"BRANCH_triplet"``, ``"BRANCH_circle"``, those in use.
    """

    total: Tensor
    parts: dict[str, Tensor]


def smoothed_cross_entropy(logits: Tensor, pids: Tensor, smoothing: float) -> Tensor:
    """Return the cross entropy with label smoothing e: the true identity gets 1 - e + e / K, each other one e / K.

    Args:
        logits: (B, K) floating point.
        pids: (B,) int64 in [0, K).
        smoothing: e in [0, 1).

    Returns:
        Scalar, float32 or wider, the mean over the batch.
    """
    return F.cross_entropy(at_least_float32(logits), pids, label_smoothing=smoothing)


def batch_hard_triplet(
    features: Tensor,
    pids: Tensor,
    margin: float | None,
    *,
    gathered_features: Tensor | None = None,
    gathered_pids: Tensor | None = None,
) -> Tensor:
    """Batch-hard triplet loss: for each anchor its farthest positive and its nearest negative, by Euclidean distance.

    The pairs are chosen without gradient, and only the chosen distances are computed again: a backward pass in O(B C) instead
    of O(B^2 C). Distances come from differences, not from a matrix product, which TF32 would round and where those between
    features that are close cancel out.

    Args:
        features: (B, C) anchors, floating point, not normalized.
        pids: (B,) int64.
        margin: Hinge at this margin; None is the soft margin, log(1 + exp(positive - negative)).
        gathered_features: (N, C) where positives and negatives are looked for, the anchors among them; the anchors if None.
        gathered_pids: (N,) int64.

    Returns:
        Scalar, float32 or wider, the mean over the anchors. An anchor without a negative among the gathered rows adds 0.
    """
    anchors = at_least_float32(features)
    gathered = anchors if gathered_features is None else at_least_float32(gathered_features)
    labels = pids if gathered_pids is None else gathered_pids
    with torch.no_grad():
        distances = torch.cdist(anchors, gathered, compute_mode="donot_use_mm_for_euclid_dist")  # (B, N)
        same = pids[:, None] == labels[None, :]  # (B, N)
        farthest_positive = distances.masked_fill(~same, -1.0).argmax(dim=1)
        nearest_negative = distances.masked_fill(same, float("inf")).argmin(dim=1)
        has_negative = ~same.all(dim=1)
    positive = torch.linalg.vector_norm(anchors - gathered.index_select(0, farthest_positive), dim=1)  # (B,)
    negative = torch.linalg.vector_norm(anchors - gathered.index_select(0, nearest_negative), dim=1)  # (B,)
    violation = F.softplus(positive - negative) if margin is None else F.relu(positive - negative + margin)
    return (violation * has_negative).mean()


def circle_loss(
    features: Tensor,
    pids: Tensor,
    margin: float,
    scale: float,
    *,
    gathered_features: Tensor | None = None,
    gathered_pids: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Circle loss: each pair's cosine is pulled with a force that grows with its distance from where it should be.

    For an anchor with cosines p to images of its own identity and n to others, with m the margin and g the scale:
    log(1 + sum exp(g [n + m]+ (n - m)) * sum exp(-g [1 + m - p]+ (p - 1 + m))). The forces [.]+ carry no gradient.

    Rows are as those of `batch_hard_triplet`, float32 or wider; the anchors stand at ``offset`` among the gathered. Returns the
    mean over the anchors, of which one without a positive or without a negative adds 0.
    """
    anchors = F.normalize(features, dim=1)
    gathered = anchors if gathered_features is None else F.normalize(gathered_features, dim=1)
    labels = pids if gathered_pids is None else gathered_pids
    cosines = anchors @ gathered.T  # (B, N)
    same = pids[:, None] == labels[None, :]  # (B, N)
    itself = torch.arange(len(pids), device=pids.device)[:, None] + offset == torch.arange(len(labels), device=pids.device)
    pull = (1 + margin - cosines.detach()).clamp(min=0)
    push = (cosines.detach() + margin).clamp(min=0)
    nothing = torch.finfo(cosines.dtype).min / 4  # finite, so that the gradient of a sum over no pair is 0 and not NaN
    positives = (-scale * pull * (cosines - 1 + margin)).masked_fill(~same | itself, nothing)
    negatives = (scale * push * (cosines - margin)).masked_fill(same, nothing)
    return F.softplus(positives.logsumexp(dim=1) + negatives.logsumexp(dim=1)).mean()


def branch_weights(branches: Sequence[str], auxiliary_weight: float) -> dict[str, float]:
    """Weights of the branches in the sum of Eq. 9: 1 for the MFE and the last TFC, lambda for the TFCs before it."""
    last_tfc = [name for name in branches if name != "mfe"][-1:]
    return {name: 1.0 if name == "mfe" or name in last_tfc else auxiliary_weight for name in branches}


def hat_loss(outputs: Mapping[str, Branch], pids: Tensor, config: LossConfig, *, global_triplets: bool = False) -> LossParts:
    """Return the loss of a batch: L_MFE + L_TFC(last) + lambda * sum of L_TFC(earlier) (paper Eq. 7-9).

    The loss of a branch is the label-smoothed cross entropy of its logits plus the triplet loss of its feature before the BN
    neck, plus or instead of it the circle loss of the same feature.

    Args:
        outputs: Branches in order, as a HAT gives them in training mode.
        pids: (B,) int64.
        config: Smoothing, margins, weights, lambda.
        global_triplets: Look for positives and negatives in the batches of all processes.
    """
    weights = branch_weights(list(outputs), config.auxiliary_weight)
    gathered_pids = gather_rows(pids) if global_triplets else pids
    offset = row_offset(len(pids)) if global_triplets else 0
    parts: dict[str, Tensor] = {}
    terms: list[Tensor] = []
    for name, branch in outputs.items():
        features = at_least_float32(branch.feature)
        gathered = gather_rows(features) if global_triplets else features
        pool = {"gathered_features": gathered, "gathered_pids": gathered_pids}
        losses = {"ce": (1.0, smoothed_cross_entropy(branch.logits, pids, config.label_smoothing))}
        if config.triplet_weight:
            losses["triplet"] = config.triplet_weight, batch_hard_triplet(features, pids, config.margin, **pool)
        if config.circle_weight:
            circle = circle_loss(features, pids, config.circle_margin, config.circle_scale, **pool, offset=offset)
            losses["circle"] = config.circle_weight, circle
        parts |= {f"{name}_{part}": value.detach() for part, (_, value) in losses.items()}
        terms.append(weights[name] * torch.stack([weight * value for weight, value in losses.values()]).sum())
    return LossParts(torch.stack(terms).sum(), parts)


def at_least_float32(values: Tensor) -> Tensor:
    """Losses of half-precision outputs are computed in float32."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
