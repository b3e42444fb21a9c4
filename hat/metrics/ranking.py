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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from hat.data.datasets import JUNK_PID
from hat.errors import DataError, UsageError
from hat.metrics.embeddings import Labels, Matrix, check_count, check_distances, check_embedding_pair, check_labels

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
        """Return the rate of counted queries that have a match among their k nearest gallery images, k being counted from 1.

        Beyond the end of the gallery the rate is that of the whole gallery.

        Raises:
            UsageError: ``k`` is under 1, or over the ``max_rank`` that was evaluated.
        """
        if k < 1:
            raise UsageError(f"ranks are counted from 1, got {k}")
        if k > len(self.cmc) and len(self.cmc) < self.num_gallery:
            raise UsageError(
                f"rank {k} was not evaluated: the CMC ends at rank {len(self.cmc)}; evaluate with max_rank={k} or more"
            )
        return float(self.cmc[min(k, len(self.cmc)) - 1])

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
        """Return plain numbers for JSON; a rank beyond the evaluated ``max_rank`` is None."""
        return {
            "mAP": self.mAP,
            **{f"rank{k}": rate for k, rate in self._usual_ranks().items()},
            "mINP": self.mINP,
            "num_queries": self.num_queries,
            "num_skipped_queries": self.num_skipped_queries,
            "num_gallery": self.num_gallery,
        }

    def _usual_ranks(self) -> dict[int, float | None]:
        last = len(self.cmc) if len(self.cmc) < self.num_gallery else 10
        return {k: self.rank(k) if k <= last else None for k in (1, 5, 10)}

    def __str__(self) -> str:
        ranks = [f"Rank-{k} {100 * rate:.2f} %" for k, rate in self._usual_ranks().items() if rate is not None]
        parts = [f"mAP {100 * self.mAP:.2f} %", *ranks, f"mINP {100 * self.mINP:.2f} %"]
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
        query_pids: Identity of each query, (num_query,) integers; ``query_camids`` their cameras.
        gallery_pids: Identity of each gallery image, (num_gallery,) integers; -1 is junk.
        max_rank: Length of the CMC curve; cut to the number of ranked gallery images where they are fewer.

    Raises:
        UsageError: A shape or type is wrong, ``max_rank`` is under 1, or a distance is NaN.
        DataError: No query has a match in the gallery, so that no metric exists.
    """
    distances = check_distances(distmat)
    num_query, num_gallery = distances.shape
    dtype = np.dtype(np.float64 if distances.dtype == np.float64 else np.float32)
    parts = slices(num_query, max(1, _BLOCK_BYTES // (num_gallery * dtype.itemsize)))
    blocks = (np.array(distances[part], dtype=dtype, order="C") for part in parts)
    return _evaluate_blocks(blocks, num_query, num_gallery, query_pids, query_camids, gallery_pids, gallery_camids, max_rank)


def _evaluate_blocks(
    blocks: Iterable[npt.NDArray[Any]],
    num_query: int,
    num_gallery: int,
    query_pids: Labels,
    query_camids: Labels,
    gallery_pids: Labels,
    gallery_camids: Labels,
    max_rank: int,
) -> RankingResult:
    """Rank the gallery for each query by (block, num_gallery) distances of consecutive queries, which are overwritten."""
    query_pids = check_labels(query_pids, num_query, "query_pids")
    query_camids = check_labels(query_camids, num_query, "query_camids")
    gallery_pids = check_labels(gallery_pids, num_gallery, "gallery_pids")
    gallery_camids = check_labels(gallery_camids, num_gallery, "gallery_camids")
    # Grouping the gallery by identity once makes finding a query's matches independent of the gallery's size; the sort is
    # stable, so that each group lists its images by growing index.
    by_pid = np.argsort(gallery_pids, kind="stable")
    group_starts, group_ends = (np.searchsorted(gallery_pids[by_pid], query_pids, side=side) for side in ("left", "right"))
    junk = np.flatnonzero(gallery_pids == JUNK_PID)
    num_ranked = num_gallery - len(junk)
    first_ranks = np.zeros(min(check_count(max_rank, "max_rank"), max(1, num_ranked)), dtype=np.int64)
    precisions, penalties = [], []
    for query, row in enumerate(row for block in blocks for row in block):
        if np.isnan(row).any():
            raise UsageError(
                f"the distance of query {query} and gallery image {int(np.isnan(row).argmax())} is NaN, so it has no rank; "
                "look for NaN in the embeddings or for a row of zeros that was normalized"
            )
        same_pid = by_pid[group_starts[query] : group_ends[query]]
        same_camera = gallery_camids[same_pid] == query_camids[query]
        matches = same_pid[~same_camera]
        if query_pids[query] == JUNK_PID or not len(matches):
            continue
        # A comparison with NaN is false both ways, so an excluded image is never counted as nearer, nor as a tie.
        row[junk] = np.nan
        row[same_pid[same_camera]] = np.nan
        ranks = _ranks_of_matches(row, matches)
        precisions.append(average_precision(ranks))
        penalties.append(len(ranks) / float(ranks[-1]))
        if ranks[0] <= len(first_ranks):
            first_ranks[ranks[0] - 1] += 1
    num_counted = len(precisions)
    if not num_counted:
        raise DataError(
            f"none of the {num_query} queries has a match in the gallery: a match is an image of the same pid "
            "from another camid; check that query and gallery share their identity labels and that camids differ"
        )
    return RankingResult(
        mAP=sum(precisions) / num_counted,
        cmc=np.cumsum(first_ranks) / num_counted,
        mINP=sum(penalties) / num_counted,
        num_queries=num_counted,
        num_skipped_queries=num_query - num_counted,
        num_gallery=num_ranked,
    )


def average_precision(ranks: npt.NDArray[np.int64]) -> float:
    """Return the mean of the precision at each match, whose ranks are given, from 1 and growing."""
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def _ranks_of_matches(row: npt.NDArray[Any], matches: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the ranks, from 1 and growing, at which a stable sort of a query's distances would put its matches.

    NaN in ``row`` marks images that are not ranked; ``matches`` are growing indices of others. Few matches need no sort.
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
        query_pids: This and the other labels are those of `evaluate_ranking`, as is ``max_rank``.
        metric: ``"cosine"`` ranks by 1 - the product of rows scaled to unit length; ``"euclidean"`` by the Euclidean distance
            of the rows as they are (its square, which ranks alike). Computed in float64 where an input is float64, else in
            float32.
        block_bytes: Size of a block of distances. The peak of memory is the embeddings and two or three times this.

    Raises:
        UsageError: A shape, type or option is wrong, a value is NaN or infinite, or a row cannot be scaled to unit length.
        DataError: No query has a match in the gallery, so that no metric exists.
    """
    if metric not in get_args(Metric):
        raise UsageError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    queries, gallery = check_embedding_pair(query_embeddings, gallery_embeddings)
    sizes = (queries.num_rows, gallery.num_rows)
    dtype = torch.float64 if queries.is_float64 or gallery.is_float64 else torch.float32
    step = max(1, check_count(block_bytes, "block_bytes") // (gallery.num_rows * dtype.itemsize))
    cosine = metric == "cosine"
    measure = cosine_distances if cosine else squared_distances

    def blocks() -> Iterator[npt.NDArray[Any]]:
        for rows in slices(queries.num_rows, step):
            left = queries.read(rows, dtype, nonzero=cosine)
            block = torch.empty(len(left[0]), gallery.num_rows, dtype=dtype)
            # The gallery is read in parts, and each part for every block of queries again: a copy of the whole may not fit.
            for part in slices(gallery.num_rows, _GALLERY_ROWS):
                block[:, part] = measure(*left, *gallery.read(part, dtype, nonzero=cosine))
            yield block.numpy()

    return _evaluate_blocks(blocks(), *sizes, query_pids, query_camids, gallery_pids, gallery_camids, max_rank)


def slices(total: int, step: int) -> list[slice]:
    """Cut ``range(total)`` into consecutive slices of ``step``, of which the last one may be shorter."""
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def cosine_distances(
    left: torch.Tensor, left_squares: torch.Tensor, right: torch.Tensor, right_squares: torch.Tensor
) -> torch.Tensor:
    """Compute 1 - the product of rows scaled to unit length: (m, n), 0 to 2 up to rounding.

    Rows are (m, embed_dim) and (n, embed_dim) float32 or float64 on the CPU, squares their squared lengths, none of them 0.
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
