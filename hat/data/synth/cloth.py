"""What garments look like: colors, patterns, seams, collars and folds as functions of the place on the body.

Places are measured in shares of body height: ``around`` runs around the trunk from 0 in the middle of the chest, ``level`` is
the height above the ground. A pattern therefore turns with the body, and a logo on the chest is gone from behind.
"""

from __future__ import annotations

import math

import numpy as np

from .canvas import Array, Material, Surface, solid
from .palette import Color, darken, mix
from .person import Person

__all__ = [
    "leg_folds",
    "plain",
    "pleats",
    "sleeve_folds",
    "sleeve_material",
    "trouser_material",
    "trunk_folds",
    "trunk_material",
]

_TRUNK_RADIUS = 0.092


def plain(color: Color) -> Material:
    """A material of one color."""
    block = solid(color)
    return lambda surface: block


def _over(color: Array, mask: Array, top: Color | Array) -> Array:
    """Lay a second color over the first where the mask (in [0, 1]) is."""
    layer = top if isinstance(top, np.ndarray) else solid(top)
    return np.asarray(color * (1 - mask) + layer * mask, dtype=np.float32)


def _line(distance: Array, half_width: float, soft: float = 0.0015) -> Array:
    """1 within a half width, falling to 0 over ``soft``."""
    return np.asarray(np.clip((np.float32(half_width) - np.abs(distance)) / np.float32(soft) + 1, 0.0, 1.0), dtype=np.float32)


def _patterned(person: Person, around: Array, level: Array) -> Array:
    """The cloth of the upper garment."""
    base, accent = solid(person.upper_color), solid(person.upper_accent)
    kind = person.pattern
    width = 0.02 + 0.012 * (person.texture % 1)
    if kind == "stripes" and person.texture % 3 < 2:
        return _over(base, _step(np.sin(level * np.float32(2 * math.pi / (2 * width)))), accent)
    if kind == "stripes":
        return _over(base, _step(np.sin(around * np.float32(2 * math.pi / width))), accent)
    if kind == "checks":
        rows = _step(np.sin(level * np.float32(2 * math.pi / (1.6 * width))))
        columns = _step(np.sin(around * np.float32(2 * math.pi / (1.6 * width))))
        return _over(base, 0.42 * rows + 0.42 * columns, accent)
    if kind == "two-tone":
        return _over(base, _step((level - np.float32(0.705 + 0.03 * (person.texture % 1))) * 200), accent)
    if kind == "dots":
        cell = 0.026
        dx = np.abs((around / np.float32(cell)) % 1 - np.float32(0.5))
        dy = np.abs((level / np.float32(cell)) % 1 - np.float32(0.5))
        return _over(base, _step((np.float32(0.09) - dx * dx - dy * dy) * 40), accent)
    return base


def _step(value: Array) -> Array:
    """A steep but smooth step from 0 to 1 around 0."""
    return np.asarray(np.clip(value * np.float32(4) + np.float32(0.5), 0.0, 1.0), dtype=np.float32)


