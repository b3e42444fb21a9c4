"""Embeddings, distances and labels as callers hand them over, checked: NumPy (memory-mapped too) or torch. Camera centering."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hat.errors import UsageError

Matrix: TypeAlias = "npt.NDArray[Any] | torch.Tensor"
"""A matrix of floats; a NumPy array may be memory-mapped."""

Labels: TypeAlias = "npt.ArrayLike | torch.Tensor"
"""A vector of integer labels."""

_MIN_IMAGES = 2
"""The mean of a single image is that image, of which nothing would be left."""

_MIN_LENGTH = 1e-6
"""Largest length that rounding alone leaves of a unit row."""


def check_count(value: int, name: str) -> int:
    """Return an integer of at least 1."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if isinstance(value, bool) or count < 1:
        raise UsageError(f"{name} must be an integer of at least 1, got {value!r}")
    return count


def check_labels(values: Labels, num_rows: int, name: str) -> npt.NDArray[np.int64]:
    """Return labels, one for each of ``num_rows`` images, as an int64 vector."""
    try:
        array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    except ValueError:
        raise UsageError(f"{name} must be a vector of {num_rows} integers, got a sequence of uneven lengths") from None
    if array.shape != (num_rows,):
        raise UsageError(f"{name} must be a vector of {num_rows} integers, one for each image, got shape {array.shape}")
    if array.dtype.kind not in "iu" or (array.dtype == np.uint64 and bool((array > np.iinfo(np.int64).max).any())):
        raise UsageError(f"{name} must be integers that fit in 64 bits, got {array.dtype}")
    return array.astype(np.int64)


def check_distances(distmat: Matrix) -> npt.NDArray[Any]:
    """Return a (num_query, num_gallery) matrix of floats as a NumPy array, copied only where it has to be.

    It may lie on any device; bfloat16, which NumPy lacks, becomes float32.
    """
    _check_float_matrix(distmat, "distmat", "(num_query, num_gallery)")
    if isinstance(distmat, torch.Tensor):
        tensor = distmat.detach().cpu()
        array: npt.NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        return array
    return distmat


def _check_float_matrix(matrix: Matrix, name: str, shape: str) -> None:
    if not isinstance(matrix, (np.ndarray, torch.Tensor)):
        raise UsageError(f"{name} must be a NumPy array or a torch tensor of shape {shape}, got {type(matrix).__name__}")
    if str(matrix.dtype).removeprefix("torch.") not in ("float16", "bfloat16", "float32", "float64"):
        raise UsageError(f"{name} must be float16, float32 or float64, got {matrix.dtype}; convert it first")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise UsageError(f"{name} must be a matrix {shape} with no empty side, got shape {tuple(matrix.shape)}")


