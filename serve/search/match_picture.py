"""The picture of a search: each query with its matches, from thumbnails or from the images' own files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hat.data.images import read_image
from hat.errors import ImageError, MissingExtraError, UsageError

from ..gallery.gallery import Gallery
from ..gallery.identities import Identity
from ..gallery.record_images import record_image
from .query_embeddings import Query
from .searching import Match

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_matches"]

_RIGHT, _WRONG, _EDGE, _MUTED = "#0c8a54", "#cc2c24", "#cfd6e4", "#5b6477"
_TILE_INCHES, _ROW_INCHES, _DPI = 1.15, 2.9, 100
_MAX_PIXELS = 100_000_000
_CAPTION_CHARACTERS = 18


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
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "drawing matches") from None
    pictures = [[record_image(match.record) for match in matches] for matches in found]
    if any(found) and not any(picture for row in pictures for picture in row):
        raise UsageError(
            "none of the matches has a picture: the gallery keeps no thumbnails (hat enroll --thumbnails), and the files that "
            "were enrolled are not there any more"
        )
    num_columns = 1 + max(1, *(len(matches) for matches in found), 1)
    size = (_TILE_INCHES * (num_columns + 0.4), _ROW_INCHES * len(queries) + 0.6)
    if size[0] * size[1] * _DPI**2 > _MAX_PIXELS:
        raise UsageError(f"a picture of {len(queries)} queries with {num_columns - 1} matches would be enormous: ask for fewer")
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\nRanked by similarity, best first", fontsize=9, x=0.01, ha="left")
    grid = figure.subplots(len(queries), num_columns, squeeze=False, width_ratios=[1.2] + [1] * (num_columns - 1))
    for row, (query, matches) in enumerate(zip(queries, found, strict=True)):
        name = query.paths[0].rpartition("/")[2] if query.paths else query.name
        caption = _labels(query.pid, next(iter(query.camids), None))
        _draw(grid[row, 0], _query_image(gallery, query), "black", f"{caption}\n{_short(name)}")
        for column, match in enumerate(matches):
            record = match.record
            known = query.pid is not None and record.pid is not None
            color, mark = (_EDGE, "") if not known else (_RIGHT, "✓ ") if query.pid == record.pid else (_WRONG, "✗ ")
            named = _labels(record.pid, record.camid) or record.source.rpartition("/")[2]
            _draw(grid[row, column + 1], pictures[row][column], color, f"{mark}{match.similarity:.2f}\n{_short(named)}")
        for axes in grid[row, 1 + len(matches) :]:
            axes.set_axis_off()
        for column, axes in enumerate(grid[row] if row == 0 else ()):
            axes.set_title(str(column) if column else "Query", fontsize=8, color=_MUTED)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _query_image(gallery: Gallery, query: Query) -> Image.Image | None:
    for path in query.paths[:1]:
        try:
            return read_image(path)
        except ImageError:
            return None
    (record,) = gallery.get([min(query.ids)], thumbnails=True)
    return record_image(record)


def _draw(axes: Axes, picture: Image.Image | None, color: str, caption: str) -> None:
    if picture is not None:
        axes.imshow(picture)
    else:
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect=2)
        axes.text(0.5, 0.5, "no picture", fontsize=7, color=_MUTED, ha="center", va="center")
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(caption, fontsize=8, parse_math=False)
    for spine in axes.spines.values():
        spine.set(edgecolor=color, linewidth=2.5)


def _short(text: str) -> str:
    return text if len(text) <= _CAPTION_CHARACTERS else text[: _CAPTION_CHARACTERS - 3] + "..."


def _labels(pid: Identity | None, camid: int | None) -> str:
    labels = [f"id {pid}"] if pid is not None else []
    return ", ".join(labels + ([f"cam {camid}"] if camid is not None else []))
