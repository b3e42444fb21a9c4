"""Rows that may be among the nearest of a query, kept while a matrix is read a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["Candidates", "Settle", "ranked"]

Settle = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""Takes the queries and the rows of pairs, and gives their exact products."""

LENGTH_SLACK = 1.01
"""Lengths of vectors may be off by what the checks let pass and by rounding to float16."""

FLOAT32_ROUNDING = 2.0**-24

RESULT_ROUNDING = 2.0**-22
"""Two products that differ by more cannot be rounded to the same float32 in [-1, 1]."""

MAX_PAIRS = 2**22
"""So many pairs of a query and a row are kept at most before their order is settled: some 80 MB."""


DENSE_FROM = 4
"""A chunk of so many times k rows has more that are of no interest than it pays to look at one by one."""


class Candidates:
    """For each query the rows whose product is not surely below the k-th best.

    Args:
        num_queries: Queries.
        keep: k, at least 1 and at most the number of rows that may be found.
        embed_dim: Terms of a product, which bound its rounding.
        settle: Gives exact products, should there be too many candidates to keep.

    Attributes:
        keep: k.
        window: A row whose product is by more than this below the k-th best is not among the k nearest.
        thresholds: (num_queries,) what a product must reach to be of interest, as far as is known.
    """

    def __init__(self, num_queries: int, keep: int, embed_dim: int, settle: Settle) -> None:
        self.keep = keep
        self.window = 2 * embed_dim * FLOAT32_ROUNDING * LENGTH_SLACK + RESULT_ROUNDING
        self.thresholds = np.full(num_queries, -np.inf, dtype=np.float32)
        self._settle = settle
        self._best = np.full((num_queries, keep), -np.inf, dtype=np.float32)
        none = np.empty(0, dtype=np.int64)
        self._pairs = [(none, none, np.empty(0, dtype=np.float32))]
        self._num_pairs = 0
        self._num_seen = 1  # of the pieces, those that the thresholds know of already
        self._num_unseen_pairs = 0

    def threshold_from(self, products: npt.NDArray[np.float32]) -> np.float32:
        """What a product must reach when these, at least k of them, are there."""
        at = len(products) - self.keep
        return np.float32(self._below(np.partition(products, at)[at : at + 1])[0])

    def offer_products(
        self, rows: npt.NDArray[np.int64], products: npt.NDArray[np.float32], within: npt.NDArray[np.bool_] | None
    ) -> None:
        """Take the products of every query and every row of a chunk.

        Args:
            rows: (n,) rows.
            products: (num_queries, n), summed in float32 in any order; they are overwritten.
            within: (n,) which of the rows may be found; None is all.
        """
        if within is not None:
            np.copyto(products, -np.inf, where=~within)
        thresholds = self.thresholds
        if products.shape[1] > DENSE_FROM * self.keep and not np.isfinite(thresholds).all():
            # Nothing is known yet: the k best of this chunk alone say what the others must reach.
            at = products.shape[1] - self.keep
            thresholds = np.maximum(thresholds, self._below(np.partition(products, at, axis=1)[:, at]))
        hits = products >= thresholds[:, None]
        if within is not None:
            hits &= within
        flat = np.flatnonzero(hits)  # by far faster than nonzero of two dimensions
        queries, columns = np.divmod(flat, len(rows))
        self.offer(queries, rows[columns], products.reshape(-1)[flat])

    def offer(self, queries: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], products: npt.NDArray[np.float32]) -> None:
        """Take pairs that were not offered yet; those below a query's threshold may be left out.

        Args:
            queries: (n,) numbers of queries.
            rows: (n,) rows.
            products: (n,) their products, summed in float32 in any order.
        """
        if not len(queries):
            return
        self._pairs.append((queries, rows, products))
        self._num_pairs += len(queries)
        self._num_unseen_pairs += len(queries)
        # Rarely enough to cost little for a large k, and often enough for the thresholds to spare work.
        if self._num_unseen_pairs >= len(self.thresholds) * max(1, self.keep // 4):
            self._raise_thresholds()
        if self._num_pairs > MAX_PAIRS + 2 * self._best.size:
            self._thin_out()

    def pairs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Queries and rows of all candidates, among them the k nearest rows of each query."""
        self._raise_thresholds()
        queries, rows, _ = self._merged()
        return queries, rows

    def _below(self, kth_best: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What a product must reach beside these k-th best ones."""
        # Similarities are clipped to [-1, 1], where rounding has made a row a little too long, and are equal from there on.
        clipped = np.clip(kth_best.astype(np.float64), -1, 1)
        reach = np.nextafter((clipped - self.window).astype(np.float32), np.float32(-np.inf))
        return np.where(reach > -1, reach, np.float32(-np.inf))

    def _raise_thresholds(self) -> None:
        unseen = self._pairs[self._num_seen :]
        if not unseen:
            return
        queries = np.concatenate([piece[0] for piece in unseen])
        products = np.concatenate([piece[2] for piece in unseen])
        order = np.argsort(queries, kind="stable")
        queries, products = queries[order], products[order]
        counts = np.bincount(queries, minlength=len(self.thresholds))
        places = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
        table = np.full((len(counts), self.keep + int(counts.max())), -np.inf, dtype=np.float32)
        table[:, : self.keep] = self._best
        table[queries, self.keep + places] = products
        at = table.shape[1] - self.keep
        table.partition(at, axis=1)
        self._best = table[:, at:].copy()
        self.thresholds = self._below(self._best[:, 0])
        self._num_seen, self._num_unseen_pairs = len(self._pairs), 0

    def _thin_out(self) -> None:
        """Let go of what the thresholds rule out; where that is not enough, settle the order and keep the k nearest alone.

        Embeddings that are all but equal, as those of an untrained model, come to the second.
        """
        self._raise_thresholds()
        queries, rows, products = self._merged()
        if len(queries) > MAX_PAIRS // 2 + self._best.size:
            products = self._settle(queries, rows)
            kept = np.concatenate([chosen[: self.keep] for chosen in ranked(queries, rows, products)])
            queries, rows, products = queries[kept], rows[kept], products[kept]
        self._pairs = [(queries, rows, products)]
        self._num_pairs, self._num_seen = len(queries), 1

    def _merged(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        queries, rows, products = (np.concatenate([piece[part] for piece in self._pairs]) for part in range(3))
        kept = products >= self.thresholds[queries]
        return queries[kept], rows[kept], products[kept]


def ranked(
    queries: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], products: npt.NDArray[np.float32]
) -> list[npt.NDArray[np.int64]]:
    """For each query that occurs the places of its pairs: largest product first, equal ones by their rows."""
    by_query = np.argsort(queries, kind="stable")
    groups = np.split(by_query, np.flatnonzero(np.diff(queries[by_query])) + 1)
    return [group[np.lexsort((rows[group], -products[group]))] for group in groups if len(group)]
