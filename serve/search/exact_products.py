"""Inner products of chosen pairs, summed in float64 and rounded once, so that they depend on the two vectors alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["exact_products"]

VECTORS_AT_ONCE = 1024
"""Vectors that are converted to float64 at once: some tens of megabytes."""

TABLE_FROM = 8
"""Where a row is wanted by so many queries on average, its products with all of them cost less than those of single pairs."""


def exact_products(
    chunks: Sequence[npt.NDArray[Any]],
    starts: npt.NDArray[np.int64],
    embeddings: npt.NDArray[np.float32],
    queries: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Products of pairs of a query and a row.

    Args:
        chunks: The matrix as consecutive (n_i, D) pieces.
        starts: The first row of each piece, and the number of rows.
        embeddings: (num_queries, D).
        queries: (n,) number of the query of each pair.
        rows: (n,) row of each pair.

    Returns:
        (n,) inner products, clipped to [-1, 1].
    """
    products = np.empty(len(rows), dtype=np.float32)
    exact = embeddings.astype(np.float64)
    if len(exact) >= TABLE_FROM and len(rows) >= TABLE_FROM * len(distinct := np.unique(rows)):
        order = np.argsort(rows, kind="stable")
        for first in range(0, len(distinct), VECTORS_AT_ONCE):
            some = distinct[first : first + VECTORS_AT_ONCE]
            begin, end = np.searchsorted(rows[order], [some[0], some[-1] + 1])
            pairs = order[begin:end]
            table = exact @ _gathered(chunks, starts, some).T
            products[pairs] = table[queries[pairs], np.searchsorted(some, rows[pairs])]
    else:
        order = np.argsort(queries, kind="stable")
        for first in range(0, len(rows), VECTORS_AT_ONCE):
            pairs = order[first : first + VECTORS_AT_ONCE]
            vectors = _gathered(chunks, starts, rows[pairs])
            bounds = [0, *(np.flatnonzero(np.diff(queries[pairs])) + 1), len(pairs)]
            for begin, end in pairwise(bounds):
                # Not a matrix product, whose way of summing may differ from row to row.
                products[pairs[begin:end]] = np.einsum("ij,j->i", vectors[begin:end], exact[queries[pairs[begin]]])
    return np.clip(products, -1, 1)


def _gathered(
    chunks: Sequence[npt.NDArray[Any]], starts: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """(n, D) float64 vectors of rows."""
    vectors = np.empty((len(rows), chunks[0].shape[1]), dtype=np.float64)
    homes = np.searchsorted(starts, rows, side="right") - 1
    for home in np.unique(homes):
        here = np.flatnonzero(homes == home)
        vectors[here] = chunks[home][rows[here] - starts[home]]
    return vectors
