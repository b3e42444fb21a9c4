"""Draws a dressed person: legs, trunk, arms, head and bag as shaded solids, in the order in which they hide each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from . import bags, cloth
from .canvas import Array, Canvas, Material, Surface
from .hair import draw_hanging_hair, draw_head
from .head import draw_neck
from .palette import darken
from .person import Person
from .posture import Posture
from .view import View

__all__ = ["draw_figure"]

Floats = npt.NDArray[np.float64]

# Cross-sections of average trunks from neck to hips, in shares of body height: level, half width, half depth, forward shift.
_STRAIGHT = np.array([
    (0.858, 0.030, 0.030, -0.004), (0.846, 0.046, 0.036, -0.005), (0.834, 0.074, 0.043, -0.006), (0.820, 0.096, 0.050, -0.005),
    (0.800, 0.108, 0.058, -0.002), (0.765, 0.107, 0.065, 0.003), (0.720, 0.101, 0.066, 0.006), (0.670, 0.094, 0.061, 0.005),
    (0.620, 0.088, 0.057, 0.003), (0.580, 0.087, 0.058, 0.000), (0.540, 0.090, 0.062, -0.004), (0.500, 0.092, 0.063, -0.006),
    (0.470, 0.090, 0.060, -0.006),
])  # fmt: skip
_CURVED = np.array([
    (0.858, 0.026, 0.027, -0.003), (0.846, 0.040, 0.032, -0.004), (0.834, 0.064, 0.038, -0.005), (0.820, 0.083, 0.045, -0.003),
    (0.800, 0.093, 0.053, 0.001), (0.765, 0.093, 0.062, 0.007), (0.720, 0.088, 0.068, 0.010), (0.670, 0.079, 0.057, 0.005),
    (0.620, 0.074, 0.052, 0.002), (0.580, 0.083, 0.056, -0.002), (0.540, 0.095, 0.065, -0.006), (0.500, 0.099, 0.069, -0.008),
    (0.470, 0.097, 0.066, -0.008),
])  # fmt: skip

# How far the upper garment stands off the body, and the height of its hem.
_THICKNESS = {"hoodie": 0.011, "jacket": 0.011, "open jacket": 0.010, "coat": 0.013, "shirt": 0.006}
_HEM = {
    "t-shirt": 0.478,
    "long sleeve": 0.478,
    "shirt": 0.47,
    "hoodie": 0.474,
    "jacket": 0.48,
    "open jacket": 0.462,
    "coat": 0.33,
}


def draw_figure(canvas: Canvas, person: Person, posture: Posture, view: View, phase: float) -> None:
    """Paint a person on a canvas.

    Args:
        canvas: What is painted on.
        person: Who.
        posture: The joints of the moment.
        view: Where from.
        phase: Moment of the step, for the folds.
    """
    tall = person.height
    parts: list[tuple[float, Callable[[], None]]] = []
    depths = [float(view.project(leg[1:])[3].mean()) for leg in posture.legs]
    for side, leg, depth, other in zip((1, -1), posture.legs, depths, reversed(depths), strict=True):
        dark = 0.1 if depth < other - 0.03 * tall else 0.0
        parts.append((-10 + depth, partial(_leg, canvas, person, leg, view, side, dark)))
    middle = view.point(0.0, 0.66 * tall, 0.0)[3]
    for arm in posture.arms:
        depth = float(view.project(arm[1:])[3].mean()) - middle
        far = depth < -0.05 * tall
        parts.append(((-20 if far else 2) + depth, partial(_arm, canvas, person, arm, view, 0.09 if far else 0.0)))
    parts.append((0.0, lambda: _hips(canvas, person, posture, view)))
    parts.append((0.3, lambda: draw_neck(canvas, person, posture, view)))
    parts.append((1.0, lambda: _trunk(canvas, person, posture, view, phase)))
    parts.append((1.1, lambda: _collar(canvas, person, posture, view)))
    parts.append((5.0, lambda: draw_head(canvas, person, posture, view)))
    away = math.cos(view.yaw) < -0.15
    parts.append((5.1 if away else 0.2, lambda: draw_hanging_hair(canvas, person, posture, view)))
    parts += bags.bag_parts(canvas, person, posture, view)
    for _, draw in sorted(parts, key=lambda part: part[0]):
        draw()


def trunk_sections(person: Person) -> Floats:
    """A person's trunk without clothes: (n, 4) level, half width, half depth, forward shift, in shares of height."""
    sections = (_CURVED if person.curved else _STRAIGHT).copy()
    level = sections[:, 0]
    # The shoulders follow the girth less than the waist does, and a belly grows forward.
    weight = np.interp(level, (0.55, 0.62, 0.8, 0.84), (0.9, 1.0, 0.35, 0.1))
    sections[:, 1] *= 1 + (person.girth - 1) * weight
    sections[:, 2] *= 1 + (person.girth - 1) * weight
    belly = max(0.0, person.girth - 1.04) * np.exp(-(((level - 0.6) / 0.07) ** 2))
    sections[:, 2] += 0.11 * belly
    sections[:, 3] += 0.09 * belly
    return sections


