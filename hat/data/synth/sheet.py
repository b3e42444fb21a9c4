"""The ground that solids are painted on: light, the picture with its coverage, and how a shaded color is laid over it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .palette import Color

__all__ = ["Array", "Box", "Light", "Material", "Rings", "Sheet", "Surface", "solid"]

Array = npt.NDArray[np.floating[Any]]
"""Pixels; float32 throughout."""

Box = tuple[int, int, int, int]
"""A region of a picture: first row, row after the last, first column, column after the last."""


@dataclass(frozen=True)
class Light:
    """Where the light comes from, in the picture's axes: x to the right, y down, z to the viewer.

    Attributes:
        x: Horizontal part.
        y: Vertical part; negative is from above.
        z: Part towards the viewer.
        softness: Share of light that comes from everywhere, 0 to 1.
        shade: Color that a surface in full shade is multiplied by.
        bright: Color that a surface in full light is multiplied by.
    """

    x: float = -0.45
    y: float = -0.6
    z: float = 0.66
    softness: float = 0.35
    shade: Color = (0.54, 0.55, 0.64)
    bright: Color = (1.1, 1.08, 1.04)


@dataclass
class Surface:
    """The visible part of a solid, pixel by pixel; all arrays are (h, w) float32.

    Attributes:
        across: -1 at the left edge of the silhouette, 1 at the right.
        facing: Part of the normal that points to the viewer.
        along: Position along the solid: share of body height for a tube, 0 to 1 for a limb.
        turn: Azimuth of the middle of the visible side, in radians.
    """

    across: Array
    facing: Array
    along: Array
    turn: Array | float

    @functools.cached_property
    def azimuth(self) -> Array:
        """Angle around the solid in radians: 0 at the person's left, pi / 2 in front, pi at the right, 3 pi / 2 behind."""
        return (
            np.arccos(self.across) + np.float32(self.turn)
            if isinstance(self.turn, float)
            else np.arccos(self.across) + self.turn
        )


Material = Callable[[Surface], Array]
"""Gives the color of a surface: (3, h, w) or (3, 1, 1) float32."""


@dataclass(frozen=True)
class Rings:
    """Cross-sections of an upright tube as the picture shows them, from top to bottom; all arrays are (n,).

    Attributes:
        x: Column of the center.
        y: Row of the center; increasing.
        radius: Half the width of the silhouette in pixels.
        turn: Azimuth of the middle of the visible side in radians.
        sag: How far the near edge of the ring lies below its center, in pixels.
        along: Position along the body.
    """

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    radius: npt.NDArray[np.float64]
    turn: npt.NDArray[np.float64]
    sag: npt.NDArray[np.float64]
    along: npt.NDArray[np.float64]


def solid(color: Color) -> Array:
    """A color as a (3, 1, 1) array."""
    return np.array(color, dtype=np.float32).reshape(3, 1, 1)


class Sheet:
    """A transparent picture that solids are painted on.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        light: The light that shades every solid.

    Attributes:
        rgb: (3, H, W) float32, premultiplied by ``alpha``.
        alpha: (H, W) float32 in [0, 1].
    """

    def __init__(self, height: int, width: int, light: Light) -> None:
        self.height, self.width, self.light = height, width, light
        self.rgb: Array = np.zeros((3, height, width), np.float32)
        self.alpha: Array = np.zeros((height, width), np.float32)
        self.contact = 0.018 * height

    def clip(self, left: float, top: float, right: float, bottom: float) -> Box | None:
        """The part of a rectangle that is on the canvas as (top, bottom, left, right), or None where nothing is."""
        x0, x1 = max(0, math.floor(left)), min(self.width, math.ceil(right) + 1)
        y0, y1 = max(0, math.floor(top)), min(self.height, math.ceil(bottom) + 1)
        return (y0, y1, x0, x1) if y1 - y0 > 0 and x1 - x0 > 0 else None

    def grid(self, box: Box) -> tuple[Array, Array]:
        """Columns (1, w) and rows (h, 1) of the middles of a region's pixels."""
        y0, y1, x0, x1 = box
        return (np.arange(x0, x1, dtype=np.float32) + np.float32(0.5))[None, :], (
            np.arange(y0, y1, dtype=np.float32) + np.float32(0.5)
        )[:, None]

    def brightness(self, nx: Array | float, ny: Array | float, nz: Array | float) -> Array:
        """Light that falls on a surface with a normal, in [0, 1]."""
        light = self.light
        strength = 1 - light.softness
        direct = nx * np.float32(light.x * strength) + ny * np.float32(light.y * strength) + nz * np.float32(light.z * strength)
        direct = np.asarray(direct, dtype=np.float32) + np.float32(light.softness)
        return np.asarray(np.minimum(np.maximum(direct, 0, out=direct), 1, out=direct))

    def blend(self, box: Box, cover: Array, color: Array, brightness: Array) -> None:
        """Paint a color, shaded, over a region where it covers."""
        y0, y1, x0, x1 = box
        light = self.light
        keep = 1 - cover
        # Dark cloth reflects a little of the sky too; without it black clothes have no form.
        sheen = brightness * np.float32(0.035)
        for channel in range(3):
            low, high = light.shade[channel], light.bright[channel]
            tint = brightness * np.float32(high - low)
            tint += np.float32(low)
            tint *= color[channel]
            painted = tint
            painted += sheen
            painted *= cover
            target = self.rgb[channel, y0:y1, x0:x1]
            target *= keep
            target += painted
        target = self.alpha[y0:y1, x0:x1]
        target *= keep
        target += cover

    def dim(self, box: Box, amount: Array) -> None:
        """Darken what is already painted in a region by a share in [0, 1]."""
        y0, y1, x0, x1 = box
        self.rgb[:, y0:y1, x0:x1] *= 1 - amount

    def shrink(self, factor: int) -> None:
        """Average blocks of ``factor`` x ``factor`` pixels: the last step of supersampling."""
        if factor == 1:
            return
        rows, columns = self.height // factor, self.width // factor
        share = np.float32(1 / (factor * factor))
        self.rgb = np.asarray(sum(self.rgb[:, i::factor, j::factor] for i in range(factor) for j in range(factor))) * share
        self.alpha = np.asarray(sum(self.alpha[i::factor, j::factor] for i in range(factor) for j in range(factor))) * share
        self.height, self.width = rows, columns
