"""Scenes: each camera looks at a place of its own, painted once in perspective, and things stand in front of people there.

Coordinates are meters: x to the right, height above the ground, z away from the camera, with people at z = 0.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .solids import SUPERSAMPLING, Array
from .wardrobe import BLACK, WHITE, Color, mix, vary

PIXELS_PER_METER = 110  # of a scene at the distance where people walk
SPAN, TOP, BELOW = 8.0, 2.75, 0.75  # width of a scene in meters; how far it reaches above and below the walkers' ground line


class Brush:
    """Polygons in meters, filled in perspective on a picture of ``size`` (height, width) that is reduced at the end.

    Where people walk ``scale`` pixels are a meter, x = 0 is the column ``axis`` and the ground the row ``ground``; ``camera``
    is its height and distance. Far things fade to ``haze``; without it the picture is transparent where nothing is painted.
    """

    def __init__(
        self, size: Sequence[int], scale: float, axis: float, ground: float, camera: tuple[float, float],
        rng: np.random.Generator, haze: Color | None = None,
    ) -> None:  # fmt: skip
        self.scale, self.axis, self.row = SUPERSAMPLING * scale, SUPERSAMPLING * axis, SUPERSAMPLING * ground
        self.camera_height, self.distance = camera
        self.rng, self.haze = rng, haze
        self.picture = Image.new("RGB" if haze else "RGBa", (size[1] * SUPERSAMPLING, size[0] * SUPERSAMPLING))
        self.draw = ImageDraw.Draw(self.picture)

    def polygon(self, color: Color, *points: tuple[float, float, float]) -> None:
        """Fill a polygon of points (x, height, z)."""
        pixels = []
        for x, height, z in points:
            size = self.scale * self.distance / max(self.distance + z, 0.4)  # pixels per meter there
            above = self.camera_height * self.scale - (self.camera_height - height) * size
            pixels.append((self.axis + x * size, self.row - above))
        if self.haze:
            color = mix(color, self.haze, 1 - math.exp(-max(points[0][2], 0.0) / 70))
        channels = (*(min(255, max(0, round(255 * channel))) for channel in color), 255)
        self.draw.polygon(pixels, fill=channels[: 3 if self.haze else 4])

    def ground(self, left: float, right: float, near: float, far: float, color: Color) -> None:
        """Fill a rectangle on the ground."""
        self.polygon(color, (left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far))

    def wall(self, left: float, right: float, low: float, high: float, z: float, color: Color) -> None:
        """Fill an upright rectangle that faces the camera."""
        self.polygon(color, (left, low, z), (right, low, z), (right, high, z), (left, high, z))

    def disc(self, x: float, height: float, z: float, radius: float, color: Color) -> None:
        """Fill a circle that faces the camera."""
        turn = np.linspace(0, 2 * math.pi, 16, endpoint=False)
        columns, rows = x + radius * np.cos(turn), height + radius * np.sin(turn)
        self.polygon(color, *((column, row, z) for column, row in zip(columns.tolist(), rows.tolist(), strict=True)))

    def leaves(self, x: float, height: float, z: float, radius: float, color: Color, number: int = 60) -> None:
        """Fill a cloud of leaves, lighter above than below."""
        for dx, dy, tone in self.rng.normal(0, (0.45, 0.4, 0.06), (number, 3)).clip(-0.9, 0.9).tolist():
            shade = mix(color, BLACK, min(max(0.2 - 0.25 * dy + tone, 0.0), 0.6))
            self.disc(x + dx * radius, height + dy * radius, z, 0.28 * radius, shade)

    def slabs(self, far: float, size: float, color: Color) -> None:
        """Fill the ground with slabs of slightly different tones, rows of them farther and farther away."""
        self.ground(-60, 60, -2.5, far, mix(color, BLACK, 0.16))
        for z in np.arange(-2.5, far, size)[::-1].tolist():
            for x in np.arange(-8, 8, size).tolist():
                tone = mix(color, BLACK, float(self.rng.uniform(0, 0.12)))
                self.ground(x, x + size * 0.97, z, min(z + size * 0.95, far), tone)

    def pieces(self, z: float, min_width: float, max_width: float) -> Iterator[tuple[float, float]]:
        """Divide the picture's width at a distance into pieces, each from left to right."""
        reach = 0.5 * SPAN * (self.distance + z) / self.distance
        x = -reach - float(self.rng.uniform(0, min_width))
        while x < reach:
            left, x = x, x + float(self.rng.uniform(min_width, max_width))
            yield left, x

    def choose(self, *colors: Color) -> Color:
        """Draw one of several colors, a little varied."""
        return vary(colors[int(self.rng.integers(len(colors)))], self.rng)


