"""mAP, CMC and mINP of a ranked gallery, under the single-query protocol of Market-1501.

The protocol (Zheng et al., ICCV 2015): for each query, gallery images of the same identity seen by the same camera are left
out, and so are junk images (pid -1); the rest is ranked by distance. A rest with no image of the query's identity gives no
metric: the query is left out of the means and counted. Distractors (pid 0 in Market-1501) need no rule of their own: they stay
in the ranking, and as no query has their label they are always wrong. A data set whose identities begin at 0 is therefore
ranked rightly too. A query that is itself junk can have no match and is left out in the same way.

Ties: of two gallery images at exactly the same distance, the one with the smaller gallery index comes first, as in a stable
sort.

Average precision is the mean of the precision at each match, as torchreid and fast-reid compute it. Differs: the first Matlab
code of Market-1501 integrated the precision-recall curve by trapezoids, which gives slightly different numbers.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from hat.data.datasets import JUNK_PID
from hat.errors import DataError, UsageError
from hat.metrics.inputs import Labels, Matrix, check_count, check_distances, check_embedding_pair, check_label_pairs

_MAX_COUNTED_MATCHES = 128
"""Counting passes over a row once for each match; with more matches than this, one stable sort of the row is cheaper."""

_BLOCK_BYTES = 2**24
"""Rows are copied in blocks of about this size: enough to hide the overhead of a copy, little enough to stay in cache."""


@dataclass(frozen=True, eq=False)
class RankingResult:
    """Retrieval metrics of one ranking; every rate is in [0, 1].

    Attributes:
        mAP: Mean over the counted queries of average precision.
        cmc: Cumulative matching characteristic, (num_ranks,) float64, read-only: ``cmc[k - 1]`` is the rate of counted queries
            whose first match stands at rank k or before. It is as long as the ``max_rank`` that was asked for, or as the
            gallery.
        mINP: Mean over the counted queries of (number of matches) / (rank of the last match) (Ye et al., TPAMI 2021, Sec. 3.3).
        num_queries: Queries that have a match in the gallery; the means are over these.
        num_skipped_queries: Queries without one; they enter no mean.
        num_gallery: Gallery images that were ranked; junk is not among them.
    """

    mAP: float  # noqa: N815 - the field writes it so
    cmc: npt.NDArray[np.float64]
    mINP: float  # noqa: N815
    num_queries: int
    num_skipped_queries: int
    num_gallery: int

    def __post_init__(self) -> None:
        cmc = np.array(self.cmc, dtype=np.float64)
        if cmc.ndim != 1 or cmc.size == 0:
            raise UsageError(f"cmc must be a vector with at least one rank, got shape {cmc.shape}")
        cmc.setflags(write=False)
        object.__setattr__(self, "cmc", cmc)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RankingResult):
            return NotImplemented
        return self.to_dict() == other.to_dict() and np.array_equal(self.cmc, other.cmc)

    __hash__ = None  # type: ignore[assignment]

    def rank(self, k: int) -> float:
        """Rate of counted queries that have a match among their k nearest gallery images.

        Args:
            k: A rank, counted from 1. Beyond the end of the gallery the rate is that of the whole gallery.

        Raises:
            UsageError: ``k`` is under 1, or over the ``max_rank`` that was evaluated.
        """
        if k < 1:
            raise UsageError(f"ranks are counted from 1, got {k}")
        if k <= len(self.cmc):
            return float(self.cmc[k - 1])
        if len(self.cmc) >= self.num_gallery:
            return float(self.cmc[-1])
        raise UsageError(
            f"rank {k} was not evaluated: the CMC ends at rank {len(self.cmc)}; evaluate with max_rank={k} or more"
        )

    @property
    def rank1(self) -> float:
        """Rate of counted queries whose nearest gallery image is a match."""
        return self.rank(1)

    @property
    def rank5(self) -> float:
        """Rate of counted queries with a match among the five nearest."""
        return self.rank(5)

    @property
    def rank10(self) -> float:
        """Rate of counted queries with a match among the ten nearest."""
        return self.rank(10)

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain numbers for JSON; a rank beyond the evaluated ``max_rank`` is None."""
        return {
            "mAP": self.mAP,
            "rank1": self._rank_or_none(1),
            "rank5": self._rank_or_none(5),
            "rank10": self._rank_or_none(10),
            "mINP": self.mINP,
            "num_queries": self.num_queries,
            "num_skipped_queries": self.num_skipped_queries,
            "num_gallery": self.num_gallery,
        }

    def _rank_or_none(self, k: int) -> float | None:
        is_evaluated = k <= len(self.cmc) or len(self.cmc) >= self.num_gallery
        return self.rank(k) if is_evaluated else None

    def __str__(self) -> str:
        parts = [f"mAP {100 * self.mAP:.2f} %"]
        for k in (1, 5, 10):
            rate = self._rank_or_none(k)
            if rate is not None:
                parts.append(f"Rank-{k} {100 * rate:.2f} %")
        parts.append(f"mINP {100 * self.mINP:.2f} %")
        skipped = f", {self.num_skipped_queries} without a match left out" if self.num_skipped_queries else ""
        return f"{', '.join(parts)} ({self.num_queries} queries{skipped}, {self.num_gallery} gallery images)"