def trunk_material(person: Person) -> Material:
    """The upper garment on the trunk, with neckline, fastening, pocket, logo and the straps of a bag."""
    kind, skin = person.upper, person.neck
    edge = darken(person.upper_color, 0.62)

    def material(surface: Surface) -> Array:
        level = surface.along
        azimuth = surface.azimuth
        lateral, front = np.cos(azimuth), np.sin(azimuth)
        around = (azimuth - np.float32(math.pi / 2)) * np.float32(_TRUNK_RADIUS)
        ahead = np.asarray(front > 0, dtype=np.float32)
        x = lateral * np.float32(0.1)
        color = _patterned(person, around, level)
        if person.pattern == "logo":
            color = _over(color, ahead * _logo(person, x, level), person.upper_accent)
        if kind == "open jacket":
            # The opening widens downwards; the shirt under it has its own round neck.
            gap = np.float32(0.016) + np.float32(0.11) * np.clip(np.float32(0.845) - level, 0.0, 0.4)
            inside = ahead * np.clip((gap - np.abs(x)) / np.float32(0.002) + 1, 0.0, 1.0)
            rim = ahead * _line(np.abs(x) - gap - np.float32(0.003), 0.003)
            color = _over(_over(color, rim, edge), inside, person.upper_accent)
            color = _over(color, inside * _step((level - np.float32(0.828)) * 200), skin)
        elif kind == "coat":
            lapel = np.clip((level - np.float32(0.70)) * np.float32(0.36), 0.0, 0.05)
            opening = ahead * np.clip((lapel - np.abs(x)) / np.float32(0.002), 0.0, 1.0)
            fold = ahead * _line(np.abs(x) - lapel - np.float32(0.012), 0.0015) * _step((level - np.float32(0.70)) * 200)
            seam = ahead * _line(x - np.float32(0.012), 0.001) * _step((np.float32(0.70) - level) * 200)
            buttons = (
                ahead
                * _line(x + np.float32(0.006), 0.004)
                * _line((level / np.float32(0.06)) % 1 - np.float32(0.5), 0.07, 0.02)
            )
            color = _over(_over(color, 0.7 * np.maximum(fold, seam), edge), 0.8 * buttons * (level < 0.7), edge)
            color = _over(color, opening, person.upper_accent)
        elif kind in ("jacket", "shirt"):
            color = _over(
                color, 0.8 * ahead * _line(x, 0.002), edge if kind == "jacket" else mix(person.upper_color, (1, 1, 1), 0.4)
            )
            if kind == "jacket":
                pockets = (
                    ahead
                    * _line(np.abs(x) - np.float32(0.055) + (level - np.float32(0.56)) * np.float32(0.4), 0.0015)
                    * _line(level - np.float32(0.56), 0.03)
                )
                color = _over(color, 0.6 * pockets, edge)
        elif kind == "hoodie":
            pouch = _line(
                np.abs(x) - np.float32(0.062) + np.clip(level - np.float32(0.54), 0, 1) * np.float32(0.45), 0.0015
            ) * _line(level - np.float32(0.555), 0.035)
            pouch = np.maximum(pouch, _line(level - np.float32(0.592), 0.0015) * (np.abs(x) < 0.04))
            cords = _line(np.abs(x) - np.float32(0.017), 0.0022) * _line(level - np.float32(0.795), 0.028)
            color = _over(_over(color, 0.55 * ahead * pouch, edge), ahead * cords, mix(person.upper_color, (1, 1, 1), 0.65))
        color = _neckline(person, color, x, front, level)
        if kind == "dress":
            color = _over(color, 0.8 * _line(level - np.float32(0.625), 0.008), edge)
        return _straps(person, color, x, front, level)

    return material


def _logo(person: Person, x: Array, level: Array) -> Array:
    shape = int(person.texture * 7) % 3
    y = level - np.float32(0.735)
    if shape == 0:
        return _step((np.float32(0.026) - np.sqrt(x * x + y * y)) * 300)
    if shape == 1:
        return _line(x, 0.042) * _line(y, 0.02)
    return _line(np.abs(y) - np.float32(0.6) * (np.float32(0.035) - np.abs(x)), 0.009) * (np.abs(x) < 0.04)


def _neckline(person: Person, color: Array, x: Array, front: Array, level: Array) -> Array:
    """Skin above the collar, or the collar itself."""
    ahead = np.maximum(front, 0.0)
    kind = person.upper
    if kind in ("t-shirt", "long sleeve"):
        border = np.float32(0.8545) - np.float32(0.026) * ahead * ahead
        color = _over(color, _line(level - border + np.float32(0.003), 0.003), darken(person.upper_color, 0.8))
        return _over(color, _step((level - border) * 250), person.neck)
    if kind == "dress":
        border = np.float32(0.85) - np.clip(np.float32(0.05) * ahead - np.abs(x), 0.0, 0.05) * (front > 0)
        return _over(color, _step((level - border) * 250), person.neck)
    if kind == "shirt":
        border = np.float32(0.856) - np.clip(np.float32(0.03) * ahead - np.abs(x), 0.0, 0.03) * np.float32(1.2)
        collar = _step((level - border + np.float32(0.018)) * 200)
        return _over(_over(color, collar, mix(person.upper_color, (1, 1, 1), 0.25)), _step((level - border) * 250), person.neck)
    if kind == "jacket":
        return _over(color, _step((level - np.float32(0.842)) * 200), darken(person.upper_color, 0.75))
    return color


def _straps(person: Person, color: Array, x: Array, front: Array, level: Array) -> Array:
    if person.bag == "backpack":
        # Straps keep their distance from each other where the trunk narrows towards the neck.
        width = np.interp(level, (0.7, 0.8, 0.82, 0.834, 0.846), (0.1, 0.108, 0.096, 0.08, 0.066)).astype(np.float32)
        strap = (
            _line(x * width * 10 - np.sign(x) * np.float32(0.053), 0.0085) * (front > 0) * _line(level - np.float32(0.75), 0.09)
        )
        return _over(color, strap, darken(person.bag_color, 0.8))
    if person.bag == "shoulder bag":
        drop = np.float32(0.685) - np.float32(1.32 * person.bag_side) * x
        return _over(color, _line(level - drop, 0.0095), darken(person.bag_color, 0.8))
    return color


