"""The second level of parity: does the candidate put the gallery into the reference's order for every query?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .tolerances import Tolerance
from .verification_report import Check, PairShift, at_least

TOP_K = 10
"""Length of the list that a user looks at."""

Matrix = npt.NDArray[np.float64]


class Similarities(NamedTuple):
    """Similarity of every query to every gallery image by both sides, (num_queries, num_gallery) each."""

    reference: Matrix
    candidate: Matrix


def similarities(reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32], num_queries: int) -> Similarities:
    """Return the inner products of the first rows with the rest, as an index computes them."""
    first, second = reference.astype(np.float64), candidate.astype(np.float64)
    return Similarities(first[:num_queries] @ first[num_queries:].T, second[:num_queries] @ second[num_queries:].T)


def compare_rankings(both: Similarities, tolerance: Tolerance) -> list[Check]:
    """Check the agreement of the nearest, of the k nearest, and of the whole order."""
    num_queries, num_gallery = both.reference.shape
    k = min(TOP_K, num_gallery)
    tie = tolerance.tie.value
    correlations = spearman(both.reference, without_rounding(both, tie))
    over = f"{num_queries} queries, {num_gallery} gallery images"
    return [
        at_least("ranking", "top-1 agreement", agreement(both, 1, tie).mean(), tolerance.top1, over),
        at_least("ranking", f"top-{k} agreement", agreement(both, k, tie).mean(), tolerance.top_k, over),
        at_least(
            "ranking",
            "rank correlation",
            correlations.mean(),
            tolerance.rank_correlation,
            f"Spearman, worst query {correlations.min():.6f}",
        ),
    ]


def agreement(both: Similarities, k: int, tie: float) -> npt.NDArray[np.float64]:
    """Return for each query the share of the candidate's k nearest that are among the reference's k nearest, or tied with them.

    Args:
        both: The similarities.
        k: Length of the list, at most the size of the gallery.
        tie: Similarities of the reference that differ by less are taken for equal.
    """
    chosen = np.argsort(-both.candidate, axis=1, kind="stable")[:, :k]
    kth = np.sort(both.reference, axis=1)[:, -k][:, None]
    shares: npt.NDArray[np.float64] = (np.take_along_axis(both.reference, chosen, axis=1) >= kth - tie).mean(axis=1)
    return shares


def without_rounding(both: Similarities, tie: float) -> Matrix:
    """Return the candidate's similarities less what the arithmetic's own error explains of their change.

    A model with little training, or one that has collapsed, tells images apart by less than rounding moves a similarity, and
    the order of such pairs is noise in the reference itself. So each similarity is moved back towards the reference's by up to
    half of ``tie``: two that are closer than ``tie`` may change places, and whatever moved further still counts.
    """
    change = both.candidate - both.reference
    beyond: Matrix = np.sign(change) * np.maximum(np.abs(change) - tie / 2, 0)
    return both.reference + beyond


def spearman(left: Matrix, right: Matrix) -> npt.NDArray[np.float64]:
    """Return Spearman's rank correlation of each row with the row of the same index, (n,); 0 where a row is constant."""
    result = np.zeros(len(left))
    for row, (first, second) in enumerate(zip(left, right, strict=True)):
        a, b = _ranks(first), _ranks(second)
        a, b = a - a.mean(), b - b.mean()
        lengths = np.sqrt((a @ a) * (b @ b))
        result[row] = (a @ b) / lengths if lengths > 0 else 0
    return result


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return means


def worst_pairs(both: Similarities, paths: Sequence[str], count: int) -> tuple[PairShift, ...]:
    """Return the pairs whose similarity changed most, one for each query, the worst first.

    One for each query, because a single query that went wrong would otherwise fill the list by itself.
    """
    change = np.abs(both.candidate - both.reference)
    worst_of = change.argmax(axis=1)
    queries = np.argsort(-change.max(axis=1), kind="stable")[:count]
    pairs = []
    for query in queries.tolist():
        item = int(worst_of[query])
        before, after = both.reference[query], both.candidate[query]
        pairs.append(
            PairShift(
                query=query,
                gallery=len(change) + item,
                query_path=paths[query],
                gallery_path=paths[len(change) + item],
                reference_similarity=float(before[item]),
                candidate_similarity=float(after[item]),
                reference_rank=1 + int((before > before[item]).sum()),
                candidate_rank=1 + int((after > after[item]).sum()),
            )
        )
    return tuple(pairs)


def sample_pairs(both: Similarities, count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return (n, 2) pairs of similarities for a picture: the ten largest changes, and others at random up to ``count``."""
    pairs = np.stack([both.reference.ravel(), both.candidate.ravel()], axis=1).astype(np.float32)
    if len(pairs) <= count:
        return pairs
    largest = np.argsort(-np.abs(pairs[:, 1] - pairs[:, 0]), kind="stable")[:10]
    others = np.random.default_rng(seed).choice(len(pairs), count - len(largest), replace=False)
    return pairs[np.union1d(largest, others)]
