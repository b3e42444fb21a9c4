"""Figures: a person's body in a moment of a step, dressed, as solids of facets. Lengths are shares of body height."""

import functools
import math
from dataclasses import dataclass

import numpy as np

from .solids import Array, Field, Paint, Point, Solids, over
from .wardrobe import BLACK, HATS, WHITE, Color, Person, mix

# Cross-sections of average trunks from neck to hips: level, half width, half depth, forward shift.
_LEVELS = -np.array((0.858, 0.846, 0.834, 0.820, 0.800, 0.765, 0.720, 0.670, 0.620, 0.580, 0.540, 0.500, 0.470))
_STRAIGHT = (
    (0.030, 0.046, 0.074, 0.096, 0.108, 0.107, 0.101, 0.094, 0.088, 0.087, 0.090, 0.092, 0.090),
    (0.030, 0.036, 0.043, 0.050, 0.058, 0.065, 0.066, 0.061, 0.057, 0.058, 0.062, 0.063, 0.060),
    (-0.004, -0.005, -0.006, -0.005, -0.002, 0.003, 0.006, 0.005, 0.003, 0.0, -0.004, -0.006, -0.006),
)
_CURVED = (
    (0.026, 0.040, 0.064, 0.083, 0.093, 0.093, 0.088, 0.079, 0.074, 0.083, 0.095, 0.099, 0.097),
    (0.027, 0.032, 0.038, 0.045, 0.053, 0.062, 0.068, 0.057, 0.052, 0.056, 0.065, 0.069, 0.066),
    (-0.003, -0.004, -0.005, -0.003, 0.001, 0.007, 0.010, 0.005, 0.002, -0.002, -0.006, -0.008, -0.008),
)
# How far the upper garment stands off the body, and the height of its hem.
_THICKNESS = {"hoodie": 0.011, "jacket": 0.011, "open jacket": 0.010, "coat": 0.013, "shirt": 0.006}
_HEMS = {"hoodie": 0.474, "open jacket": 0.462, "coat": 0.33}
# Radii of a trouser leg at hip, knee and ankle.
_LEGS = {"trousers": (0.050, 0.036, 0.029), "jeans": (0.049, 0.035, 0.027), "wide trousers": (0.052, 0.046, 0.046)}
_SKULL = (0.0515, 0.0725, 0.0605)
# How far hair stands off the head, and its edge at forehead, nape and before the ears.
_HAIR = {
    "short": (1.07, 0.5, 0.5, 0.1), "side parted": (1.09, 0.42, 0.5, 0.12), "buzz cut": (1.02, 0.54, 0.5, 0.1),
    "curly": (1.2, 0.36, 0.6, 0.0), "afro": (1.12, 0.4, 0.7, 0.25), "ponytail": (1.05, 0.46, 0.42, -0.02),
    "bun": (1.05, 0.46, 0.42, -0.02), "cap": (1.03, 0.6, 0.55, -0.05), "beanie": (1.03, 0.6, 0.55, -0.05),
    "sun hat": (1.03, 0.6, 0.55, -0.05), "bob": (1.13, 0.42, 0.9, 0.3), "long": (1.09, 0.42, 0.9, 0.3),
}  # fmt: skip


@dataclass(frozen=True)
class Posture:
    """Joints of one moment in shares of body height. The person's left is +x, feet stand on y = 0."""

    rise: float  # how much the pelvis stands above (mostly below) its height at rest
    lean: float  # tangent of the trunk's forward lean
    twist: float  # turn of the shoulders against the pelvis in radians
    legs: Array  # (2, 4, 3) hip, knee, ankle and toe tip of the left and the right leg
    arms: Array  # (2, 4, 3) shoulder, elbow, wrist and knuckles


def pose_person(person: Person, phase: float, stride: float) -> Posture:
    """Pose a person at a ``phase`` of a step in radians; a ``stride`` is long from 0 (standing) to about 1.2 (striding)."""
    swing, hip = math.radians(24) * stride * person.gait, 0.05 if person.curved else 0.047
    legs = np.stack([_leg(side * hip, phase + (0 if side > 0 else math.pi), swing, stride) for side in (1, -1)])
    rise = 0.012 - float(legs[:, 2:, 1].min())
    lean, twist = 0.03 + 0.05 * stride, 0.14 * stride * math.sin(phase)
    shoulder = (0.087 if person.curved else 0.101) * (0.8 + 0.2 * person.girth)
    arms = np.stack([_arm(person, side, phase + (math.pi if side > 0 else 0), swing, shoulder) for side in (1, -1)])
    arms[..., 2] += lean * 0.29 - np.array((1, -1))[:, None] * shoulder * math.sin(twist)
    raised = np.array((0.0, rise, 0.0))
    return Posture(rise, lean, twist, legs + raised, arms + raised)