def _street(brush: Brush) -> None:
    brush.wall(-60, 60, 0, 9, 12, (0.8, 0.86, 0.91))
    brush.ground(-60, 60, 5.6, 8, (0.6, 0.59, 0.58))
    for left, _ in brush.pieces(8, 4.6, 4.6):
        front = brush.choose((0.72, 0.58, 0.48), (0.78, 0.73, 0.65), (0.62, 0.4, 0.34), (0.6, 0.63, 0.66), (0.5, 0.55, 0.52))
        brush.wall(left, left + 4.6, 0, 9, 8, front)
        brush.wall(left, left + 4.6, 0, 0.45, 8, mix(front, BLACK, 0.35))
        brush.wall(left + 3.3, left + 4.3, 0, 2.2, 8, brush.choose((0.3, 0.22, 0.18), (0.2, 0.3, 0.27), (0.5, 0.2, 0.18)))
        if brush.rng.random() < 0.5:
            brush.wall(left + 0.3, left + 3.1, 2.4, 2.9, 8, brush.choose((0.7, 0.24, 0.24), (0.2, 0.4, 0.4), (0.8, 0.6, 0.25)))
        for x in (left + 0.5, left + 1.8):
            brush.wall(x - 0.06, x + 1.06, 0.8, 2.4, 8, mix(front, WHITE, 0.45))
            brush.wall(x, x + 1.0, 0.86, 2.34, 8, (0.36, 0.42, 0.48))
            brush.polygon((0.5, 0.57, 0.63), (x, 1.4, 8), (x, 2.34, 8), (x + 0.7, 2.34, 8))
    brush.ground(-60, 60, 1.5, 5.8, (0.36, 0.365, 0.38))
    brush.ground(-60, 60, 3.5, 3.62, (0.75, 0.74, 0.7))
    for x, _ in brush.pieces(4.6, 4.6, 6.5):
        color = brush.choose((0.62, 0.64, 0.67), (0.2, 0.22, 0.26), (0.85, 0.85, 0.84), (0.55, 0.17, 0.17))
        brush.ground(x, x + 4.3, 4.3, 5.2, (0.22, 0.22, 0.24))
        for tone, outline in (
            (color, ((0, 0.3), (0, 0.75), (0.9, 0.9), (1.5, 1.42), (3.0, 1.42), (3.7, 0.95), (4.3, 0.85), (4.3, 0.3))),
            ((0.3, 0.36, 0.42), ((1.05, 0.92), (1.55, 1.34), (2.2, 1.34), (2.2, 0.92))),
            ((0.3, 0.36, 0.42), ((2.3, 0.92), (2.3, 1.34), (2.95, 1.34), (3.5, 0.95))),
            (mix(color, BLACK, 0.45), ((0, 0.25), (4.3, 0.25), (4.3, 0.42), (0, 0.42))),
        ):
            brush.polygon(tone, *((x + dx, height, 4.6) for dx, height in outline))
        for wheel in (x + 0.85, x + 3.4):
            brush.disc(wheel, 0.32, 4.6, 0.33, (0.14, 0.16, 0.19))
            brush.disc(wheel, 0.32, 4.6, 0.18, (0.6, 0.61, 0.63))
    brush.slabs(1.35, 0.7, (0.64, 0.62, 0.59))
    brush.ground(-60, 60, 1.35, 1.6, (0.66, 0.65, 0.63))


