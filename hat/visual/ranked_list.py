"""The ranked-list picture: for some queries, the gallery images that a model ranks first, right and wrong ones framed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hat.data.datasets import JUNK_PID, ReIDDataset
from hat.errors import DataError, UsageError
from hat.metrics import RankingResult
from hat.metrics.inputs import Matrix, check_count, check_embedding_pair
from hat.metrics.ranking import cosine_distances

from .figures import Tile, draw_grid


class RankedRow(NamedTuple):
    """A query and the top of its ranking."""

    query: int
    """The query's place in its split."""

    average_precision: float
    """Of the whole ranking, in [0, 1]."""

    top: npt.NDArray[np.int64]
    """Places of the nearest gallery images in their split, nearest first."""

    similarities: npt.NDArray[np.float32]
    """Their cosine similarities to the query, -1 to 1."""


def rank_rows(
    query_embeddings: Matrix,
    gallery_embeddings: Matrix,
    dataset: ReIDDataset,
    *,
    num_queries: int = 8,
    top_k: int = 10,
    seed: int = 0,
    distances: npt.NDArray[np.float32] | None = None,
) -> list[RankedRow]:
    """Draw queries at random and rank the gallery for each: junk and same-camera images of the query's identity are left out.

    Args:
        query_embeddings: (num_query, embed_dim) floating point, rows in the order of the split.
        gallery_embeddings: (num_gallery, embed_dim), likewise.
        dataset: Where the labels are.
        num_queries: How many queries, fewer where fewer have a match.
        top_k: How many gallery images for each, fewer where fewer are ranked.
        seed: Seed of the random choice.
        distances: (num_query, num_gallery); ranks by these, re-ranked ones for example, instead of by cosine distance.

    Returns:
        A row for each chosen query, in the order of the split. Of two images at the same distance that with the smaller index
        comes first, as in the metrics.

    Raises:
        UsageError: A shape, type or option is wrong, or an embedding or distance is not finite or cannot be scaled.
        DataError: No query has a match.
    """
    check_count(num_queries, "num_queries")
    check_count(top_k, "top_k")
    sides = check_embedding_pair(query_embeddings, gallery_embeddings)
    for rows, split in zip(sides, (dataset.query, dataset.gallery), strict=True):
        if rows.num_rows != len(split):
            raise UsageError(
                f"got {rows.num_rows} {split.name} embeddings for the {len(split)} images of that split of {dataset.name}; "
                "were they made from this data set?"
            )
    shape = (len(dataset.query), len(dataset.gallery))
    if distances is not None and (distances.shape != shape or np.isnan(distances).any()):
        raise UsageError(f"distances must be of shape {shape} without NaN, which has no rank, got shape {distances.shape}")
    pids, camids = dataset.gallery.pids, dataset.gallery.camids
    chosen: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(dataset.query)).tolist():
        sample = dataset.query[index]
        if sample.pid != JUNK_PID and ((pids == sample.pid) & (camids != sample.camid)).any():
            chosen.append(index)
        if len(chosen) == num_queries:
            break
    if not chosen:
        raise DataError(
            f"none of the {len(dataset.query)} queries of {dataset.name} has a match from another camera in the gallery"
        )
    chosen.sort()
    left, right = (side.read(0, side.num_rows, torch.float32) for side in sides)
    squares = [side.squared_lengths(0, side.num_rows, torch.float32, nonzero=True) for side in sides]
    similarities = 1 - cosine_distances(left[chosen], squares[0][chosen], right, squares[1]).numpy()
    found = []
    for row, index in enumerate(chosen):
        sample = dataset.query[index]
        ranked = np.flatnonzero((pids != JUNK_PID) & ~((pids == sample.pid) & (camids == sample.camid)))
        ranked_by = -similarities[row] if distances is None else distances[index]
        order = ranked[np.argsort(ranked_by[ranked], kind="stable")]
        ranks = np.flatnonzero(pids[order] == sample.pid) + 1
        average_precision = float(np.mean(np.arange(1, len(ranks) + 1) / ranks))
        found.append(RankedRow(index, average_precision, order[:top_k], similarities[row, order[:top_k]]))
    return found


def ranked_list(
    rows: Sequence[RankedRow], dataset: ReIDDataset, *, title: str = "", result: RankingResult | None = None
) -> Image.Image:
    """Draw rankings: a row for each query, then its nearest gallery images.

    An image of the query's identity has a green frame and a tick, any other a red frame and a cross.

    Args:
        rows: What `rank_rows` gives.
        dataset: The data set, from which labels and image files come.
        title: The model's name, for the header.
        result: The metrics, for the header.

    Returns:
        An RGB picture.

    Raises:
        UsageError: The picture would be enormous.
        ImageError: An image cannot be read.
        MissingExtraError: matplotlib is not installed.
    """
    tiles = []
    for row in rows:
        query = dataset.query[row.query]
        caption = f"id {query.pid} · cam {query.camid}\nAP {100 * row.average_precision:.0f} %"
        line = [Tile(query.path, caption, is_query=True)]
        for index, similarity in zip(row.top.tolist(), row.similarities, strict=True):
            sample = dataset.gallery[index]
            caption = f"{similarity:.2f} · cam {sample.camid}\nid {sample.pid}"
            line.append(Tile(sample.path, caption, sample.pid == query.pid))
        tiles.append(line)
    subtitle = [
        f"{len(rows)} of {len(dataset.query):,} queries; under each image its cosine similarity",
        "Left out: images of the query's identity from its own camera",
    ]
    if result is not None:
        rates = {"mAP": result.mAP, "Rank-1": result.rank1, "mINP": result.mINP}
        subtitle.insert(0, "  ·  ".join(f"{name} {100 * rate:.1f} %" for name, rate in rates.items()))
    labels = ["Query", *map(str, range(1, max(map(len, tiles), default=1)))]
    return draw_grid(tiles, "  ·  ".join(filter(None, (title, dataset.name))), subtitle, column_labels=labels)
