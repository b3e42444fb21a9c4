"""What stands in places: paving, cars, trees, benches, lamp posts and shop windows."""

from __future__ import annotations

import numpy as np

from .palette import Color, darken, mix, vary
from .scene import Brush

__all__ = ["choose", "paint_bench", "paint_car", "paint_lamp", "paint_shop_window", "paint_slabs", "paint_tree"]


def choose(rng: np.random.Generator, colors: list[Color]) -> Color:
    """One of some colors, varied a little."""
    return vary(colors[int(rng.integers(len(colors)))], rng, 0.6)


def paint_slabs(
    brush: Brush, near: float, far: float, step_x: float, step_z: float, color: Color, joint: Color, *, checker: float = 0.0
) -> None:
    """Paving between two distances, each slab a little different."""
    rng = brush.rng
    brush.ground(-30, 30, near, far, joint)
    z, row = near, 0
    while z < far:
        end = min(z + step_z, far)
        half = brush.reach(end) + step_x
        number = int(2 * half / step_x) + 1
        shift = (row % 2) * 0.5 * step_x if checker == 0 else 0.0
        for column in range(number):
            x = -round(half / step_x) * step_x + column * step_x + shift
            shade = mix(color, (0, 0, 0), checker * ((row + column) % 2))
            gap = 0.012
            brush.ground(x + gap, x + step_x - gap, z + gap, end - gap, darken(shade, 1 + float(rng.normal(0, 0.022))))
        z, row = end, row + 1


def paint_car(brush: Brush, x: float, z: float, color: Color) -> None:
    """A parked car seen from its side."""
    brush.ground(x - 0.15, x + 4.4, z - 0.15, z + 1.7, (0, 0, 0), 0.35)
    body = [(0, 0.35), (0.02, 0.75), (0.5, 0.86), (1.15, 1.36), (2.7, 1.4), (3.4, 0.92), (4.1, 0.8), (4.25, 0.4)]
    brush.quad([(x + a, h, z) for a, h in body], color)
    brush.quad([(x + a, h, z) for a, h in ((0.0, 0.35), (0.02, 0.6), (4.2, 0.6), (4.25, 0.35))], darken(color, 0.78))
    for pane in (
        ((0.72, 0.88), (1.22, 1.3), (1.85, 1.32), (1.85, 0.88)),
        ((1.93, 0.88), (1.93, 1.32), (2.64, 1.33), (3.16, 0.9)),
    ):
        brush.quad([(x + a, h, z) for a, h in pane], (0.2, 0.24, 0.29))
        brush.quad(
            [(x + a * 0.97 + 0.06, h, z) for a, h in pane[:2]] + [(x + pane[1][0] + 0.3, pane[1][1], z)], (0.5, 0.57, 0.64), 0.5
        )
    for wheel in (0.85, 3.35):
        brush.disc(x + wheel, 0.33, z, 0.34, (0.1, 0.1, 0.11))
        brush.disc(x + wheel, 0.33, z, 0.19, (0.6, 0.61, 0.63))
    brush.wall(x + 0.02, x + 0.14, 0.62, 0.74, z, (0.75, 0.2, 0.18))
    brush.wall(x + 4.06, x + 4.2, 0.62, 0.74, z, (0.97, 0.94, 0.8))


def paint_tree(brush: Brush, x: float, z: float, high: float, leaves: Color) -> None:
    """A tree with a shaded crown."""
    rng = brush.rng
    brush.ground(x - 0.9, x + 1.1, z - 0.4, z + 0.5, (0, 0, 0), 0.15)
    brush.quad([(x - 0.13, 0, z), (x + 0.13, 0, z), (x + 0.07, high * 0.7, z), (x - 0.07, high * 0.7, z)], (0.36, 0.27, 0.21))
    brush.quad([(x + 0.02, 0, z), (x + 0.13, 0, z), (x + 0.07, high * 0.7, z), (x + 0.02, high * 0.7, z)], (0.27, 0.2, 0.16))
    for layer, tone in enumerate((0.7, 0.85, 1.0, 1.14)):
        for _ in range(11):
            spread = high * 0.34 * (1 - 0.14 * layer)
            dx, dh = rng.normal(0, spread * 0.5), rng.normal(0, high * 0.1)
            brush.disc(
                x + float(dx) - 0.06 * layer, high * 0.82 + 0.08 * layer + float(dh), z, spread * 0.42, darken(leaves, tone)
            )


def paint_bench(brush: Brush, x: float, z: float, wood: Color) -> None:
    """A wooden bench."""
    for leg in (0.15, 1.45):
        brush.wall(x + leg, x + leg + 0.07, 0, 0.45, z, (0.2, 0.21, 0.23))
    brush.ground(x, x + 1.7, z - 0.05, z + 0.4, (0, 0, 0), 0.25)
    brush.quad([(x, 0.45, z), (x + 1.7, 0.45, z), (x + 1.7, 0.45, z + 0.45), (x, 0.45, z + 0.45)], mix(wood, (1, 1, 1), 0.1))
    brush.wall(x, x + 1.7, 0.38, 0.45, z, darken(wood, 0.8))
    for low in (0.56, 0.7, 0.84):
        brush.wall(x, x + 1.7, low, low + 0.1, z + 0.45, wood)


def paint_lamp(brush: Brush, x: float, z: float) -> None:
    """A lamp post."""
    brush.wall(x - 0.05, x + 0.05, 0, 4.2, z, (0.25, 0.27, 0.29))
    brush.wall(x - 0.1, x + 0.1, 0, 0.45, z, (0.2, 0.22, 0.24))


def paint_shop_window(brush: Brush, left: float, right: float, z: float, color: Color) -> None:
    """A shop window with its awning."""
    if right - left < 0.8:
        return
    brush.wall(left - 0.08, right + 0.08, 0.45, 2.5, z, darken(color, 0.6))
    brush.wall(left, right, 0.55, 2.3, z, (0.24, 0.27, 0.3))
    brush.wall(left, right, 0.55, 1.3, z, (0.5, 0.45, 0.36), 0.45)
    brush.quad([(left, 1.0, z), (left, 2.3, z), (left + 0.9, 2.3, z)], (0.62, 0.7, 0.76), 0.4)
    brush.wall((left + right) / 2 - 0.03, (left + right) / 2 + 0.03, 0.55, 2.3, z, darken(color, 0.6))
    stripes = max(4, round((right - left) / 0.3))
    for index in range(stripes):
        a, b = left + (right - left) * index / stripes, left + (right - left) * (index + 1) / stripes
        stripe = color if index % 2 else (0.92, 0.9, 0.86)
        brush.quad([(a, 2.75, z), (b, 2.75, z), (b, 2.3, z - 0.8), (a, 2.3, z - 0.8)], stripe)
