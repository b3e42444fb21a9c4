"""The places that cameras look at: street, park, shop, corridor, station and square."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .furniture import choose, paint_bench, paint_car, paint_lamp, paint_shop_window, paint_slabs, paint_tree
from .palette import Color, darken, mix
from .scene import Brush

__all__ = ["PLACES", "Place"]


@dataclass(frozen=True)
class Place:
    """A kind of place.

    Attributes:
        paint: Paints it.
        haze: Color of its distance.
        haze_length: Meters over which haze covers two thirds of a color.
        outdoor: Whether the sky lights it.
        camera_heights: Least and greatest height of a camera there, in meters.
    """

    paint: Callable[[Brush], None]
    haze: Color
    haze_length: float
    outdoor: bool
    camera_heights: tuple[float, float]


def _street(brush: Brush) -> None:
    rng = brush.rng
    brush.shade((0.62, 0.74, 0.86), (0.86, 0.9, 0.93), 0.0, 0.6)
    fronts: list[Color] = [
        (0.72, 0.58, 0.48),
        (0.78, 0.73, 0.65),
        (0.62, 0.4, 0.34),
        (0.6, 0.63, 0.66),
        (0.84, 0.78, 0.66),
        (0.5, 0.55, 0.52),
    ]
    z, x = 8.0, -brush.reach(8.0) - float(rng.uniform(0, 2))
    brush.ground(-40, 40, 5.8, z, (0.6, 0.59, 0.58))
    while x < brush.reach(z):
        wide, front = float(rng.uniform(3.2, 5.0)), choose(rng, fronts)
        brush.wall(x, x + wide, 0, 9, z, front)
        brush.wall(x, x + wide, 0, 0.45, z, darken(front, 0.66))
        brush.wall(x, x + 0.1, 0, 9, z, darken(front, 0.75))
        if rng.random() < 0.6:
            paint_shop_window(
                brush,
                x + 0.4,
                x + wide - 1.5,
                z,
                choose(rng, [(0.7, 0.24, 0.24), (0.2, 0.4, 0.4), (0.25, 0.3, 0.5), (0.8, 0.6, 0.25)]),
            )
        else:
            for left in np.arange(x + 0.5, x + wide - 1.9, 1.25).tolist():
                brush.wall(left - 0.06, left + 0.86, 0.9, 2.36, z, mix(front, (1, 1, 1), 0.45))
                brush.wall(left, left + 0.8, 0.96, 2.3, z, (0.32, 0.38, 0.44))
                brush.quad([(left, 1.5, z), (left, 2.3, z), (left + 0.55, 2.3, z)], (0.6, 0.68, 0.74), 0.6)
        door = choose(rng, [(0.3, 0.22, 0.18), (0.2, 0.3, 0.27), (0.24, 0.26, 0.36), (0.5, 0.2, 0.18)])
        brush.wall(x + wide - 1.2, x + wide - 0.2, 0, 2.3, z, mix(front, (1, 1, 1), 0.4))
        brush.wall(x + wide - 1.12, x + wide - 0.28, 0, 2.2, z, door)
        brush.wall(x + wide - 0.98, x + wide - 0.42, 1.25, 2.0, z, (0.42, 0.48, 0.52))
        x += wide
    brush.ground(-40, 40, 5.8, 6.0, (0.72, 0.71, 0.69))
    brush.ground(-40, 40, 1.6, 5.8, (0.36, 0.365, 0.38))
    brush.ground(-40, 40, 3.5, 3.62, (0.8, 0.79, 0.74), 0.7)
    x = -brush.reach(5) + float(rng.uniform(-3, 1))
    while x < brush.reach(5):
        if rng.random() < 0.7:
            paint_car(
                brush,
                x,
                4.6,
                choose(
                    rng,
                    [
                        (0.62, 0.64, 0.67),
                        (0.2, 0.22, 0.26),
                        (0.85, 0.85, 0.84),
                        (0.55, 0.17, 0.17),
                        (0.22, 0.34, 0.5),
                        (0.34, 0.4, 0.36),
                    ],
                ),
            )
        x += float(rng.uniform(5.0, 6.5))
    brush.ground(-40, 40, 1.35, 1.6, (0.66, 0.65, 0.63))
    paint_slabs(brush, -2.5, 1.35, 0.7, 0.7, (0.64, 0.62, 0.59), (0.53, 0.51, 0.49))
    for x in (float(rng.uniform(-4, -1)), float(rng.uniform(1, 4))):
        if rng.random() < 0.6:
            paint_lamp(brush, x, 1.2)


def _park(brush: Brush) -> None:
    rng = brush.rng
    brush.shade((0.55, 0.72, 0.88), (0.88, 0.92, 0.9), 0.0, 0.7)
    grass = choose(rng, [(0.45, 0.58, 0.3), (0.52, 0.6, 0.33), (0.4, 0.54, 0.33)])
    for share, tone in ((40.0, 0.92), (26.0, 0.86), (17.0, 0.96), (11.0, 1.02), (7.0, 1.0), (4.0, 1.05)):
        brush.ground(-80, 80, -3, share, darken(grass, tone))
    leaves: list[Color] = [(0.33, 0.49, 0.27), (0.4, 0.53, 0.26), (0.27, 0.43, 0.29), (0.62, 0.5, 0.24)]
    for height, tone in ((3.2, 0.9), (2.2, 0.8), (1.2, 0.7), (0.4, 0.62)):
        for x in np.arange(-brush.reach(24), brush.reach(24), 1.1).tolist():
            leaf = darken(choose(rng, leaves), tone)
            brush.disc(
                x + float(rng.uniform(-0.4, 0.4)),
                height + float(rng.uniform(-0.4, 0.4)),
                24,
                float(rng.uniform(0.8, 1.3)),
                leaf,
            )
    for _ in range(420):
        x, z = float(rng.uniform(-1, 1)), float(rng.uniform(1.5, 8))
        x *= brush.reach(z)
        brush.quad(
            [(x, 0, z), (x + 0.05, 0, z), (x + 0.03, float(rng.uniform(0.06, 0.13)), z)],
            darken(grass, float(rng.uniform(0.75, 1.2))),
        )
    for z in sorted(rng.uniform(3.5, 15, 7).tolist(), reverse=True):
        paint_tree(brush, float(rng.uniform(-1, 1)) * brush.reach(z), z, float(rng.uniform(3.0, 4.6)), choose(rng, leaves))
    for _ in range(2):
        paint_bench(brush, float(rng.uniform(-1, 0.7)) * brush.reach(2.5), 2.4, (0.52, 0.38, 0.27))
    path = choose(rng, [(0.74, 0.68, 0.57), (0.68, 0.64, 0.58), (0.62, 0.61, 0.6)])
    brush.ground(-40, 40, -2.6, 1.5, darken(path, 0.86))
    brush.ground(-40, 40, -2.6, 1.38, path)
    for _ in range(260):
        x, z = float(rng.uniform(-5, 5)), float(rng.uniform(-1.5, 1.35))
        brush.ground(x, x + float(rng.uniform(0.02, 0.08)), z, z + 0.03, darken(path, float(rng.uniform(0.82, 1.1))))


def _shop(brush: Brush) -> None:
    rng = brush.rng
    brush.shade((0.82, 0.81, 0.78), (0.88, 0.87, 0.84), 0.0, 0.6)
    paint_slabs(brush, -2.5, 3.2, 0.6, 0.6, (0.72, 0.7, 0.66), (0.62, 0.6, 0.57))
    z = 2.6
    brush.ground(-40, 40, z - 0.5, z, (0, 0, 0), 0.15)
    tones: list[Color] = [
        (0.75, 0.28, 0.25), (0.88, 0.7, 0.3), (0.3, 0.5, 0.4), (0.28, 0.42, 0.62),
        (0.86, 0.84, 0.78), (0.55, 0.35, 0.5), (0.9, 0.5, 0.25), (0.4, 0.62, 0.7),
    ]  # fmt: skip
    x = -brush.reach(z) - float(rng.uniform(0, 1))
    while x < brush.reach(z):
        wide = 2.4
        brush.wall(x, x + wide, 0, 2.35, z, (0.42, 0.4, 0.38))
        brush.wall(x + 0.05, x + wide - 0.05, 0.12, 2.25, z, (0.3, 0.285, 0.275))
        for low in (0.14, 0.62, 1.06, 1.48, 1.88):
            left = x + 0.08
            while left < x + wide - 0.15:
                tone, size = choose(rng, tones), float(rng.uniform(0.1, 0.19))
                high, number = float(rng.uniform(0.2, 0.34)), int(rng.integers(2, 5))
                for _ in range(number):
                    size = min(size, x + wide - 0.05 - left)
                    if size < 0.05:
                        left = x + wide
                        break
                    brush.wall(left, left + size - 0.012, low, low + high, z, darken(tone, 0.9))
                    brush.wall(
                        left + 0.012,
                        left + size - 0.03,
                        low + high * 0.35,
                        low + high * 0.7,
                        z,
                        mix(tone, (1, 1, 1), 0.45),
                        0.8,
                    )
                    left += size
            brush.wall(x + 0.04, x + wide - 0.04, low - 0.07, low, z, (0.8, 0.79, 0.76))
            for tag in np.arange(x + 0.2, x + wide - 0.2, 0.42).tolist():
                brush.wall(tag, tag + 0.12, low - 0.06, low - 0.01, z, (0.97, 0.9, 0.55))
        brush.wall(x + wide - 0.03, x + wide + 0.03, 0, 2.4, z - 0.02, (0.6, 0.59, 0.57))
        x += wide
    brush.wall(-40, 40, 2.35, 2.65, z, (0.3, 0.42, 0.4))


def _corridor(brush: Brush) -> None:
    rng = brush.rng
    wall = choose(rng, [(0.8, 0.8, 0.76), (0.75, 0.79, 0.81), (0.83, 0.79, 0.72)])
    dado = choose(rng, [(0.42, 0.52, 0.56), (0.55, 0.5, 0.44), (0.45, 0.53, 0.47)])
    half, far, high = 2.3, 15.0, 2.75
    floor = choose(rng, [(0.6, 0.58, 0.54), (0.52, 0.54, 0.56), (0.62, 0.55, 0.46)])
    brush.wall(-40, 40, 0, 8, far, mix(wall, (1, 1, 1), 0.2))
    brush.wall(-0.95, 0.95, 0, 2.2, far, darken(dado, 0.7))
    for x in (-0.88, 0.06):
        brush.wall(x, x + 0.82, 0.1, 2.1, far, (0.78, 0.85, 0.88))
    brush.quad([(-half, high, -6), (half, high, -6), (half, high, far), (-half, high, far)], (0.9, 0.9, 0.88))
    for z in np.arange(-4.7, far, 2.6).tolist():
        brush.quad([(-0.5, high, z), (0.5, high, z), (0.5, high, z + 1.2), (-0.5, high, z + 1.2)], (1, 1, 0.97))
    for z in np.arange(-6.0, far, 0.5).tolist():
        depth = darken(floor, 1.02 - 0.012 * z)
        brush.ground(-half, half, z, z + 0.5, depth)
    for z in np.arange(-4.7, far, 2.6).tolist():
        brush.ground(-0.5, 0.5, z, z + 1.4, (1, 1, 1), 0.14)
    for x in np.arange(-half, half, 0.92).tolist():
        brush.ground(x, x + 0.012, -6, far, darken(floor, 0.86))
    for sign in (-1, 1):
        x = sign * half
        tint = 1.0 if sign < 0 else 0.92
        for z in np.arange(-6.0, far, 1.0).tolist():
            brush.side(x, z, z + 1.0, 0, high, darken(wall, tint * (1 - 0.01 * z)))
            brush.side(x, z, z + 1.0, 0, 0.95, darken(dado, tint * (1 - 0.01 * z)))
        brush.side(x, -6, far, 0, 0.1, darken(dado, 0.6))
        brush.side(x, -6, far, 0.93, 0.99, mix(wall, (1, 1, 1), 0.4))
        for z in (np.arange(-3.0, far, 3.3) + rng.uniform(0, 1.5)).tolist():
            door = choose(rng, [(0.55, 0.4, 0.28), (0.4, 0.45, 0.5), (0.65, 0.62, 0.56)])
            brush.side(x * 0.998, z - 0.07, z + 1.02, 0, 2.12, mix(door, (1, 1, 1), 0.5))
            brush.side(x * 0.997, z, z + 0.95, 0, 2.05, darken(door, tint))
            brush.side(x * 0.996, z + 0.12, z + 0.2, 1.0, 1.06, (0.85, 0.85, 0.82))
        brush.ground(min(x, x * 0.8), max(x, x * 0.8), -6, far, (0, 0, 0), 0.12)


def _station(brush: Brush) -> None:
    rng = brush.rng
    brush.shade((0.7, 0.71, 0.72), (0.78, 0.78, 0.77), 0.0, 0.6)
    z = 2.9
    line = choose(rng, [(0.72, 0.2, 0.2), (0.2, 0.38, 0.6), (0.2, 0.48, 0.36), (0.85, 0.55, 0.2)])
    body = (0.83, 0.84, 0.85)
    brush.wall(-40, 40, -0.8, 0.1, z, (0.12, 0.12, 0.13))
    brush.wall(-40, 40, 0.05, 3.4, z, body)
    brush.wall(-40, 40, 0.05, 0.3, z, darken(body, 0.72))
    brush.wall(-40, 40, 0.62, 0.86, z, line)
    x = -brush.reach(z) - float(rng.uniform(0, 3))
    while x < brush.reach(z):
        for left in (x, x + 1.55):
            brush.wall(left, left + 1.35, 1.05, 2.1, z, darken(body, 0.6))
            brush.wall(left + 0.05, left + 1.3, 1.1, 2.05, z, (0.27, 0.32, 0.37))
            brush.wall(left + 0.05, left + 1.3, 1.1, 1.42, z, (0.45, 0.4, 0.35), 0.5)
            brush.quad(
                [(left + 0.1, 1.1, z), (left + 0.5, 2.05, z), (left + 0.85, 2.05, z), (left + 0.45, 1.1, z)],
                (0.65, 0.72, 0.77),
                0.35,
            )
        door = x + 3.15
        brush.wall(door - 0.05, door + 1.45, 0.05, 2.3, z, darken(line, 0.75))
        for left in (door, door + 0.71):
            brush.wall(left, left + 0.68, 0.08, 2.24, z, line)
            brush.wall(left + 0.12, left + 0.56, 1.05, 2.02, z, (0.25, 0.3, 0.35))
        x += 4.9
    paint_slabs(brush, -2.5, 2.2, 0.6, 0.6, (0.62, 0.62, 0.61), (0.53, 0.53, 0.52))
    brush.ground(-40, 40, 2.2, 2.7, (0.7, 0.7, 0.69))
    brush.ground(-40, 40, 1.75, 2.2, (0.88, 0.74, 0.28))
    for x in np.arange(-8, 8, 0.12).tolist():
        brush.ground(x, x + 0.05, 1.8, 2.15, (0.75, 0.6, 0.2))
    brush.ground(-40, 40, 2.7, 2.9, (0.1, 0.1, 0.11))
    for x in (float(rng.uniform(-3.6, -1.2)), float(rng.uniform(1.2, 3.6))):
        brush.ground(x - 0.25, x + 0.5, 0.8, 1.3, (0, 0, 0), 0.2)
        brush.wall(x - 0.17, x + 0.17, 0, 5, 0.95, (0.5, 0.53, 0.55))
        brush.wall(x - 0.17, x - 0.04, 0, 5, 0.95, (0.62, 0.65, 0.67))
        brush.wall(x - 0.17, x + 0.17, 0, 0.25, 0.95, (0.3, 0.31, 0.33))


def _square(brush: Brush) -> None:
    rng = brush.rng
    brush.shade((0.75, 0.8, 0.85), (0.85, 0.87, 0.88), 0.0, 0.5)
    stone = choose(rng, [(0.72, 0.66, 0.58), (0.65, 0.64, 0.62), (0.7, 0.62, 0.56)])
    brush.ground(-80, 80, 9, 60, mix(stone, (0.4, 0.42, 0.4), 0.35))
    for z in (14.0,):
        brush.wall(-80, 80, 0, 9, z, (0.66, 0.6, 0.55))
        for x in np.arange(-12, 12, 1.9).tolist():
            brush.wall(x, x + 1.25, 0, 2.7, z, (0.35, 0.36, 0.38))
            brush.disc(x + 0.625, 2.7, z, 0.625, (0.35, 0.36, 0.38))
        brush.wall(-80, 80, 0, 0.25, z, (0.5, 0.46, 0.42))
    paint_slabs(brush, -3.5, 9.2, 0.8, 0.8, stone, darken(stone, 0.82), checker=float(rng.uniform(0.04, 0.16)))
    brush.ground(-80, 80, 3.6, 4.1, darken(stone, 0.72))
    for z in sorted(rng.uniform(2.6, 7.5, 4).tolist(), reverse=True):
        x = float(rng.uniform(-1, 1)) * brush.reach(z)
        if rng.random() < 0.5:
            box = choose(rng, [(0.5, 0.46, 0.42), (0.4, 0.42, 0.43)])
            brush.box(x, x + 1.5, z, z + 0.7, 0.5, box)
            for _ in range(26):
                leaf = choose(rng, [(0.35, 0.5, 0.28), (0.45, 0.56, 0.3), (0.3, 0.43, 0.27)])
                brush.disc(
                    x + float(rng.uniform(0.1, 1.4)),
                    0.5 + float(rng.uniform(0.05, 0.4)),
                    z + 0.3,
                    float(rng.uniform(0.09, 0.18)),
                    leaf,
                )
        else:
            paint_bench(brush, x, z, (0.5, 0.38, 0.28))


PLACES: dict[str, Place] = {
    "street": Place(_street, (0.8, 0.84, 0.88), 70.0, True, (1.9, 2.9)),
    "corridor": Place(_corridor, (0.88, 0.88, 0.86), 90.0, False, (1.9, 2.5)),
    "park": Place(_park, (0.84, 0.89, 0.9), 55.0, True, (1.8, 2.6)),
    "square": Place(_square, (0.82, 0.83, 0.84), 80.0, True, (3.6, 5.0)),
    "shop": Place(_shop, (0.86, 0.85, 0.82), 90.0, False, (2.1, 3.0)),
    "station": Place(_station, (0.78, 0.79, 0.8), 90.0, False, (2.0, 3.2)),
}
