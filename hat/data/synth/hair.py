"""Hair, hats and headscarves, drawn around the ball of the head."""

from __future__ import annotations

import copy

import numpy as np

from . import cloth
from .canvas import Array, Canvas, Material, Surface
from .head import Globe, Region, dome, draw_face
from .palette import Color, darken, mix
from .person import Person
from .posture import Posture
from .view import View

__all__ = ["draw_hanging_hair", "draw_head"]

# How far the hair stands off the head.
_VOLUME = {
    "buzz cut": 1.012,
    "short": 1.06,
    "side parted": 1.085,
    "curly": 1.17,
    "bob": 1.12,
    "long": 1.09,
    "ponytail": 1.045,
    "bun": 1.045,
}
# How far down it does so beside the face, in the axes of `dome`.
_FULL = {"side parted": -0.25, "curly": 0.25, "bob": 0.9, "long": 0.9}
_COVERED_EARS = ("long", "bob", "headscarf", "afro", "curly")


def draw_head(canvas: Canvas, person: Person, posture: Posture, view: View) -> None:
    """Paint the head with face, hair and hat."""
    globe = Globe(person, posture, view)
    style = person.hair_style
    if style == "afro" and globe.ahead >= 0:
        _cloud(canvas, globe)
    bun = globe.place(0.0, 0.8, -0.7, 1.12)
    if style == "bun" and bun[2] < 0.3:
        canvas.ball(bun[0], bun[1], 0.029 * globe.unit, 0.028 * globe.unit, person.hair)
    if style == "cap" and globe.ahead < 0:
        _brim(canvas, globe)
    if style in _FULL and globe.ahead > -0.3:
        # Hair that stands off the head shows beside the face as well.
        dome(
            canvas,
            globe,
            _VOLUME[style],
            darken(person.hair, 0.85),
            lambda side, up, front: up + np.float32(_FULL[style]),
            bumps=0.03 if style == "curly" else 0.0,
        )
    _ears(canvas, globe, hidden=True)
    draw_face(canvas, globe)
    _hair(canvas, globe)
    _ears(canvas, globe, hidden=False)
    if style == "afro" and globe.ahead < 0:
        _cloud(canvas, globe)
    if style == "bun" and bun[2] >= 0.3:
        canvas.ball(bun[0], bun[1], 0.029 * globe.unit, 0.028 * globe.unit, person.hair, fade=0.25)
    _hat(canvas, globe)


def draw_hanging_hair(canvas: Canvas, person: Person, posture: Posture, view: View) -> None:
    """Paint what hangs down the back: long hair, a ponytail, the fall of a headscarf, a hood."""
    globe = Globe(person, posture, view)
    tall, (x, y, z) = person.height, globe.center
    style = person.hair_style
    if person.upper == "hoodie" and globe.ahead < 0.3:
        hood = view.point(0.0, 0.836 * tall + posture.rise, (posture.lean * 0.32 - 0.042) * tall)
        wide = 0.045 + 0.017 * abs(globe.ahead)
        canvas.ball(hood[0], hood[1], wide * tall * hood[2], 0.04 * tall * hood[2], person.upper_color, fade=0.2)
    if style in ("long", "headscarf"):
        color = person.hair if style == "long" else person.hat
        long = style == "long"
        # The upper rings follow the crown, so that the fall grows out of the hair on the head without a seam.
        down = np.array((0.074, 0.066, 0.05, 0.02, -0.02, -0.06, -0.1, -0.15 if long else -0.13))
        width = np.array((0.012, 0.029, 0.045, 0.056, 0.061, 0.064, 0.062, 0.046)) * (1.0 if long else 1.07)
        depth = np.array((0.012, 0.03, 0.046, 0.05, 0.044, 0.034, 0.028, 0.02))
        back = np.array((0.0, 0.0, -0.006, -0.014, -0.026, -0.04, -0.05, -0.058))
        centers = np.stack([np.full(8, x), y + down * tall, z + back * tall], axis=1)
        canvas.tube(
            view.rings(centers, width * tall, depth * tall, np.linspace(0, 1, 8)),
            cloth.plain(color),
            folds=_strands(person),
            fade=0.2,
        )
    elif style == "ponytail":
        joints = np.array(
            [
                (x, y + 0.034 * tall, z - 0.056 * tall),
                (x, y - 0.02 * tall, z - 0.082 * tall),
                (x, y - 0.13 * tall, z - 0.07 * tall),
            ]
        )
        points, scale = view.line(joints)
        canvas.limb(
            points, np.array((0.014, 0.0215, 0.008)) * tall * scale, cloth.plain(person.hair), fade=0.2, folds=_strands(person)
        )


