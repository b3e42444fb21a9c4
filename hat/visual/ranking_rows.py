"""Which images a ranked-list picture shows: chosen queries and the top of their rankings, by the protocol of `hat.metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from hat.data.datasets import JUNK_PID, ReIDDataset, Split
from hat.errors import DataError, UsageError

__all__ = ["Choice", "Matrix", "RankedImage", "RankedRow", "rank_rows"]

Matrix: TypeAlias = npt.NDArray[np.floating[Any]]

Choice = Literal["random", "first", "hardest"]

_GALLERY_ROWS = 8192
_QUERY_ROWS = 256


@dataclass(frozen=True, slots=True)
class RankedImage:
    """A gallery image in a ranking.

    Attributes:
        index: Its place in the gallery.
        similarity: Cosine similarity to the query, -1 to 1; larger is closer.
        is_match: Whether it shows the query's identity.
    """

    index: int
    similarity: float
    is_match: bool


@dataclass(frozen=True, slots=True)
class RankedRow:
    """A query and the top of its ranking.

    Attributes:
        query: The query's place in its split.
        average_precision: Of the whole ranking, in [0, 1].
        top: The nearest gallery images, nearest first.
    """

    query: int
    average_precision: float
    top: tuple[RankedImage, ...]


def rank_rows(
    query_embeddings: Matrix,
    gallery_embeddings: Matrix,
    dataset: ReIDDataset,
    *,
    num_queries: int = 8,
    top_k: int = 10,
    seed: int = 0,
    choice: Choice = "random",
    distances: Matrix | None = None,
) -> list[RankedRow]:
    """Choose queries and rank the gallery for each: junk and same-camera images of the query's identity are left out.

    Args:
        query_embeddings: (num_query, embed_dim) floating point, rows in the order of the split; scaled to unit length here.
        gallery_embeddings: (num_gallery, embed_dim), likewise.
        dataset: Where the labels are.
        num_queries: How many queries, fewer where fewer have a match.
        top_k: How many gallery images for each, fewer where fewer are ranked.
        seed: Seed of the random choice.
        choice: ``"random"``; ``"first"`` in the split; or ``"hardest"``, those with the lowest average precision, lowest first.
        distances: (num_query, num_gallery); ranks by these, re-ranked ones for example, instead of by cosine distance.

    Returns:
        A row for each chosen query: in the order of the split, but for ``"hardest"``. Of two images at the same distance that
        with the smaller index comes first, as in the metrics.

    Raises:
        UsageError: A shape, type or option is wrong, or an embedding or distance is not finite or cannot be scaled.
        DataError: No query has a match.
    """
    for name, count in (("num_queries", num_queries), ("top_k", top_k)):
        if count < 1:
            raise UsageError(f"{name} must be at least 1, got {count}")
    if choice not in get_args(Choice):
        raise UsageError(f"choice must be one of {', '.join(get_args(Choice))}, got {choice!r}")
    ranking = _Ranking(query_embeddings, gallery_embeddings, dataset, distances)
    candidates = _with_match(dataset)
    if choice == "random":
        drawn = np.random.default_rng(seed).choice(candidates, size=min(num_queries, len(candidates)), replace=False)
        chosen = sorted(drawn.tolist())
    elif choice == "first":
        chosen = candidates[:num_queries]
    else:
        chosen = sorted(candidates, key=ranking.average_precisions(candidates).__getitem__)[:num_queries]
    return ranking.rows(chosen, top_k)


def _with_match(dataset: ReIDDataset) -> list[int]:
    """Queries that another camera of the gallery sees too."""
    cameras: dict[int, set[int]] = {}
    for sample in dataset.gallery:
        cameras.setdefault(sample.pid, set()).add(sample.camid)
    found = [
        index
        for index, sample in enumerate(dataset.query)
        if sample.pid != JUNK_PID and cameras.get(sample.pid, set()) - {sample.camid}
    ]
    if not found:
        raise DataError(
            f"none of the {len(dataset.query)} queries of {dataset.name} has a match from another camera in the gallery"
        )
    return found


class _Ranking:
    """Rankings of some queries over the whole gallery, computed block by block."""

    def __init__(self, query: Matrix, gallery: Matrix, dataset: ReIDDataset, distances: Matrix | None) -> None:
        self._query = _check_embeddings(query, dataset.query, dataset.name)
        self._gallery = _check_embeddings(gallery, dataset.gallery, dataset.name)
        self._dataset = dataset
        self._distances = distances
        if query.shape[1] != gallery.shape[1]:
            raise UsageError(f"query and gallery embeddings must be equally wide, got {query.shape[1]} and {gallery.shape[1]}")
        if distances is not None and distances.shape != (len(query), len(gallery)):
            raise UsageError(f"distances must be of shape {(len(query), len(gallery))}, got {distances.shape}")

    def average_precisions(self, queries: Sequence[int]) -> dict[int, float]:
        """Query -> average precision of its whole ranking."""
        precisions: dict[int, float] = {}
        for block in _blocks(queries):
            for query, distances in zip(block, self._rank_by(block, self._similarities(block)), strict=True):
                precisions[query] = self._average_precision(query, self._order(query, distances))
        return precisions

    def rows(self, queries: Sequence[int], top_k: int) -> list[RankedRow]:
        """Rankings of these queries, in their order."""
        rows: list[RankedRow] = []
        pids = self._dataset.gallery.pids
        for block in _blocks(queries):
            similarities = self._similarities(block)
            for query, distances, similar in zip(block, self._rank_by(block, similarities), similarities, strict=True):
                order = self._order(query, distances)
                pid = self._dataset.query.pids[query]
                top = tuple(RankedImage(int(i), float(similar[i]), bool(pids[i] == pid)) for i in order[:top_k])
                rows.append(RankedRow(query, self._average_precision(query, order), top))
        return rows

    def _order(self, query: int, distances: Matrix) -> npt.NDArray[np.int64]:
        """Gallery indices of what is ranked, nearest first."""
        asked, gallery = self._dataset.query[query], self._dataset.gallery
        same_camera = (gallery.pids == asked.pid) & (gallery.camids == asked.camid)
        ranked = np.flatnonzero(~same_camera & (gallery.pids != JUNK_PID))
        order: npt.NDArray[np.int64] = ranked[np.argsort(distances[ranked], kind="stable")]
        return order

    def _average_precision(self, query: int, order: npt.NDArray[np.int64]) -> float:
        ranks = np.flatnonzero(self._dataset.gallery.pids[order] == self._dataset.query.pids[query]) + 1
        return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))

    def _rank_by(self, queries: Sequence[int], similarities: Matrix) -> Matrix:
        """What the gallery is ranked by, (len(queries), num_gallery), smaller first."""
        if self._distances is None:
            return 1 - similarities
        rows = np.asarray(self._distances[list(queries)])
        if np.isnan(rows).any():
            raise UsageError("distances must not be NaN, since NaN has no rank")
        return rows

    def _similarities(self, queries: Sequence[int]) -> Matrix:
        """Cosine similarities of some queries to the whole gallery, (len(queries), num_gallery)."""
        asked = _unit_rows(self._query[list(queries)], "query")
        similarities = np.empty((len(queries), len(self._gallery)), dtype=np.result_type(asked.dtype, np.float32))
        for start in range(0, len(self._gallery), _GALLERY_ROWS):
            block = _unit_rows(self._gallery[start : start + _GALLERY_ROWS], "gallery")
            similarities[:, start : start + len(block)] = asked @ block.T
        return similarities


def _check_embeddings(embeddings: Matrix, split: Split, dataset_name: str) -> Matrix:
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f":
        raise UsageError(
            f"{split.name} embeddings must be a floating-point matrix (n, embed_dim), got {embeddings.shape} {embeddings.dtype}"
        )
    if len(embeddings) != len(split):
        raise UsageError(
            f"got {len(embeddings)} {split.name} embeddings for the {len(split)} images of that split of {dataset_name}; "
            "were they made from this data set?"
        )
    return embeddings


def _unit_rows(rows: Matrix, side: str) -> Matrix:
    """Rows at unit length, in float32 or, where they are in double precision, float64."""
    wide = np.asarray(rows, dtype=np.float64 if rows.dtype == np.float64 else np.float32)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise UsageError(f"a row of the {side} embeddings is zero or not finite, and has no direction to compare")
    unit: Matrix = wide / lengths
    return unit


def _blocks(queries: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(queries), _QUERY_ROWS):
        yield list(queries[start : start + _QUERY_ROWS])
