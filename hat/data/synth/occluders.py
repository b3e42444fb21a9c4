"""Things that stand between the camera and the person: posts, bushes, bicycles, car ends, bins and trolleys."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from .palette import Color, darken, mix, vary

__all__ = ["INDOOR", "OUTDOOR", "SHOP", "draw_occluder"]

OUTDOOR = ("post", "bush", "bicycle", "car", "bin", "sign")
INDOOR = ("post", "plant", "bin")
SHOP = ("plant", "trolley", "display", "trolley", "display")

_FINE = 2


class _Pen:
    """Draws in meters: x from the person's axis to the right, height above the ground."""

    def __init__(self, draw: ImageDraw.ImageDraw, ground: float, axis: float, scale: float) -> None:
        self.draw, self.ground, self.axis, self.scale = draw, ground, axis, scale

    def at(self, x: float, height: float) -> tuple[float, float]:
        return self.axis + x * self.scale, self.ground - height * self.scale

    def rect(self, left: float, right: float, low: float, high: float, color: Color, corner: float = 0.0) -> None:
        (x0, y1), (x1, y0) = self.at(left, low), self.at(right, high)
        if x1 - x0 >= 1 and y1 - y0 >= 1:
            self.draw.rounded_rectangle((x0, y0, x1, y1), radius=corner * self.scale, fill=_bytes(color))

    def shape(self, points: list[tuple[float, float]], color: Color) -> None:
        self.draw.polygon([self.at(*point) for point in points], fill=_bytes(color))

    def disc(self, x: float, height: float, radius: float, color: Color) -> None:
        (cx, cy), size = self.at(x, height), radius * self.scale
        self.draw.ellipse((cx - size, cy - size, cx + size, cy + size), fill=_bytes(color))

    def ring(self, x: float, height: float, radius: float, width: float, color: Color) -> None:
        (cx, cy), size = self.at(x, height), radius * self.scale
        self.draw.ellipse(
            (cx - size, cy - size, cx + size, cy + size), outline=_bytes(color), width=max(1, round(width * self.scale))
        )

    def line(self, points: list[tuple[float, float]], width: float, color: Color) -> None:
        self.draw.line(
            [self.at(*point) for point in points], fill=_bytes(color), width=max(1, round(width * self.scale)), joint="curve"
        )

    def bar(self, left: float, right: float, low: float, high: float, color: Color) -> None:
        """An upright round bar: strips from light to dark."""
        strips = 7
        for index in range(strips):
            a, b = left + (right - left) * index / strips, left + (right - left) * (index + 1) / strips
            self.rect(a, b + 0.004, low, high, darken(color, 1.18 - 0.11 * abs(index - 1.6)))


def draw_occluder(
    kind: str, rng: np.random.Generator, width: int, height: int, ground: float, axis: float, scale: float
) -> Image.Image:
    """Draw something in front of a person.

    Args:
        kind: One of `OUTDOOR`, `INDOOR` or `SHOP`.
        rng: Source of all variation.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        ground: Row of the ground under the person.
        axis: Column of the person.
        scale: Pixels per meter.

    Returns:
        An RGBA picture with premultiplied color.
    """
    image = Image.new("RGBA", (width * _FINE, height * _FINE), (0, 0, 0, 0))
    # It stands nearer to the camera than the person, so lower in the picture and larger.
    pen = _Pen(ImageDraw.Draw(image), (ground + 0.12 * scale) * _FINE, axis * _FINE, scale * 1.12 * _FINE)
    side = float(rng.choice((-1, 1)))
    _DRAWERS[kind](pen, side, rng)
    return image.convert("RGBa").reduce(_FINE)


def _post(pen: _Pen, side: float, rng: np.random.Generator) -> None:
    x, half = side * float(rng.uniform(0.08, 0.32)), float(rng.uniform(0.035, 0.07))
    color = vary(((0.42, 0.44, 0.47), (0.28, 0.33, 0.3), (0.55, 0.5, 0.44))[int(rng.integers(3))], rng)
    pen.bar(x - half, x + half, -0.5, 3.0, color)
    pen.bar(x - half * 1.6, x + half * 1.6, -0.5, 0.25, darken(color, 0.8))


def _bush(pen: _Pen, side: float, rng: np.random.Generator) -> None:
    leaf = vary((0.31, 0.45, 0.25), rng)
    x, top = side * float(rng.uniform(0.15, 0.45)), float(rng.uniform(0.3, 0.6))
    for layer, tone in enumerate((0.6, 0.8, 1.0, 1.2)):
        for _ in range(26):
            dx, h = float(rng.normal(0, 0.27)), float(rng.uniform(-0.3, 1.0)) * top
            pen.disc(
                x + dx - 0.02 * layer,
                (h - 0.06) * (1 - 0.6 * min(1.0, dx * dx * 3)) + 0.02 * layer,
                0.085 - 0.015 * layer,
                darken(leaf, tone + float(rng.normal(0, 0.05))),
            )


