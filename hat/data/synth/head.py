"""Head and face: features are placed on a ball in the head's own axes, so that they turn with the view."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from . import cloth
from .canvas import Array, Canvas, solid
from .palette import Color, darken, mix
from .person import Person
from .posture import Posture
from .view import View

__all__ = ["Globe", "Region", "dome", "draw_face", "draw_neck"]

# Half axes of the head in shares of body height (side, height, depth), and where its center is.
_SIDE, _UP, _DEPTH = 0.0515, 0.0725, 0.0605
_LEVEL, _FORWARD = 0.9285, 0.012

Region = Callable[[Array, Array, Array], Array]
"""Positive where a patch of the head is covered, given (side, up, front) of the direction from its center, each in [-1, 1]."""


class Globe:
    """The ball of a head in pixels: where it is and how the picture's axes turn into the head's.

    Args:
        person: Whose head it is.
        posture: Moment of the step.
        view: Where it is seen from.

    Attributes:
        x: Column of the center.
        y: Row of the center.
        unit: Pixels of one body height.
        ahead: Cosine of the view's yaw: 1 where the face looks at the camera.
        right: Sine of the view's yaw: 1 where the face looks to the right.
        tilt: Sine of the view's pitch.
        center: The center in meters.
    """

    def __init__(self, person: Person, posture: Posture, view: View) -> None:
        self.person = person
        tall = person.height
        self.center = (0.0, _LEVEL * tall + posture.rise, (_FORWARD + posture.lean * 0.36) * tall)
        self.x, self.y, scale, _ = view.point(*self.center)
        self.unit = scale * tall
        self.ahead, self.right = math.cos(view.yaw), math.sin(view.yaw)
        self.upright, self.tilt = math.cos(view.pitch), math.sin(view.pitch)
        self.radius_x = math.hypot(_SIDE * self.ahead, _DEPTH * self.right) * self.unit
        self.radius_y = math.hypot(_UP * self.upright, _DEPTH * self.tilt) * self.unit

    def place(self, side: float, up: float, front: float, out: float = 1.0) -> tuple[float, float, float]:
        """Column, row and nearness (1 in the middle, 0 at the rim, below 0 hidden) of the point in a direction."""
        length = math.sqrt(side * side + up * up + front * front) / out
        x, y, z = side / length * _SIDE, up / length * _UP, front / length * _DEPTH
        across, near = x * self.ahead + z * self.right, z * self.ahead - x * self.right
        row = y * self.upright - near * self.tilt
        return self.x + across * self.unit, self.y - row * self.unit, (near * self.upright + y * self.tilt) / _DEPTH

    def axes(self, nx: Array, ny: Array, nz: Array) -> tuple[Array, Array, Array]:
        """Turn a direction in the picture's axes (y down) into side, up and front of the head."""
        up = -ny * np.float32(self.upright) + nz * np.float32(self.tilt)
        near = nz * np.float32(self.upright) + ny * np.float32(self.tilt)
        return (
            nx * np.float32(self.ahead) - near * np.float32(self.right),
            up,
            near * np.float32(self.ahead) + nx * np.float32(self.right),
        )


def dome(
    canvas: Canvas,
    globe: Globe,
    grow: float,
    color: Color,
    region: Region | None,
    *,
    jaw: float = 0.0,
    bumps: float = 0.0,
    fade: float = 0.0,
    strands: float = 0.0,
) -> None:
    """Paint a patch of a ball around the head.

    Args:
        canvas: What is painted on.
        globe: The head.
        grow: Size of the ball relative to the head.
        color: Its color.
        region: Which patch; None paints the whole ball.
        jaw: How much narrower the ball is at its lower end.
        bumps: Waviness of its outline, for curls.
        fade: Share of contact shadow around it.
        strands: Strength of strands of hair, as a change of brightness.
    """
    radius_x, radius_y = globe.radius_x * grow, globe.radius_y * grow
    reach = canvas.contact if fade else 2.0
    box = canvas.clip(
        globe.x - radius_x - reach, globe.y - radius_y - reach, globe.x + radius_x + reach, globe.y + radius_y + reach
    )
    if box is None:
        return
    xs, ys = canvas.grid(box)
    ny = (ys - np.float32(globe.y)) / np.float32(radius_y)
    taper = 1 - np.float32(jaw) * np.clip(ny, 0, 1) ** 2
    nx = (xs - np.float32(globe.x)) / np.float32(radius_x) / taper
    length = np.sqrt(nx * nx + ny * ny)
    border: Array | float = 1.0
    if bumps:
        border = 1 + np.float32(bumps) * np.sin(np.arctan2(ny, nx) * 13 + np.float32(globe.person.texture))
    edge = (border - length) * np.float32(min(radius_x, radius_y))
    nz = np.sqrt(np.maximum(1 - length * length, 0.0))
    cover = np.clip(edge + 0.5, 0.0, 1.0)
    side = up = front = nx
    if region is not None or strands:
        side, up, front = globe.axes(np.clip(nx, -1, 1), np.clip(ny, -1, 1), nz)
    if region is not None:
        cover = cover * np.clip(region(side, up, front) * np.float32(radius_y) + 0.5, 0.0, 1.0)
    if fade:
        canvas.dim(box, np.clip(1 + edge / np.float32(canvas.contact), 0.0, 1.0) ** 2 * np.float32(fade))
    brightness = canvas.brightness(nx, ny, nz)
    if strands:
        brightness = brightness + np.float32(strands) * np.sin(
            side * 15 + up * 4 + front * 9 + np.float32(globe.person.texture)
        )
    canvas.blend(box, np.asarray(cover, np.float32), solid(color), np.asarray(np.clip(brightness, 0, 1), np.float32))


