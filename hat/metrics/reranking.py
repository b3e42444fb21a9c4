"""k-reciprocal re-ranking (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017).

The usual NumPy implementation holds several dense matrices of all items by all items. Here an item's k-reciprocal encoding is
the few dozen entries that are not zero, and distances exist one block at a time, so memory grows with the output and not with
its square.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hat.errors import UsageError
from hat.metrics.inputs import Matrix, check_count, check_embedding_pair
from hat.metrics.neighbors import NearestNeighbors, distance_blocks
from hat.metrics.sparse_rows import SparseRows

__all__ = ["rerank"]

Indices: TypeAlias = npt.NDArray[np.int64]

_BLOCK_ROWS = 4096
"""Height and width of a block of distances: 64 MiB, large enough for a matrix product at full speed."""

_BLOCK_ENTRIES = 2**22
"""How many integers or floats a vectorized step works on at once."""


def rerank(
    query_embeddings: Matrix,
    gallery_embeddings: Matrix,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> npt.NDArray[np.float32]:
    """Re-rank with k-reciprocal encoding: the Jaccard distance of neighborhoods, blended with the original distance.

    The original distance is the squared Euclidean one of the embeddings as they are given (pass unit rows, as an embedder makes
    them), divided by the largest distance of its query to any item. The rest follows Zhong et al.: k-reciprocal sets and their
    expansion by half as large sets that overlap by more than two thirds (Eq. 3-5), Gaussian weights (Eq. 7), local query
    expansion (Eq. 11), Jaccard distance from sums of minima (Eq. 10) and the blend (Eq. 12).

    Ties: of several items at exactly the same distance the item itself comes first and the others follow by index, queries
    counted before gallery images. The result is deterministic. Differs: where all embeddings are equal, distances are 0 and not
    undefined.

    Args:
        query_embeddings: (num_query, embed_dim) float16, bfloat16, float32 or float64; NumPy (memory-mapped too) or torch.
        gallery_embeddings: (num_gallery, embed_dim), likewise. Both are computed with in float32.
        k1: Size of the neighborhoods, the item itself not counted. More than there are items is as many as there are.
        k2: How many nearest items, itself included, an item's encoding is averaged over; 1 switches the expansion off.
        lambda_value: Weight of the original distance, in [0, 1]: at 1 the ranking is the original one.

    Returns:
        (num_query, num_gallery) float32 distances, smaller is closer; in [0, 1] up to rounding.

    Raises:
        UsageError: A shape, type or parameter is wrong, or a value is NaN, infinite or too large to be squared in float32.
    """
    k1, k2 = check_count(k1, "k1"), check_count(k2, "k2")
    lambda_value = _check_rate(lambda_value, "lambda_value")
    num_query, embeddings, squares = _stack(query_embeddings, gallery_embeddings)
    num_items = len(embeddings)
    # No set is larger than all items, so a larger k1, of which half is taken too, says nothing more than twice their number.
    k1 = min(k1, 2 * num_items)

    nearest = NearestNeighbors(num_items, min(num_items, max(k1 + 1, k2)))
    farthest = torch.zeros(num_items)
    distances = np.empty((num_query, num_items - num_query), dtype=np.float32)
    for rows, columns, block in distance_blocks(embeddings, squares, _BLOCK_ROWS):
        nearest.update(rows, columns, block)
        farthest[rows] = torch.maximum(farthest[rows], block.amax(dim=1))
        if rows != columns:
            nearest.update(columns, rows, block.T.contiguous())
            farthest[columns] = torch.maximum(farthest[columns], block.amax(dim=0))
        _copy_query_to_gallery(block, rows, columns, distances)
    # Where an item is at distance 0 from all others there is nothing to normalize.
    scales = torch.where(farthest > 0, farthest, 1.0).numpy()
    distances /= scales[:num_query, None]

    neighbors = nearest.indices().numpy()
    encodings = _encode(neighbors, nearest.distances().numpy(), embeddings, scales, k1)
    if k2 > 1:
        encodings = _expand_queries(encodings, neighbors[:, :k2])
    _blend_jaccard(encodings, distances, lambda_value)
    return distances


def _check_rate(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1:
        raise UsageError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)


def _stack(query_embeddings: Matrix, gallery_embeddings: Matrix) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Check both matrices and copy them into one, queries first, as float32; with the squared lengths of rows."""
    queries, gallery = check_embedding_pair(query_embeddings, gallery_embeddings)
    stacked = torch.empty(queries.num_rows + gallery.num_rows, queries.embed_dim)
    squares = torch.empty(len(stacked))
    place = 0
    for side in (queries, gallery):
        for start in range(0, side.num_rows, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, side.num_rows)
            squares[place : place + stop - start] = side.squared_lengths(start, stop, torch.float32)
            stacked[place : place + stop - start] = side.read(start, stop, torch.float32)
            place += stop - start
    return queries.num_rows, stacked, squares


