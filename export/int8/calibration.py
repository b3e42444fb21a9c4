"""Images that a quantizer looks at: which, and how they are recorded."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hat.data.datasets import JUNK_PID, ReIDDataset
from hat.data.loading import load_images
from hat.errors import DataError, UsageError
from hat.preprocessing import Preprocessing

from ..request import Calibration


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
