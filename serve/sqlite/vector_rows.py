"""The rows that a search reads: those of a mapped file first, then blocks in memory that grow without moving."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["VectorRows"]

CHUNK_BYTES = 2**25
"""A chunk is large enough for the calls around it to cost nothing, and small enough for its products to stay in the cache."""


class VectorRows:
    """A growing matrix in chunks. Rows once given to a reader never move and never change.

    Args:
        dtype: float32 or float16.
        embed_dim: Width.
        mapped: (n, embed_dim) rows of a file, the first of the matrix.
    """

    def __init__(self, dtype: np.dtype[Any], embed_dim: int, mapped: npt.NDArray[Any] | None = None) -> None:
        self._dtype = dtype
        self._embed_dim = embed_dim
        self._chunk_rows = max(1, CHUNK_BYTES // (dtype.itemsize * embed_dim))
        self._mapped = np.empty((0, embed_dim), dtype=dtype) if mapped is None else mapped
        self._blocks: list[npt.NDArray[Any]] = []
        self._num_in_memory = 0

    def __len__(self) -> int:
        return len(self._mapped) + self._num_in_memory

    @property
    def num_mapped(self) -> int:
        """Rows that lie in a file."""
        return len(self._mapped)

    @property
    def bytes_in_memory(self) -> int:
        """Of the rows that do not lie in a file."""
        return self._num_in_memory * self._dtype.itemsize * self._embed_dim

    def grow(self, num_rows: int) -> None:
        """Have this many rows; new ones are zero until they are written."""
        missing = num_rows - len(self._mapped) - len(self._blocks) * self._chunk_rows
        for _ in range(-(-missing // self._chunk_rows)):
            self._blocks.append(np.zeros((self._chunk_rows, self._embed_dim), dtype=self._dtype))  # takes memory when written
        self._num_in_memory = num_rows - len(self._mapped)

    def write(self, rows: npt.NDArray[np.int64], vectors: npt.NDArray[Any]) -> None:
        """Write vectors into new rows in memory, ascending."""
        local = rows - len(self._mapped)
        blocks = local // self._chunk_rows
        for block in np.unique(blocks):
            here = blocks == block
            self._blocks[block][local[here] - block * self._chunk_rows] = vectors[here]

    def chunks(self) -> list[npt.NDArray[Any]]:
        """All rows there are now, as consecutive pieces."""
        mapped = [self._mapped[first : first + self._chunk_rows] for first in range(0, len(self._mapped), self._chunk_rows)]
        lengths = [min(self._chunk_rows, self._num_in_memory - at * self._chunk_rows) for at in range(len(self._blocks))]
        return mapped + [block[:length] for block, length in zip(self._blocks, lengths, strict=True) if length > 0]