class EmbeddingRows:
    """A matrix of embeddings that is read in slices, so that a float16 or memory-mapped one is never copied whole.

    Args:
        embeddings: (n, embed_dim) float16, bfloat16, float32 or float64; NumPy or torch, on any device.
        name: What the matrix is, for messages.
    """

    def __init__(self, embeddings: Matrix, name: str) -> None:
        _check_float_matrix(embeddings, name, "(n, embed_dim)")
        self._embeddings = embeddings.detach() if isinstance(embeddings, torch.Tensor) else embeddings
        self._name = name
        self.num_rows, self.embed_dim = (int(side) for side in embeddings.shape)
        self.is_float64 = str(embeddings.dtype).endswith("float64")

    def read(self, rows: slice, dtype: torch.dtype, *, nonzero: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some rows on the CPU, which must not be written to, and the squared Euclidean lengths of these, of ``dtype``.

        A `UsageError` names a row that holds NaN, infinity or values whose squared distance could overflow, or that is zero
        where ``nonzero`` is set.
        """
        part = self._embeddings[rows]
        if isinstance(part, np.ndarray):
            # Copied where torch would warn of memory that may not be written to, as a mapped file's is, or refuse its strides.
            part = torch.from_numpy(np.require(part, np.float64 if dtype == torch.float64 else np.float32, ["C", "W"]))
        values = part.to(device="cpu", dtype=dtype)
        squares: torch.Tensor = values.square().sum(dim=1, dtype=torch.float64)
        start = rows.start or 0
        # Twice as long rows in opposite directions are four times as far apart, squared; NaN fails the comparison too.
        wrong = (~(squares < torch.finfo(dtype).max / 8)).nonzero()
        if len(wrong):
            raise UsageError(
                f"{self._name} row {start + int(wrong[0, 0])} is not finite: a value is NaN, infinite or enormous; "
                "look for a diverged model or an overflow in half precision"
            )
        squares = squares.to(dtype)
        if nonzero and not bool(squares.all()):
            row = start + int((squares == 0).nonzero()[0, 0])
            raise UsageError(f"{self._name} row {row} is zero, and has no direction to compare by cosine distance")
        return values, squares


def check_embedding_pair(query_embeddings: Matrix, gallery_embeddings: Matrix) -> tuple[EmbeddingRows, EmbeddingRows]:
    """Return the rows of query and gallery, which must be equally wide."""
    queries = EmbeddingRows(query_embeddings, "query_embeddings")
    gallery = EmbeddingRows(gallery_embeddings, "gallery_embeddings")
    if queries.embed_dim != gallery.embed_dim:
        raise UsageError(
            f"query and gallery embeddings must be equally wide, got {queries.embed_dim} and {gallery.embed_dim}; "
            "were they made by the same model?"
        )
    return queries, gallery


@dataclass(frozen=True)
class CameraMeans:
    """Mean embeddings of cameras, to be subtracted from embeddings of the same model.

    A model that meets cameras it was not trained on keeps some of their color and light in its embeddings: images of one camera
    lean the same way. The mean of a camera's embeddings estimates that lean without any identity label.

    Attributes:
        camids: (num_cameras,) int64, growing: cameras of at least two images.
        means: (num_cameras + 1, embed_dim) float64: the mean of each of these, and last the mean of all images, which is used
            for every other camera.
    """

    camids: npt.NDArray[np.int64]
    means: npt.NDArray[np.float64]

    @classmethod
    def of(cls, embeddings: Matrix, camids: Labels) -> CameraMeans:
        """Compute the means of (n, embed_dim) embeddings with their (n,) cameras.

        Raises:
            UsageError: A shape or type is wrong, or a value is NaN or infinite.
        """
        rows, labels = _read_labeled(embeddings, camids)
        unique, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        sums = np.add.reduceat(rows[np.argsort(inverse, kind="stable")], np.cumsum(counts) - counts, axis=0, dtype=np.float64)
        mask = counts >= _MIN_IMAGES
        means = np.vstack([sums[mask] / counts[mask, None], sums.sum(axis=0, keepdims=True) / len(rows)])
        return cls(unique[mask], means)

    def subtract(self, embeddings: Matrix, camids: Labels) -> npt.NDArray[np.float32]:
        """Subtract from each row the mean of its camera and scale the rest to unit length, (n, embed_dim) float32.

        Raises:
            UsageError: As `of`, or nothing is left of a row because all images of its camera are alike.
        """
        rows, labels = _read_labeled(embeddings, camids)
        if rows.shape[1] != self.means.shape[1]:
            raise UsageError(f"embeddings are {rows.shape[1]} wide and the cameras' means {self.means.shape[1]}")
        index = np.searchsorted(self.camids, labels)
        has_mean = np.append(self.camids, -1)[index] == labels  # beyond the last camera both ways lead to the mean of all
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

    What a camera adds to every image so decides no rank (`CameraMeans`). From a camera with a single image the mean of all
    images is subtracted instead.

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


def _read_labeled(embeddings: Matrix, camids: Labels) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    rows = EmbeddingRows(embeddings, "embeddings")
    return rows.read(slice(None), torch.float32)[0].numpy(), check_labels(camids, rows.num_rows, "camids")