def _leg(x: float, phase: float, swing: float, stride: float) -> Array:
    """Return hip, knee, ankle, toe tip. The knee bends most as the leg swings forward and a little as the heel lifts."""
    thigh = swing * math.sin(phase) + 0.04 * stride
    shin = thigh - 0.05 - stride * (0.72 * max(0.0, math.cos(phase)) ** 1.5 + 0.3 * max(0.0, -math.sin(phase)) ** 3)
    hip = np.array((x, 0.515, 0.0))
    knee = hip + _bone(thigh, 0.238, -0.07 * x)
    ankle = knee + _bone(shin, 0.235, -0.03 * x)
    tilt = min(shin * 0.75, 0.0) if shin < 0 else shin * 0.5
    toe = ankle + _bone(shin, 0.034) + (0.12 * x, 0.092 * math.sin(tilt), 0.092 * math.cos(tilt))
    return np.stack([hip, knee, ankle, toe])


def _arm(person: Person, side: int, phase: float, swing: float, x: float) -> Array:
    """Return shoulder, elbow, wrist, knuckles. A carrying arm hangs still; a suitcase pulls its arm back."""
    upper, flex = 0.95 * swing * math.sin(phase) - 0.03, 0.22 + 0.35 * swing * (1 + math.sin(phase))
    if person.bag_side == side and person.bag == "handbag":
        upper, flex = 0.25 * upper, 0.1
    elif person.bag_side == side and person.bag == "suitcase":
        upper, flex = -0.3 + 0.15 * upper, 0.08
    outward = 0.13 + 0.1 * (person.girth - 1) + (0.04 if person.upper in ("coat", "hoodie", "jacket") else 0.0)
    shoulder = np.array((side * x, 0.788, 0.0))
    elbow = shoulder + _bone(upper, 0.165, side * 0.168 * math.sin(outward))
    wrist = elbow + _bone(upper + flex, 0.14, side * 0.012)
    return np.stack([shoulder, elbow, wrist, wrist + _bone(upper + flex + 0.15, 0.05, -side * 0.004)])


def _bone(angle: float, length: float, sideways: float = 0.0) -> Array:
    """Return the way along a hanging bone that is turned forward by an angle."""
    return np.array((sideways, -length * math.cos(angle), length * math.sin(angle)))


def build_figure(person: Person, posture: Posture) -> Solids:
    """Build a dressed person."""
    solids = Solids()
    for side, leg, arm in zip((1, -1), posture.legs, posture.arms, strict=True):
        _add_leg(solids, person, leg, side)
        _add_arm(solids, person, arm, side)
    _add_trunk(solids, person, posture)
    solids.add(_head(person), np.array((0.0, 0.9285 + posture.rise, 0.012 + posture.lean * 0.36)))
    _add_bag(solids, person, posture)
    return solids


def _cloth(person: Person, color: Color, depth: float = 0.08) -> Field:
    """Return cloth of one color with soft folds."""

    def folded(azimuth: Array, along: Array) -> Array:
        wave = np.sin(along * 26 + 2.2 * np.cos(azimuth) + person.texture) * np.sin(along * 13 - np.sin(azimuth))
        return np.asarray(np.array(color) * (1 + depth * wave[..., None]))

    return folded


