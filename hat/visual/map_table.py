"""A table of maps beside the images that they were computed from: a row for each image, a column for each map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image

from hat.visual.canvas import CAPTION_SIZE, EDGE, INK, MARGIN, MUTED, Canvas, text_width
from hat.visual.color_map import color_table

__all__ = ["Column", "draw_map_table"]

_TILE_HEIGHT = 224
_GAP, _GROUP_GAP, _BLOCK_GAP, _ROW_GAP = 8, 26, 44, 10
_HEAD, _FOOT = 48, 66
_BAR = (180, 12)
_MAX_HEADING = 900


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        caption: What stands over it.
        tiles: One picture for each image.
        group: Columns that stand together and have this in common share it as a second caption; empty for none.
    """

    caption: str
    tiles: Sequence[Image.Image]
    group: str = ""


def tile_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a tile in pixels for images that a model takes as (height, width)."""
    height, width = image_size
    return (max(1, min(4 * _TILE_HEIGHT, round(_TILE_HEIGHT * width / height))), _TILE_HEIGHT)


def draw_map_table(columns: Sequence[Column], title: str, subtitle: tuple[str, ...], legend: tuple[str, str]) -> Image.Image:
    """Draw the table; with many rows it is broken into blocks that stand side by side.

    Args:
        columns: The columns, all with tiles of one size and equally many of them, at least one.
        title: One line in large type.
        subtitle: Smaller lines under it.
        legend: What the dark and the light end of the colors mean.

    Returns:
        An RGB picture.

    Raises:
        UsageError: The picture would be enormous.
    """
    width, height = columns[0].tiles[0].size
    offsets = _column_offsets(columns, width)
    block_width = offsets[-1] + width
    num_rows = len(columns[0].tiles)
    num_blocks = _choose_num_blocks(num_rows, block_width + _BLOCK_GAP, height + _ROW_GAP)
    rows_per_block = math.ceil(num_rows / num_blocks)
    text = min(_MAX_HEADING, max([0.0, *(text_width(line, 16) for line in subtitle), text_width(title, 26)]))
    sheet_width = 2 * MARGIN + max(num_blocks * (block_width + _BLOCK_GAP) - _BLOCK_GAP, math.ceil(text) + 2)
    body = _HEAD + rows_per_block * (height + _ROW_GAP) + _FOOT
    canvas = Canvas(sheet_width, body, title, subtitle)
    for block in range(num_blocks):
        left = MARGIN + block * (block_width + _BLOCK_GAP)
        _write_captions(canvas, columns, offsets, left, width)
        for place, row in enumerate(range(block * rows_per_block, min((block + 1) * rows_per_block, num_rows))):
            top = canvas.top + _HEAD + place * (height + _ROW_GAP)
            for column, offset in zip(columns, offsets, strict=True):
                canvas.paste(column.tiles[row], (left + offset, top))
    _draw_legend(canvas, legend)
    return canvas.image


def _choose_num_blocks(num_rows: int, width: int, height: int) -> int:
    """How many blocks of rows stand side by side: near 3 : 2 as a whole, and little of it left empty."""

    def ugliness(num_blocks: int) -> float:
        rows = math.ceil(num_rows / num_blocks)
        empty = 1 - num_rows / (rows * num_blocks)
        return empty + abs(math.log2(num_blocks * width / (rows * height) / 1.5)) / 4

    # Five blocks for six rows would be blocks of two, of which three hold everything.
    without_empty_block = [
        number for number in range(1, num_rows + 1) if (number - 1) * math.ceil(num_rows / number) < num_rows
    ]
    return min(without_empty_block, key=ugliness)


def _column_offsets(columns: Sequence[Column], width: int) -> list[int]:
    offsets, x = [0], 0
    for before, column in pairwise(columns):
        x += width + (_GAP if column.group == before.group else _GROUP_GAP)
        offsets.append(x)
    return offsets


def _write_captions(canvas: Canvas, columns: Sequence[Column], offsets: Sequence[int], left: int, width: int) -> None:
    baseline = canvas.top + _HEAD - 10
    for column, offset in zip(columns, offsets, strict=True):
        canvas.text((left + offset + width / 2, baseline), column.caption, anchor="ms", max_width=width)
    for group in dict.fromkeys(column.group for column in columns if column.group):
        members = [offset for column, offset in zip(columns, offsets, strict=True) if column.group == group]
        start, end = left + members[0], left + members[-1] + width
        canvas.text(((start + end) / 2, baseline - 25), group, fill=MUTED, anchor="ms", max_width=end - start)
        canvas.line((start, baseline - 19), (end, baseline - 19), EDGE)


def _draw_legend(canvas: Canvas, legend: tuple[str, str]) -> None:
    low, high = legend
    y = canvas.image.height - MARGIN - _BAR[1]
    canvas.text((MARGIN, y + _BAR[1] / 2), low, fill=MUTED, anchor="lm")
    x = MARGIN + math.ceil(text_width(low, CAPTION_SIZE)) + 10
    canvas.paste(Image.fromarray(color_table()[None]).resize(_BAR, Image.Resampling.BILINEAR), (x, y))
    canvas.text((x + _BAR[0] + 10, y + _BAR[1] / 2), high, fill=INK, anchor="lm")
