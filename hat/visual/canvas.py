"""What the pictures share: ink, type, a header, tiles that keep a person's proportions, and marks that need no color."""

from __future__ import annotations

import functools

from PIL import Image, ImageDraw, ImageFont

from hat.errors import UsageError

__all__ = ["EDGE", "INK", "MARGIN", "MUTED", "PAPER", "RIGHT", "WRONG", "Canvas", "fit_image", "text_width"]

Color = tuple[int, int, int]

PAPER: Color = (255, 255, 255)
INK: Color = (28, 32, 38)
MUTED: Color = (96, 104, 114)
EDGE: Color = (208, 213, 219)
MAT: Color = (236, 239, 242)
RIGHT: Color = (12, 138, 84)
WRONG: Color = (204, 44, 36)

MARGIN = 32
"""Empty border of every picture in pixels."""

TITLE_SIZE, SUBTITLE_SIZE, CAPTION_SIZE = 26, 16, 15

_MAX_PIXELS = 100_000_000


class Canvas:
    """A white sheet with a header.

    Args:
        width: Width of the sheet in pixels, at least.
        height: Height of what is drawn under the header, bottom margin included.
        title: One line in large type; a longer one is cut with an ellipsis.
        subtitle: Smaller lines under it.

    Attributes:
        image: The picture.
        top: The first row of pixels under the header.

    Raises:
        UsageError: The sheet would be enormous.
    """

    def __init__(self, width: int, height: int, title: str, subtitle: tuple[str, ...] = ()) -> None:
        heading = MARGIN + (TITLE_SIZE + 14 if title else 0) + len(subtitle) * (SUBTITLE_SIZE + 8)
        self.top = heading + (18 if title or subtitle else 0)
        total = self.top + height
        if width * total > _MAX_PIXELS:
            raise UsageError(f"the picture would have {width} x {total} pixels; ask for fewer images")
        self.image = Image.new("RGB", (width, total), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        y = MARGIN
        if title:
            self.text((MARGIN, y), title, size=TITLE_SIZE, max_width=width - 2 * MARGIN)
            y += TITLE_SIZE + 14
        for line in subtitle:
            self.text((MARGIN, y), line, size=SUBTITLE_SIZE, fill=MUTED, max_width=width - 2 * MARGIN)
            y += SUBTITLE_SIZE + 8

    def text(
        self,
        position: tuple[float, float],
        text: str,
        *,
        size: int = CAPTION_SIZE,
        fill: Color = INK,
        anchor: str = "la",
        max_width: float | None = None,
    ) -> None:
        """Write one line; ``anchor`` is Pillow's (``la`` is left and ascender), and what passes ``max_width`` is cut."""
        line = "".join(character if character.isprintable() else " " for character in text)
        if max_width is not None and text_width(line, size) > max_width:
            while line and text_width(line + "…", size) > max_width:
                line = line[:-1]
            line = line.rstrip() + "…"
        self._draw.text(position, line, fill=fill, font=_font(size), anchor=anchor)

    def line(self, start: tuple[float, float], end: tuple[float, float], fill: Color = EDGE) -> None:
        """Draw a hairline."""
        self._draw.line([start, end], fill=fill, width=1)

    def paste(self, tile: Image.Image, position: tuple[int, int]) -> None:
        """Put a tile's upper left corner somewhere."""
        self.image.paste(tile, position)

    def frame(self, box: tuple[int, int, int, int], fill: Color, width: int) -> None:
        """Draw a frame of some width around a (left, top, right, bottom) box, outside it."""
        left, top, right, bottom = box
        self._draw.rectangle((left - width, top - width, right + width - 1, bottom + width - 1), outline=fill, width=width)

    def mark(self, center: tuple[float, float], *, is_right: bool, radius: int = 12) -> None:
        """Draw a round badge: a tick on green where right, a cross on red where wrong."""
        # Pillow's shapes have stairs for edges, so the badge is drawn four times as large and shrunk.
        zoom = 4
        side = 2 * (radius + 2) * zoom
        middle, reach = side / 2, radius * zoom
        badge = Image.new("RGBA", (side, side), (*PAPER, 0))
        pen = ImageDraw.Draw(badge)
        pen.ellipse((0, 0, side - 1, side - 1), fill=(*PAPER, 255))
        pen.ellipse(
            (middle - reach, middle - reach, middle + reach, middle + reach), fill=(*(RIGHT if is_right else WRONG), 255)
        )
        tick = [(-0.46, 0.02), (-0.14, 0.36), (0.48, -0.34)]
        strokes = [tick] if is_right else [[(-0.36, -0.36), (0.36, 0.36)], [(-0.36, 0.36), (0.36, -0.36)]]
        thickness = round(0.24 * reach)
        for stroke in strokes:
            points = [(middle + x * reach, middle + y * reach) for x, y in stroke]
            pen.line(points, fill=(*PAPER, 255), width=thickness, joint="curve")
            for x, y in (points[0], points[-1]):
                pen.ellipse((x - thickness / 2, y - thickness / 2, x + thickness / 2, y + thickness / 2), fill=(*PAPER, 255))
        badge = badge.resize((side // zoom, side // zoom), Image.Resampling.LANCZOS)
        self.image.paste(badge, (round(center[0]) - radius - 2, round(center[1]) - radius - 2), badge)


def fit_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Fit a whole image into a tile of (width, height), proportions kept; what it leaves free is light gray."""
    scale = min(size[0] / image.width, size[1] / image.height)
    fitted = (min(size[0], max(1, round(image.width * scale))), min(size[1], max(1, round(image.height * scale))))
    # A crop that is a pixel or two off the tile's proportions looks better filled than with a sliver of border.
    fitted = (size[0] if size[0] - fitted[0] <= 4 else fitted[0], size[1] if size[1] - fitted[1] <= 4 else fitted[1])
    tile = Image.new("RGB", size, MAT)
    resized = image.convert("RGB").resize(fitted, Image.Resampling.LANCZOS)
    tile.paste(resized, ((size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2))
    return tile


def text_width(text: str, size: int = CAPTION_SIZE) -> float:
    """Width of a line in pixels."""
    return _font(size).getlength(text)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
