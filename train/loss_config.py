"""What a run minimizes for identities; what it learns from a teacher is in `distill_config`."""

from __future__ import annotations

from hat.config import config_dataclass

from .field_types import BelowOne, NonNegativeFloat, PositiveFloat

__all__ = ["LossConfig"]


@config_dataclass
class LossConfig:
    """The losses of every supervised branch and how they are summed (paper Sec. 3.4, Eq. 7-9)."""

    label_smoothing: BelowOne = 0.1
    """Part of the target's probability that is spread over all identities."""

    triplet_weight: NonNegativeFloat = 1.0
    """Weight of the batch-hard triplet loss beside the cross entropy; 0 leaves it out."""

    margin: PositiveFloat | None = 0.3
    """Margin of the batch-hard triplet loss; null is the soft margin, log(1 + exp(positive - negative))."""

    circle_weight: NonNegativeFloat = 0.0
    """Weight of the circle loss over all pairs of a batch (Sun et al., CVPR 2020), beside the triplet loss or in its place."""

    circle_margin: BelowOne = 0.25
    """The circle loss wants cosines above 1 - margin within an identity and below margin between two."""

    circle_scale: PositiveFloat = 128.0
    """What the circle loss multiplies cosines by: how much the hardest pairs outweigh the rest."""

    auxiliary_weight: NonNegativeFloat = 0.5
    """Weight of the TFC stages before the last one: the paper's lambda (Eq. 9, Table 5)."""