def evaluate_ranking(
    distmat: Matrix,
    query_pids: Labels,
    query_camids: Labels,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    max_rank: int = 50,
) -> RankingResult:
    """Evaluate a ranking given as a matrix of distances, under the protocol at the top of this module.

    Args:
        distmat: (num_query, num_gallery) float16, bfloat16, float32 or float64, NumPy or torch; smaller is closer. Infinity is
            allowed, and is the farthest that an image can be.
        query_pids: Identity of each query, (num_query,) integers.
        query_camids: Camera of each query, (num_query,) integers.
        gallery_pids: Identity of each gallery image, (num_gallery,) integers; -1 is junk.
        gallery_camids: Camera of each gallery image, (num_gallery,) integers.
        max_rank: Length of the CMC curve; cut to the number of ranked gallery images where they are fewer.

    Returns:
        The metrics, with counts of queries that were counted and left out.

    Raises:
        UsageError: A shape or type is wrong, ``max_rank`` is under 1, or a distance is NaN.
        DataError: No query has a match in the gallery, so that no metric exists.
    """
    distances = check_distances(distmat)
    num_query, num_gallery = distances.shape
    accumulator = RankingAccumulator(
        *check_label_pairs(query_pids, query_camids, num_query, "query"),
        *check_label_pairs(gallery_pids, gallery_camids, num_gallery, "gallery"),
        max_rank=max_rank,
    )
    dtype = np.float64 if distances.dtype == np.float64 else np.float32
    step = max(1, _BLOCK_BYTES // (num_gallery * np.dtype(dtype).itemsize))
    for start in range(0, num_query, step):
        accumulator.add(np.array(distances[start : start + step], dtype=dtype, order="C"))
    return accumulator.result()


class RankingAccumulator:
    """Collects the ranks of each query's matches, block of queries by block of queries.

    Args:
        query_pids: (num_query,) int64.
        query_camids: (num_query,) int64.
        gallery_pids: (num_gallery,) int64.
        gallery_camids: (num_gallery,) int64.
        max_rank: Length of the CMC curve.

    Raises:
        UsageError: ``max_rank`` is under 1.
    """

    def __init__(
        self,
        query_pids: npt.NDArray[np.int64],
        query_camids: npt.NDArray[np.int64],
        gallery_pids: npt.NDArray[np.int64],
        gallery_camids: npt.NDArray[np.int64],
        *,
        max_rank: int,
    ) -> None:
        self._query_pids = query_pids
        self._query_camids = query_camids
        self._gallery_camids = gallery_camids
        # Grouping the gallery by identity once makes finding a query's matches independent of the gallery's size; the sort is
        # stable, so that each group lists its images by growing index.
        self._by_pid = np.argsort(gallery_pids, kind="stable")
        sorted_pids = gallery_pids[self._by_pid]
        self._group_starts = np.searchsorted(sorted_pids, query_pids, side="left")
        self._group_ends = np.searchsorted(sorted_pids, query_pids, side="right")
        self._junk = np.flatnonzero(gallery_pids == JUNK_PID)
        self._num_gallery = len(gallery_pids) - len(self._junk)
        self._max_rank = min(check_count(max_rank, "max_rank"), max(1, self._num_gallery))
        self._next_query = 0
        self._num_counted = 0
        self._sum_ap = 0.0
        self._sum_inp = 0.0
        self._first_ranks = np.zeros(self._max_rank, dtype=np.int64)

    def add(self, distances: npt.NDArray[Any]) -> None:
        """Rank the gallery for the next queries.

        Args:
            distances: (block, num_gallery) float32 or float64, C-contiguous, for the ``block`` queries that follow those of the
                last call. It is overwritten.

        Raises:
            UsageError: A distance is NaN.
        """
        for row in distances:
            query = self._next_query
            self._next_query += 1
            if np.isnan(row).any():
                column = int(np.flatnonzero(np.isnan(row))[0])
                raise UsageError(
                    f"the distance of query {query} and gallery image {column} is NaN, so it has no rank; "
                    "look for NaN in the embeddings or for a row of zeros that was normalized"
                )
            same_pid = self._by_pid[self._group_starts[query] : self._group_ends[query]]
            same_camera = self._gallery_camids[same_pid] == self._query_camids[query]
            matches = same_pid[~same_camera]
            if self._query_pids[query] == JUNK_PID or not len(matches):
                continue
            # A comparison with NaN is false both ways, so an excluded image is never counted as nearer, nor as a tie.
            row[self._junk] = np.nan
            row[same_pid[same_camera]] = np.nan
            self._count(ranks_of_matches(row, matches))

    def _count(self, ranks: npt.NDArray[np.int64]) -> None:
        num_matches = len(ranks)
        self._num_counted += 1
        self._sum_ap += float(np.mean(np.arange(1, num_matches + 1) / ranks))
        self._sum_inp += num_matches / float(ranks[-1])
        if ranks[0] <= self._max_rank:
            self._first_ranks[ranks[0] - 1] += 1

    def result(self) -> RankingResult:
        """Return the means over the queries added so far.

        Raises:
            DataError: None of them has a match in the gallery.
        """
        if not self._num_counted:
            raise DataError(
                f"none of the {self._next_query} queries has a match in the gallery: a match is an image of the same pid "
                "from another camid; check that query and gallery share their identity labels and that camids differ"
            )
        return RankingResult(
            mAP=self._sum_ap / self._num_counted,
            cmc=np.cumsum(self._first_ranks) / self._num_counted,
            mINP=self._sum_inp / self._num_counted,
            num_queries=self._num_counted,
            num_skipped_queries=self._next_query - self._num_counted,
            num_gallery=self._num_gallery,
        )


def ranks_of_matches(row: npt.NDArray[Any], matches: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Ranks, from 1, at which a stable sort of a row would put some of its elements, without sorting where these are few.

    Args:
        row: Distances of one query, (num_gallery,) float; NaN marks images that are not ranked.
        matches: Indices into ``row`` of elements that are not NaN, growing.

    Returns:
        (len(matches),) int64, growing.
    """
    if len(matches) > _MAX_COUNTED_MATCHES:
        is_match = np.zeros(len(row), dtype=bool)
        is_match[matches] = True
        # NaN sorts to the end, where it shifts no rank.
        return np.flatnonzero(is_match[np.argsort(row, kind="stable")]) + 1
    ranks = np.empty(len(matches), dtype=np.int64)
    for number, (index, distance) in enumerate(zip(matches.tolist(), row[matches], strict=True)):
        # An image before this one in the gallery precedes it also at the same distance; one after it only when it is nearer.
        ranks[number] = 1 + np.count_nonzero(row[:index] <= distance) + np.count_nonzero(row[index + 1 :] < distance)
    ranks.sort()
    return ranks


Metric = Literal["cosine", "euclidean"]

_GALLERY_ROWS = 8192
"""Gallery embeddings read at once: what a float16 or memory-mapped gallery costs in copies is this many rows."""


def evaluate_embeddings(
    query_embeddings: Matrix,
    gallery_embeddings: Matrix,
    query_pids: Labels,
    query_camids: Labels,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    metric: Metric = "cosine",
    max_rank: int = 50,
    block_bytes: int = 2**28,
) -> RankingResult:
    """Evaluate the ranking that embeddings give, in bounded memory, under the protocol at the top of this module.

    The result is that of `hat.evaluate_ranking` on the matrix of all distances. The two may differ where distances agree to the
    last bits: a matrix product sums in an order that depends on its shapes, so that a near tie of one block shape is
    an exact tie, or the opposite order, of another. Exact ties are resolved by gallery index here too.

    Args:
        query_embeddings: (num_query, embed_dim) float16, bfloat16, float32 or float64; NumPy (memory-mapped too) or torch.
        gallery_embeddings: (num_gallery, embed_dim), likewise.
        query_pids: The labels are those of `evaluate_ranking`.
        query_camids: Likewise.
        gallery_pids: Likewise.
        gallery_camids: Likewise.
        metric: ``"cosine"`` ranks by 1 - the product of rows scaled to unit length; ``"euclidean"`` by the Euclidean distance
            of the rows as they are (its square, which ranks alike). Computed in float64 where an input is float64, else in
            float32.
        max_rank: Length of the CMC curve; cut to the number of ranked gallery images where they are fewer.
        block_bytes: Size of a block of distances. The peak of memory is the embeddings and two or three times this.

    Returns:
        The metrics, with counts of queries that were counted and left out.

    Raises:
        UsageError: A shape, type or option is wrong, a value is NaN or infinite, or a row cannot be scaled to unit length.
        DataError: No query has a match in the gallery, so that no metric exists.
    """
    if metric not in get_args(Metric):
        raise UsageError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    queries, gallery = check_embedding_pair(query_embeddings, gallery_embeddings)
    dtype = torch.float64 if queries.is_float64 or gallery.is_float64 else torch.float32
    accumulator = RankingAccumulator(
        *check_label_pairs(query_pids, query_camids, queries.num_rows, "query"),
        *check_label_pairs(gallery_pids, gallery_camids, gallery.num_rows, "gallery"),
        max_rank=max_rank,
    )
    measure = cosine_distances if metric == "cosine" else squared_distances
    nonzero = metric == "cosine"
    # The gallery is read in parts, and each part for every block of queries again: a copy of the whole may not fit.
    parts = slices(gallery.num_rows, _GALLERY_ROWS)
    gallery_squares = [gallery.squared_lengths(part.start, part.stop, dtype, nonzero=nonzero) for part in parts]
    step = max(1, check_count(block_bytes, "block_bytes") // (gallery.num_rows * dtype.itemsize))
    for rows in slices(queries.num_rows, step):
        left = queries.read(rows.start, rows.stop, dtype)
        left_squares = queries.squared_lengths(rows.start, rows.stop, dtype, nonzero=nonzero)
        block = torch.empty(len(left), gallery.num_rows, dtype=dtype)
        for part, squares in zip(parts, gallery_squares, strict=True):
            block[:, part] = measure(left, left_squares, gallery.read(part.start, part.stop, dtype), squares)
        accumulator.add(block.numpy())
    return accumulator.result()


def slices(total: int, step: int) -> list[slice]:
    """Cut ``range(total)`` into consecutive slices of ``step``, of which the last one may be shorter."""
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def cosine_distances(
    left: torch.Tensor, left_squares: torch.Tensor, right: torch.Tensor, right_squares: torch.Tensor
) -> torch.Tensor:
    """Compute 1 - the product of rows scaled to unit length: (m, n), 0 to 2 up to rounding.

    Args:
        left: (m, embed_dim) float32 or float64 on the CPU.
        left_squares: (m,) squared Euclidean lengths of its rows, none of them 0.
        right: (n, embed_dim), likewise.
        right_squares: (n,), likewise.
    """
    return _inner_products(left / left_squares.sqrt()[:, None], right).div_(right_squares.sqrt()).neg_().add_(1)


def squared_distances(
    left: torch.Tensor, left_squares: torch.Tensor, right: torch.Tensor, right_squares: torch.Tensor
) -> torch.Tensor:
    """Compute squared Euclidean distances, (m, n), by |a|² + |b|² - 2ab; what rounding leaves under 0 is raised to 0.

    Its arguments are those of `cosine_distances`; rows may be 0.
    """
    products = _inner_products(left, right)
    return products.mul_(-2).add_(left_squares[:, None]).add_(right_squares).clamp_(min=0)


def _inner_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    # NumPy's product and not torch's: torch.set_float32_matmul_precision, which a training run lowers for speed, would change
    # ours.
    products: torch.Tensor = torch.from_numpy(left.numpy() @ right.numpy().T)
    return products