def draw_neck(canvas: Canvas, person: Person, posture: Posture, view: View) -> None:
    """Paint the neck, from the collar to inside the head, and what of a hood shows beside it."""
    tall = person.height
    x, y, z = Globe(person, posture, view).center
    ends = np.array(
        [(x, y - 0.03 * tall, z - 0.008 * tall), (x, 0.82 * tall + posture.rise, posture.lean * 0.3 * tall - 0.006 * tall)]
    )
    points, scale = view.line(ends)
    thick = (0.0245 if person.curved else 0.0285) * (0.6 + 0.4 * person.girth)
    canvas.limb(
        points, np.array((thick, thick * 1.15)) * tall * scale, cloth.plain(darken(person.neck, 0.9)), fade=0.0, dark=0.06
    )
    if person.hair_style == "headscarf":
        fold = view.point(0.0, 0.862 * tall + posture.rise, z)
        canvas.ball(fold[0], fold[1], 0.05 * tall * fold[2], 0.028 * tall * fold[2], person.hat)
    if person.upper == "hoodie":
        hood = view.point(0.0, 0.85 * tall + posture.rise, (posture.lean * 0.32 - 0.028) * tall)
        canvas.ball(hood[0], hood[1], 0.06 * tall * hood[2], 0.032 * tall * hood[2], darken(person.upper_color, 0.85))


def draw_face(canvas: Canvas, globe: Globe) -> None:
    """Paint the head without hair, and its face where it can be seen."""
    person = globe.person
    dome(canvas, globe, 1.0, person.skin, None, jaw=0.28, fade=0.28)
    _nose(canvas, globe)
    if person.beard:
        color = mix(person.hair, person.skin, 0.12)

        def chin(side: Array, up: Array, front: Array) -> Array:
            mouth = 0.17 - np.hypot(side * np.float32(0.8), (up + np.float32(0.5)) * np.float32(1.6)) * (front > 0)
            cheeks = np.minimum(-0.36 - up + 0.35 * np.abs(side), front - 0.08)
            return np.asarray(np.minimum(cheeks, -mouth + 0.06), dtype=np.float32)

        dome(canvas, globe, 1.015, color, chin, jaw=0.26)
    _eyes(canvas, globe)
    unit, (x, y, near) = globe.unit, globe.place(0.0, -0.5, 0.88)
    if near > 0.08:
        half = 0.0145 * unit * min(1.0, near * 1.1)
        shift = 0.35 * half * globe.right
        points = np.array(
            [
                (x - half + shift, y - 0.001 * unit),
                (x + shift, y + 0.002 * unit),
                (x + half * (1 - abs(globe.right) * 0.4) + shift, y - 0.001 * unit),
            ]
        )
        lips = mix(darken(person.skin, 0.72), (0.68, 0.24, 0.24), 0.38)
        canvas.limb(points, np.array((0.0018, 0.0036, 0.0018)) * unit, cloth.plain(lips), fade=0.0)


def _eyes(canvas: Canvas, globe: Globe) -> None:
    person, unit = globe.person, globe.unit
    brow = mix(person.hair if person.hair_style != "bald" else darken(person.skin, 0.4), (0.12, 0.08, 0.07), 0.45)
    for side in (1, -1):
        x, y, near = globe.place(side * 0.42, 0.06, 0.9)
        if near < 0.16:
            continue
        thin = min(1.0, near * 1.2)
        if person.glasses:
            canvas.ball(x, y, 0.0160 * unit * thin, 0.0125 * unit, (0.16, 0.15, 0.15), gloss=0.0)
            canvas.ball(x, y, 0.0138 * unit * thin, 0.0104 * unit, mix(person.skin, (0.8, 0.85, 0.9), 0.16), gloss=0.1)
        canvas.ball(x, y, 0.0080 * unit * thin, 0.0042 * unit, mix(person.skin, (0.92, 0.9, 0.87), 0.75), gloss=0.2)
        canvas.ball(x + 0.002 * unit * globe.right, y, 0.0050 * unit * thin, 0.0050 * unit, (0.13, 0.09, 0.08), gloss=0.0)
        bx, by, _ = globe.place(side * 0.44, 0.26, 0.9)
        arch = np.array(
            [
                (bx - 0.011 * unit * thin, by + 0.001 * unit),
                (bx, by - 0.003 * unit),
                (bx + 0.011 * unit * thin, by + 0.001 * unit),
            ]
        )
        canvas.limb(arch, np.array((0.0014, 0.0023, 0.0014)) * unit, cloth.plain(brow), fade=0.0)


def _nose(canvas: Canvas, globe: Globe) -> None:
    """A nose that stands out of the ball, which is what tells a profile from an egg."""
    unit, skin = globe.unit, globe.person.skin
    bridge, tip, base = globe.place(0.0, 0.1, 1.0, 0.97), globe.place(0.0, -0.17, 1.0, 1.13), globe.place(0.0, -0.26, 1.0, 0.98)
    if tip[2] < -0.12:
        return
    points = np.array([bridge[:2], tip[:2], base[:2]])
    canvas.limb(points, np.array((0.0035, 0.0088, 0.0085)) * unit, cloth.plain(mix(skin, (0.85, 0.42, 0.36), 0.06)), fade=0.0)
    if base[2] > 0.2:
        canvas.ball(base[0], base[1] + 0.0065 * unit, 0.0085 * unit, 0.003 * unit, darken(skin, 0.66), gloss=0.2, cover=0.45)
