"""Where a walking body's joints are: a small skeleton posed by the phase of the step, in meters, y up, facing +z."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .person import Person

__all__ = ["Posture", "pose_person"]

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Posture:
    """Joints of one moment. The person's left is +x, feet stand on y = 0.

    Attributes:
        rise: How much the pelvis stands above (or, mostly, below) its height at rest.
        lean: Tangent of the trunk's forward lean.
        twist: Turn of the shoulders against the pelvis in radians; the pelvis turns by half of it the other way.
        legs: For each side (left, right): hip, knee, ankle, toe tip.
        arms: For each side (left, right): shoulder, elbow, wrist, knuckles.
    """

    rise: float
    lean: float
    twist: float
    legs: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    arms: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def pose_person(person: Person, phase: float, stride: float) -> Posture:
    """Pose a person.

    Args:
        person: Whose body it is; a bag bends the arm that carries it.
        phase: Moment of the step in radians; pi later the other foot is in front.
        stride: Length of the step, 0 (standing) to about 1.2 (striding).

    Returns:
        The joints in meters.
    """
    tall = person.height
    swing = math.radians(24) * stride * person.gait
    hip_half = 0.05 * tall if person.curved else 0.047 * tall
    legs = [_leg(tall, side * hip_half, phase + (0 if side > 0 else math.pi), swing, stride) for side in (1, -1)]
    rise = -min(float(leg[2:, 1].min()) for leg in legs) + 0.012 * tall
    lean = 0.03 + 0.05 * stride
    twist = 0.14 * stride * math.sin(phase)
    shoulder_half = (0.087 if person.curved else 0.101) * tall * (0.8 + 0.2 * person.girth)
    arms = []
    for side in (1, -1):
        arm = _arm(person, side, phase + (math.pi if side > 0 else 0), swing, shoulder_half)
        arm[:, 2] += lean * 0.29 * tall - side * shoulder_half * math.sin(twist)
        arm[:, 1] += rise
        arms.append(arm)
    for leg in legs:
        leg[:, 1] += rise
    return Posture(rise=rise, lean=lean, twist=twist, legs=(legs[0], legs[1]), arms=(arms[0], arms[1]))


def _leg(tall: float, x: float, phase: float, swing: float, stride: float) -> npt.NDArray[np.float64]:
    """Hip, knee, ankle, toe tip. The knee bends most while the leg swings forward and a little when the heel lifts."""
    thigh = swing * math.sin(phase) + 0.04 * stride
    forward = max(0.0, math.cos(phase)) ** 1.5
    push = max(0.0, -math.sin(phase)) ** 3
    bend = 0.05 + stride * (0.72 * forward + 0.3 * push)
    shin = thigh - bend
    hip = (x, 0.515 * tall, 0.0)
    knee = _from(hip, thigh, 0.238 * tall, x * 0.93)
    ankle = _from(knee, shin, 0.235 * tall, x * 0.9)
    tilt = min(shin * 0.75, 0.0) if shin < 0 else shin * 0.5
    sole = (ankle[0], ankle[1] - 0.034 * tall * math.cos(shin), ankle[2] - 0.034 * tall * math.sin(shin))
    toe = (sole[0] * 1.12, sole[1] + 0.092 * tall * math.sin(tilt), sole[2] + 0.092 * tall * math.cos(tilt))
    return np.array([hip, knee, ankle, toe])


def _arm(person: Person, side: int, phase: float, swing: float, shoulder_half: float) -> npt.NDArray[np.float64]:
    """Shoulder, elbow, wrist, knuckles. A carrying arm hangs still; a suitcase pulls its arm back."""
    tall = person.height
    carries = person.bag_side == side
    upper = 0.95 * swing * math.sin(phase) - 0.03
    flex = 0.22 + 0.35 * swing * (1 + math.sin(phase))
    if carries and person.bag == "handbag":
        upper, flex = 0.25 * upper, 0.1
    elif carries and person.bag == "suitcase":
        upper, flex = -0.3 + 0.15 * upper, 0.08
    outward = 0.13 + 0.1 * (person.girth - 1) + (0.04 if person.upper in ("coat", "hoodie", "jacket") else 0.0)
    shoulder = (side * shoulder_half, 0.788 * tall, 0.0)
    elbow = _from(shoulder, upper, 0.165 * tall, side * (shoulder_half + 0.168 * tall * math.sin(outward)))
    wrist = _from(elbow, upper + flex, 0.14 * tall, elbow[0] + side * 0.012 * tall)
    knuckles = _from(wrist, upper + flex + 0.15, 0.05 * tall, wrist[0] - side * 0.004 * tall)
    return np.array([shoulder, elbow, wrist, knuckles])


def _from(start: Point, angle: float, length: float, x: float) -> Point:
    """The end of a bone that hangs from ``start`` and is turned forward by ``angle``."""
    return (x, start[1] - length * math.cos(angle), start[2] + length * math.sin(angle))
