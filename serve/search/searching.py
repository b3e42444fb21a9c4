"""Ranking a gallery: by similarity, for several images of one person, and re-ranked by k-reciprocal neighbors."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError, WorkError
from hat.metrics import rerank as rerank_distances

from ..gallery.records import Filter, Neighbors, Record, RecordsMissingError

_MAX_RERANK_POOL = 5000
"""Re-ranking compares the pool with itself: its work grows with the square of this."""

_SMALLEST_MEAN = 1e-3
"""Length of a mean of unit rows below which they point everywhere and their mean means nothing."""

_MAX_ATTEMPTS = 3


class Searchable(Protocol):
    """What is searched: a `Gallery`, or a view of one."""

    location: str

    def search(self, embeddings: npt.NDArray[np.floating], top: int = 10, where: Filter | None = None) -> Neighbors:
        """See `Gallery.search`."""

    def get(self, ids: Sequence[int], *, thumbnails: bool = False) -> list[Record]:
        """See `Gallery.get`."""

    def embeddings(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """See `Gallery.embeddings`."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A record that was found.

    Attributes:
        record: The record.
        similarity: Its cosine similarity to the query, in [-1, 1]; larger is closer.
        distance: Its k-reciprocal re-ranked distance, smaller is closer, where re-ranking was asked for.
        rank_before: Its rank, from 1, by similarity alone, where re-ranking was asked for.
    """

    record: Record
    similarity: float
    distance: float | None = None
    rank_before: int | None = None


_Hit = tuple[int, float, float | None, int | None]
"""What a match is made of beside its record, which is read later: id, similarity, distance and rank before."""


def person_embedding(embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return one embedding for several images of one person: the mean of their unit rows, at unit length again.

    Args:
        embeddings: (n, embed_dim) unit rows, n of at least 1.

    Returns:
        (embed_dim,) float32 of unit length; a single row comes back as it is.

    Raises:
        UsageError: There is no row, or the rows point so far apart that their mean has no direction.
    """
    if embeddings.ndim != 2 or not len(embeddings):
        raise UsageError(f"expected the embeddings of at least one image, (n, embed_dim), got {embeddings.shape}")
    if len(embeddings) == 1:
        return np.asarray(embeddings[0], dtype=np.float32)
    mean = embeddings.mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    if not length > _SMALLEST_MEAN:
        raise UsageError(f"the {len(embeddings)} images have nothing in common: they cannot be of one person")
    return np.asarray(mean / length, dtype=np.float32)


def search_gallery(
    gallery: Searchable,
    queries: npt.NDArray[np.floating],
    *,
    top: int = 10,
    where: Filter | None = None,
    rerank: bool = False,
    rerank_pool: int = 200,
    thumbnails: bool = False,
    seconds: dict[str, float] | None = None,
) -> list[list[Match]]:
    """Rank a gallery for each query.

    Re-ranking (`hat.rerank`, its usual k1 20, k2 6, lambda 0.3) works within the pool of each query's nearest records. Each
    query is re-ranked by itself, so that its result does not depend on what else was asked for in the same call; where the pool
    is the whole gallery, the distances are those of ``hat.rerank(query[None], gallery)``.

    Args:
        gallery: The gallery; `Gallery.check_model` is the caller's duty.
        queries: (num_queries, embed_dim) unit rows.
        top: Most matches for each query, at least 1.
        where: Which records may be found; None is all.
        rerank: Order by re-ranked distance instead of by similarity.
        rerank_pool: How many nearest records are re-ranked; raised to ``top`` where that is more.
        thumbnails: Read the records' thumbnails too.
        seconds: Filled with how long each step took: ``"search"``, ``"rerank"`` where there was such a step, and ``"read"``.

    Returns:
        The matches of each query, best first; fewer than ``top`` where fewer records pass the filter.

    Raises:
        UsageError: Shapes do not agree, a query is not finite or not of unit length, or a number is out of range.
        WorkError: Other processes keep removing records that were just found.
    """
    if top < 1:
        raise UsageError(f"top is at least 1, got {top}")
    pool = max(top, rerank_pool) if rerank else top
    if rerank and pool > _MAX_RERANK_POOL:
        raise UsageError(f"re-ranking works within 1 to {_MAX_RERANK_POOL:,} nearest records, got {pool:,}")
    # A record that another thread removes between being found and being read is no error of this call: it looks again.
    for _ in range(_MAX_ATTEMPTS):
        times = [time.perf_counter()]
        neighbors = gallery.search(queries, pool, where)
        times.append(time.perf_counter())
        try:
            rankings = [
                _ranking(gallery, query, ids[ids >= 0], values[ids >= 0], rerank)[:top]
                for query, ids, values in zip(queries, neighbors.ids, neighbors.similarities, strict=True)
            ]
            times.append(time.perf_counter())
            found = sorted({id_ for ranking in rankings for id_, *_ in ranking})
            records = dict(zip(found, gallery.get(found, thumbnails=thumbnails), strict=True)) if found else {}
        except RecordsMissingError:
            continue
        times.append(time.perf_counter())
        if seconds is not None:
            steps = zip(("search", "rerank", "read"), pairwise(times), strict=True)
            seconds |= {step: end - start for step, (start, end) in steps if step != "rerank" or rerank}
        return [
            [
                Match(record=records[id_], similarity=similarity, distance=distance, rank_before=rank)
                for id_, similarity, distance, rank in ranking
            ]
            for ranking in rankings
        ]
    raise WorkError(f"{gallery.location}: records are removed as fast as they are found: try again")


def _ranking(
    gallery: Searchable,
    query: npt.NDArray[np.floating],
    ids: npt.NDArray[np.int64],
    similarities: npt.NDArray[np.float32],
    rerank: bool,
) -> list[_Hit]:
    if not rerank or not len(ids):
        return [(id_, similarity, None, None) for id_, similarity in zip(ids.tolist(), similarities.tolist(), strict=True)]
    # By id and not by similarity: re-ranking breaks ties by place, and a pool must break them as the whole gallery does.
    by_id = np.argsort(ids)
    distances = rerank_distances(query[None], gallery.embeddings(ids[by_id].tolist()))[0]
    order = np.argsort(distances, kind="stable")
    return [
        (int(ids[place]), float(similarities[place]), float(distances[one]), int(place) + 1)
        for one, place in zip(order, by_id[order], strict=True)
    ]
