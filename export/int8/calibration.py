"""Calibration: images that a quantizer looks at, and which range of a tensor's values gets the 256 steps of eight bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hat.console import progress as progress_bars
from hat.data.datasets import JUNK_PID, ReIDDataset
from hat.data.loading import load_images
from hat.errors import DataError, UsageError, WorkError
from hat.preprocessing import Preprocessing

from ..graph.onnx_activations import activations, tensors_around
from ..request import Calibration

if TYPE_CHECKING:
    import onnx

CalibrationName = Literal["minmax", "percentile"]

Range = tuple[float, float]
"""Lowest and highest value."""

_NUM_BINS = 4096


def calibration_from(
    dataset: ReIDDataset,
    preprocessing: Preprocessing,
    num_images: int = 512,
    seed: int = 0,
    *,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Choose calibration images from the training split alone: a file must not have seen what it is measured on.

    Args:
        dataset: The data set.
        preprocessing: The model's.
        num_images: How many; all there are where they are fewer.
        seed: The choice depends on it and on the data set alone, not on the order in which files were listed.
        progress: Called with the number of images that were just read.

    Returns:
        The images and their list. Each path is written from the training images' common folder on, so that the list is the
        same on every machine.

    Raises:
        DataError: The data set has no training images.
        ImageError: An image cannot be used.
        UsageError: ``num_images`` is below 1.
    """
    if num_images < 1:
        raise UsageError(f"calibration needs at least 1 image, got {num_images}")
    paths = sorted(sample.path for sample in dataset.train if sample.pid != JUNK_PID)
    if not paths:
        raise DataError(f"{dataset.name} has no training images to calibrate on, and test images are never used for it")
    names = _from_common_folder(paths)
    order = np.random.default_rng(seed).permutation(len(paths))[:num_images]
    chosen = sorted(int(index) for index in order)
    images = load_images([paths[index] for index in chosen], preprocessing, progress=progress).numpy()
    return Calibration(images=images, paths=tuple(names[index] for index in chosen), dataset=dataset.name, seed=seed)


def calibration_details(calibration: Calibration) -> dict[str, Any]:
    """Return what an artifact records of its calibration images: how many, which, and a hash of their pixels."""
    digest = hashlib.sha256(np.ascontiguousarray(calibration.images).tobytes())
    return {
        "dataset": calibration.dataset,
        "split": "train",
        "seed": calibration.seed,
        "num_images": len(calibration.images),
        "pixels_sha256": digest.hexdigest(),
        "images": list(calibration.paths),
    }


def _from_common_folder(paths: Sequence[str]) -> list[str]:
    """Return paths without the folders that they share, so that a list tells nothing of the machine that it was made on."""
    folders = [path.replace("\\", "/").split("/")[:-1] for path in paths]
    shared = 0
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    # The last shared folder is kept: it is the split's own name, which tells that the images are training images.
    return ["/".join(path.replace("\\", "/").split("/")[max(0, shared - 1) :]) for path in paths]


def tensor_ranges(
    proto: onnx.ModelProto,
    operators: Sequence[str],
    images: npt.NDArray[np.uint8],
    *,
    method: CalibrationName = "minmax",
    percentile: float = 99.99,
) -> dict[str, Range]:
    """Return the range of every tensor that enters or leaves certain operators, over images.

    Args:
        proto: A floating-point model.
        operators: Operator types, such as ``["Conv", "MatMul"]``.
        images: (n, 3, H, W) uint8 RGB.
        method: ``"minmax"`` takes the extremes; ``"percentile"`` cuts off an equal part of the values at both ends, for which
            the images are run a second time.
        percentile: Part of the values to keep, in percent.

    Returns:
        Tensor name -> its range.

    Raises:
        WorkError: The model gives values that are not finite, or cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    names = tensors_around(proto, operators)
    extremes = dict.fromkeys(names, (np.inf, -np.inf))
    for name, value in _values(proto, names, images, "extremes"):
        low, high = (float(end) for end in torch.aminmax(value))
        if not np.isfinite([low, high]).all():
            raise WorkError(f"calibration failed: the tensor {name} takes values that are not finite")
        extremes[name] = (min(extremes[name][0], low), max(extremes[name][1], high))
    if method == "minmax":
        return extremes
    histograms = {name: torch.zeros(_NUM_BINS, dtype=torch.float64) for name in names}
    for name, value in _values(proto, names, images, "percentiles"):
        low, high = extremes[name]
        if high > low:
            histograms[name] += torch.histc(value.flatten(), _NUM_BINS, low, high)
    return {name: _kept(histogram, extremes[name], percentile) for name, histogram in histograms.items()}


def _values(
    proto: onnx.ModelProto, names: Sequence[str], images: npt.NDArray[np.uint8], purpose: str
) -> Iterator[tuple[str, Tensor]]:
    with progress_bars() as display:
        task = display.add_task("calibrating", total=len(images), info=purpose)
        for values in activations(proto, names, images):
            for name, value in values.items():
                yield name, torch.from_numpy(value)
            display.advance(task, len(value))


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