def _tube(
    canvas: Canvas,
    person: Person,
    posture: Posture,
    view: View,
    sections: Floats,
    material: Material,
    *,
    folds: Material | None = None,
    fade: float = 0.15,
    flat_top: bool = False,
) -> None:
    tall = person.height
    level = sections[:, 0]
    twist = np.interp(level, (0.5, 0.8), (-0.4 * posture.twist, posture.twist))
    centers = np.zeros((len(level), 3))
    centers[:, 1] = level * tall + posture.rise
    centers[:, 2] = (sections[:, 3] + np.maximum(level - 0.52, 0) * posture.lean) * tall
    rings = view.rings(centers, sections[:, 1] * tall, sections[:, 2] * tall, level, twist)
    canvas.tube(rings, material, folds=folds, fade=fade, flat_top=flat_top)


def _trunk(canvas: Canvas, person: Person, posture: Posture, view: View, phase: float) -> None:
    sections = trunk_sections(person)
    thick = _THICKNESS.get(person.upper, 0.004)
    level = sections[:, 0]
    grow = thick * np.interp(level, (0.8, 0.85), (1.0, 0.5))
    sections[:, 1] += grow
    sections[:, 2] += grow
    hem = person.lower_length if person.upper == "dress" else _HEM[person.upper]
    if hem < 0.46:
        sections = np.vstack([sections[:-1], _flare(sections[-2], hem, _spread(person, posture, hem), 0.01)])
    else:
        sections = sections[level > hem + 0.005]
        last = sections[-1].copy()
        last[0] = hem
        # A loose hem hangs straight down from the widest place above it; a ribbed one is drawn in.
        last[1:3] *= 0.96 if person.upper in ("hoodie", "jacket") else 1.02
        sections = np.vstack([sections, last])
    folds = cloth.trunk_folds(person, phase) if hem > 0.46 else cloth.pleats(person)
    _tube(canvas, person, posture, view, sections, cloth.trunk_material(person), folds=folds)


def _spread(person: Person, posture: Posture, hem: float) -> float:
    """How far the legs reach forward or back at a height, as a share of body height: a hem has to give way to them."""
    reach = 0.0
    for leg in posture.legs:
        down = leg[:3]
        reach = max(reach, abs(float(np.interp(-hem * person.height, -down[:, 1], down[:, 2]))))
    return reach / person.height


def _flare(start: Floats, hem: float, spread: float, extra: float) -> Floats:
    """Sections from the hips down to a hem that gives way to the legs."""
    levels = np.linspace(start[0] - 0.03, hem, 5)
    share = (start[0] - levels) / max(start[0] - hem, 1e-6)
    width = start[1] + (0.008 + extra) * share + 0.02 * share * (0.5 - hem) / 0.4
    depth = start[2] + (spread * 0.85 + extra * 0.5) * share
    return np.stack([levels, width, depth, np.full_like(levels, start[3])], axis=1)


def _hips(canvas: Canvas, person: Person, posture: Posture, view: View) -> None:
    """The seat of trousers, or the skirt."""
    if person.upper == "dress":
        return
    sections = trunk_sections(person)
    sections = sections[sections[:, 0] < 0.63]
    sections[:, 1:3] += 0.002
    if person.lower == "skirt":
        body = sections[:-1]
        spread = _spread(person, posture, person.lower_length)
        sections = np.vstack([body, _flare(body[-1], person.lower_length, spread, 0.012 + 0.01 * (person.texture % 1))])
        _tube(canvas, person, posture, view, sections, cloth.plain(person.lower_color), folds=cloth.pleats(person))
        return
    sections = sections[sections[:, 0] > 0.49]
    low = sections[-1].copy()
    low[0], low[1], low[2] = 0.462, low[1] * 0.9, low[2] * 0.8
    _tube(canvas, person, posture, view, np.vstack([sections, low]), cloth.plain(person.lower_color), fade=0.0)


def _collar(canvas: Canvas, person: Person, posture: Posture, view: View) -> None:
    """A scarf around the neck."""
    if person.scarf is None:
        return
    sections = np.array(
        [(0.868, 0.034, 0.036, 0.0), (0.858, 0.045, 0.047, 0.002), (0.842, 0.05, 0.05, 0.004), (0.828, 0.042, 0.046, 0.006)]
    )

    def wound(surface: Surface) -> Array:
        return np.asarray(0.12 * np.sin(surface.along * np.float32(420) + surface.across * 3), dtype=np.float32)

    _tube(canvas, person, posture, view, sections, cloth.plain(person.scarf), folds=wound, fade=0.25)