def _park(brush: Brush) -> None:
    grass = brush.choose((0.45, 0.58, 0.3), (0.52, 0.6, 0.33), (0.4, 0.54, 0.33))
    leaf = brush.choose((0.33, 0.49, 0.27), (0.4, 0.53, 0.26), (0.5, 0.48, 0.24))
    brush.wall(-90, 90, 0, 12, 40, (0.66, 0.79, 0.9))
    brush.ground(-90, 90, -3, 40, grass)
    for left, right in brush.pieces(24, 1.2, 2.4):
        brush.leaves(left, 1.6, 24, right - left, mix(leaf, BLACK, 0.2))
    for x, z, tone in brush.rng.uniform((-6, 1.5, 0), (6, 9, 0.4), (500, 3)).tolist():
        brush.wall(x, x + 0.03, 0, 0.1, z, mix(grass, BLACK, tone))
    for z in sorted(brush.rng.uniform(3.5, 15, 6).tolist(), reverse=True):
        x, tall = float(brush.rng.uniform(-4, 4)) * (1 + z / brush.distance), float(brush.rng.uniform(3.0, 4.2))
        brush.wall(x - 0.14, x + 0.14, 0, tall, z, brush.choose((0.36, 0.28, 0.22)))
        brush.leaves(x, tall, z, 1.5, leaf)
    for x in brush.rng.uniform(-4.5, 4.5, 2).tolist():  # Benches.
        for left, right, low, high in ((0.15, 0.22, 0, 0.6), (1.35, 1.42, 0, 0.6), (0, 1.6, 0.42, 0.52), (0, 1.6, 0.65, 0.8)):
            brush.wall(x + left, x + right, low, high, 2.4, (0.48, 0.37, 0.27) if low else (0.2, 0.2, 0.22))
    path = brush.choose((0.74, 0.68, 0.57), (0.66, 0.63, 0.59))
    brush.ground(-60, 60, -2.6, 1.5, mix(path, BLACK, 0.14))
    brush.ground(-60, 60, -2.6, 1.38, path)
    for x, z, tone in brush.rng.uniform((-5, -2, 0), (5, 1.35, 0.2), (260, 3)).tolist():
        brush.ground(x, x + 0.06, z, z + 0.03, mix(path, BLACK, tone))


def _shop(brush: Brush) -> None:
    tones = ((0.75, 0.28, 0.25), (0.88, 0.7, 0.3), (0.3, 0.5, 0.4), (0.28, 0.42, 0.62), (0.86, 0.84, 0.78), (0.9, 0.5, 0.25))
    brush.wall(-60, 60, 0, 9, 4, (0.85, 0.84, 0.81))
    brush.slabs(3.2, 0.6, (0.72, 0.7, 0.66))
    brush.wall(-60, 60, 0, 2.35, 2.6, (0.3, 0.285, 0.275))
    for low in (0.14, 0.62, 1.06, 1.48, 1.88):
        for left, right in brush.pieces(2.6, 0.3, 0.8):
            tone = mix(brush.choose(*tones), (0.6, 0.59, 0.57), 0.4)
            high, number = float(brush.rng.uniform(0.2, 0.34)), round((right - left) / 0.15)
            for x in np.linspace(left, right, number + 1)[:-1].tolist():
                brush.wall(x, x + (right - left) / number - 0.015, low, low + high, 2.6, tone)
            brush.wall(left + 0.02, right - 0.03, low + 0.4 * high, low + 0.65 * high, 2.6, mix(tone, WHITE, 0.4))
        brush.wall(-60, 60, low - 0.07, low, 2.6, (0.8, 0.79, 0.76))
    brush.wall(-60, 60, 2.35, 2.75, 2.6, brush.choose((0.3, 0.42, 0.4), (0.6, 0.25, 0.22)))
    for left, _ in brush.pieces(2.5, 2.4, 2.4):
        brush.wall(left, left + 0.07, 0, 2.4, 2.58, (0.6, 0.59, 0.57))


def _station(brush: Brush) -> None:
    body, line = (0.83, 0.84, 0.85), brush.choose((0.72, 0.2, 0.2), (0.2, 0.38, 0.6), (0.2, 0.48, 0.36), (0.85, 0.55, 0.2))
    dark, rail = (0.12, 0.12, 0.13), (0.58, 0.59, 0.6)
    for low, high, color in ((-0.8, 9, body), (-0.8, 0.1, dark), (0.05, 0.3, rail), (0.62, 0.86, line)):
        brush.wall(-60, 60, low, high, 2.9, color)
    for left, _ in brush.pieces(2.9, 4.9, 4.9):
        for x in (left, left + 1.55):
            brush.wall(x, x + 1.35, 1.05, 2.1, 2.9, mix(body, BLACK, 0.4))
            brush.wall(x + 0.05, x + 1.3, 1.1, 2.05, 2.9, (0.27, 0.32, 0.37))
        for x in (left + 3.15, left + 3.86):
            brush.wall(x - 0.04, x + 0.72, 0.05, 2.3, 2.9, mix(line, BLACK, 0.3))
            brush.wall(x, x + 0.68, 0.08, 2.24, 2.9, line)
            brush.wall(x + 0.12, x + 0.56, 1.05, 2.02, 2.9, (0.25, 0.3, 0.35))
    brush.slabs(2.2, 0.6, (0.62, 0.62, 0.61))
    brush.ground(-60, 60, 1.75, 2.2, (0.88, 0.74, 0.28))
    brush.ground(-60, 60, 2.2, 2.7, (0.7, 0.7, 0.69))
    for x in (float(brush.rng.uniform(-3.6, -1.2)), float(brush.rng.uniform(1.2, 3.6))):
        brush.wall(x - 0.17, x + 0.17, 0, 5, 0.95, (0.5, 0.53, 0.55))
        brush.wall(x - 0.17, x - 0.06, 0, 5, 0.95, (0.62, 0.65, 0.67))


