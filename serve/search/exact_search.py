"""The nearest rows of a large matrix, exactly, reading it once and a block at a time.

A matrix product in float32 keeps the k + `SLACK` best rows of each query, and sums in float64 rescore those and settle their
order. Rounding moves a float32 inner product by at most `_rounding`, so a row that was not kept can be among the k nearest only
where the k-th similarity is within that of the smallest product that was kept. Such a query, whose rows are all but equal as
those of an untrained model are, is searched again in float64 throughout. The result is therefore the same for one query and for
a hundred, for any number of threads and any size of block, and equal rows are in the order of their numbers.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SLACK = 32  # rows that are kept beyond the k nearest, for those that rounding puts in a wrong place
QUERIES_AT_ONCE = 512  # of one pass over the matrix
MAX_PRODUCTS = 2**22  # that are held at once: 16 MB
FLOAT32_BLOCK_BYTES = 2**21  # of half-precision rows converted at a time, which stay in the cache until they are multiplied
EXACT_ROWS_AT_ONCE = 1024
GATHER_BELOW = 0.25  # where fewer rows of a block than this share pass the mask, they are copied together, the others not read

_Block = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]  # numbers of rows, and the rows


def nearest_rows(
    chunks: Sequence[npt.NDArray[Any]], queries: npt.NDArray[np.float32], top: int, mask: npt.NDArray[np.bool_] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the rows with the largest inner products with (num_queries, D) queries, and these products.

    The matrix comes in consecutive (n_i, D) pieces, float32 or float16; all rows are of about unit length. Where there is a
    ``mask`` (n,), only its rows may be found. Both results are (num_queries, top): row numbers, nearest first and equally near
    ones ascending, -1 where there are fewer; and products as float32, clipped to [-1, 1], NaN beside -1.
    """
    rows = np.full((len(queries), top), -1, dtype=np.int64)
    similarities = np.full((len(queries), top), np.nan, dtype=np.float32)
    num_rows = sum(map(len, chunks)) if mask is None else int(np.count_nonzero(mask))
    k, width = min(top, num_rows), min(top + SLACK, num_rows)
    if k == 0:
        return rows, similarities
    step = max(1, min(QUERIES_AT_ONCE, MAX_PRODUCTS // width))
    for first in range(0, len(queries), step):
        subset = np.ascontiguousarray(queries[first : first + step])
        candidates, smallest_kept = _largest_products(chunks, subset, width, mask)
        for number, query in enumerate(subset):
            nearest = _rescore(_gather(chunks, candidates[number]), query, k)
            if width < num_rows and nearest[1][-1] <= smallest_kept[number] + _rounding(len(query)):
                nearest = _rescore(_blocks(chunks, EXACT_ROWS_AT_ONCE, mask, gather_below=1), query, k)
            rows[first + number, :k], similarities[first + number, :k] = nearest
    return rows, similarities


def _rounding(embed_dim: int) -> float:
    """Return how far a float32 inner product of two unit vectors of ``embed_dim`` terms may lie from the true one."""
    # The sum of D terms is off by at most D * 2**-24, and practically never by more than 4 * sqrt(D) * 2**-24 (Higham and Mary,
    # 2019, a probabilistic bound); 1.01 since lengths may be off by what the checks let pass, 2**-23 for rounding the result.
    return 1.01 * min(embed_dim, 4 * math.sqrt(embed_dim)) * 2.0**-24 + 2.0**-23


def _largest_products(
    chunks: Sequence[npt.NDArray[Any]], queries: npt.NDArray[np.float32], width: int, mask: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the (num_queries, width) rows of the largest float32 products, in no order, and the smallest of these products."""
    best = np.full((len(queries), width), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), width), -1, dtype=np.int64)
    for numbers, vectors in _blocks(chunks, max(1, MAX_PRODUCTS // len(queries)), mask):
        products = _products(queries, vectors)
        # Clipped as similarities are, where rounding has made a row a little too long: they are equal from there on.
        np.clip(products, -1, 1, out=products)
        if mask is not None:
            products[:, ~mask[numbers]] = -np.inf
        # After the first blocks few rows are better than what was found for any query, and only these are looked at.
        columns = np.flatnonzero((products > best.min(axis=1, keepdims=True)).any(axis=0))
        if len(columns):
            values = np.concatenate([best, products[:, columns]], axis=1)
            candidates = np.concatenate([rows, np.broadcast_to(numbers[columns], (len(queries), len(columns)))], axis=1)
            places = np.argpartition(values, values.shape[1] - width, axis=1)[:, -width:]
            best, rows = np.take_along_axis(values, places, axis=1), np.take_along_axis(candidates, places, axis=1)
    return rows, best.min(axis=1)


def _products(queries: npt.NDArray[np.float32], vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return (num_queries, n) inner products."""
    products: npt.NDArray[np.float32]
    if vectors.dtype == np.float32:
        products = queries @ vectors.T
        return products
    import torch  # converts six numbers in the time that NumPy takes for one

    products = np.empty((len(queries), len(vectors)), dtype=np.float32)
    scratch = np.empty((max(1, FLOAT32_BLOCK_BYTES // (4 * queries.shape[1])), queries.shape[1]), dtype=np.float32)
    for first in range(0, len(vectors), len(scratch)):
        half = vectors[first : first + len(scratch)]
        block = scratch[: len(half)]
        torch.from_numpy(block).copy_(torch.from_numpy(half))
        products[:, first : first + len(half)] = queries @ block.T
    return products


def _rescore(
    blocks: Iterable[_Block], query: npt.NDArray[np.float32], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the (k,) nearest of the rows of some blocks and their similarities, summed in float64 and rounded once."""
    exact = query.astype(np.float64)
    rows, similarities = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    for numbers, vectors in blocks:
        # Not a matrix product, whose way of summing may differ from row to row.
        products = np.einsum("ij,j->i", vectors.astype(np.float64), exact)
        rows = np.concatenate([rows, numbers])
        similarities = np.concatenate([similarities, np.clip(products, -1, 1).astype(np.float32)])
        order = np.lexsort((rows, -similarities))[:k]
        rows, similarities = rows[order], similarities[order]
    return rows, similarities


def _blocks(
    chunks: Sequence[npt.NDArray[Any]], max_rows: int, mask: npt.NDArray[np.bool_] | None, gather_below: float = GATHER_BELOW
) -> Iterator[_Block]:
    """Yield all rows in blocks of at most ``max_rows``; where fewer than a share pass the mask, these rows alone."""
    first = 0
    for chunk in chunks:
        for start in range(0, len(chunk), max_rows):
            vectors = chunk[start : start + max_rows]
            numbers = np.arange(first + start, first + start + len(vectors))
            if mask is not None:
                local = np.flatnonzero(mask[numbers[0] : numbers[-1] + 1])
                if len(local) < gather_below * len(vectors):
                    numbers, vectors = numbers[local], vectors[local]
            if len(numbers):
                yield numbers, vectors
        first += len(chunk)


def _gather(chunks: Sequence[npt.NDArray[Any]], rows: npt.NDArray[np.int64]) -> Iterator[_Block]:
    """Yield these rows in blocks."""
    starts = np.cumsum([0, *map(len, chunks)])
    for first in range(0, len(rows), EXACT_ROWS_AT_ONCE):
        numbers = rows[first : first + EXACT_ROWS_AT_ONCE]
        homes = np.searchsorted(starts, numbers, side="right") - 1
        yield numbers, np.stack([chunks[home][row] for home, row in zip(homes, numbers - starts[homes], strict=True)])