def _plant(pen: _Pen, side: float, rng: np.random.Generator) -> None:
    x, pot = side * float(rng.uniform(0.22, 0.45)), vary((0.62, 0.42, 0.32), rng)
    leaf = vary((0.27, 0.46, 0.29), rng)
    for tone in (0.7, 0.9, 1.1):
        for _ in range(9):
            turn = float(rng.uniform(-1.1, 1.1))
            long = float(rng.uniform(0.35, 0.75))
            tip = (x + math.sin(turn) * long * 0.7, 0.4 + math.cos(turn) * long)
            bend = (x + math.sin(turn) * long * 0.45 + 0.05, 0.4 + math.cos(turn) * long * 0.6)
            back = (x + math.sin(turn) * long * 0.4 - 0.06, 0.4 + math.cos(turn) * long * 0.55)
            pen.shape([(x, 0.36), bend, tip, back], darken(leaf, tone))
    pen.shape([(x - 0.17, 0.42), (x + 0.17, 0.42), (x + 0.12, -0.05), (x - 0.12, -0.05)], pot)
    pen.shape([(x + 0.05, 0.42), (x + 0.17, 0.42), (x + 0.12, -0.05), (x + 0.04, -0.05)], darken(pot, 0.8))
    pen.rect(x - 0.19, x + 0.19, 0.38, 0.44, mix(pot, (1, 1, 1), 0.15))


def _bicycle(pen: _Pen, side: float, rng: np.random.Generator) -> None:
    frame = vary(((0.72, 0.22, 0.2), (0.2, 0.36, 0.58), (0.2, 0.22, 0.24), (0.3, 0.5, 0.4))[int(rng.integers(4))], rng)
    x = side * float(rng.uniform(0.2, 0.65)) - 0.5
    for wheel in (x, x + 1.05):
        pen.ring(wheel, 0.3, 0.335, 0.035, (0.12, 0.12, 0.13))
        pen.ring(wheel, 0.3, 0.3, 0.012, (0.62, 0.63, 0.65))
        for spoke in range(6):
            turn = spoke * math.pi / 6
            dx, dh = 0.3 * math.cos(turn), 0.3 * math.sin(turn)
            pen.line([(wheel - dx, 0.3 - dh), (wheel + dx, 0.3 + dh)], 0.006, (0.66, 0.67, 0.69))
    pen.line([(x, 0.3), (x + 0.42, 0.28), (x + 0.84, 0.72), (x + 0.3, 0.72), (x, 0.3)], 0.034, frame)
    pen.line([(x + 0.42, 0.28), (x + 0.27, 0.86)], 0.034, frame)
    pen.line([(x + 1.05, 0.3), (x + 0.82, 0.9)], 0.034, darken(frame, 0.85))
    pen.line([(x + 0.82, 0.9), (x + 0.7, 0.97)], 0.03, (0.15, 0.15, 0.16))
    pen.rect(x + 0.14, x + 0.4, 0.85, 0.91, (0.14, 0.13, 0.13), 0.02)
    pen.disc(x + 0.42, 0.28, 0.07, (0.3, 0.31, 0.33))


def _car(pen: _Pen, side: float, rng: np.random.Generator) -> None:
    color = vary(
        ((0.7, 0.71, 0.73), (0.2, 0.23, 0.28), (0.6, 0.18, 0.17), (0.22, 0.36, 0.55), (0.86, 0.86, 0.85))[int(rng.integers(5))],
        rng,
    )
    edge = float(rng.uniform(0.02, 0.3))

    def at(x: float, height: float) -> tuple[float, float]:
        return side * (edge + x), height

    pen.shape([at(0, -0.5), at(0.0, 0.42), at(0.08, 0.56), at(0.7, 0.68), at(3, 0.72), at(3, -0.5)], color)
    pen.shape([at(0.08, 0.56), at(0.7, 0.68), at(3, 0.72), at(3, 0.62), at(0.5, 0.56)], mix(color, (1, 1, 1), 0.3))
    pen.shape([at(0, -0.5), at(0.0, 0.3), at(3, 0.3), at(3, -0.5)], darken(color, 0.72))
    pen.shape(
        [at(0.02, 0.36), at(0.02, 0.48), at(0.3, 0.5), at(0.34, 0.4)],
        (0.95, 0.93, 0.82) if rng.random() < 0.5 else (0.75, 0.2, 0.18),
    )