def _leg(canvas: Canvas, person: Person, leg: Floats, view: View, side: int, dark: float) -> None:
    tall, lower = person.height, person.lower
    points, scale = view.line(leg)
    girth = 0.4 + 0.6 * person.girth
    flesh = np.array((0.047, 0.031, 0.020)) * tall * girth * scale[:3] * (1.04 if person.curved else 1.0)
    bare = lower in ("shorts", "bare legs") or (lower == "skirt" and person.lower_length > 0.2)
    tight = lower == "tights"
    if bare or tight or lower == "skirt":
        color = darken(person.lower_color, 0.6) if tight else person.skin
        canvas.limb(points[:3], flesh, cloth.plain(color), turn=view.yaw, fade=0.18, dark=dark)
    _shoe(canvas, person, leg, view, dark, bare=bare)
    if lower == "shorts":
        hem = _cut(leg[:3], person.lower_length * tall)
        tube, at = view.line(hem)
        radii = np.array((0.052, 0.050, 0.050)) * tall * girth * at
    elif lower in ("trousers", "jeans", "wide trousers"):
        shape = {"trousers": (0.050, 0.036, 0.029), "jeans": (0.049, 0.035, 0.027), "wide trousers": (0.052, 0.046, 0.046)}[
            lower
        ]
        radii = np.array(shape) * tall * girth * scale[:3]
        tube = points[:3].copy()
        tube[2] += (tube[2] - tube[1]) * 0.09
    else:
        return
    canvas.limb(
        tube,
        radii,
        cloth.trouser_material(person, side),
        turn=view.yaw,
        flat_end=True,
        fade=0.18,
        dark=dark,
        folds=cloth.leg_folds(person),
    )


def _cut(leg: Floats, height: float) -> Floats:
    """The part of a leg above a height over the standing ankle, measured along the leg, as three joints."""
    thigh = float(np.linalg.norm(leg[1] - leg[0]))
    length = max(float(leg[0, 1] - leg[1, 1]), 0.4 * thigh)
    share = min(max((0.515 / 0.238 * thigh - height) / thigh, 0.3), 1.0) if length else 1.0
    end = leg[0] + (leg[1] - leg[0]) * share
    return np.stack([leg[0], (leg[0] + end) / 2, end])


def _shoe(canvas: Canvas, person: Person, leg: Floats, view: View, dark: float, *, bare: bool) -> None:
    tall = person.height
    knee, ankle, toe = leg[1], leg[2], leg[3]
    shin = (ankle - knee) / max(float(np.linalg.norm(ankle - knee)), 1e-6)
    sole = ankle + shin * 0.034 * tall
    forward = (toe - sole) / max(float(np.linalg.norm(toe - sole)), 1e-6)
    heel = sole - forward * 0.02 * tall
    if person.shoes == "boots":
        points, scale = view.line(np.stack([ankle - shin * 0.07 * tall, ankle, sole]))
        canvas.limb(
            points,
            np.array((0.029, 0.027, 0.026)) * tall * scale,
            cloth.plain(person.shoe_color),
            turn=view.yaw,
            fade=0.0,
            dark=dark,
        )
    elif bare and person.shoes == "trainers":
        points, scale = view.line(np.stack([ankle - shin * 0.03 * tall, ankle]))
        canvas.limb(points, np.array((0.022, 0.022)) * tall * scale, cloth.plain((0.9, 0.9, 0.88)), fade=0.0, dark=dark)
    lift = np.array([0.0, 0.012 * tall, 0.0])
    points, scale = view.line(np.stack([heel, toe]) + lift * 0.15)
    canvas.limb(points, np.array((0.0190, 0.0185)) * tall * scale, cloth.plain(person.sole), fade=0.3, dark=dark + 0.08)
    points, scale = view.line(np.stack([heel + lift, (heel + toe) / 2 + lift * 1.25, toe + lift * 0.7]))
    canvas.limb(points, np.array((0.0208, 0.0212, 0.0172)) * tall * scale, cloth.plain(person.shoe_color), fade=0.0, dark=dark)


def _arm(canvas: Canvas, person: Person, arm: Floats, view: View, dark: float) -> None:
    tall = person.height
    points, scale = view.line(arm)
    girth = 0.5 + 0.5 * person.girth
    slim = 0.88 if person.curved else 1.0
    flesh = np.array((0.0275, 0.0225, 0.0165, 0.0175)) * tall * girth * slim * scale
    canvas.limb(points[:3], flesh[:3], cloth.plain(person.skin), turn=view.yaw, fade=0.2, dark=dark)
    canvas.limb(
        points[2:], np.array((0.0165, 0.0205)) * tall * scale[2:], cloth.plain(person.skin), turn=view.yaw, fade=0.15, dark=dark
    )
    short = person.upper == "t-shirt" or (person.upper == "dress" and person.lower != "tights")
    if short:
        end = points[0] + (points[1] - points[0]) * (0.68 if person.upper == "t-shirt" else 0.45)
        sleeve, radii = np.stack([points[0], end]), np.array((0.031, 0.0325)) * tall * girth * slim * scale[:2]
    else:
        sleeve = points[:3].copy()
        sleeve[2] += (sleeve[2] - sleeve[1]) * 0.03
        extra = 0.6 * _THICKNESS.get(person.upper, 0.003) * tall
        radii = flesh[:3] + np.array((extra * 0.5, extra + 0.002 * tall, extra + 0.003 * tall)) * scale[:3]
    canvas.limb(
        sleeve,
        radii,
        cloth.sleeve_material(person),
        turn=view.yaw,
        flat_end=True,
        fade=0.22,
        dark=dark,
        folds=None if short else cloth.sleeve_folds(person),
    )
