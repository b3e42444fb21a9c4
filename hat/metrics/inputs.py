"""Checked views of what callers hand over: labels, distances and embeddings, from NumPy (memory-mapped too) or torch."""

import operator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hat.errors import UsageError

Matrix: TypeAlias = "npt.NDArray[Any] | torch.Tensor"
"""A matrix of floats; a NumPy array may be memory-mapped."""

Labels: TypeAlias = "npt.ArrayLike | torch.Tensor"
"""A vector of integer labels."""

_NUMPY_FLOATS = ("float16", "float32", "float64")

_NUMPY_OF: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def check_count(value: int, name: str) -> int:
    """Return an integer of at least 1.

    Raises:
        UsageError: It is none.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be an integer of at least 1, got {value!r}") from None
    if isinstance(value, bool) or count < 1:
        raise UsageError(f"{name} must be an integer of at least 1, got {value!r}")
    return count


def check_label_pairs(
    pids: Labels, camids: Labels, num_rows: int, side: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return identity and camera labels of one side of a ranking as int64 vectors.

    Args:
        pids: Identity labels, (num_rows,) integers.
        camids: Camera labels, (num_rows,) integers.
        num_rows: How many images that side has.
        side: ``"query"`` or ``"gallery"``, for the message.

    Raises:
        UsageError: A vector has another length, more dimensions, or holds anything but integers.
    """
    return check_labels(pids, num_rows, f"{side}_pids"), check_labels(camids, num_rows, f"{side}_camids")


def check_labels(values: Labels, num_rows: int, name: str) -> npt.NDArray[np.int64]:
    """Return labels as an int64 vector.

    Args:
        values: (num_rows,) integers.
        num_rows: How many images there are.
        name: What the labels are, for the message.

    Raises:
        UsageError: The vector has another length, more dimensions, or holds anything but integers.
    """
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
    """Return a distance matrix as a NumPy array without copying it where that is possible.

    Args:
        distmat: (num_query, num_gallery) float16, bfloat16, float32 or float64; NumPy or torch, on any device.

    Returns:
        The same values; bfloat16, which NumPy lacks, as float32.

    Raises:
        UsageError: It is no matrix of floats, or a side is empty.
    """
    _check_float_matrix(distmat, "distmat", "(num_query, num_gallery)")
    if isinstance(distmat, torch.Tensor):
        tensor = distmat.detach().cpu()
        array: npt.NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        return array
    return distmat


class EmbeddingRows:
    """A matrix of embeddings that is read in slices, so that a float16 or memory-mapped one is never copied whole.

    Args:
        embeddings: (n, embed_dim) float16, bfloat16, float32 or float64; NumPy or torch, on any device.
        name: What the matrix is, for messages.

    Raises:
        UsageError: It is no matrix of floats, or a side is empty.
    """

    def __init__(self, embeddings: Matrix, name: str) -> None:
        _check_float_matrix(embeddings, name, "(n, embed_dim)")
        self._embeddings = embeddings.detach() if isinstance(embeddings, torch.Tensor) else embeddings
        self.name = name
        self.num_rows, self.embed_dim = (int(side) for side in embeddings.shape)

    @property
    def is_float64(self) -> bool:
        """True where the embeddings are stored in double precision."""
        return str(self._embeddings.dtype).endswith("float64")

    def read(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` as a (stop - start, embed_dim) tensor on the CPU, which must not be written to."""
        part = self._embeddings[start:stop]
        if isinstance(part, torch.Tensor):
            return part.to(device="cpu", dtype=dtype)
        # torch warns about memory that it could not write to, as that of a memory-mapped file usually is, and refuses some
        # strides.
        shareable = part.flags.writeable and part.flags.c_contiguous and part.dtype == _NUMPY_OF[dtype]
        return torch.from_numpy(part if shareable else np.array(part, dtype=_NUMPY_OF[dtype], order="C"))

    def squared_lengths(self, start: int, stop: int, dtype: torch.dtype, *, nonzero: bool = False) -> torch.Tensor:
        """Return the squared Euclidean lengths of rows ``start`` to ``stop``, (stop - start,) of ``dtype``, summed in float64.

        Raises:
            UsageError: A value is NaN or infinite, or so large that a squared distance could overflow, or, where ``nonzero`` is
                set, a row is zero; the row is named.
        """
        squares: torch.Tensor = self.read(start, stop, dtype).square().sum(dim=1, dtype=torch.float64)
        # Twice as long rows in opposite directions are four times as far apart, squared; NaN fails the comparison too.
        wrong = (~(squares < torch.finfo(dtype).max / 8)).nonzero()
        if len(wrong):
            raise UsageError(
                f"{self.name} row {start + int(wrong[0, 0])} is not finite: a value is NaN, infinite or enormous; "
                "look for a diverged model or an overflow in half precision"
            )
        squares = squares.to(dtype)
        if nonzero and not bool(squares.all()):
            row = start + int((squares == 0).nonzero()[0, 0])
            raise UsageError(f"{self.name} row {row} is zero, and has no direction to compare by cosine distance")
        return squares


def _check_float_matrix(matrix: Matrix, name: str, shape: str) -> None:
    if not isinstance(matrix, (np.ndarray, torch.Tensor)):
        raise UsageError(f"{name} must be a NumPy array or a torch tensor of shape {shape}, got {type(matrix).__name__}")
    if isinstance(matrix, torch.Tensor):
        is_float = matrix.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    else:
        is_float = matrix.dtype.name in _NUMPY_FLOATS
    if not is_float:
        raise UsageError(f"{name} must be float16, float32 or float64, got {matrix.dtype}; convert it first")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise UsageError(f"{name} must be a matrix {shape} with no empty side, got shape {tuple(matrix.shape)}")


def check_embedding_pair(query_embeddings: Matrix, gallery_embeddings: Matrix) -> tuple[EmbeddingRows, EmbeddingRows]:
    """Return the rows of query and gallery, which must be equally wide.

    Raises:
        UsageError: A matrix has a wrong shape or type, or their widths differ.
    """
    queries = EmbeddingRows(query_embeddings, "query_embeddings")
    gallery = EmbeddingRows(gallery_embeddings, "gallery_embeddings")
    if queries.embed_dim != gallery.embed_dim:
        raise UsageError(
            f"query and gallery embeddings must be equally wide, got {queries.embed_dim} and {gallery.embed_dim}; "
            "were they made by the same model?"
        )
    return queries, gallery