def trunk_folds(person: Person, phase: float) -> Material:
    """Soft folds across the waist and down from the arms."""
    start = person.texture + 0.6 * math.sin(phase)
    # Heavy cloth folds less.
    depth = 0.045 if person.upper in ("jacket", "coat", "hoodie") else 0.06

    def folds(surface: Surface) -> Array:
        level, across = surface.along, surface.across
        wave = np.sin(level * np.float32(64) + across * np.float32(2.4) + np.float32(start))
        wave *= np.sin(level * np.float32(23) - across * np.float32(1.6) + np.float32(start * 2))
        waist = np.exp(-(((level - np.float32(0.6)) / np.float32(0.09)) ** 2))
        return np.asarray(wave * (np.float32(0.25) + waist) * np.float32(depth), dtype=np.float32)

    return folds


def sleeve_material(person: Person) -> Material:
    """The upper garment on an arm, with cuffs."""
    base = person.upper_accent if person.contrast_sleeves else person.upper_color
    if person.pattern in ("stripes", "checks", "dots") and not person.contrast_sleeves:

        def material(surface: Surface) -> Array:
            around = (surface.azimuth - np.float32(math.pi / 2)) * np.float32(0.03)
            return _patterned(person, around, np.float32(0.79) - surface.along * np.float32(0.3))

        return material
    if person.upper in ("hoodie", "jacket", "long sleeve"):
        cloth, cuff = solid(base), solid(darken(base, 0.8))
        return lambda surface: _over(cloth, _step((surface.along - np.float32(0.93)) * 120), cuff)
    return plain(base)


def sleeve_folds(person: Person) -> Material:
    """Folds around the elbow."""

    def folds(surface: Surface) -> Array:
        along, across = surface.along, surface.across
        elbow = np.exp(-(((along - np.float32(0.52)) / np.float32(0.16)) ** 2))
        return np.asarray(
            np.sin(along * np.float32(40) + across * 3 + np.float32(person.texture)) * elbow * np.float32(0.055),
            dtype=np.float32,
        )

    return folds


def trouser_material(person: Person, side: int) -> Material:
    """Trousers on one leg (1 left, -1 right); jeans are paler on the thigh."""
    color = person.lower_color
    if person.side_stripe:
        stripe = (0.92, 0.91, 0.88) if sum(color) < 1.8 else darken(color, 0.5)
        base = solid(color)
        middle = 0.0 if side > 0 else math.pi

        def striped(surface: Surface) -> Array:
            off = np.cos(surface.azimuth - np.float32(middle))
            return _over(base, _step((off - np.float32(0.86)) * 12), stripe)

        return striped
    if person.lower == "jeans":
        cloth, worn, hem = solid(color), mix(color, (1, 1, 1), 0.16), darken(color, 0.8)

        def denim(surface: Surface) -> Array:
            fade = np.exp(-(((surface.along - np.float32(0.3)) / np.float32(0.2)) ** 2)) * surface.facing
            return _over(_over(cloth, fade * np.float32(0.7), worn), _step((surface.along - np.float32(0.975)) * 150), hem)

        return denim
    return plain(color)


def leg_folds(person: Person) -> Material:
    """Folds at the knee and above the shoe."""
    strength = {"wide trousers": 0.04, "tights": 0.0, "bare legs": 0.0}.get(person.lower, 0.05)

    def folds(surface: Surface) -> Array:
        along, across = surface.along, surface.across
        knee = np.exp(-(((along - np.float32(0.5)) / np.float32(0.12)) ** 2))
        hem = np.exp(-(((along - np.float32(0.95)) / np.float32(0.1)) ** 2))
        wave = np.sin(along * np.float32(44) + across * np.float32(2.6) + np.float32(person.texture * 1.7))
        return np.asarray(wave * (knee + hem) * np.float32(strength), dtype=np.float32)

    return folds


def pleats(person: Person) -> Material:
    """Upright folds that open towards the hem of skirts and coats."""
    number = 5 + int(person.texture) % 4

    def folds(surface: Surface) -> Array:
        low = np.clip((np.float32(0.58) - surface.along) * 4, 0.0, 1.0)
        return np.asarray(
            np.sin(surface.across * np.float32(number) + np.float32(person.texture)) * low * np.float32(0.1), dtype=np.float32
        )

    return folds