def _add_leg(solids: Solids, person: Person, leg: Array, side: int) -> None:
    lower, color, girth = person.lower, person.lower_color, 0.4 + 0.6 * person.girth

    def trousers(azimuth: Array, along: Array) -> Array:
        base = _cloth(person, color)(azimuth, along)
        if lower == "jeans":  # Paler on the thigh.
            base = over(base, np.exp(-(((along - 0.3) / 0.2) ** 2)) * np.clip(np.sin(azimuth), 0, 0.7), mix(color, WHITE, 0.2))
        if person.side_stripe:
            stripe = (0.92, 0.91, 0.88) if sum(color) < 1.8 else mix(color, BLACK, 0.5)
            base = over(base, np.cos(azimuth) * side > 0.8, stripe)
        return base

    if lower in _LEGS:
        ankle = leg[2] + (leg[2] - leg[1]) * 0.09
        radii = np.array(_LEGS[lower]) * girth
        solids.limb(np.stack([*leg[:2], ankle]), radii, trousers, steps=7, side=side, layer=0.02)
    else:
        radii, socks = np.array((0.047, 0.031, 0.020)) * girth, lower != "tights" and person.shoes == "trainers"
        flesh = mix(color, BLACK, 0.35) if lower == "tights" else person.skin
        solids.limb(leg[:3], radii, lambda _, along: over(flesh, (along > 0.9) & socks, (0.88, 0.88, 0.86)), steps=7, side=side)
    if lower == "shorts":
        hem = leg[0] + (leg[1] - leg[0]) * 2 * person.hem
        solids.limb(np.stack([leg[0], hem]), np.array((0.052, 0.051)) * girth, trousers, steps=6, side=side, layer=0.02)
    shin = (leg[2] - leg[1]) / 0.235
    if person.shoes == "boots":
        solids.limb(leg[2] + shin * [[-0.07], [0.03]], (0.029, 0.026), person.shoe_color, steps=4)
    toe = leg[3] + (0.0, 0.004, 0.0)
    heel = 1.22 * (leg[2] + shin * 0.03) - 0.22 * toe
    # Place, half width and half height of a shoe from heel to tip.
    last = [(0, 0, 0), (0.01, 14, 16), (0.15, 19, 23), (0.4, 19, 24), (0.65, 21, 18), (0.85, 20, 13), (0.99, 8, 5), (1, 0, 0)]
    place, width, height = np.array(last).T

    def shoe(azimuth: Array, along: Array) -> Array:
        return over(person.shoe_color, np.sin(azimuth) < -0.3, person.sole)

    solids.rings(heel + place[:, None] * (toe - heel), width / 1000, height / 1000, shoe, columns=12, upright=False)


def _sections(person: Person, posture: Posture, levels: Array, extra: float) -> tuple[Array, Array, Array]:
    """Return centers, half widths and half depths of the trunk at levels, with cloth of a thickness around it."""
    width, depth, shift = (np.interp(-levels, _LEVELS, row) for row in (_CURVED if person.curved else _STRAIGHT))
    # The shoulders follow the girth less than the waist does, and a belly grows forward.
    factor = 1 + (person.girth - 1) * np.interp(levels, (0.55, 0.62, 0.8, 0.84), (0.9, 1.0, 0.35, 0.1))
    belly = max(0.0, person.girth - 1.04) * np.exp(-(((levels - 0.6) / 0.07) ** 2))
    grown = extra * np.interp(levels, (0.8, 0.85), (1.0, 0.5))
    # Below the hips a hem gives way to the legs.
    share = np.clip(0.48 - levels, 0, 1)
    reach = np.array([np.abs(np.interp(-levels - posture.rise, -leg[:3, 1], leg[:3, 2])) for leg in posture.legs]).max(0)
    depth = np.maximum(depth * factor + grown + 0.11 * belly + share * 0.05, (reach + 0.03) * (share > 0))
    forward = shift + 0.09 * belly + np.maximum(levels - 0.52, 0) * posture.lean
    centers = np.stack([np.zeros_like(levels), levels + posture.rise, forward], axis=1)
    return centers, width * factor + grown + share * 0.07, depth


def _add_trunk(solids: Solids, person: Person, posture: Posture) -> None:
    def tube(top: float, hem: float, extra: float, color: Field, rows: int, columns: int, layer: float) -> None:
        levels = np.linspace(top, hem, rows)
        centers, width, depth = _sections(person, posture, levels, extra)
        twist = np.interp(levels, (0.5, 0.8), (-0.4, 1.0)) * posture.twist
        solids.rings(centers, width, depth, color, along=levels, twist=twist, columns=columns, layer=layer)

    neck = np.add([(0.0, 0.82, -0.004), (0.0, 0.89, 0.006)], (0.0, posture.rise, posture.lean * 0.32))
    solids.limb(neck, (0.032, 0.029), mix(person.neck, BLACK, 0.08), steps=3)
    rows = 36 if person.pattern in ("stripes", "checks", "dots") else 22
    hem = person.hem if person.upper == "dress" else _HEMS.get(person.upper, 0.478)
    tube(0.858, hem, _THICKNESS.get(person.upper, 0.004), functools.partial(_upper, person), rows, 38, 0.06)
    if person.lower == "skirt":
        tube(0.6, person.hem, 0.002, _cloth(person, person.lower_color), 14, 20, 0.09)
    elif person.upper != "dress":
        tube(0.56, 0.462, 0.002, _cloth(person, person.lower_color), 5, 20, 0.03)


