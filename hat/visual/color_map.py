"""The colors of a map of values: matplotlib's inferno, from black through violet, red and orange to light yellow.

Lightness grows evenly from end to end, so that the order of values also survives a gray print and any kind of color blindness,
and no hue boundary suggests an edge where the values have none, as rainbow maps do.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.io.plot_file import require_matplotlib


@functools.cache
def color_table() -> npt.NDArray[np.uint8]:
    """Return the map as a table, (256, 3) uint8 sRGB, lowest value first.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib("coloring maps")
    from matplotlib import colormaps

    table: npt.NDArray[np.uint8] = colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    table.setflags(write=False)
    return table


def scale_to_unit(maps: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Scale each map to its own range.

    Args:
        maps: (n, h, w) floating point.

    Returns:
        (n, h, w) float32: (x - min) / (max - min) of each map; zeros for a map that is the same everywhere.
    """
    values = np.asarray(maps, dtype=np.float64)
    low, high = values.min(axis=(1, 2), keepdims=True), values.max(axis=(1, 2), keepdims=True)
    # Differences that are rounding errors of the values would be blown up to a picture of noise.
    spread = np.where(high - low > 1e-6 * np.maximum(abs(high), abs(low)), high - low, np.inf)
    scaled: npt.NDArray[np.float32] = ((values - low) / spread).astype(np.float32)
    return scaled


def colorize(values: npt.NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """Paint a map.

    Args:
        values: (h, w) in [0, 1].
        size: (width, height) of the picture, to which the map is interpolated bilinearly.

    Returns:
        An RGB picture.
    """
    return Image.fromarray(color_table()[_levels(values, size)])


def overlay(image: Image.Image, values: npt.NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """Lay a map over the image that it was computed from.

    The image is shown in pale gray, so that all color is the map's and dark clothes do not darken it; the lower the value is,
    the more of the image shows through.

    Args:
        image: The image, of any mode and size.
        values: (h, w) in [0, 1], covering the whole image.
        size: (width, height) of the picture.

    Returns:
        An RGB picture.
    """
    levels = _levels(values, size)
    gray = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS), dtype=np.float32)[..., None]
    opacity = 0.45 + 0.25 * levels[..., None].astype(np.float32) / 255
    blended = (1 - opacity) * (50 + 0.8 * gray) + opacity * color_table()[levels].astype(np.float32)
    return Image.fromarray(np.rint(blended).astype(np.uint8))


def _levels(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the table's row for each pixel of a picture of this (width, height)."""
    resized = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32)).resize(size, Image.Resampling.BILINEAR)
    levels: npt.NDArray[np.uint8] = np.rint(255 * np.asarray(resized).clip(0.0, 1.0)).astype(np.uint8)
    return levels
