"""Ranking a gallery: by similarity, without what its cameras add, and re-ranked by k-reciprocal neighbors."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError, WorkError
from hat.metrics import CameraMeans
from hat.metrics import rerank as rerank_distances

from ..gallery.gallery import Gallery
from ..gallery.record_checks import UNKNOWN
from ..gallery.records import Filter, Neighbors, Record, RecordsMissingError
from .exact_search import nearest_rows

_MAX_RERANK_POOL = 5000  # re-ranking compares the pool with itself: its work grows with the square of this
_SMALLEST_MEAN = 1e-3  # length of a mean of unit rows below which they point everywhere and their mean means nothing
_MAX_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Match:
    """A record that was found.

    Attributes:
        similarity: Its cosine similarity to the query, in [-1, 1]; larger is closer.
        distance: Its k-reciprocal re-ranked distance, smaller is closer, where re-ranking was asked for.
        rank_before: Its rank, from 1, by similarity alone, where re-ranking was asked for.
    """

    record: Record
    similarity: float
    distance: float | None = None
    rank_before: int | None = None


_Hit = tuple[int, float, float | None, int | None]
"""Match without its record, which is read later: id, similarity, distance and rank before."""


class CenteredGallery:
    """A gallery's embeddings, in memory, without the mean of each camera: what a camera adds to all images decides no rank.

    A record or a query whose camera is not known, or of whose camera there is a single record, has the mean of all records
    subtracted. Records that come later are not found.

    Raises:
        UsageError: Not one camera of the gallery has two records.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.location = gallery.location
        self._gallery = gallery
        records = list(gallery.records())
        self._ids = np.array([record.id for record in records], dtype=np.int64)
        camids = np.array([UNKNOWN if record.camid is None else record.camid for record in records], dtype=np.int64)
        if not (np.unique(camids[camids != UNKNOWN], return_counts=True)[1] > 1).any():
            raise UsageError(f"{gallery.location}: no camera has two images, so that there is no mean of one to subtract")
        embeddings = gallery.embeddings(self._ids.tolist())
        means = CameraMeans.of(embeddings, camids)
        known = means.camids != UNKNOWN
        self._means = replace(means, camids=means.camids[known], means=means.means[np.append(known, True)])
        self._rows = self._means.subtract(embeddings, camids)

    def center(self, embedding: npt.NDArray[np.float32], camids: Collection[int]) -> npt.NDArray[np.float32]:
        """Return the embedding (embed_dim,) of a query without the mean of its one camera; `UsageError` if nothing is left."""
        camid = next(iter(camids)) if len(camids) == 1 else UNKNOWN
        centered: npt.NDArray[np.float32] = self._means.subtract(embedding[None], np.array([camid]))[0]
        return centered

    def search(self, embeddings: npt.NDArray[np.floating], top: int = 10, where: Filter | None = None) -> Neighbors:
        """Return the nearest records of each centered query; see `Gallery.search`."""
        mask = np.isin(self._ids, self._gallery.ids(where))
        rows, similarities = nearest_rows([self._rows], embeddings.astype(np.float32), top, mask)
        return Neighbors(ids=np.where(rows < 0, -1, self._ids[rows]), similarities=similarities)

    def embeddings(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the centered embeddings (n, embed_dim) of records."""
        return self._rows[np.searchsorted(self._ids, ids)]

    def get(self, ids: Sequence[int], *, thumbnails: bool = False) -> list[Record]:
        """Return records by id; see `Gallery.get`."""
        return self._gallery.get(ids, thumbnails=thumbnails)


def person_embedding(embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return one embedding (embed_dim,) for several images of one person: the mean of their unit rows, at unit length again.

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
    gallery: Gallery | CenteredGallery,
    queries: npt.NDArray[np.floating],
    *,
    top: int = 10,
    where: Filter | None = None,
    rerank: bool = False,
    rerank_pool: int = 200,
    thumbnails: bool = False,
    seconds: dict[str, float] | None = None,
) -> list[list[Match]]:
    """Return the matches of each query, best first; fewer than ``top`` where fewer records pass the filter.

    Re-ranking (`hat.rerank`, its usual k1 20, k2 6, lambda 0.3) works within the pool of each query's nearest records. Each
    query is re-ranked by itself, so that its result does not depend on what else was asked for in the same call; where the pool
    is the whole gallery, the distances are those of ``hat.rerank(query[None], gallery)``.

    Args:
        gallery: The gallery; `Gallery.check_model` is the caller's duty.
        queries: (num_queries, embed_dim) unit rows.
        where: Which records may be found; None is all.
        rerank: Order by re-ranked distance instead of by similarity.
        rerank_pool: How many nearest records are re-ranked; raised to ``top`` where that is more.
        seconds: Filled with how long each step took: ``"search"``, ``"rerank"`` where there was such a step, and ``"read"``.

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
            matched_ids = sorted({id_ for ranking in rankings for id_, *_ in ranking})
            records = (
                dict(zip(matched_ids, gallery.get(matched_ids, thumbnails=thumbnails), strict=True)) if matched_ids else {}
            )
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
    gallery: Gallery | CenteredGallery,
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