def _patterned(person: Person, around: Array, level: Array) -> Array:
    """Return the cloth of the upper garment; both places are in shares of body height."""
    kind, width = person.pattern, 2 * math.pi / (0.034 + 0.016 * (person.texture % 1))
    down, across = np.sin(level * width + 0 * around), np.sin(around * width + 0 * level)
    color = _cloth(person, person.upper_color, 0.1)(around * 10, level * 1.4)
    mask = {
        "stripes": (down if person.texture % 3 < 2 else across) > 0,
        "checks": 0.45 * (down > 0) + 0.45 * (across > 0),
        "two-tone": level + 0 * around > 0.7 + 0.04 * (person.texture % 1),
        "dots": down * across > 0.35,
    }.get(kind)
    return color if mask is None else over(color, mask, person.upper_accent)


def _upper(person: Person, azimuth: Array, level: Array) -> Array:
    """Return the upper garment on the trunk, with neckline, fastening and logo."""
    kind, dark, pale = person.upper, mix(person.upper_color, BLACK, 0.4), mix(person.upper_color, WHITE, 0.5)
    ahead = np.sin(azimuth) > 0
    x = np.where(ahead, np.abs(0.1 * np.cos(azimuth)), 1.0) + 0 * level  # Far off behind, where nothing of this is.
    color = _patterned(person, (azimuth - math.pi / 2) * 0.092, level)
    if person.pattern == "logo":
        color = over(color, x * x + (level - 0.735) ** 2 < 0.0009, person.upper_accent)
    neckline = 0.853 - 0.026 * ahead * np.sin(azimuth) ** 2
    if kind in ("open jacket", "coat"):
        gap = 0.016 + 0.11 * np.clip(0.845 - level, 0.0, 0.4) if kind == "open jacket" else (level - 0.7).clip(0, 0.14) * 0.36
        color = over(over(color, x < gap + 0.009, dark), x < gap, person.upper_accent)
        neckline = np.where(x < gap, 0.828, 1.0) if kind == "open jacket" else 1.0
    elif kind in ("jacket", "shirt"):
        color = over(color, (0.7 * (x < 0.008)).clip(level > 0.842), dark if kind == "jacket" else pale)
        neckline = 0.856
    elif kind == "hoodie":
        color = over(color, 0.3 * ((np.abs(level - 0.555) < 0.04) & (x < 0.075 - (level - 0.54).clip(0) * 0.5)), dark)
        color = over(color, (np.abs(x - 0.017) < 0.008) & (np.abs(level - 0.8) < 0.03), pale)
        neckline = 0.856
    elif kind == "dress":
        color = over(color, 0.8 * (np.abs(level - 0.625) + 0 * x < 0.012), dark)
        neckline = 0.85 - np.clip(0.045 - x, 0, 1)
    return over(color, level + 0 * x > neckline, person.neck)


def _add_arm(solids: Solids, person: Person, arm: Array, side: int) -> None:
    girth = (0.5 + 0.5 * person.girth) * (0.88 if person.curved else 1.0)
    flesh = np.array((0.0275, 0.0225, 0.0165)) * girth
    patterned = person.pattern in ("stripes", "checks", "dots") and not person.contrast_sleeves
    plain_sleeve = _cloth(person, person.upper_accent if person.contrast_sleeves else person.upper_color)

    def sleeve(azimuth: Array, along: Array) -> Array:
        if not patterned:
            return plain_sleeve(azimuth, along)
        return _patterned(person, (azimuth - math.pi / 2) * 0.03, 0.79 - along * 0.3)

    if person.upper == "t-shirt" or (person.upper == "dress" and person.lower != "tights"):
        solids.limb(arm[:3], flesh, person.skin, steps=4, side=side, layer=0.06)
        end = arm[0] + (arm[1] - arm[0]) * 0.66
        solids.limb(np.stack([arm[0], end]), np.array((0.032, 0.0335)) * girth, sleeve, steps=6, side=side, layer=0.065)
    else:
        extra = 0.6 * _THICKNESS.get(person.upper, 0.003)
        wrist = arm[2] + (arm[2] - arm[1]) * 0.03
        radii = flesh + np.array((0.5 * extra + 0.003, extra + 0.002, extra + 0.003))
        solids.limb(np.stack([*arm[:2], wrist]), radii, sleeve, steps=6, side=side, layer=0.06)
    hand = np.stack([arm[2], 0.4 * arm[2] + 0.6 * arm[3], arm[3]])
    solids.limb(hand, (0.015, 0.02, 0.014), person.skin, steps=2, columns=8, layer=0.06)