def _bin(pen: _Pen, side: float, rng: np.random.Generator) -> None:
    color = vary(((0.25, 0.4, 0.32), (0.35, 0.37, 0.4), (0.25, 0.33, 0.48))[int(rng.integers(3))], rng)
    x, half, top = side * float(rng.uniform(0.2, 0.42)), float(rng.uniform(0.16, 0.23)), float(rng.uniform(0.55, 0.85))
    pen.bar(x - half, x + half, -0.15, top, color)
    pen.rect(x - half - 0.03, x + half + 0.03, top, top + 0.07, darken(color, 0.75), 0.03)
    pen.rect(x - half * 0.55, x + half * 0.55, top - 0.2, top - 0.08, (0.12, 0.12, 0.13), 0.02)


def _sign(pen: _Pen, side: float, rng: np.random.Generator) -> None:
    x = side * float(rng.uniform(0.22, 0.42))
    board = vary(((0.22, 0.24, 0.26), (0.75, 0.6, 0.3), (0.3, 0.45, 0.42))[int(rng.integers(3))], rng)
    pen.shape([(x - 0.24, -0.08), (x - 0.19, 0.78), (x + 0.19, 0.78), (x + 0.24, -0.08)], (0.5, 0.38, 0.28))
    pen.shape([(x - 0.2, 0.02), (x - 0.16, 0.73), (x + 0.16, 0.73), (x + 0.2, 0.02)], board)
    for row in range(4):
        pen.rect(
            x - 0.11, x + 0.04 + 0.07 * float(rng.random()), 0.18 + 0.13 * row, 0.215 + 0.13 * row, mix(board, (1, 1, 1), 0.75)
        )


def _trolley(pen: _Pen, side: float, rng: np.random.Generator) -> None:
    x = side * float(rng.uniform(0.3, 0.55)) - 0.35
    wire, grip = (0.62, 0.64, 0.66), vary((0.75, 0.25, 0.22), rng)
    goods = ((0.78, 0.3, 0.26), (0.88, 0.72, 0.32), (0.32, 0.5, 0.42), (0.3, 0.44, 0.62))
    for index in range(4):
        pen.rect(
            x + 0.12 + 0.13 * index,
            x + 0.24 + 0.13 * index,
            0.5,
            0.68 + 0.09 * float(rng.random()),
            vary(goods[int(rng.integers(4))], rng),
        )
    pen.line([(x, 0.82), (x + 0.08, 0.46), (x + 0.66, 0.5), (x + 0.74, 0.78), (x, 0.82)], 0.022, wire)
    for index in range(1, 8):
        pen.line([(x + 0.09 * index, 0.815 - 0.005 * index), (x + 0.07 + 0.075 * index, 0.465 + 0.005 * index)], 0.008, wire)
    for low in (0.55, 0.64, 0.73):
        pen.line([(x + 0.03, low), (x + 0.7, low)], 0.008, wire)
    pen.line([(x - 0.02, 0.95), (x + 0.06, 0.3), (x + 0.05, 0.08)], 0.024, wire)
    pen.line([(x + 0.06, 0.25), (x + 0.68, 0.22), (x + 0.68, 0.08)], 0.022, wire)
    pen.line([(x - 0.08, 0.96), (x + 0.02, 0.96)], 0.04, grip)
    for wheel in (x + 0.05, x + 0.68):
        pen.disc(wheel, 0.04, 0.055, (0.15, 0.15, 0.16))


def _display(pen: _Pen, side: float, rng: np.random.Generator) -> None:
    color = vary(((0.8, 0.74, 0.62), (0.45, 0.55, 0.56), (0.75, 0.45, 0.35))[int(rng.integers(3))], rng)
    left = float(rng.uniform(0.12, 0.36))
    edges = (left, 2.0) if side > 0 else (-2.0, -left)
    top = float(rng.uniform(0.5, 0.8))
    pen.rect(*edges, -0.4, top, color)
    pen.rect(*edges, top, top + 0.05, mix(color, (1, 1, 1), 0.4))
    pen.rect(*edges, -0.4, 0.08, darken(color, 0.6))
    for index in range(8):
        x = edges[0] + 0.03 + 0.16 * index if side > 0 else edges[1] - 0.15 - 0.16 * index
        pen.rect(x, x + 0.12, top + 0.05, top + 0.16 + 0.08 * float(rng.random()), vary((0.7, 0.5, 0.4), rng, 4.0), 0.015)


_DRAWERS = {
    "post": _post,
    "bush": _bush,
    "plant": _plant,
    "bicycle": _bicycle,
    "car": _car,
    "bin": _bin,
    "sign": _sign,
    "trolley": _trolley,
    "display": _display,
}


def _bytes(color: Color) -> tuple[int, int, int, int]:
    red, green, blue = (min(255, max(0, round(255 * channel))) for channel in color)
    return red, green, blue, 255
