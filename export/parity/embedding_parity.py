"""The first level of parity: are the rows sound, and are they the reference's?"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .tolerances import UNIT_LENGTH, Limit, Tolerance
from .verification_report import Check, ImageShift, at_least, at_most

Rows = npt.NDArray[np.float32]

_FINITE = Limit(0, "a NaN or an infinity is never right, and poisons a whole gallery")
_ROUNDING = 1e-6
"""How far float32 arithmetic moves a unit vector that is computed right: a few dozen of its steps of 6e-8. Where all
embeddings lie within a thousandth of each other this is not small beside the distance of two images, and says nothing of the
file."""

_SPREAD = Limit(0.5, "embeddings that lie closer together than this are on their way to being one constant")


def inspect_rows(reference: Rows, candidate: Rows) -> list[Check]:
    """Check what can be wrong with rows by themselves: NaN, another length than one, one constant for all images.

    Args:
        reference: (n, embed_dim), sound.
        candidate: (n, embed_dim).
    """
    num_bad = int((~np.isfinite(candidate).all(axis=1)).sum())
    checks = [at_most("rows", "rows with NaN", num_bad, _FINITE)]
    if num_bad:
        return checks
    lengths = np.linalg.norm(candidate.astype(np.float64), axis=1)
    note = f"lengths from {lengths.min():.6g} to {lengths.max():.6g}"
    checks.append(at_most("rows", "length off 1", np.abs(lengths - 1).max(), UNIT_LENGTH, note))
    checks.append(at_least("rows", "spread", spread(candidate) / spread(reference), _SPREAD, "share of the reference's"))
    return checks


def compare_embeddings(reference: Rows, candidate: Rows, tolerance: Tolerance) -> list[Check]:
    """Check the worst cosine and the largest difference over all images, both of (n, embed_dim) finite values."""
    difference = np.abs(candidate.astype(np.float64) - reference).max()
    cosines = row_cosines(reference, candidate)
    apart = typical_distance(reference)
    moved = max(np.linalg.norm(candidate.astype(np.float64) - reference, axis=1).max() - _ROUNDING, 0.0)
    return [
        at_least("embedding", "worst cosine", cosines.min(), tolerance.worst_cosine, f"median {np.median(cosines):.8f}"),
        at_most("embedding", "max abs", difference, tolerance.max_abs),
        at_most("embedding", "relative shift", moved / apart, tolerance.relative_shift, f"two images are {apart:.3g} apart"),
    ]


def row_cosines(left: Rows, right: Rows) -> npt.NDArray[np.float64]:
    """Return the cosine of each row with the row of the same index, (n,); 0 where a row is zero."""
    first, second = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    cosines: npt.NDArray[np.float64] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return cosines


def typical_distance(rows: Rows) -> float:
    """Return the median Euclidean distance between two different rows."""
    exact = rows.astype(np.float64)
    squares = (exact**2).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * exact @ exact.T
    between = distances[np.triu_indices(len(rows), 1)]
    return float(np.sqrt(max(np.median(between), np.finfo(np.float64).tiny)))


def spread(rows: Rows) -> float:
    """Return the mean squared distance of directions from their mean: 0 for one constant, towards 1 all over the sphere."""
    exact = rows.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    directions = np.divide(exact, lengths, out=np.zeros_like(exact), where=lengths > 0)
    return float(((directions - directions.mean(axis=0)) ** 2).sum(axis=1).mean())


def worst_images(reference: Rows, candidate: Rows, paths: Sequence[str], count: int) -> tuple[ImageShift, ...]:
    """Return the images whose embeddings moved most, the worst first."""
    cosines = row_cosines(reference, candidate)
    differences = np.abs(candidate.astype(np.float64) - reference).max(axis=1)
    order = np.lexsort((-differences, cosines))[:count]
    return tuple(ImageShift(int(i), paths[i], float(cosines[i]), float(differences[i])) for i in order)
