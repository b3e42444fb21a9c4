"""The sheet that pictures of people are drawn on: a header, and tiles with frames, captions and marks that need no color."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hat.data.images import read_image
from hat.errors import UsageError
from hat.io.plot_file import require_matplotlib

COLOR, MUTED, EDGE, MAT = "#1c2026", "#606872", "#d0d5db", "#eceff2"
RIGHT, WRONG = "#0c8a54", "#cc2c24"

MARGIN = 32
"""Empty border of every picture in pixels."""

FRAME = 4

_TITLE_SIZE, _SUBTITLE_SIZE, _CAPTION_SIZE = 24, 15, 13
_MIN_WIDTH = 640
_MAX_PIXELS = 100_000_000
_DPI = 64  # a power of two, so that pixels / dpi * dpi gives the pixels again

_TILE = (104, 208)
_GAP, _QUERY_GAP, _ROW_GAP = 14, 40, 20
_HEAD, _CAPTIONS = 30, 46


class TileSheet:
    """A white sheet of pixels with a header; x grows to the right and y downward, in pixels, from the upper left corner.

    Args:
        width: Width of the sheet in pixels, at least.
        height: Height of what is drawn under the header, bottom margin included.
        title: One line in large type; empty for none. A longer one is cut with an ellipsis.
        subtitle: Smaller lines under it.

    Attributes:
        width: Width of the sheet.
        height: Height of the sheet.
        top: The first row of pixels under the header.

    Raises:
        UsageError: The sheet would be enormous.
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(self, width: int, height: int, title: str, subtitle: Sequence[str] = ()) -> None:
        require_matplotlib("drawing pictures of people")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        lines = [(title, _TITLE_SIZE, COLOR)] if title else []
        lines += [(line, _SUBTITLE_SIZE, MUTED) for line in subtitle]
        self.top = MARGIN + sum(size + 10 for _, size, _ in lines) + (16 if lines else 0)
        self.width, self.height = max(width, _MIN_WIDTH), self.top + height
        if self.width * self.height > _MAX_PIXELS:
            raise UsageError(f"the picture would have {self.width} x {self.height} pixels; ask for fewer images")
        self._pixels = np.full((self.height, self.width, 3), 255, dtype=np.uint8)
        self._figure = Figure((self.width / _DPI, self.height / _DPI), dpi=_DPI)
        self._canvas = FigureCanvasAgg(self._figure)
        y = MARGIN
        for line, size, color in lines:
            self.text(MARGIN, y, line, size=size, color=color, va="top", max_width=self.width - 2 * MARGIN)
            y += size + 10

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = _CAPTION_SIZE,
        color: str = COLOR,
        ha: str = "left",
        va: str = "baseline",
        max_width: float | None = None,
    ) -> float:
        """Write one line, cut with an ellipsis where it is wider than ``max_width``; return its width in pixels."""
        line = "".join(character if character.isprintable() else " " for character in text)
        written = self._figure.text(
            x,
            self.height - y,
            line,
            transform=None,
            size=size * 72 / _DPI,
            color=color,
            ha=ha,
            va=va,
            # A dollar in somebody's file name is no mathematics.
            parse_math=False,
        )
        with _without_glyph_warnings():
            width = float(written.get_window_extent().width)
            while max_width is not None and width > max_width and line:
                # The share that fits is a first guess, beyond which one character after the other goes.
                line = line[: min(len(line) - 1, int(len(line) * max_width / width) + 1)].rstrip()
                written.set_text(line + "…")
                width = float(written.get_window_extent().width)
        return width

    def paste(self, tile: Image.Image, x: int, y: int) -> None:
        """Put a tile's upper left corner somewhere, pixel by pixel."""
        self._pixels[y : y + tile.height, x : x + tile.width] = np.asarray(tile.convert("RGB"))

    def fill(self, x: int, y: int, width: int, height: int, color: str) -> None:
        """Fill a rectangle."""
        from matplotlib.colors import to_rgb

        self._pixels[y : y + height, x : x + width] = np.rint(255 * np.array(to_rgb(color)))

    def mark(self, x: float, y: float, *, is_match: bool) -> None:
        """Draw a round badge: a tick on green for a match, a cross on red for none."""
        from matplotlib.lines import Line2D
        from matplotlib.patches import Circle

        color = RIGHT if is_match else WRONG
        strokes = (
            [[(-5.5, 0.5), (-1.5, 4.5), (6, -4)]] if is_match else [[(-4.5, -4.5), (4.5, 4.5)], [(-4.5, 4.5), (4.5, -4.5)]]
        )
        flipped = self.height - y
        self._figure.add_artist(Circle((x, flipped), 12, transform=None, facecolor=color, edgecolor="white", linewidth=2))
        for stroke in strokes:
            xs, ys = zip(*stroke, strict=True)
            line = Line2D(x + np.array(xs), flipped - np.array(ys), color="white", linewidth=3.2, solid_capstyle="round")
            line.set_transform(None)
            self._figure.add_artist(line)

    def image(self) -> Image.Image:
        """Return the sheet as an RGB picture."""
        self._figure.figimage(self._pixels, zorder=-1)
        with _without_glyph_warnings():
            self._canvas.draw()
        return Image.fromarray(np.asarray(self._canvas.buffer_rgba())[..., :3].copy())


