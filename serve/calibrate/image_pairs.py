"""Pairs of images: all that there are, numbered, so that any may be drawn without ever listing them."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pairs: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Places of the one and of the other image of each pair."""


class PairSet:
    """All pairs of items that share an outer label and differ in an inner one, numbered so that any can be had by its number.

    Args:
        outer: (n,) labels that both of a pair have.
        inner: (n,) labels of which the two have different ones.
    """

    def __init__(self, outer: npt.NDArray[np.int64], inner: npt.NDArray[np.int64]) -> None:
        self._order = np.lexsort((inner, outer))
        outer, inner = outer[self._order], inner[self._order]
        new_outer = np.append(True, outer[1:] != outer[:-1])[: len(outer)]
        new_inner = new_outer | np.append(True, inner[1:] != inner[:-1])[: len(inner)]
        self._outer_start, outer_end = _runs(new_outer)
        self._inner_start, self._inner_end = _runs(new_inner)
        self._num_partners = (outer_end - self._outer_start) - (self._inner_end - self._inner_start)
        self._ends = np.cumsum(self._num_partners)
        self._num_ordered = int(self._ends[-1]) if len(self._ends) else 0

    @property
    def num_unordered(self) -> int:
        """How many pairs there are."""
        return self._num_ordered // 2

    def draw(self, num_pairs: int, rng: np.random.Generator) -> Pairs:
        """So many pairs, drawn with replacement; all of them, once each, where there are no more."""
        if self.num_unordered > num_pairs:
            return self._pairs(rng.integers(self._num_ordered, size=num_pairs))
        left, right = self._pairs(np.arange(self._num_ordered))
        once = left < right
        return left[once], right[once]

    def _pairs(self, numbers: npt.NDArray[np.int64]) -> Pairs:
        item = np.searchsorted(self._ends, numbers, side="right")
        partner = self._outer_start[item] + numbers - (self._ends[item] - self._num_partners[item])
        # The items with the same inner label lie together and are stepped over.
        partner += np.where(partner >= self._inner_start[item], self._inner_end[item] - self._inner_start[item], 0)
        return self._order[item], self._order[partner]


def _runs(is_first: npt.NDArray[np.bool_]) -> Pairs:
    """First place and end of the run that each place of a sequence belongs to."""
    starts = np.flatnonzero(is_first)
    run = np.cumsum(is_first) - 1
    return starts[run], np.append(starts[1:], len(is_first))[run]
