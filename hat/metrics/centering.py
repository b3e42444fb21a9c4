"""Camera centering: each camera's mean embedding subtracted, so that what a camera adds to every image decides no rank.

A model that meets cameras it was not trained on keeps some of their color and light in its embeddings: images of one camera
lean the same way. The mean of a camera's embeddings estimates that lean without any identity label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hat.errors import UsageError
from hat.metrics.inputs import EmbeddingRows, Labels, Matrix, check_labels

_MIN_IMAGES = 2
"""The mean of a single image is that image, of which nothing would be left."""

_MIN_LENGTH = 1e-6
"""What is left of a unit row by rounding alone is shorter than this."""


@dataclass(frozen=True)
class CameraMeans:
    """Mean embeddings of cameras, to be subtracted from embeddings of the same model.

    Attributes:
        camids: (num_cameras,) int64, growing: cameras of at least two images.
        means: (num_cameras + 1, embed_dim) float64: the mean of each of these, and last the mean of all images, which is used
            for every other camera.
    """

    camids: npt.NDArray[np.int64]
    means: npt.NDArray[np.float64]

    @classmethod
    def of(cls, embeddings: Matrix, camids: Labels) -> CameraMeans:
        """Compute the means of embeddings.

        Args:
            embeddings: (n, embed_dim) float16, bfloat16, float32 or float64; NumPy or torch.
            camids: Camera of each row, (n,) integers.

        Raises:
            UsageError: A shape or type is wrong, or a value is NaN or infinite.
        """
        rows, labels = _read(embeddings, camids)
        unique, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        sums = np.add.reduceat(rows[np.argsort(inverse, kind="stable")], np.cumsum(counts) - counts, axis=0, dtype=np.float64)
        mask = counts >= _MIN_IMAGES
        means = np.vstack([sums[mask] / counts[mask, None], sums.sum(axis=0, keepdims=True) / len(rows)])
        return cls(unique[mask], means)

    def subtract(self, embeddings: Matrix, camids: Labels) -> npt.NDArray[np.float32]:
        """Subtract from each row the mean of its camera and scale the rest to unit length.

        Args:
            embeddings: (n, embed_dim), as wide as those that the means are of.
            camids: Camera of each row, (n,) integers.

        Returns:
            (n, embed_dim) float32, rows of unit length.

        Raises:
            UsageError: A shape or type is wrong, a value is NaN or infinite, or nothing is left of a row because all images of
                its camera are alike.
        """
        rows, labels = _read(embeddings, camids)
        if rows.shape[1] != self.means.shape[1]:
            raise UsageError(f"embeddings are {rows.shape[1]} wide and the cameras' means {self.means.shape[1]}")
        index = np.searchsorted(self.camids, labels)
        has_mean = (np.append(self.camids, -1)[index] == labels) & (index < len(self.camids))
        centered = rows - self.means.astype(np.float32)[np.where(has_mean, index, len(self.camids))]
        lengths = np.linalg.norm(centered, axis=1, keepdims=True)
        if not bool((lengths > _MIN_LENGTH).all()):
            row = int(np.argmin(lengths))
            raise UsageError(
                f"row {row} (camera {labels[row]}) equals the mean of its camera, so that centering leaves nothing to compare: "
                "rank without camera centering"
            )
        centered /= lengths
        return centered


def center_by_camera(embeddings: Matrix, camids: Labels) -> npt.NDArray[np.float32]:
    """Subtract from each embedding the mean of all that are of its camera, and scale the rest to unit length.

    A camera with a single image has the mean of all images subtracted instead.

    Args:
        embeddings: (n, embed_dim) float16, bfloat16, float32 or float64; NumPy or torch.
        camids: Camera of each row, (n,) integers.

    Returns:
        (n, embed_dim) float32, rows of unit length.

    Raises:
        UsageError: A shape or type is wrong, a value is NaN or infinite, or nothing is left of a row because all images of its
            camera are alike.
    """
    return CameraMeans.of(embeddings, camids).subtract(embeddings, camids)


def _read(embeddings: Matrix, camids: Labels) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    rows = EmbeddingRows(embeddings, "embeddings")
    rows.squared_lengths(0, rows.num_rows, torch.float32)  # checks that all values are finite
    return rows.read(0, rows.num_rows, torch.float32).numpy(), check_labels(camids, rows.num_rows, "camids")
