"""Backgrounds: each camera looks at a place of its own, painted once in perspective and cropped for every shot.

A scene is painted as a wide picture around the spot where people walk. Coordinates are meters: x to the right, height above the
ground, z away from the camera, with people at z = 0. Ground, walls and furniture are polygons in these coordinates, so the
vanishing point and the horizon come out right for each camera's height and distance.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .palette import Color, mix

__all__ = ["BELOW", "PIXELS_PER_METRE", "SPAN", "TOP", "Brush", "Scene", "paint_scene"]

PIXELS_PER_METRE = 110
"""Resolution of a scene at the distance where people walk."""

SPAN, TOP, BELOW = 8.0, 2.75, 0.75
"""Width of a scene in meters; how far it reaches above and below the walkers' ground line."""

_FINE = 2


@dataclass(frozen=True)
class Scene:
    """A painted background.

    Attributes:
        image: The picture, RGB.
        outdoor: Whether the sky lights it.
    """

    image: Image.Image
    outdoor: bool


class Brush:
    """Paints polygons given in meters.

    Args:
        camera_height: Height of the camera in meters.
        distance: From the camera to where people walk, in meters.
        haze: Color that far things fade to.
        rng: Source of all variation.
        haze_length: Distance over which haze covers two thirds of a color.
    """

    def __init__(
        self, camera_height: float, distance: float, haze: Color, rng: np.random.Generator, haze_length: float = 60.0
    ) -> None:
        self.camera_height, self.distance, self.haze, self.haze_length, self.rng = (
            camera_height,
            distance,
            haze,
            haze_length,
            rng,
        )
        self.scale = PIXELS_PER_METRE * _FINE
        self.width, self.height = round(SPAN * self.scale), round((TOP + BELOW) * self.scale)
        self.image = Image.new("RGB", (self.width, self.height), _bytes(haze))
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def at(self, x: float, height: float, z: float) -> tuple[float, float]:
        """The pixel of a point."""
        share = self.distance / max(self.distance + z, 0.4)
        up = self.camera_height - (self.camera_height - height) * share
        return self.width / 2 + x * share * self.scale, (TOP - up) * self.scale

    def size(self, z: float) -> float:
        """Pixels per meter at a distance."""
        return self.scale * self.distance / max(self.distance + z, 0.4)

    def reach(self, z: float) -> float:
        """Half the width of the picture in meters at a distance."""
        return 0.5 * SPAN * max(self.distance + z, 0.4) / self.distance

    def hazed(self, color: Color, z: float) -> Color:
        """A color as it looks from afar."""
        return mix(color, self.haze, 1 - float(np.exp(-max(z, 0.0) / self.haze_length)))

    def quad(self, points: Sequence[tuple[float, float, float]], color: Color, alpha: float = 1.0) -> None:
        """Fill a polygon of points (x, height, z)."""
        z = sum(point[2] for point in points) / len(points)
        self.draw.polygon([self.at(*point) for point in points], fill=(*_bytes(self.hazed(color, z)), round(255 * alpha)))

    def ground(self, left: float, right: float, near: float, far: float, color: Color, alpha: float = 1.0) -> None:
        """Fill a rectangle on the ground."""
        self.quad([(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)], color, alpha)

    def wall(self, left: float, right: float, low: float, high: float, z: float, color: Color, alpha: float = 1.0) -> None:
        """Fill an upright rectangle that faces the camera."""
        self.quad([(left, low, z), (right, low, z), (right, high, z), (left, high, z)], color, alpha)

    def side(self, x: float, near: float, far: float, low: float, high: float, color: Color, alpha: float = 1.0) -> None:
        """Fill an upright rectangle that runs away from the camera."""
        self.quad([(x, low, near), (x, low, far), (x, high, far), (x, high, near)], color, alpha)

    def box(self, left: float, right: float, near: float, far: float, high: float, color: Color, low: float = 0.0) -> None:
        """Fill a box: top, the side that shows, front, with a soft shadow under it."""
        if low == 0.0:
            self.ground(left - 0.12, right + 0.18, near - 0.1, far, (0.0, 0.0, 0.0), 0.18)
        if left > 0:
            self.side(left, near, far, low, high, mix(color, (0, 0, 0), 0.3))
        elif right < 0:
            self.side(right, near, far, low, high, mix(color, (0, 0, 0), 0.2))
        self.quad([(left, high, near), (right, high, near), (right, high, far), (left, high, far)], mix(color, (1, 1, 1), 0.16))
        self.wall(left, right, low, high, near, color)

    def disc(self, x: float, height: float, z: float, radius: float, color: Color, alpha: float = 1.0) -> None:
        """Fill a circle that faces the camera."""
        (column, row), size = self.at(x, height, z), self.size(z) * radius
        self.draw.ellipse(
            (column - size, row - size, column + size, row + size), fill=(*_bytes(self.hazed(color, z)), round(255 * alpha))
        )

    def shade(self, top: Color, bottom: Color, first: float, last: float) -> None:
        """Fill rows between two shares of the picture's height with a gradient."""
        for row in range(round(first * self.height), round(last * self.height)):
            share = (row / self.height - first) / max(last - first, 1e-6)
            self.draw.line((0, row, self.width, row), fill=_bytes(mix(top, bottom, share)))

    def horizon(self) -> float:
        """Row of the horizon as a share of the picture's height; below 0 where it is above the picture."""
        return (TOP - self.camera_height) / (TOP + BELOW)


def _bytes(color: Color) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(255 * channel))) for channel in color)
    return red, green, blue


@functools.lru_cache(maxsize=64)
def paint_scene(kind: str, seed: int, camera: int, camera_height: float, distance: float) -> Scene:
    """Paint the place that a camera looks at.

    Args:
        kind: One of `PLACES`.
        seed: Seed of the world.
        camera: Number of the camera.
        camera_height: Its height in meters.
        distance: From it to where people walk, in meters.

    Returns:
        The background.
    """
    from .places import PLACES

    rng = np.random.default_rng([seed, 4, camera])
    place = PLACES[kind]
    brush = Brush(camera_height, distance, place.haze, rng, place.haze_length)
    place.paint(brush)
    image = brush.image.reduce(_FINE).filter(ImageFilter.GaussianBlur(0.9))
    pixels = np.asarray(image, dtype=np.float32)
    # A broad unevenness of light and a fine grain keep large areas from looking like paper.
    coarse = Image.fromarray((rng.random((5, 11)) * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    uneven = 1 + (np.asarray(coarse, dtype=np.float32) / 255 - 0.5)[..., None] * np.float32(0.14)
    grain = rng.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None] * np.float32(1.6)
    return Scene(Image.fromarray(np.clip(pixels * uneven + grain, 0, 255).astype(np.uint8)), place.outdoor)
