"""The ranked-list picture: for some queries, the gallery images that a model ranks first, right and wrong ones framed."""

from __future__ import annotations

from PIL import Image

from hat.data.datasets import ReIDDataset, Sample
from hat.data.images import read_image
from hat.metrics.result import RankingResult
from hat.visual.canvas import CAPTION_SIZE, INK, MARGIN, MUTED, RIGHT, WRONG, Canvas, fit_image, text_width
from hat.visual.ranking_rows import Choice, Matrix, RankedRow, rank_rows

__all__ = ["ranked_list"]

_TILE = (104, 208)
_FRAME = 4
_GAP, _QUERY_GAP = 14, 40
_HEAD, _CAPTIONS, _ROW_GAP = 30, 46, 20
_MAX_HEADING = 900

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
    """Picture of rankings: a row for each query, then its nearest gallery images.

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
    step = _TILE[0] + 2 * _FRAME + _GAP
    first = MARGIN + _TILE[0] + 2 * _FRAME + _QUERY_GAP
    num_columns = max(len(row.top) for row in rows)
    row_height = _TILE[1] + 2 * _FRAME + _CAPTIONS + _ROW_GAP
    heading, subtitle = _header(dataset, title, result, rows, _CHOICES[choice].format(seed=seed), distances is not None)
    needed = min(_MAX_HEADING, max(text_width(heading, 26), *(text_width(line, 16) for line in subtitle)))
    width = max(first + num_columns * step - _GAP, MARGIN + int(needed) + 2) + MARGIN
    canvas = Canvas(width, _HEAD + len(rows) * row_height - _ROW_GAP + MARGIN, heading, subtitle)
    _write_column_heads(canvas, first, step, num_columns)
    for number, row in enumerate(rows):
        top = canvas.top + _HEAD + number * row_height
        _draw_query(canvas, dataset.query[row.query], row, top)
        for column, ranked in enumerate(row.top):
            sample = dataset.gallery[ranked.index]
            left = first + column * step
            box = _draw_tile(canvas, sample, (left, top), RIGHT if ranked.is_match else WRONG)
            canvas.mark((box[2] - 10, box[1] + 10), is_right=ranked.is_match)
            _write_captions(canvas, left, box[3], (f"{ranked.similarity:.2f}", f"cam  {sample.camid}"), f"id  {sample.pid}")
    return canvas.image


def _header(
    dataset: ReIDDataset, title: str, result: RankingResult | None, rows: list[RankedRow], chosen: str, reranked: bool
) -> tuple[str, tuple[str, ...]]:
    heading = "  ·  ".join(part for part in (title, dataset.name) if part)
    lines = [f"{len(rows)} of {len(dataset.query):,} queries, {chosen}"]
    if result is not None:
        lines.insert(
            0, f"mAP {100 * result.mAP:.1f} %  ·  Rank-1 {100 * result.rank1:.1f} %  ·  mINP {100 * result.mINP:.1f} %"
        )
    ranked_by = "the given distances" if reranked else "cosine similarity"
    lines.append(f"Ranked by {ranked_by}; images of the query's identity from its own camera are left out")
    return heading, tuple(lines)


def _write_column_heads(canvas: Canvas, first: int, step: int, num_columns: int) -> None:
    baseline = canvas.top + _HEAD - 14
    tile = _TILE[0] + 2 * _FRAME
    canvas.text((MARGIN + tile / 2, baseline), "Query", fill=MUTED, anchor="ms")
    for column in range(num_columns):
        canvas.text((first + column * step + tile / 2, baseline), str(column + 1), fill=MUTED, anchor="ms")


def _draw_query(canvas: Canvas, sample: Sample, row: RankedRow, top: int) -> None:
    box = _draw_tile(canvas, sample, (MARGIN, top), INK)
    _write_captions(
        canvas, MARGIN, box[3], (f"id  {sample.pid}", f"cam  {sample.camid}"), f"AP  {100 * row.average_precision:.0f} %"
    )


def _draw_tile(
    canvas: Canvas, sample: Sample, corner: tuple[int, int], color: tuple[int, int, int]
) -> tuple[int, int, int, int]:
    """Draw a framed crop with the frame's corner here; return the crop's (left, top, right, bottom)."""
    left, top = corner[0] + _FRAME, corner[1] + _FRAME
    box = (left, top, left + _TILE[0], top + _TILE[1])
    canvas.paste(fit_image(read_image(sample.path), _TILE), (left, top))
    canvas.frame(box, color, _FRAME)
    return box


def _write_captions(canvas: Canvas, left: int, bottom: int, first: tuple[str, str], second: str) -> None:
    right = left + _TILE[0] + 2 * _FRAME
    y = bottom + _FRAME + 6
    canvas.text((left, y), first[0])
    canvas.text((right, y), first[1], fill=MUTED, anchor="ra")
    canvas.text((left, y + CAPTION_SIZE + 4), second, fill=MUTED, max_width=right - left)