# How each place is painted, the color of its distance, and the least and greatest height of a camera there.
PLACES: dict[str, tuple[Callable[[Brush], None], Color, tuple[float, float]]] = {
    "street": (_street, (0.8, 0.84, 0.88), (1.9, 4.2)),
    "park": (_park, (0.84, 0.89, 0.9), (1.8, 2.8)),
    "shop": (_shop, (0.86, 0.85, 0.82), (2.1, 3.4)),
    "station": (_station, (0.78, 0.79, 0.8), (2.0, 4.0)),
}
OUTDOOR = ("street", "park")


@functools.lru_cache(maxsize=64)
def paint_scene(kind: str, seed: int, index: int, camera: tuple[float, float]) -> Image.Image:
    """Paint the place, a key of `PLACES`, that a camera (its height and distance) with a number looks at."""
    rng, (paint, haze, _) = np.random.default_rng([seed, 4, index]), PLACES[kind]
    size = (round((TOP + BELOW) * PIXELS_PER_METER), round(SPAN * PIXELS_PER_METER))
    brush = Brush(size, PIXELS_PER_METER, size[1] / 2, TOP * PIXELS_PER_METER, camera, rng, haze)
    paint(brush)
    image = brush.picture.reduce(SUPERSAMPLING).filter(ImageFilter.GaussianBlur(0.9))
    # A broad unevenness of light and a fine grain keep large areas from looking like paper.
    coarse = Image.fromarray((rng.random((5, 11)) * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    uneven = 1 + (np.asarray(coarse, dtype=np.float32) / 255 - 0.5)[..., None] * 0.14
    grain = rng.standard_normal((*size, 1), dtype=np.float32) * 1.6
    return Image.fromarray(np.clip(np.asarray(image) * uneven + grain, 0, 255).astype(np.uint8))


def paint_occluder(kind: str, brush: Brush) -> Array:
    """Paint something that stands in front of people: plants outdoors, counters indoors, posts and bins everywhere.

    The ``axis`` of the brush, which has no haze, is the column of the person behind. Returned is a layer as of `Solids.draw`.
    """
    rng, side, draw = brush.rng, float(brush.rng.choice((-1, 1))), brush.rng.random()
    color = brush.choose((0.42, 0.44, 0.47), (0.28, 0.35, 0.3), (0.55, 0.5, 0.44), (0.25, 0.33, 0.48), (0.6, 0.25, 0.22))
    dark, pale = mix(color, BLACK, 0.3), mix(color, WHITE, 0.25)
    if draw < 0.35:  # A post.
        x, half = side * float(rng.uniform(0.08, 0.32)), float(rng.uniform(0.035, 0.07))
        for left, right, tone in ((-1, 1, dark), (-0.6, 0.5, color), (-0.5, -0.1, pale)):
            brush.wall(x + left * half, x + right * half, -0.6, 3.0, 0, tone)
    elif draw < 0.55:  # A bin.
        x, top = side * float(rng.uniform(0.2, 0.42)), float(rng.uniform(0.55, 0.85))
        lid, slot = (0.23, top, top + 0.07, dark), (0.12, top - 0.2, top - 0.08, BLACK)
        for half, low, high, tone in ((0.2, 0, top, color), lid, slot):
            brush.wall(x - half, x + half, low, high, 0, tone)
    elif kind in OUTDOOR:
        brush.leaves(side * float(rng.uniform(0.2, 0.5)), 0.2, 0, float(rng.uniform(0.3, 0.5)), (0.36, 0.5, 0.28), 150)
    else:  # A counter with goods.
        near, top = side * float(rng.uniform(0.12, 0.36)), float(rng.uniform(0.5, 0.8))
        for x in (near + side * np.arange(0.1, 1.5, 0.16)).tolist():
            brush.wall(x - 0.06, x + 0.06, top, top + 0.1 + 0.1 * float(rng.random()), 0, brush.choose((0.7, 0.5, 0.4), color))
        for low, high, tone in ((-0.6, top, color), (top, top + 0.05, pale), (-0.6, 0.08, dark)):
            brush.wall(near, side * 2.0, low, high, 0, tone)
    return np.asarray(brush.picture.reduce(SUPERSAMPLING), dtype=np.float32) / 255
