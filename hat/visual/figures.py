"""Pictures of people by matplotlib: a grid of images with frames, captions and marks that need no color, and colored maps."""

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.data.images import read_image
from hat.errors import UsageError
from hat.io.plot_file import require_matplotlib

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
    """An image in a picture.

    Attributes:
        image: The image, or the file to read it from when it is drawn; None where there is none any more.
        caption: Up to two lines under it.
        is_match: Whether it shows the person who is looked for; None where that is not known.
        is_query: Whether it shows what is looked for.
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
    """Draw rows of images; a whole image is always shown, in its proportions.

    A match has a green frame and a tick, any other image a red frame and a cross; where it is not known the frame is gray.

    Args:
        rows: The images; a row may be shorter than others.
        title: One line above; empty for none.
        subtitle: Smaller lines under it.
        column_labels: What stands over the columns.
        row_labels: What stands before the rows; tiles of a picture that has them are without frames.

    Returns:
        An RGB picture.

    Raises:
        UsageError: The picture would be enormous.
        ImageError: A file cannot be read.
        MissingExtraError: matplotlib is not installed.
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


@functools.cache
def color_table() -> npt.NDArray[np.uint8]:
    """Return the colors of maps, (256, 3) uint8 sRGB, lowest value first: matplotlib's inferno, whose lightness grows evenly.

    The order of values so survives a gray print and any kind of color blindness, and no hue suggests an edge that is not there.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib("coloring maps")
    from matplotlib import colormaps

    table: npt.NDArray[np.uint8] = colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    table.setflags(write=False)
    return table


def scale_to_unit(maps: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Scale each map, (n, h, w), to its own range: (x - min) / (max - min), or zeros where it is the same everywhere."""
    values = np.asarray(maps, dtype=np.float64)
    low, high = values.min(axis=(1, 2), keepdims=True), values.max(axis=(1, 2), keepdims=True)
    # Differences that are rounding errors of the values would be blown up to a picture of noise.
    spread = np.where(high - low > 1e-6 * np.maximum(abs(high), abs(low)), high - low, np.inf)
    scaled: npt.NDArray[np.float32] = ((values - low) / spread).astype(np.float32)
    return scaled


def colorize(values: npt.NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """Paint a map, (h, w) in [0, 1], as an RGB picture of (width, height), to which it is interpolated bilinearly."""
    return Image.fromarray(color_table()[_levels(values, size)])


def overlay(image: Image.Image, values: npt.NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """Lay a map over the image that it was computed from.

    The image is shown in pale gray, so that all color is the map's and dark clothes do not darken it; the lower the value is,
    the more of the image shows through.

    Args:
        image: The image, of any mode and size.
        values: (h, w) in [0, 1], covering the whole image.
        size: (width, height) of the RGB picture.
    """
    levels = _levels(values, size)
    gray = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS), dtype=np.float32)[..., None]
    opacity = 0.45 + 0.25 * levels[..., None].astype(np.float32) / 255
    blended = (1 - opacity) * (50 + 0.8 * gray) + opacity * color_table()[levels].astype(np.float32)
    return Image.fromarray(np.rint(blended).astype(np.uint8))


def _levels(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the color table's row for each pixel of a picture of this (width, height)."""
    resized = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32)).resize(size, Image.Resampling.BILINEAR)
    levels: npt.NDArray[np.uint8] = np.rint(255 * np.asarray(resized).clip(0.0, 1.0)).astype(np.uint8)
    return levels