def _copy_query_to_gallery(block: torch.Tensor, rows: slice, columns: slice, distances: npt.NDArray[np.float32]) -> None:
    """Copy the part of a block that is between queries (its rows) and gallery images (its columns), if it has one."""
    num_query = len(distances)
    last_row, first_column = min(rows.stop, num_query), max(columns.start, num_query)
    if rows.start < last_row and first_column < columns.stop:
        part = block[: last_row - rows.start, first_column - columns.start :]
        distances[rows.start : last_row, first_column - num_query : columns.stop - num_query] = part.numpy()


def _encode(
    neighbors: Indices,
    neighbor_distances: npt.NDArray[np.float32],
    embeddings: torch.Tensor,
    scales: npt.NDArray[np.float32],
    k1: int,
) -> SparseRows:
    """Gaussian-weighted k-reciprocal encodings of all items, each of sum 1 (Eq. 7)."""
    num_items = len(neighbors)
    rows, columns = _reciprocal_sets(neighbors, k1)
    weights = np.empty(len(rows))
    for part in _parts(np.ones(len(rows), dtype=np.int64), _BLOCK_ENTRIES // (neighbors.shape[1] + 1)):
        found = neighbors[rows[part]] == columns[part, None]
        known = found.any(axis=1)
        squared = neighbor_distances[rows[part], found.argmax(axis=1)].astype(np.float64)
        # A set grows by neighbors of neighbors, some of which were not among the item's nearest.
        squared[~known] = _pair_distances(embeddings, rows[part][~known], columns[part][~known])
        weights[part] = np.exp(-squared / scales[rows[part]])
    weights /= np.bincount(rows, weights=weights, minlength=num_items)[rows]
    return SparseRows.from_entries(rows, columns, weights, num_items)


def _pair_distances(embeddings: torch.Tensor, left: Indices, right: Indices) -> npt.NDArray[np.float32]:
    """Squared Euclidean distances of pairs of items, (num_pairs,)."""
    squared = np.empty(len(left), dtype=np.float32)
    step = max(1, _BLOCK_ENTRIES // embeddings.shape[1])
    for start in range(0, len(left), step):
        pairs = slice(start, start + step)
        difference = embeddings[torch.from_numpy(left[pairs])].sub_(embeddings[torch.from_numpy(right[pairs])])
        squared[pairs] = difference.square_().sum(dim=1).numpy()
    return squared


def _reciprocal_sets(neighbors: Indices, k1: int) -> tuple[Indices, Indices]:
    """Expanded k-reciprocal sets R*(i, k1) of all items (Eq. 3-5).

    Returns:
        (items, members): one entry for each member of each set, sorted by item and then by member.
    """
    num_items = len(neighbors)
    near = np.ascontiguousarray(neighbors[:, : k1 + 1])
    # Half of an odd k1 is rounded to the even side, as the authors' code does.
    half = np.ascontiguousarray(near[:, : round(k1 / 2) + 1])
    is_reciprocal = _reciprocal(near)
    is_half_reciprocal = _reciprocal(half)
    half_sizes = is_half_reciprocal.sum(axis=1)

    items, members = [], []
    cost = max(num_items, near.shape[1] * half.shape[1])
    for part in _parts(np.full(num_items, cost), _BLOCK_ENTRIES):
        local, place = np.nonzero(is_reciprocal[part])
        candidates = near[part][local, place]
        in_set = np.zeros((part.stop - part.start, num_items), dtype=bool)
        in_set[local, candidates] = True
        overlaps = (in_set[local[:, None], half[candidates]] & is_half_reciprocal[candidates]).sum(axis=1)
        accepted = 3 * overlaps > 2 * half_sizes[candidates]
        taken = candidates[accepted]
        owner, member_place = np.nonzero(is_half_reciprocal[taken])
        in_set[local[accepted][owner], half[taken][owner, member_place]] = True
        item, member = np.nonzero(in_set)
        items.append(item + part.start)
        members.append(member)
    return np.concatenate(items), np.concatenate(members)


def _reciprocal(near: Indices) -> npt.NDArray[np.bool_]:
    """Whether each neighbor has the item among its own neighbors, the shape of ``near`` (Eq. 2)."""
    result = np.empty(near.shape, dtype=bool)
    for part in _parts(np.full(len(near), near.shape[1] ** 2), _BLOCK_ENTRIES):
        items = np.arange(part.start, part.stop)[:, None, None]
        result[part] = (near[near[part]] == items).any(axis=2)
    return result


def _expand_queries(encodings: SparseRows, neighbors: Indices) -> SparseRows:
    """Local query expansion: average each item's encoding over its nearest items, itself included (Eq. 11)."""
    num_items, num_averaged = neighbors.shape
    rows, columns, values = [], [], []
    for part in _parts(encodings.lengths[neighbors].sum(axis=1), _BLOCK_ENTRIES):
        owners, positions = encodings.entries_of(neighbors[part].ravel())
        keys = (owners // num_averaged + part.start) * num_items + encodings.columns[positions]
        unique, inverse = np.unique(keys, return_inverse=True)
        rows.append(unique // num_items)
        columns.append(unique % num_items)
        values.append(np.bincount(inverse.ravel(), weights=encodings.values[positions]) / num_averaged)
    return SparseRows.from_entries(np.concatenate(rows), np.concatenate(columns), np.concatenate(values), num_items)


def _blend_jaccard(encodings: SparseRows, distances: npt.NDArray[np.float32], lambda_value: float) -> None:
    """Blend the Jaccard distance of encodings into the original distances, in place (Eq. 10 and 12).

    As each encoding has sum 1, the sum of maxima is 2 minus the sum of minima, and only columns that both have add to the
    latter.
    """
    num_query, num_gallery = distances.shape
    # The inverted index lists gallery images alone: no other row is asked for.
    first = encodings.offsets[num_query]
    gallery = SparseRows(encodings.offsets[num_query:] - first, encodings.columns[first:], encodings.values[first:])
    having = gallery.transposed(encodings.num_rows)

    num_minima = np.append(0, np.cumsum(having.lengths[encodings.columns[:first]]))[encodings.offsets[: num_query + 1]]
    for part in _parts(num_gallery + np.diff(num_minima), _BLOCK_ENTRIES):
        owners, mine = encodings.entries_of(np.arange(part.start, part.stop))
        pairs, theirs = having.entries_of(encodings.columns[mine])
        minima = np.minimum(encodings.values[mine][pairs], having.values[theirs])
        cells = owners[pairs] * num_gallery + having.columns[theirs]
        sums = np.bincount(cells, weights=minima, minlength=(part.stop - part.start) * num_gallery)
        sums = sums.reshape(-1, num_gallery)
        distances[part] = (1 - lambda_value) * (1 - sums / (2 - sums)) + lambda_value * distances[part]


def _parts(costs: Indices, limit: int) -> Iterator[slice]:
    """Cut a sequence into consecutive parts whose costs add up to at most a limit, or that have one element."""
    ends = np.cumsum(costs)
    start = 0
    while start < len(costs):
        spent = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, spent + limit, side="right")))
        yield slice(start, stop)
        start = stop
