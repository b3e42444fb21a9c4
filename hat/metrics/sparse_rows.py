"""A sparse matrix stored by rows, with the three operations that k-reciprocal re-ranking needs, in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SparseRows", "expand_ranges"]


@dataclass(frozen=True)
class SparseRows:
    """A matrix of which only the entries that are not zero are stored, row after row (the layout called CSR).

    Attributes:
        offsets: (num_rows + 1,) int64: row i stands at ``offsets[i]:offsets[i + 1]`` of the other two.
        columns: (num_entries,) int64, growing within a row.
        values: (num_entries,) float64.
    """

    offsets: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    @classmethod
    def from_entries(
        cls, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], values: npt.NDArray[np.float64], num_rows: int
    ) -> SparseRows:
        """Build from entries that are sorted by row."""
        offsets = np.zeros(num_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=num_rows), out=offsets[1:])
        return cls(offsets, columns, values)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of entries in each row, (num_rows,) int64."""
        return np.diff(self.offsets)

    def entries_of(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Find the entries of some rows, which may repeat.

        Returns:
            (owners, positions): for every entry, the place in ``rows`` of its row and its place in `columns` and `values`.
        """
        return expand_ranges(self.offsets[rows], self.offsets[rows + 1])

    def transposed(self, num_columns: int) -> SparseRows:
        """Return the transposed matrix: an inverted index from a column to the rows that have it."""
        rows = np.repeat(np.arange(self.num_rows), self.lengths)
        order = np.argsort(self.columns, kind="stable")
        return SparseRows.from_entries(self.columns[order], rows[order], self.values[order], num_columns)


def expand_ranges(
    starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List every integer of several ranges, with the number of the range that it is from."""
    lengths = stops - starts
    owners = np.repeat(np.arange(len(lengths)), lengths)
    first_places = np.cumsum(lengths) - lengths
    return owners, np.arange(len(owners)) + np.repeat(starts - first_places, lengths)