def _strands(person: Person) -> Material:
    def folds(surface: Surface) -> Array:
        return np.asarray(0.07 * np.sin(surface.across * 8 + surface.along * 2 + np.float32(person.texture)), dtype=np.float32)

    return folds


def _ears(canvas: Canvas, globe: Globe, *, hidden: bool) -> None:
    """Ears: behind the head where they stick out at its rim, over the hair where the camera looks at them."""
    if globe.person.hair_style in _COVERED_EARS:
        return
    skin, unit = globe.person.skin, globe.unit
    for side in (1, -1):
        x, y, near = globe.place(side, -0.1, -0.1, 1.02)
        if (near < 0.3) is hidden and near > -0.5:
            canvas.ball(x, y, 0.0105 * unit, 0.0185 * unit, darken(skin, 0.95), fade=0.0 if hidden else 0.15)
            if not hidden:
                canvas.ball(
                    x + 0.002 * unit * globe.right, y, 0.0055 * unit, 0.011 * unit, darken(skin, 0.74), gloss=0.3, cover=0.6
                )


def _cropped(forehead: float, nape: float, burns: float) -> Region:
    """Short hair: over a forehead line, down to the nape behind the ears, with sideburns in front of them."""

    def region(side: Array, up: Array, front: Array) -> Array:
        crown = up - np.float32(forehead) - np.float32(0.12) * front + np.float32(0.16) * side * side
        back = np.minimum(-0.12 - front, up + np.float32(nape))
        sides = np.minimum(0.3 - front, up + np.float32(burns))
        return np.asarray(np.maximum(np.maximum(crown, back), sides), dtype=np.float32)

    return region


def _hair(canvas: Canvas, globe: Globe) -> None:
    person = globe.person
    style, color, part = person.hair_style, person.hair, 0.4 if person.texture % 2 < 1 else -0.4
    if style in ("bald", "headscarf"):
        return
    if style in ("cap", "beanie", "sun hat"):
        dome(canvas, globe, 1.03, color, _cropped(0.6, 0.55, -0.05), jaw=0.1)
    elif style == "side parted":
        crop = _cropped(0.44, 0.5, 0.12)

        def parted(side: Array, up: Array, front: Array) -> Array:
            sweep = up - 0.36 - 0.22 * np.abs(side - np.float32(part))
            return np.asarray(np.maximum(crop(side, up, front), np.where(front > 0, sweep, -1)), dtype=np.float32)

        dome(canvas, globe, _VOLUME[style], color, parted, jaw=0.1, strands=0.06)
    elif style in ("bob", "long"):

        def falling(side: Array, up: Array, front: Array) -> Array:
            crown = up - 0.42 - 0.3 * np.abs(side - np.float32(part * 0.4)) + 0.42 * side * side
            curtain = np.minimum(0.42 - front, up + 1.0)
            return np.asarray(np.maximum(crown, curtain), dtype=np.float32)

        dome(canvas, globe, _VOLUME[style], color, falling, strands=0.06)
        if style == "bob":
            _curtains(canvas, globe)
    elif style == "afro":
        dome(canvas, globe, 1.1, color, _cropped(0.4, 0.7, 0.25), strands=0.03)
    elif style == "curly":
        dome(canvas, globe, _VOLUME[style], color, _cropped(0.36, 0.6, -0.02), bumps=0.03, strands=0.09)
    else:
        tied = style in ("ponytail", "bun")
        shade = mix(color, person.skin, 0.3) if style == "buzz cut" else color
        region = _cropped(0.46, 0.42, -0.02) if tied else _cropped(0.5 if style == "short" else 0.54, 0.5, 0.1)
        dome(canvas, globe, _VOLUME[style], shade, region, jaw=0.12, strands=0.0 if style == "buzz cut" else 0.05)


