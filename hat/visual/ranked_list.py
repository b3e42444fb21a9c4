"""The ranked-list picture: for some queries, the gallery images that a model ranks first, right and wrong ones framed."""

from PIL import Image

from hat.data.datasets import ReIDDataset
from hat.metrics import RankingResult
from hat.visual.ranking_rows import Choice, Matrix, RankedImage, RankedRow, rank_rows
from hat.visual.tile_sheet import Tile, draw_ranking

_CHOICES = {
    "random": "chosen at random (seed {seed})",
    "first": "the first of the split",
    "hardest": "those with the lowest average precision",
}


def ranked_list(
    query_embeddings: Matrix,
    gallery_embeddings: Matrix,
    dataset: ReIDDataset,
    *,
    num_queries: int = 8,
    top_k: int = 10,
    seed: int = 0,
    title: str = "",
    result: RankingResult | None = None,
    choice: Choice = "random",
    distances: Matrix | None = None,
) -> Image.Image:
    """Draw rankings: a row for each query, then its nearest gallery images.

    Under the protocol of the metrics: junk and same-camera images of the query's identity are left out. An image of the query's
    identity has a green frame and a tick, any other a red frame and a cross.

    Args:
        query_embeddings: (num_query, embed_dim) floating point, rows in the order of the split.
        gallery_embeddings: (num_gallery, embed_dim), likewise.
        dataset: The data set, from which labels and image files come.
        num_queries: How many queries, fewer where fewer have a match.
        top_k: How many gallery images for each.
        seed: Seed of the random choice of queries.
        title: The model's name, for the header.
        result: The metrics, for the header.
        choice: Which queries: see `hat.visual.rank_rows`.
        distances: (num_query, num_gallery); ranks by these, re-ranked ones for example, instead of by cosine distance. The
            similarities in the captions are cosine similarities either way.

    Returns:
        An RGB picture.

    Raises:
        UsageError: A shape, type or option is wrong, or the picture would be enormous.
        DataError: No query has a match.
        ImageError: An image cannot be read.
        MissingExtraError: matplotlib is not installed.
    """
    rows = rank_rows(
        query_embeddings,
        gallery_embeddings,
        dataset,
        num_queries=num_queries,
        top_k=top_k,
        seed=seed,
        choice=choice,
        distances=distances,
    )
    tiles = []
    for row in rows:
        sample = dataset.query[row.query]
        captions = (f"id {sample.pid}", f"cam {sample.camid}"), f"AP {100 * row.average_precision:.0f} %"
        query = Tile(sample.path, captions)
        tiles.append((query, [_ranked_tile(dataset, ranked) for ranked in row.top]))
    heading = "  ·  ".join(part for part in (title, dataset.name) if part)
    return draw_ranking(tiles, heading, _subtitle(dataset, result, rows, _CHOICES[choice].format(seed=seed), distances))


def _ranked_tile(dataset: ReIDDataset, ranked: RankedImage) -> Tile:
    sample = dataset.gallery[ranked.index]
    captions = (f"{ranked.similarity:.2f}", f"cam {sample.camid}"), f"id {sample.pid}"
    return Tile(sample.path, captions, ranked.is_match)


def _subtitle(
    dataset: ReIDDataset, result: RankingResult | None, rows: list[RankedRow], chosen: str, distances: Matrix | None
) -> list[str]:
    lines = [f"{len(rows)} of {len(dataset.query):,} queries, {chosen}"]
    if result is not None:
        rates = {"mAP": result.mAP, "Rank-1": result.rank1, "mINP": result.mINP}
        lines.insert(0, "  ·  ".join(f"{name} {100 * rate:.1f} %" for name, rate in rates.items()))
    lines.append(f"Ranked by {'cosine similarity' if distances is None else 'the given distances'}")
    return [*lines, "Left out: images of the query's identity from its own camera"]
