"""Which images a ranked-list picture shows: chosen queries and the top of their rankings, by the protocol of `hat.metrics`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from hat.data.datasets import JUNK_PID, ReIDDataset, Split
from hat.errors import DataError, UsageError

Matrix: TypeAlias = npt.NDArray[np.floating[Any]]

Choice = Literal["random", "first", "hardest"]

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
    query, query_lengths = _check_embeddings(query_embeddings, dataset.query, dataset.name)
    gallery, gallery_lengths = _check_embeddings(gallery_embeddings, dataset.gallery, dataset.name)
    if query.shape[1] != gallery.shape[1]:
        raise UsageError(f"query and gallery embeddings must be equally wide, got {query.shape[1]} and {gallery.shape[1]}")
    if distances is not None and distances.shape != (len(query), len(gallery)):
        raise UsageError(f"distances must be of shape {(len(query), len(gallery))}, got {distances.shape}")

    def rankings(queries: list[int]) -> Iterator[tuple[RankedRow, npt.NDArray[np.int64], Matrix]]:
        """Yield each query's row without its top, the order of the gallery, and the similarities to it, block by block."""
        for start in range(0, len(queries), _QUERY_ROWS):
            block = queries[start : start + _QUERY_ROWS]
            similarities = query[block] @ gallery.T / (query_lengths[block, None] * gallery_lengths)
            ranked_by = -similarities if distances is None else np.asarray(distances[block])
            if np.isnan(ranked_by).any():
                raise UsageError("distances must not be NaN, since NaN has no rank")
            for index, row, similar in zip(block, ranked_by, similarities, strict=True):
                order, average_precision = _rank(dataset, index, row)
                yield RankedRow(index, average_precision, ()), order, similar

    candidates = _with_match(dataset)
    if choice == "random":
        drawn = np.random.default_rng(seed).choice(candidates, size=min(num_queries, len(candidates)), replace=False)
        chosen = sorted(drawn.tolist())
    elif choice == "first":
        chosen = candidates[:num_queries]
    else:
        by_precision = sorted((row.average_precision, row.query) for row, *_ in rankings(candidates))
        chosen = [index for _, index in by_precision[:num_queries]]
    pids = dataset.gallery.pids
    return [
        replace(
            row,
            top=tuple(
                RankedImage(int(i), float(similar[i]), bool(pids[i] == dataset.query.pids[row.query])) for i in order[:top_k]
            ),
        )
        for row, order, similar in rankings(chosen)
    ]


def _rank(dataset: ReIDDataset, query: int, distances: Matrix) -> tuple[npt.NDArray[np.int64], float]:
    """Return gallery indices of what is ranked for a query, nearest first, and the average precision."""
    sample, gallery = dataset.query[query], dataset.gallery
    same_camera = (gallery.pids == sample.pid) & (gallery.camids == sample.camid)
    ranked = np.flatnonzero(~same_camera & (gallery.pids != JUNK_PID))
    order: npt.NDArray[np.int64] = ranked[np.argsort(distances[ranked], kind="stable")]
    ranks = np.flatnonzero(gallery.pids[order] == sample.pid) + 1
    return order, float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def _with_match(dataset: ReIDDataset) -> list[int]:
    """Return the queries that another camera of the gallery sees too."""
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


def _check_embeddings(embeddings: Matrix, split: Split, dataset_name: str) -> tuple[Matrix, Matrix]:
    """Return embeddings in float32 or, where they are in double precision, float64, and the lengths of their rows."""
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f":
        raise UsageError(
            f"{split.name} embeddings must be a floating-point matrix (n, embed_dim), got {embeddings.shape} {embeddings.dtype}"
        )
    if len(embeddings) != len(split):
        raise UsageError(
            f"got {len(embeddings)} {split.name} embeddings for the {len(split)} images of that split of {dataset_name}; "
            "were they made from this data set?"
        )
    wide = np.asarray(embeddings, dtype=np.result_type(embeddings.dtype, np.float32))
    lengths: Matrix = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise UsageError(f"a row of the {split.name} embeddings is zero or not finite, and has no direction to compare")
    return wide, lengths
