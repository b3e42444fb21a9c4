"""The nearest rows of a large matrix, exactly, reading it once and a chunk at a time.

A pass in float32 finds candidates and a sum in float64 settles their order. Rounding moves a float32 inner product of D terms
by at most D * 2**-24 times the lengths of the two vectors, in whatever order it is summed. A row whose product is further below
the k-th best than twice that cannot be among the k nearest, and every other row is kept as a candidate. The result is therefore
the same for one query and for a hundred, for any number of threads and any size of chunk, and equal vectors have equal
similarities.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .candidates import Candidates, ranked
from .exact_products import exact_products
from .half_scan import HalfScan

__all__ = ["nearest_rows"]

QUERIES_AT_ONCE = 512
"""Queries of one pass: their products with a chunk are some megabytes."""

GATHER_BELOW = 0.25
"""Where fewer rows of a chunk than this share pass the filter, they are copied together and the others are not read."""

SCAN_UP_TO_QUERIES = 8
"""Up to so many queries are compared with float16 rows directly; for more it pays to convert a chunk to float32 once."""


def nearest_rows(
    chunks: Sequence[npt.NDArray[Any]], queries: npt.NDArray[np.float32], top: int, passing: npt.NDArray[np.bool_] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Find the rows with the largest inner products.

    Args:
        chunks: The matrix as consecutive (n_i, D) pieces, float32 or float16, rows of about unit length.
        queries: (num_queries, D) rows of about unit length.
        top: Most rows for each query, at least 1.
        passing: (n,) which rows may be found; None is all.

    Returns:
        (num_queries, top) row numbers, nearest first, -1 where there are fewer, and their inner products as float32, clipped
        to [-1, 1], NaN beside -1. Equal products are in the order of the rows.
    """
    starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
    num_rows = int(starts[-1]) if passing is None else int(np.count_nonzero(passing))
    rows = np.full((len(queries), top), -1, dtype=np.int64)
    similarities = np.full((len(queries), top), np.nan, dtype=np.float32)
    keep = min(top, num_rows)
    if keep == 0:
        return rows, similarities
    for first in range(0, len(queries), QUERIES_AT_ONCE):
        some = np.ascontiguousarray(queries[first : first + QUERIES_AT_ONCE])
        settle = partial(exact_products, chunks, starts, some)
        candidates = Candidates(len(some), keep, some.shape[1], settle)
        _offer_all(chunks, starts, some, passing, candidates)
        of_query, of_row = candidates.pairs()
        products = settle(of_query, of_row)
        for places in ranked(of_query, of_row, products):
            query, nearest = first + of_query[places[0]], places[:keep]
            rows[query, : len(nearest)], similarities[query, : len(nearest)] = of_row[nearest], products[nearest]
    return rows, similarities


def _offer_all(
    chunks: Sequence[npt.NDArray[Any]],
    starts: npt.NDArray[np.int64],
    queries: npt.NDArray[np.float32],
    passing: npt.NDArray[np.bool_] | None,
    candidates: Candidates,
) -> None:
    is_half = chunks[0].dtype == np.float16
    if is_half and len(queries) <= SCAN_UP_TO_QUERIES:
        scan = HalfScan(queries, candidates)
        with ThreadPoolExecutor(scan.num_threads) as pool:
            for _ in pool.map(lambda at: scan.offer(*_narrowed(chunks[at], int(starts[at]), passing)), range(len(chunks))):
                pass
        return
    scratch = np.empty((max(map(len, chunks)), queries.shape[1]), dtype=np.float32) if is_half else None
    for chunk, start in zip(chunks, starts, strict=False):
        rows, vectors, within = _narrowed(chunk, int(start), passing)
        if not len(rows):
            continue
        if scratch is not None:
            np.copyto(scratch[: len(vectors)], vectors)
            vectors = scratch[: len(vectors)]
        candidates.offer_products(rows, queries @ vectors.T, within)


def _narrowed(
    chunk: npt.NDArray[Any], start: int, passing: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """Row numbers and vectors of a chunk that need to be read, and which of them may be found; None is all of them."""
    rows = np.arange(start, start + len(chunk))
    if passing is None:
        return rows, chunk, None
    within = passing[start : start + len(chunk)]
    count = np.count_nonzero(within)
    if count == len(chunk):
        return rows, chunk, None
    if count < GATHER_BELOW * len(chunk):
        local = np.flatnonzero(within)
        return rows[local], chunk[local], None
    return rows, chunk, within
