"""Exact nearest neighbors of every item among all items, without ever holding the matrix of all distances."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hat.metrics.distances import squared_distances

__all__ = ["NearestNeighbors", "distance_blocks"]

_SELF_DISTANCE = -1.0
"""Stands on the diagonal while neighbors are selected: an item comes before its exact duplicates."""


def distance_blocks(
    embeddings: torch.Tensor, squares: torch.Tensor, block_rows: int
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Squared Euclidean distances, block by block of the upper triangle; the lower one is its mirror.

    Args:
        embeddings: (n, embed_dim) float32.
        squares: (n,) squared Euclidean lengths of its rows.
        block_rows: Height and width of a block.

    Yields:
        (rows, columns, distances): two slices with ``rows.start <= columns.start`` and a float32 tensor of their lengths.
        Distances are not negative; that of an item to itself is -1, as `NearestNeighbors` expects.
    """
    slices = [slice(start, min(start + block_rows, len(embeddings))) for start in range(0, len(embeddings), block_rows)]
    for number, rows in enumerate(slices):
        for columns in slices[number:]:
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
    negative key.

    Args:
        num_items: How many items there are.
        num_neighbors: How many neighbors of each are kept, the item itself included; at most ``num_items``.
    """

    def __init__(self, num_items: int, num_neighbors: int) -> None:
        self._keys = torch.full((num_items, num_neighbors), torch.iinfo(torch.int64).max, dtype=torch.int64)

    def update(self, rows: slice, columns: slice, block: torch.Tensor) -> None:
        """Take in the distances of some items to some others.

        Args:
            rows: The items whose neighbors these may be.
            columns: The items that may be neighbors.
            block: (rows, columns) float32 distances, contiguous.
        """
        num_kept = self._keys.shape[1]
        # One more than is kept tells whether the last place is shared; torch picks among equal values as it likes.
        values, places = torch.topk(block, min(num_kept + 1, block.shape[1]), dim=1, largest=False)
        keys = _make_keys(values, places + columns.start)[:, :num_kept]
        if values.shape[1] > num_kept:
            for row in (values[:, num_kept - 1] == values[:, num_kept]).nonzero()[:, 0].tolist():
                all_keys = _make_keys(block[row], torch.arange(columns.start, columns.stop))
                keys[row] = torch.topk(all_keys, num_kept, largest=False, sorted=False).values
        merged = torch.cat([self._keys[rows], keys], dim=1)
        self._keys[rows] = merged.sort(dim=1).values[:, :num_kept]

    def indices(self) -> torch.Tensor:
        """Indices of the neighbors, nearest first, (num_items, num_neighbors) int64."""
        return self._keys & 0xFFFFFFFF

    def distances(self) -> torch.Tensor:
        """Distances of the neighbors in the same places, (num_items, num_neighbors) float32."""
        return (self._keys >> 32).to(torch.int32).view(torch.float32).clamp(min=0)


def _make_keys(distances: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    # Adding zero turns -0.0, whose bits would sort before everything, into 0.0.
    return ((distances + 0.0).view(torch.int32).to(torch.int64) << 32) | indices