def _cloud(canvas: Canvas, globe: Globe) -> None:
    """The round outline of an afro, a little above and behind the head."""
    lifted = copy.copy(globe)
    lifted.x -= 0.014 * globe.right * globe.unit
    lifted.y -= 0.02 * globe.unit
    seen_from_behind = globe.ahead < 0

    def region(side: Array, up: Array, front: Array) -> Array:
        round_back = up + np.float32(0.72)
        return np.minimum(round_back, np.float32(0.15) - front) if seen_from_behind else round_back

    dome(canvas, lifted, 1.34, globe.person.hair, region, bumps=0.02, strands=0.03)


def _curtains(canvas: Canvas, globe: Globe) -> None:
    """Hair that falls beside the cheeks."""
    person, unit = globe.person, globe.unit
    for side in (1, -1):
        top, cheek, low = (
            globe.place(side, 0.35, -0.05, 1.02),
            globe.place(side, -0.35, 0.0, 1.06),
            globe.place(side, -0.5, -0.05, 1.1),
        )
        if top[2] > -0.55:
            points, radii = (
                np.array([top[:2], cheek[:2], (low[0], globe.y + 0.062 * unit)]),
                np.array((0.012, 0.017, 0.015)) * unit,
            )
            canvas.limb(points, radii, cloth.plain(person.hair), fade=0.06, folds=_strands(person))


def _hat(canvas: Canvas, globe: Globe) -> None:
    style, color, unit = globe.person.hair_style, globe.person.hat, globe.unit
    if style == "headscarf":

        def wrapped(side: Array, up: Array, front: Array) -> Array:
            oval = np.hypot(side / np.float32(0.68), (up + np.float32(0.14)) / np.float32(0.72)) - 1
            return np.asarray(np.where(front > 0, np.maximum(oval, 0.45 - front), 1.0), dtype=np.float32)

        dome(canvas, globe, 1.13, color, wrapped, strands=0.045)
    elif style == "beanie":
        dome(canvas, globe, 1.13, color, lambda side, up, front: up - 0.1 * front - 0.24, strands=0.04)
        dome(
            canvas,
            globe,
            1.16,
            darken(color, 0.82),
            lambda side, up, front: np.minimum(up - 0.1 * front - 0.22, 0.5 - up + 0.1 * front),
            strands=0.07,
        )
    elif style == "cap":
        dome(canvas, globe, 1.1, color, lambda side, up, front: up - 0.08 * front - 0.3)
        if globe.ahead >= 0:
            _brim(canvas, globe)
    elif style == "sun hat":
        y = globe.y - 0.03 * unit
        canvas.ball(globe.x, y, 0.1 * unit, 0.1 * (0.1 + 0.8 * globe.tilt) * unit, darken(color, 0.94), gloss=0.5, fade=0.35)
        dome(canvas, globe, 1.12, color, lambda side, up, front: up - 0.42)
        _band(canvas, globe, darken(color, 0.62))


def _band(canvas: Canvas, globe: Globe, color: Color) -> None:
    """A ribbon around the foot of a hat's crown, as far as the camera sees it."""
    turns = np.radians(np.linspace(-86.0, 86.0, 9))
    # Straight at the camera is (-right, ahead) in the head's own (side, front).
    sides = globe.ahead * np.sin(turns) - globe.right * np.cos(turns)
    fronts = globe.right * np.sin(turns) + globe.ahead * np.cos(turns)
    points = [
        globe.place(0.88 * side, 0.47, 0.88 * front, 1.12)[:2]
        for side, front in zip(sides.tolist(), fronts.tolist(), strict=True)
    ]
    canvas.limb(np.array(points), np.full(9, 0.005 * globe.unit), cloth.plain(color), fade=0.0)


def _brim(canvas: Canvas, globe: Globe) -> None:
    """The peak of a cap."""
    unit = globe.unit
    root, tip = globe.place(0.0, 0.33, 0.95, 1.02), globe.place(0.0, 0.2, 1.0, 1.75)
    half = (0.014 + 0.03 * abs(globe.ahead) + 0.012 * abs(globe.right)) * unit
    high = (0.006 + 0.016 * max(0.0, globe.ahead) * (0.35 + globe.tilt)) * unit
    canvas.ball(
        (root[0] * 0.45 + tip[0] * 0.55),
        root[1] * 0.7 + tip[1] * 0.3,
        half,
        high,
        darken(globe.person.hat, 0.85),
        gloss=0.6,
        fade=0.25,
    )
