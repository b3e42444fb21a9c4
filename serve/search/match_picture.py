"""The picture of a search: each query with its matches, from thumbnails or from the images' own files."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from hat.data.images import read_image
from hat.errors import ImageError, UsageError
from hat.visual.canvas import CAPTION_SIZE, EDGE, INK, MARGIN, MUTED, RIGHT, WRONG, Canvas, fit_image

from ..gallery.gallery import Gallery
from ..gallery.record_images import record_image
from ..gallery.records import Record
from .query_embeddings import Query
from .searching import Match

__all__ = ["draw_matches"]

_TILE = (104, 208)
_FRAME = 4
_GAP, _QUERY_GAP = 14, 40
_HEAD, _CAPTIONS, _ROW_GAP = 30, 46, 20
_STEP = _TILE[0] + 2 * _FRAME + _GAP
_FIRST = MARGIN + _TILE[0] + 2 * _FRAME + _QUERY_GAP
_ROW_HEIGHT = _TILE[1] + 2 * _FRAME + _CAPTIONS + _ROW_GAP


def draw_matches(gallery: Gallery, queries: Sequence[Query], found: Sequence[Sequence[Match]], *, title: str) -> Image.Image:
    """Draw a row for each query: the query, then its matches, best first.

    Where the identities of query and match are known, the frame is green with a tick where they are the same and red with a
    cross where they are not. A record whose picture is not there any more has an empty tile.

    Args:
        gallery: Where records that are queries are read from.
        queries: What was searched for; of several images of one person the first is shown.
        found: The matches of each, whose records were read with their thumbnails.
        title: One line above.

    Returns:
        An RGB picture.

    Raises:
        UsageError: No match has a picture, or the whole would be enormous.
    """
    pictures = [[record_image(match.record) for match in matches] for matches in found]
    if any(found) and not any(picture for row in pictures for picture in row):
        raise UsageError(
            "none of the matches has a picture: the gallery keeps no thumbnails (hat enroll --thumbnails), and the files that "
            "were enrolled are not there any more"
        )
    width = _FIRST + max(1, *(len(matches) for matches in found), 1) * _STEP - _GAP + MARGIN
    canvas = Canvas(width, _HEAD + len(queries) * _ROW_HEIGHT - _ROW_GAP + MARGIN, title, ("Ranked by likeness, best first",))
    _write_column_heads(canvas, max(len(matches) for matches in found))
    for number, (query, matches, row) in enumerate(zip(queries, found, pictures, strict=True)):
        top = canvas.top + _HEAD + number * _ROW_HEIGHT
        _draw_tile(canvas, _query_image(gallery, query), MARGIN, top, INK)
        _write_captions(canvas, MARGIN, top, _labels(query.pid, next(iter(query.camids), None)), _name(query))
        for column, (match, picture) in enumerate(zip(matches, row, strict=True)):
            left = _FIRST + column * _STEP
            record = match.record
            known = query.pid is not None and record.pid is not None
            is_same = query.pid == record.pid
            _draw_tile(canvas, picture, left, top, (RIGHT if is_same else WRONG) if known else EDGE)
            if known:
                canvas.mark((left + _FRAME + _TILE[0] - 10, top + _FRAME + 10), is_right=is_same)
            _write_captions(canvas, left, top, f"{match.similarity:.2f}", _describe(record))
    return canvas.image


def _query_image(gallery: Gallery, query: Query) -> Image.Image | None:
    for path in query.paths[:1]:
        try:
            return read_image(path)
        except ImageError:
            return None
    (record,) = gallery.get([min(query.ids)], thumbnails=True)
    return record_image(record)


def _write_column_heads(canvas: Canvas, num_columns: int) -> None:
    baseline = canvas.top + _HEAD - 14
    middle = (_TILE[0] + 2 * _FRAME) / 2
    canvas.text((MARGIN + middle, baseline), "Query", fill=MUTED, anchor="ms")
    for column in range(num_columns):
        canvas.text((_FIRST + column * _STEP + middle, baseline), str(column + 1), fill=MUTED, anchor="ms")


def _draw_tile(canvas: Canvas, picture: Image.Image | None, left: int, top: int, color: tuple[int, int, int]) -> None:
    corner = (left + _FRAME, top + _FRAME)
    box = (*corner, corner[0] + _TILE[0], corner[1] + _TILE[1])
    if picture is not None:
        canvas.paste(fit_image(picture, _TILE), corner)
    else:
        canvas.text((corner[0] + _TILE[0] / 2, corner[1] + _TILE[1] / 2), "no picture", fill=MUTED, anchor="mm")
    canvas.frame(box, color, _FRAME)


def _write_captions(canvas: Canvas, left: int, top: int, first: str, second: str) -> None:
    y = top + _TILE[1] + 2 * _FRAME + 6
    width = _TILE[0] + 2 * _FRAME
    canvas.text((left, y), first, max_width=width)
    canvas.text((left, y + CAPTION_SIZE + 4), second, fill=MUTED, max_width=width)


def _name(query: Query) -> str:
    return query.paths[0].rpartition("/")[2] if query.paths else query.name


def _describe(record: Record) -> str:
    return _labels(record.pid, record.camid) or record.source.rpartition("/")[2]


def _labels(pid: int | None, camid: int | None) -> str:
    said = [f"id {pid}"] if pid is not None else []
    return ", ".join(said + ([f"cam {camid}"] if camid is not None else []))