def _direction(azimuth: Array, up: Array) -> tuple[Array, Array]:
    """Return the parts of directions from the head's center to its left and to its front."""
    ring = np.sqrt(np.maximum(1 - up * up, 0))
    return np.cos(azimuth) * ring, np.sin(azimuth) * ring


@functools.lru_cache(maxsize=16)
def _head(person: Person) -> Solids:
    """Build the head around its center; it is the same in every posture."""
    solids, skin, hair = Solids(), person.skin, person.hair

    def feature(place: Point, half: Point, color: Color) -> None:
        solids.ball((_SKULL[0] * place[0], _SKULL[1] * place[1], _SKULL[2] * place[2]), half, color)

    feature((0.0, -0.16, 0.97), (0.007, 0.014, 0.009), skin)  # nose, mouth, then eyes, brows and ears
    feature((0.0, -0.5, 0.74), (0.014, 0.0045, 0.008), mix(skin, (0.45, 0.15, 0.15), 0.5))
    for side in (1, -1):
        feature((side * 0.33, 0.05, 0.9), (0.007, 0.006, 0.006), (0.1, 0.08, 0.08))
        feature((side * 0.33, 0.27, 0.87), (0.012, 0.003, 0.006), mix(hair, BLACK, 0.2))
        if person.hair_style not in ("long", "bob", "headscarf", "afro", "curly"):
            feature((side, -0.08, -0.1), (0.008, 0.018, 0.012), mix(skin, BLACK, 0.08))

    def face(azimuth: Array, up: Array) -> Array:
        side, front = _direction(azimuth, up)
        color, side = np.array(skin), np.abs(side)
        if person.beard:
            color = over(color, (front > 0.05) & (up < np.where(side > 0.55, 0.0, -0.3)), mix(hair, skin, 0.25))
        if person.glasses:
            color = over(color, 0.75 * ((np.abs(up - 0.06) < 0.09) & (front > 0) & (side > 0.08)), (0.1, 0.1, 0.12))
        return color

    solids.ball((0.0, 0.0, 0.0), _SKULL, face, rows=16, columns=22, jaw=0.25)
    _add_hair(solids, person)
    return solids


def _add_hair(solids: Solids, person: Person) -> None:
    style, hair, hat = person.hair_style, _cloth(person, person.hair, 0.12), _cloth(person, person.hat, 0.06)
    part = 0.4 if person.texture % 2 < 1 else -0.4

    def shell(out: float, color: Paint, edge: Field, place: Point = (0, 0, 0)) -> None:
        """Cover the head where the edge is positive, close to it at the edge."""

        def swell(azimuth: Array, up: Array) -> Array:
            return np.asarray(1.01 + (out - 1) * np.clip(5 * edge(azimuth, up), 0, 1))

        size = (_SKULL[0], _SKULL[1] * out, _SKULL[2])
        solids.ball(place, size, color, rows=16, columns=22, jaw=0.2, keep=edge, swell=swell)

    def fall(low: float, width: float, color: Field) -> None:
        """Hang hair or cloth down the back from the crown."""
        share = np.linspace(0, 1, 8)
        centers = np.stack([0 * share, 0.06 - share * (0.06 - low), -0.012 - 0.046 * share**1.3], axis=1)
        solids.rings(centers, width * np.sin(0.35 + 2.2 * share) ** 0.5, 0.05 - 0.028 * share, color, layer=0.07)

    def cropped(azimuth: Array, up: Array) -> Array:
        _, forehead, nape, burns = _HAIR[style]
        side, front = _direction(azimuth, up)
        crown = up - forehead - 0.12 * front + 0.16 * side * side
        if style in ("side parted", "bob", "long"):
            crown = up - 0.36 - 0.25 * np.abs(side - part) + 0.3 * side * side
        back = np.maximum(np.minimum(-0.12 - front, up + nape), np.minimum(0.32 - front, up + burns))
        return np.asarray(np.maximum(crown, back))

    def wrapped(azimuth: Array, up: Array) -> Array:
        side, front = _direction(azimuth, up)
        return np.asarray(np.where(front > 0, np.hypot(side / 0.66, (up + 0.1) / 0.7) - 1, 1.0))

    def above(level: float) -> Field:
        return lambda azimuth, up: up - level - 0.1 * _direction(azimuth, up)[1]

    if style in _HAIR:
        shell(_HAIR[style][0], mix(person.hair, person.skin, 0.3) if style == "buzz cut" else hair, cropped)
    if style in ("long", "bob", "curly"):
        fall({"long": -0.15, "bob": -0.07, "curly": -0.05}[style], 0.062, hair)
    elif style == "afro":
        shell(1.38, hair, lambda a, up: np.minimum(up + 0.6, np.maximum(0.3 - np.sin(a), up - 0.62)), (0, 0.016, -0.02))
    elif style == "bun":
        solids.ball((0.0, 0.06, -0.048), (0.029, 0.028, 0.029), hair, rows=8, columns=12)
    elif style == "ponytail":
        joints = [(0.0, 0.034, -0.056), (0.0, -0.02, -0.082), (0.0, -0.13, -0.07)]
        solids.limb(joints, (0.014, 0.0215, 0.008), hair, steps=4, layer=0.07)
    elif style == "headscarf":
        shell(1.12, hat, wrapped)
        fall(-0.13, 0.066, hat)
    elif style == "beanie":
        shell(1.13, hat, above(0.24))
        shell(1.17, mix(person.hat, BLACK, 0.18), lambda a, up: np.minimum(above(0.2)(a, up), 0.5 - up))
    elif style in HATS:
        shell(1.1, hat, above(0.3))
        place, size = ((0.0, 0.026, 0.07), (0.042, 0.006, 0.04)) if style == "cap" else ((0.0, 0.034, 0.0), (0.1, 0.007, 0.105))
        solids.ball(place, size, mix(person.hat, BLACK, 0.12), columns=20)


