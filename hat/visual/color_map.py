"""The colors of a map of values: dark violet for low, through red and orange, to light yellow for high.

Lightness grows evenly from end to end, so that the order of values also survives a gray print and any kind of color blindness,
and no hue boundary suggests an edge where the values have none, as rainbow maps do.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["color_table", "colorize", "overlay", "scale_to_unit"]

_OKLAB_TO_CONES = np.array(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
)
_CONES_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@functools.cache
def color_table() -> npt.NDArray[np.uint8]:
    """The map as a table, (256, 3) uint8 sRGB, lowest value first.

    It is a path through OKLab (Ottosson 2020): lightness is linear in the value, the hue turns evenly from violet through red
    to yellow, and the chroma stays just inside what sRGB can show, so that nothing is clipped to a visible edge.
    """
    value = np.linspace(0.0, 1.0, 256)
    lightness = 0.17 + 0.80 * value
    hue = np.deg2rad(282.0 + 186.0 * value)
    chroma = 0.07 + 0.12 * np.sin(np.pi * value) ** 0.8
    rgb = _oklab_to_linear_rgb(lightness, chroma * np.cos(hue), chroma * np.sin(hue))
    rgb = rgb.clip(0.0, 1.0)
    encoded = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    table: npt.NDArray[np.uint8] = np.rint(255 * encoded).astype(np.uint8)
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
    """Rows of the table for each pixel of a picture of this (width, height)."""
    resized = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32)).resize(size, Image.Resampling.BILINEAR)
    levels: npt.NDArray[np.uint8] = np.rint(255 * np.asarray(resized).clip(0.0, 1.0)).astype(np.uint8)
    return levels


def _oklab_to_linear_rgb(lightness: npt.NDArray[Any], a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    cones = (np.stack([lightness, a, b], axis=1) @ _OKLAB_TO_CONES.T) ** 3
    rgb: npt.NDArray[Any] = cones @ _CONES_TO_RGB.T
    return rgb