@dataclass(frozen=True)
class Tile:
    """A person in a ranking.

    Attributes:
        image: The crop, or the file to read it from when it is drawn; None where there is none any more.
        captions: Two lines under it; of a pair, one stands on the left and one on the right.
        is_match: Whether it shows the person who is looked for; None where that is not known.
    """

    image: Image.Image | str | None
    captions: tuple[str | tuple[str, str], str]
    is_match: bool | None = None


def draw_ranking(rows: Sequence[tuple[Tile, Sequence[Tile]]], title: str, subtitle: Sequence[str]) -> Image.Image:
    """Draw a row for each query: the query, then what was ranked for it, best first.

    A match has a green frame and a tick, any other image a red frame and a cross; where it is not known the frame is gray.

    Args:
        rows: Query and ranked images.
        title: One line above.
        subtitle: Smaller lines under it.

    Raises:
        UsageError: The picture would be enormous.
        ImageError: A file cannot be read.
        MissingExtraError: matplotlib is not installed.
    """
    num_columns = max([len(ranked) for _, ranked in rows], default=0)
    outer = _TILE[0] + 2 * FRAME
    first, step = MARGIN + outer + _QUERY_GAP, outer + _GAP
    row_height = _TILE[1] + 2 * FRAME + _CAPTIONS + _ROW_GAP
    sheet = TileSheet(
        first + max(1, num_columns) * step - _GAP + MARGIN,
        _HEAD + len(rows) * row_height - _ROW_GAP + MARGIN,
        title,
        subtitle,
    )
    for column, head in enumerate(["Query", *map(str, range(1, num_columns + 1))]):
        x = MARGIN if column == 0 else first + (column - 1) * step
        sheet.text(x + outer / 2, sheet.top + _HEAD - 12, head, color=MUTED, ha="center")
    for number, (query, ranked) in enumerate(rows):
        y = sheet.top + _HEAD + number * row_height
        _draw_tile(sheet, query, MARGIN, y, COLOR)
        for column, tile in enumerate(ranked):
            x = first + column * step
            _draw_tile(sheet, tile, x, y, EDGE if tile.is_match is None else RIGHT if tile.is_match else WRONG)
            if tile.is_match is not None:
                sheet.mark(x + FRAME + _TILE[0] - 10, y + FRAME + 10, is_match=tile.is_match)
    return sheet.image()


def fit_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Fit a whole image into a tile of (width, height), proportions kept; what it leaves free is light gray."""
    scale = min(size[0] / image.width, size[1] / image.height)
    # A crop that is a pixel or two off the tile's proportions looks better filled than with a sliver of border.
    width, height = (
        free if free - round(side * scale) <= 4 else max(1, round(side * scale))
        for free, side in zip(size, image.size, strict=True)
    )
    tile = Image.new("RGB", size, MAT)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    tile.paste(resized, ((size[0] - width) // 2, (size[1] - height) // 2))
    return tile


def _draw_tile(sheet: TileSheet, tile: Tile, x: int, y: int, color: str) -> None:
    outer, bottom = _TILE[0] + 2 * FRAME, y + _TILE[1] + 2 * FRAME
    sheet.fill(x, y, outer, bottom - y, color)
    image = read_image(tile.image) if isinstance(tile.image, str) else tile.image
    sheet.paste(Image.new("RGB", _TILE, MAT) if image is None else fit_image(image, _TILE), x + FRAME, y + FRAME)
    if image is None:
        sheet.text(x + outer / 2, y + _TILE[1] / 2, "no picture", color=MUTED, ha="center")
    first, second = tile.captions
    left, right = first if isinstance(first, tuple) else (first, "")
    taken = sheet.text(x + outer, bottom + 18, right, color=MUTED, ha="right", max_width=outer / 2) + 6 if right else 0
    sheet.text(x, bottom + 18, left, max_width=outer - taken)
    sheet.text(x, bottom + 36, second, color=MUTED, max_width=outer)


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """Draw names in a script that the font lacks as boxes, which is no news for the terminal."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        yield
