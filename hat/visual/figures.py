"""Pictures of people by matplotlib: a grid of images with frames, captions and marks that need no color, and ranked lists."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hat.data.datasets import JUNK_PID, ReIDDataset
from hat.data.images import read_image
from hat.errors import DataError, UsageError
from hat.io.plot_file import require_matplotlib
from hat.metrics import RankingResult
from hat.metrics.embeddings import Matrix, check_count, check_embedding_pair
from hat.metrics.ranking import average_precision, cosine_distances

_COLOR, _MUTED, _EDGE, _MAT = "#1c2026", "#606872", "#d0d5db", "#eceff2"
_FRAMES = {True: "#0c8a54", False: "#cc2c24", None: _EDGE}

_DPI = 100
_TILE = (1.1, 2.2)  # width and height of a tile, in inches as everything below
_GAP, _SIDE, _ROW_LABEL, _CAPTION, _HEAD, _LINE = 0.16, 0.32, 0.9, 0.44, 0.3, 0.21
_MAX_TILES = 2500
_MAX_CHARACTERS = 16
"""Of a line under a tile; a longer one is cut with an ellipsis."""


@dataclass(frozen=True)
class Tile:
    """An image in a picture, or the file to read it from when it is drawn; None where there is none any more.

    Its caption has up to two lines. A match shows the person who is looked for; None where that is not known.
    """

    image: Image.Image | str | None
    caption: str = ""
    is_match: bool | None = None
    is_query: bool = False


def draw_grid(
    rows: Sequence[Sequence[Tile]],
    title: str,
    subtitle: Sequence[str],
    *,
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
) -> Image.Image:
    """Draw rows of images, which may differ in length, as an RGB picture; whole images are shown, in their proportions.

    A match has a green frame and a tick, any other image a red frame and a cross; where it is not known the frame is gray. In a
    picture with ``row_labels`` tiles are without frames. A `UsageError` refuses an enormous picture.
    """
    require_matplotlib("drawing pictures of people")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_columns = max([len(row) for row in rows], default=0) or 1
    if num_columns * len(rows) > _MAX_TILES:
        raise UsageError(f"the picture would have {num_columns} x {len(rows)} images; ask for fewer images")
    left = _SIDE + (_ROW_LABEL if row_labels else 0)
    under = _CAPTION if any(tile.caption for row in rows for tile in row) else 0
    header = _SIDE + _LINE * (1.6 * bool(title) + len(subtitle)) + _HEAD
    width = max(left + num_columns * (_TILE[0] + _GAP) - _GAP + _SIDE, 6.4)
    height = header + len(rows) * (_TILE[1] + under + _GAP) - _GAP + _SIDE
    # A dollar in somebody's file name is no mathematics, and a script that the font lacks is no news for the terminal.
    with rc_context({"text.parse_math": False, "font.size": 8, "text.color": _COLOR}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        figure = Figure((width, height), dpi=_DPI)
        canvas = FigureCanvasAgg(figure)

        def write(x: float, y: float, text: str, **style: Any) -> None:
            figure.text(x / width, 1 - y / height, text, **{"va": "top", "color": _MUTED} | style)

        write(_SIDE, _SIDE, _printable(title), fontsize=14, color=_COLOR)
        write(_SIDE, _SIDE + 1.6 * _LINE * bool(title), "\n".join(map(_printable, subtitle)), fontsize=9, linespacing=1.5)
        for column, label in enumerate(column_labels):
            x = left + column * (_TILE[0] + _GAP) + _TILE[0] / 2
            write(x, header - 0.08, label, ha="center", va="bottom")
        for index, row in enumerate(rows):
            y = header + index * (_TILE[1] + under + _GAP)
            if row_labels:
                write(_SIDE, y + _TILE[1] / 2, row_labels[index], va="center", color=_COLOR, fontsize=9)
            for column, tile in enumerate(row):
                x = left + column * (_TILE[0] + _GAP)
                bounds = (x / width, 1 - (y + _TILE[1]) / height, _TILE[0] / width, _TILE[1] / height)
                _draw_tile(figure.add_axes(bounds), tile, framed=not row_labels)
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _draw_tile(axes: Any, tile: Tile, *, framed: bool) -> None:
    image = read_image(tile.image) if isinstance(tile.image, str) else tile.image
    axes.set(xticks=[], yticks=[], facecolor=_MAT)
    if image is None:
        axes.text(0.5, 0.5, "no picture", ha="center", color=_MUTED, transform=axes.transAxes)
    else:
        axes.imshow(np.asarray(image.convert("RGB")))
    axes.spines[:].set(color=_COLOR if tile.is_query else _FRAMES[tile.is_match], linewidth=2.5 if framed else 0)
    caption = "\n".join(_shortened(line) for line in tile.caption.split("\n"))
    axes.set_xlabel(caption, loc="left", color=_MUTED, linespacing=1.4)
    if tile.is_match is not None:
        badge = {"boxstyle": "circle", "facecolor": _FRAMES[tile.is_match], "edgecolor": "white"}
        sign = "✓" if tile.is_match else "✗"
        axes.text(0.9, 0.95, sign, ha="center", va="center", color="white", fontsize=10, bbox=badge, transform=axes.transAxes)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _shortened(line: str) -> str:
    return line if len(line := _printable(line)) <= _MAX_CHARACTERS else line[: _MAX_CHARACTERS - 1].rstrip() + "…"


class RankedRow(NamedTuple):
    """A query by its index, the average precision of its whole ranking in [0, 1], and the top of it, nearest first.

    The latter are indices of gallery images, (top_k,), and their cosine similarities to the query, -1 to 1.
    """

    query: int
    average_precision: float
    top: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]


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

    Embeddings stand in the order of the data set's splits. ``distances``, (num_query, num_gallery), re-ranked ones for example,
    are ranked by instead of the cosine distance. There are fewer than ``num_queries`` rows, in the order of the split, where
    fewer queries have a match; a `DataError` says that none has. Ties go to the smaller index, as in the metrics.
    """
    check_count(num_queries, "num_queries")
    check_count(top_k, "top_k")
    queries, gallery = check_embedding_pair(query_embeddings, gallery_embeddings)
    for rows, split in ((queries, dataset.query), (gallery, dataset.gallery)):
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
    left, left_squares = queries.read(slice(None), torch.float32, nonzero=True)
    right, right_squares = gallery.read(slice(None), torch.float32, nonzero=True)
    similarities = 1 - cosine_distances(left[chosen], left_squares[chosen], right, right_squares).numpy()
    found = []
    for row, index in enumerate(chosen):
        sample = dataset.query[index]
        ranked = np.flatnonzero((pids != JUNK_PID) & ~((pids == sample.pid) & (camids == sample.camid)))
        ranked_by = -similarities[row] if distances is None else distances[index]
        order = ranked[np.argsort(ranked_by[ranked], kind="stable")]
        ranks = np.flatnonzero(pids[order] == sample.pid) + 1
        found.append(RankedRow(index, average_precision(ranks), order[:top_k], similarities[row, order[:top_k]]))
    return found


def ranked_list(
    rows: Sequence[RankedRow], dataset: ReIDDataset, *, title: str = "", result: RankingResult | None = None
) -> Image.Image:
    """Draw what `rank_rows` gives: a row for each query, then its nearest gallery images; see `draw_grid`.

    ``title``, the model's name for example, and the metrics stand in the header.
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
