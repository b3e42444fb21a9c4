"""Which range of a tensor's values gets the 256 steps of eight bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hat.errors import WorkError

from ..graph.onnx_activations import activations, tensors_around

if TYPE_CHECKING:
    import onnx


CalibrationName = Literal["minmax", "percentile"]

Range = tuple[float, float]
"""Lowest and highest value."""

_NUM_BINS = 4096


def tensor_ranges(
    proto: onnx.ModelProto,
    operators: Sequence[str],
    images: npt.NDArray[np.uint8],
    *,
    method: CalibrationName = "minmax",
    percentile: float = 99.99,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Range]:
    """Return the range of every tensor that enters or leaves certain operators, over images.

    Args:
        proto: A floating-point model.
        operators: Operator types, such as ``["Conv", "MatMul"]``.
        images: (n, 3, H, W) uint8 RGB.
        method: ``"minmax"`` takes the extremes; ``"percentile"`` cuts off an equal part of the values at both ends, for which
            the images are run a second time.
        percentile: Part of the values to keep, in percent.
        advance: Called with the number of images that were just run.

    Returns:
        Tensor name -> its range.

    Raises:
        WorkError: The model gives values that are not finite, or cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    names = tensors_around(proto, operators)
    extremes = dict.fromkeys(names, (np.inf, -np.inf))
    for values in activations(proto, names, images):
        for name, value in values.items():
            low, high = (float(end) for end in torch.aminmax(torch.from_numpy(value)))
            if not np.isfinite([low, high]).all():
                raise WorkError(f"calibration failed: the tensor {name} takes values that are not finite")
            extremes[name] = (min(extremes[name][0], low), max(extremes[name][1], high))
        if advance is not None and method == "minmax":
            advance(len(next(iter(values.values()))))
    if method == "minmax":
        return extremes
    histograms = {name: torch.zeros(_NUM_BINS, dtype=torch.float64) for name in names}
    for values in activations(proto, names, images):
        for name, value in values.items():
            low, high = extremes[name]
            if high > low:
                histograms[name] += torch.histc(torch.from_numpy(value).flatten(), _NUM_BINS, low, high)
        if advance is not None:
            advance(len(next(iter(values.values()))))
    return {name: _kept(histogram, extremes[name], percentile) for name, histogram in histograms.items()}


def _kept(counts: Tensor, ends: Range, percentile: float) -> Range:
    """Return the edges of the bins in which the values that are kept begin and end."""
    if not counts.any():  # one value alone
        return ends
    below = torch.cumsum(counts, 0) / counts.sum()
    cut = (1 - percentile / 100) / 2
    first = int(torch.searchsorted(below, cut, right=True))
    last = int(torch.searchsorted(below, 1 - cut))
    width = (ends[1] - ends[0]) / len(counts)
    return (ends[0] + width * min(first, len(counts) - 1), ends[0] + width * min(last + 1, len(counts)))
