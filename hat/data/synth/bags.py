"""Bags, drawn where they are carried and hidden by the body as the view demands."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from . import cloth
from .canvas import Canvas
from .palette import darken, mix
from .person import Person
from .posture import Posture
from .view import View

__all__ = ["bag_parts"]

Part = tuple[float, Callable[[], None]]


def bag_parts(canvas: Canvas, person: Person, posture: Posture, view: View) -> list[Part]:
    """What has to be painted for the person's bag: (place in the order of painting, function that paints)."""
    if person.bag == "none":
        return []
    away = math.cos(view.yaw) < -0.1
    if person.bag == "backpack":
        return [
            (
                1.6 if away else (0.25 if abs(math.sin(view.yaw)) > 0.4 else -30.0),
                lambda: _backpack(canvas, person, posture, view, away=away),
            )
        ]
    near = -math.sin(view.yaw) * person.bag_side > -0.25
    if person.bag == "shoulder bag":
        return [(2.9 if near else -25.0, lambda: _hip_bag(canvas, person, posture, view))]
    if person.bag == "handbag":
        return [(4.0 if near else -25.0, lambda: _handbag(canvas, person, posture, view))]
    return [(4.0 if away else -26.0, lambda: _suitcase(canvas, person, posture, view))]


def _extent(view: View, width: float, depth: float) -> float:
    """Half the width that a box shows."""
    return abs(width * math.cos(view.yaw)) + abs(depth * math.sin(view.yaw))


def _backpack(canvas: Canvas, person: Person, posture: Posture, view: View, *, away: bool) -> None:
    tall = person.height
    back = -(0.062 * person.girth + 0.032) * tall + posture.lean * 0.18 * tall
    x, y, scale, _ = view.point(0.0, 0.70 * tall + posture.rise, back)
    half = _extent(view, 0.078 * tall, 0.052 * tall) * scale
    high = 0.112 * tall * scale
    canvas.block(x, y, half, high, 0.045 * tall * scale, person.bag_color, bulge=0.75, fade=0.3)
    if not away:
        return
    # Seen from behind: a pocket on the front of the pack, its seams, a handle.
    px, py, at, _ = view.point(0.0, 0.662 * tall + posture.rise, back - 0.05 * tall)
    squeeze = abs(math.cos(view.yaw))
    canvas.block(
        px,
        py,
        0.058 * tall * at * squeeze,
        0.052 * tall * at,
        0.02 * tall * at,
        mix(person.bag_color, (1, 1, 1), 0.06),
        bulge=0.6,
        fade=0.12,
    )
    zx, zy, _, _ = view.point(0.0, 0.752 * tall + posture.rise, back - 0.05 * tall)
    line = np.array(
        [
            (zx - 0.052 * tall * at * squeeze, zy + 0.004 * tall * at),
            (zx, zy - 0.006 * tall * at),
            (zx + 0.052 * tall * at * squeeze, zy + 0.004 * tall * at),
        ]
    )
    canvas.limb(line, np.full(3, 0.0028 * tall * at), cloth.plain(darken(person.bag_color, 0.6)), fade=0.0)


def _hip_bag(canvas: Canvas, person: Person, posture: Posture, view: View) -> None:
    tall = person.height
    hip = (0.1 + 0.09 * (person.girth - 1) + (0.014 if person.upper in ("coat", "hoodie", "jacket") else 0.006)) * tall
    x, y, scale, _ = view.point(person.bag_side * (hip + 0.012 * tall), 0.515 * tall + posture.rise, -0.01 * tall)
    half = _extent(view, 0.024 * tall, 0.078 * tall) * scale
    canvas.block(x, y, half, 0.06 * tall * scale, 0.016 * tall * scale, person.bag_color, bulge=0.5)
    # The flap and its clasp are on the outside.
    show = max(0.0, -math.sin(view.yaw) * person.bag_side)
    if show > 0.25:
        canvas.block(
            x,
            y - 0.02 * tall * scale,
            half * 0.98,
            0.04 * tall * scale,
            0.014 * tall * scale,
            darken(person.bag_color, 0.9),
            bulge=0.4,
            fade=0.12,
        )
        canvas.ball(x, y + 0.014 * tall * scale, 0.007 * tall * scale, 0.007 * tall * scale, (0.83, 0.74, 0.5), gloss=0.6)


def _handbag(canvas: Canvas, person: Person, posture: Posture, view: View) -> None:
    tall = person.height
    hand = posture.arms[0 if person.bag_side > 0 else 1][3]
    x, y, scale, _ = view.point(float(hand[0]), float(hand[1]) - 0.085 * tall, float(hand[2]))
    _, grip, _, _ = view.point(float(hand[0]), float(hand[1]), float(hand[2]))
    half = _extent(view, 0.026 * tall, 0.07 * tall) * scale
    strap = np.array(
        [
            (x - half * 0.6, y - 0.04 * tall * scale),
            (x - half * 0.35, grip),
            (x + half * 0.35, grip),
            (x + half * 0.6, y - 0.04 * tall * scale),
        ]
    )
    canvas.limb(strap, np.full(4, 0.0045 * tall * scale), cloth.plain(darken(person.bag_color, 0.75)), fade=0.0)
    canvas.block(x, y, half, 0.05 * tall * scale, 0.012 * tall * scale, person.bag_color, bulge=0.45)
    canvas.block(
        x,
        y - 0.037 * tall * scale,
        half * 0.97,
        0.011 * tall * scale,
        0.006 * tall * scale,
        darken(person.bag_color, 0.75),
        bulge=0.2,
        fade=0.0,
    )
    canvas.ball(x, y - 0.018 * tall * scale, 0.007 * tall * scale, 0.007 * tall * scale, (0.83, 0.74, 0.5), gloss=0.6)


def _suitcase(canvas: Canvas, person: Person, posture: Posture, view: View) -> None:
    tall = person.height
    hand = posture.arms[0 if person.bag_side > 0 else 1][3]
    cx, cz = float(hand[0]) + person.bag_side * 0.01 * tall, float(hand[2]) - 0.13 * tall
    x, y, scale, _ = view.point(cx, 0.2 * tall, cz)
    grip_x, grip_y, _, _ = view.point(float(hand[0]), float(hand[1]), float(hand[2]))
    half = _extent(view, 0.1 * tall, 0.055 * tall) * scale
    high = 0.15 * tall * scale
    for offset in (-0.35, 0.35):
        bar = np.array([(x + offset * half, y - high), (grip_x + offset * half * 0.5, grip_y)])
        canvas.limb(bar, np.full(2, 0.0045 * tall * scale), cloth.plain((0.45, 0.46, 0.48)), fade=0.0)
    for offset in (-0.7, 0.7):
        canvas.ball(
            x + offset * half, y + high + 0.008 * tall * scale, 0.013 * tall * scale, 0.015 * tall * scale, (0.13, 0.13, 0.14)
        )
    canvas.block(x, y, half, high, 0.028 * tall * scale, person.bag_color, bulge=0.45)
    for offset in (-0.5, 0.0, 0.5):
        canvas.block(
            x + offset * half,
            y,
            0.006 * tall * scale,
            high * 0.86,
            0.004 * tall * scale,
            darken(person.bag_color, 0.82),
            bulge=0.0,
            fade=0.0,
        )
