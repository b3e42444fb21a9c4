"""k-reciprocal re-ranking (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017).

The usual NumPy implementation holds several dense matrices of all items by all items. Here an item's k-reciprocal encoding is
the few dozen entries that are not zero, and distances exist one block at a time, so memory grows with the output and not with
its square.
"""

import numbers
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from hat.errors import UsageError
from hat.metrics.embeddings import Matrix, check_count, check_embedding_pair
from hat.metrics.ranking import slices, squared_distances

Indices: TypeAlias = npt.NDArray[np.int64]

_BLOCK_ROWS = 4096
"""Height and width of a block of distances: 64 MiB, large enough for a matrix product at full speed."""

_BLOCK_ENTRIES = 2**22
"""Number of integers or floats that a vectorized step works on at once."""

_SELF_DISTANCE = -1.0
"""Stands on the diagonal while neighbors are selected: an item comes before its exact duplicates."""


def rerank(
    query_embeddings: Matrix, gallery_embeddings: Matrix, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
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
    for side, offset in ((queries, 0), (gallery, queries.num_rows)):
        for rows in slices(side.num_rows, _BLOCK_ROWS):
            target = slice(offset + rows.start, offset + rows.stop)
            stacked[target], squares[target] = side.read(rows, torch.float32)
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
) -> sparse.csr_array:
    """Return the Gaussian-weighted k-reciprocal encodings of all items, (n, n), each row of sum 1 (Eq. 7)."""
    num_items = len(neighbors)
    rows, columns = _reciprocal_sets(neighbors, k1)
    weights = np.empty(len(rows))
    for part in slices(len(rows), max(1, _BLOCK_ENTRIES // (neighbors.shape[1] + 1))):
        is_column = neighbors[rows[part]] == columns[part, None]
        is_near = is_column.any(axis=1)
        squared = neighbor_distances[rows[part], is_column.argmax(axis=1)].astype(np.float64)
        # A set grows by neighbors of neighbors, some of which were not among the item's nearest.
        squared[~is_near] = _pair_distances(embeddings, rows[part][~is_near], columns[part][~is_near])
        weights[part] = np.exp(-squared / scales[rows[part]])
    weights /= np.bincount(rows, weights=weights, minlength=num_items)[rows]
    offsets = np.append(0, np.cumsum(np.bincount(rows, minlength=num_items)))
    return sparse.csr_array((weights, columns, offsets), shape=(num_items, num_items))


def _pair_distances(embeddings: torch.Tensor, left: Indices, right: Indices) -> npt.NDArray[np.float32]:
    """Return squared Euclidean distances of pairs of items, (num_pairs,)."""
    squared = np.empty(len(left), dtype=np.float32)
    for pairs in slices(len(left), max(1, _BLOCK_ENTRIES // embeddings.shape[1])):
        difference = embeddings[torch.from_numpy(left[pairs])].sub_(embeddings[torch.from_numpy(right[pairs])])
        squared[pairs] = difference.square_().sum(dim=1).numpy()
    return squared


def _reciprocal_sets(neighbors: Indices, k1: int) -> tuple[Indices, Indices]:
    """Return the expanded k-reciprocal sets R*(i, k1) of all items (Eq. 3-5).

    These are two vectors, items and members: an entry for each member of each set, sorted by item and then by member.
    """
    num_items = len(neighbors)
    near = np.ascontiguousarray(neighbors[:, : k1 + 1])
    # Half of an odd k1 is rounded to the even side, as the authors' code does.
    half = np.ascontiguousarray(near[:, : round(k1 / 2) + 1])
    is_reciprocal = _reciprocal(near)
    is_half_reciprocal = _reciprocal(half)
    half_sizes = is_half_reciprocal.sum(axis=1)

    items, members = [], []
    for part in slices(num_items, max(1, _BLOCK_ENTRIES // max(num_items, near.shape[1] * half.shape[1]))):
        local, rank = np.nonzero(is_reciprocal[part])
        candidates = near[part][local, rank]
        in_set = np.zeros((part.stop - part.start, num_items), dtype=bool)
        in_set[local, candidates] = True
        overlaps = (in_set[local[:, None], half[candidates]] & is_half_reciprocal[candidates]).sum(axis=1)
        accepted = 3 * overlaps > 2 * half_sizes[candidates]
        joined = candidates[accepted]
        owner, member_rank = np.nonzero(is_half_reciprocal[joined])
        in_set[local[accepted][owner], half[joined][owner, member_rank]] = True
        item, member = np.nonzero(in_set)
        items.append(item + part.start)
        members.append(member)
    return np.concatenate(items), np.concatenate(members)


def _reciprocal(near: Indices) -> npt.NDArray[np.bool_]:
    """Tell whether each neighbor has the item among its own neighbors, the shape of ``near`` (Eq. 2)."""
    result = np.empty(near.shape, dtype=bool)
    for part in slices(len(near), max(1, _BLOCK_ENTRIES // near.shape[1] ** 2)):
        items = np.arange(part.start, part.stop)[:, None, None]
        result[part] = (near[near[part]] == items).any(axis=2)
    return result


def _expand_queries(encodings: sparse.csr_array, neighbors: Indices) -> sparse.csr_array:
    """Average each item's encoding over its nearest items, itself included: local query expansion (Eq. 11)."""
    num_items, num_averaged = neighbors.shape
    offsets = np.arange(0, neighbors.size + 1, num_averaged)
    averaging = sparse.csr_array((np.ones(neighbors.size), neighbors.ravel(), offsets), shape=(num_items, num_items))
    averaged = averaging @ encodings
    averaged.data /= num_averaged  # after the sum, so that equal encodings stay what they are to the last bit
    return averaged


def _blend_jaccard(encodings: sparse.csr_array, distances: npt.NDArray[np.float32], lambda_value: float) -> None:
    """Blend the Jaccard distance of encodings into the original distances, in place (Eq. 10 and 12).

    As each encoding has sum 1, the sum of maxima is 2 minus the sum of minima, and only columns that both have add to the
    latter.
    """
    num_query, num_gallery = distances.shape
    inverted = encodings[num_query:].tocsc()  # column -> the gallery images whose encodings have it
    for query in range(num_query):
        entries = slice(encodings.indptr[query], encodings.indptr[query + 1])
        common = inverted[:, encodings.indices[entries]]
        minima = np.minimum(common.data, np.repeat(encodings.data[entries], np.diff(common.indptr)))
        sums = np.bincount(common.indices, weights=minima, minlength=num_gallery)
        distances[query] = (1 - lambda_value) * (1 - sums / (2 - sums)) + lambda_value * distances[query]


def distance_blocks(
    embeddings: torch.Tensor, squares: torch.Tensor, block_rows: int
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yield squared Euclidean distances as (rows, columns, block) of the upper triangle; the lower one is its mirror.

    Distances are float32 and not negative; that of an item to itself is -1, as `NearestNeighbors` expects.
    """
    parts = slices(len(embeddings), block_rows)
    for number, rows in enumerate(parts):
        for columns in parts[number:]:
            block = squared_distances(embeddings[rows], squares[rows], embeddings[columns], squares[columns])
            if rows == columns:
                block.fill_diagonal_(_SELF_DISTANCE)
            yield rows, columns, block


class NearestNeighbors:
    """The nearest items of every item, kept up to date while blocks of distances come in.

    Items are ordered by distance; of several at exactly the same distance the item itself comes first and the others follow by
    index. The outcome does not depend on the order of the blocks.

    A neighbor is kept as one integer, the bits of its distance above its index: bits of floats that are not negative sort like
    the floats, so sorting these keys sorts by distance and then by index, and no two keys are equal. The bits of -1 make a
    negative key. ``num_neighbors`` counts the item itself, and is at most ``num_items``.
    """

    def __init__(self, num_items: int, num_neighbors: int) -> None:
        self._keys = torch.full((num_items, num_neighbors), torch.iinfo(torch.int64).max, dtype=torch.int64)

    def update(self, rows: slice, columns: slice, block: torch.Tensor) -> None:
        """Take in a contiguous block of float32 distances: of items, its rows, to those that may be their neighbors."""
        k = self._keys.shape[1]
        # One more than is kept tells whether the last place is shared; torch picks among equal values as it likes.
        values, indices = torch.topk(block, min(k + 1, block.shape[1]), dim=1, largest=False)
        keys = _make_keys(values, indices + columns.start)[:, :k]
        if values.shape[1] > k:
            for row in (values[:, k - 1] == values[:, k]).nonzero()[:, 0].tolist():
                all_keys = _make_keys(block[row], torch.arange(columns.start, columns.stop))
                keys[row] = torch.topk(all_keys, k, largest=False, sorted=False).values
        merged = torch.cat([self._keys[rows], keys], dim=1)
        self._keys[rows] = merged.sort(dim=1).values[:, :k]

    def indices(self) -> torch.Tensor:
        """Return the indices of the neighbors, nearest first, (num_items, num_neighbors) int64."""
        return self._keys & 0xFFFFFFFF

    def distances(self) -> torch.Tensor:
        """Return the distances of the neighbors in the same places, (num_items, num_neighbors) float32."""
        return (self._keys >> 32).to(torch.int32).view(torch.float32).clamp(min=0)


def _make_keys(distances: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    # Adding zero turns -0.0, whose bits would sort before everything, into 0.0.
    return ((distances + 0.0).view(torch.int32).to(torch.int64) << 32) | indices