def _add_bag(solids: Solids, person: Person, posture: Posture) -> None:
    side, color, rise, dark = person.bag_side, person.bag_color, posture.rise, mix(person.bag_color, BLACK, 0.3)
    x, y, z = posture.arms[0 if side > 0 else 1, 3].tolist()

    def strap(azimuths: Array, levels: Array) -> None:
        centers, width, depth = _sections(person, posture, levels, _THICKNESS.get(person.upper, 0.004) + 0.003)
        points = centers + np.stack([width * np.cos(azimuths), 0 * levels, depth * np.sin(azimuths)], axis=1)
        solids.limb(points, np.full(len(points), 0.0105), dark, steps=1, columns=6, layer=0.08)

    def box(center: Point, half: Point, color: Paint) -> None:
        solids.ball(center, half, color, rows=8, columns=16, square=0.45, layer=0.06)

    def flap(azimuth: Array, up: Array) -> Array:
        return over(color, 0.8 * (up > 0.1), dark)

    if person.bag == "backpack":
        for across in (0.053, -0.053):
            levels = np.linspace(0.832, 0.66, 7)
            strap(np.arccos(across / _sections(person, posture, levels, 0.0)[1].clip(0.06)), levels)
        back = posture.lean * 0.18 - 0.062 * person.girth - 0.035
        box((0.0, 0.7 + rise, back), (0.078, 0.115, 0.045), color)
        box((0.0, 0.66 + rise, back - 0.04), (0.056, 0.05, 0.02), mix(color, WHITE, 0.08))
    elif person.bag == "shoulder bag":
        share = np.linspace(0, 1, 10)
        for turn in (1, -1):
            strap(turn * (math.pi / 2 + side * (1.05 - 2.4 * share)), 0.832 - 0.29 * share)
        hip = 0.115 + 0.09 * (person.girth - 1) + _THICKNESS.get(person.upper, 0.0)
        box((side * hip, 0.515 + rise, -0.01), (0.022, 0.06, 0.078), flap)
    elif person.bag == "handbag":
        box((x, y - 0.085, z), (0.026, 0.05, 0.07), flap)
        for end in (0.05, -0.05):
            solids.limb([(x, y, z), (x, y - 0.05, z + end)], (0.006, 0.006), dark, steps=2, columns=6)
    elif person.bag == "suitcase":
        for offset in (-0.035, 0.035):
            bar = [(x + offset, 0.34, z - 0.13), (x + offset, y, z)]
            solids.limb(bar, (0.0055, 0.0055), (0.45, 0.46, 0.48), steps=2, columns=6)
            solids.ball((x + 2 * offset, 0.035, z - 0.13), (0.012, 0.018, 0.018), (0.13, 0.13, 0.14))
        box((x + side * 0.01, 0.2, z - 0.13), (0.1, 0.15, 0.055), color)
