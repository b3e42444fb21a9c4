"""Evaluating a model on a data set: embed both splits, rank the gallery for each query, count."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hat.data.datasets import ReIDDataset
from hat.embedder import Embedder
from hat.errors import DataError, UsageError
from hat.metrics import RankingResult, center_by_camera, evaluate_embeddings, evaluate_ranking
from hat.metrics import rerank as rerank_distances

Embeddings: TypeAlias = npt.NDArray[np.float32]


def evaluate(
    embedder: Embedder,
    dataset: ReIDDataset,
    *,
    rerank: bool = False,
    flip: bool = False,
    center_cameras: bool = False,
    advance: Callable[[int], None] | None = None,
) -> RankingResult:
    """Compute mAP, CMC and mINP of a model on a data set's query and gallery.

    Args:
        embedder: The model.
        dataset: Its gallery holds no junk.
        rerank: Rank by k-reciprocal re-ranked distances (k1 20, k2 6, lambda 0.3) instead of cosine distances.
        flip: Embed each image together with its mirror image.
        center_cameras: Subtract each camera's mean embedding before ranking (`center_dataset`).
        advance: Called with the number of images that were just embedded.

    Raises:
        DataError: The data set has no query, no gallery or no match, see `check_rankable`.
        ImageError: An image cannot be used.
    """
    check_rankable(dataset)
    query, gallery = embed_dataset(embedder, dataset, flip=flip, advance=advance)
    return rank_dataset(query, gallery, dataset, rerank=rerank, center_cameras=center_cameras).result


def embed_dataset(
    embedder: Embedder, dataset: ReIDDataset, *, flip: bool = False, advance: Callable[[int], None] | None = None
) -> tuple[Embeddings, Embeddings]:
    """Embed a data set's query and gallery: (num_query, embed_dim) and (num_gallery, embed_dim) float32."""
    query = embedder.embed_paths(dataset.query.paths, flip=flip, advance=advance)
    return query, embedder.embed_paths(dataset.gallery.paths, flip=flip, advance=advance)


def center_dataset(query: Embeddings, gallery: Embeddings, dataset: ReIDDataset) -> tuple[Embeddings, Embeddings]:
    """Return both sides less the mean of each camera over query and gallery together, scaled to unit length again.

    A data set whose cameras are not known is a `UsageError`: the means of its two sides would be taken for theirs.
    """
    check_centerable(dataset)
    camids = np.concatenate([dataset.query.camids, dataset.gallery.camids])
    centered = center_by_camera(np.concatenate([query, gallery]), camids)
    return centered[: len(query)], centered[len(query) :]


def check_centerable(dataset: ReIDDataset) -> None:
    """Refuse a data set whose cameras are not known by a `UsageError`, where each camera's mean is to be subtracted."""
    if not dataset.has_cameras:
        raise UsageError(f"{dataset.name}: nothing says a camera, so there is none to center: leave out --center-cameras")


def check_rankable(dataset: ReIDDataset) -> None:
    """Refuse a data set none of whose queries has a match that counts by a `DataError`, before its images are embedded."""
    if not len(dataset.query) or not len(dataset.gallery):
        raise DataError(
            f"{dataset.name} has {len(dataset.query)} query and {len(dataset.gallery)} gallery images: nothing to rank"
        )
    cameras: dict[int, set[int]] = {}
    for sample in dataset.gallery:
        cameras.setdefault(sample.pid, set()).add(sample.camid)
    seen = [(sample.camid, cameras[sample.pid]) for sample in dataset.query if sample.pid in cameras]
    if not seen:
        raise DataError(f"{dataset.name}: no identity of the query is in the gallery, so there is nothing to be found")
    if not any(where - {camera} for camera, where in seen):
        raise DataError(
            f"{dataset.name}: every match was seen by the query's own camera, and such pairs do not count; "
            "hat eval --no-cameras counts all pairs, which is easier than any benchmark"
        )


class Ranking(NamedTuple):
    """Metrics of a ranking, and what was ranked: embeddings, centered where that was asked for, and re-ranked distances."""

    result: RankingResult
    query: Embeddings
    gallery: Embeddings
    distances: Embeddings | None


def rank_dataset(
    query: Embeddings, gallery: Embeddings, dataset: ReIDDataset, *, rerank: bool = False, center_cameras: bool = False
) -> Ranking:
    """Rank embeddings whose rows stand in the order of the data set's splits, with the options of `evaluate`."""
    if center_cameras:
        query, gallery = center_dataset(query, gallery, dataset)
    labels = (dataset.query.pids, dataset.query.camids, dataset.gallery.pids, dataset.gallery.camids)
    if not rerank:
        return Ranking(evaluate_embeddings(query, gallery, *labels), query, gallery, None)
    distances = rerank_distances(query, gallery)
    return Ranking(evaluate_ranking(distances, *labels), query, gallery, distances)
