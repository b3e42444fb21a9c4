"""A table of maps beside the images that they were computed from: a row for each image, a column for each map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image

from hat.visual.color_map import color_table
from hat.visual.tile_sheet import EDGE, MARGIN, MUTED, TileSheet

_TILE_HEIGHT = 224
_GAP, _GROUP_GAP, _BLOCK_GAP, _ROW_GAP = 8, 26, 44, 10
_HEAD, _FOOT = 48, 66
_BAR = (180, 12)


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
    """Return (width, height) of a tile in pixels for images that a model takes as (height, width)."""
    height, width = image_size
    return (max(1, min(4 * _TILE_HEIGHT, round(_TILE_HEIGHT * width / height))), _TILE_HEIGHT)


def draw_map_table(columns: Sequence[Column], title: str, subtitle: Sequence[str]) -> Image.Image:
    """Draw the table over a scale of its colors; many rows are broken into blocks that stand side by side.

    Args:
        columns: The columns, all with tiles of one size and equally many of them, at least one.
        title: One line in large type.
        subtitle: Smaller lines under it.

    Returns:
        An RGB picture.

    Raises:
        UsageError: The picture would be enormous.
        MissingExtraError: matplotlib is not installed.
    """
    width, height = columns[0].tiles[0].size
    offsets = [0]
    for before, column in pairwise(columns):
        offsets.append(offsets[-1] + width + (_GAP if column.group == before.group else _GROUP_GAP))
    block_width = offsets[-1] + width + _BLOCK_GAP
    num_rows = len(columns[0].tiles)
    # As many blocks side by side as bring the whole near 3 : 2; then as few as hold all rows at that height.
    num_blocks = max(1, round(math.sqrt(1.5 * num_rows * (height + _ROW_GAP) / block_width)))
    rows_per_block = math.ceil(num_rows / num_blocks)
    num_blocks = math.ceil(num_rows / rows_per_block)
    sheet = TileSheet(
        2 * MARGIN + num_blocks * block_width - _BLOCK_GAP,
        _HEAD + rows_per_block * (height + _ROW_GAP) + _FOOT,
        title,
        subtitle,
    )
    for block in range(num_blocks):
        left = MARGIN + block * block_width
        _write_captions(sheet, columns, [left + offset for offset in offsets], width)
        for place, row in enumerate(range(block * rows_per_block, min((block + 1) * rows_per_block, num_rows))):
            for column, offset in zip(columns, offsets, strict=True):
                sheet.paste(column.tiles[row], left + offset, sheet.top + _HEAD + place * (height + _ROW_GAP))
    y = sheet.height - MARGIN - _BAR[1]
    x = MARGIN + math.ceil(sheet.text(MARGIN, y + _BAR[1] - 1, "low", color=MUTED)) + 10
    sheet.paste(Image.fromarray(color_table()[None]).resize(_BAR, Image.Resampling.BILINEAR), x, y)
    sheet.text(x + _BAR[0] + 10, y + _BAR[1] - 1, "high", color=MUTED)
    return sheet.image()


def _write_captions(sheet: TileSheet, columns: Sequence[Column], lefts: Sequence[int], width: int) -> None:
    baseline = sheet.top + _HEAD - 10
    for column, left in zip(columns, lefts, strict=True):
        sheet.text(left + width / 2, baseline, column.caption, ha="center", max_width=width)
    for group in dict.fromkeys(column.group for column in columns if column.group):
        members = [left for column, left in zip(columns, lefts, strict=True) if column.group == group]
        start, end = members[0], members[-1] + width
        sheet.text((start + end) / 2, baseline - 25, group, color=MUTED, ha="center", max_width=end - start)
        sheet.fill(start, baseline - 19, end - start, 1, EDGE)
