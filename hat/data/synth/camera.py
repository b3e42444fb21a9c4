"""What a camera is: where it hangs, which way people walk past it, its light, its optics and its detector's habits."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from .canvas import Array, Light
from .places import PLACES
from .scene import Scene, paint_scene

__all__ = ["Camera", "make_camera"]

# In every four cameras one sees people from the front, one from behind, one from the side and one from three quarters.
_YAWS = (0.0, 180.0, 90.0, 40.0)


@dataclass(frozen=True)
class Camera:
    """One camera of the drawn world.

    Attributes:
        index: Number of the camera, counted from 0.
        place: Kind of place it looks at, a key of `PLACES`.
        height: Height of the camera in meters.
        distance: From the camera to where people walk, in meters.
        pitch: How far it looks down, in radians.
        yaw: Turn of most people who pass, in radians.
        light: The light on people.
        sun: Strength of cast shadows, 0 to 1.
        color: (3, 3) matrix and (3,) offset of exposure, temperature, contrast and saturation, for rows of sRGB in [0, 1].
        sharpness: Rows that a person covers on the sensor, as a share of the output's rows.
        blur: Blur of the optics as a share of the sensor's rows.
        noise: Standard deviation of the sensor's noise in gray levels.
        quality: JPEG quality.
        occlusion: How often something stands in front of people.
        clumsiness: How badly the detector's boxes fit, about 0.5 to 1.5.
        crowd: How often somebody else is in the picture behind.
    """

    index: int
    place: str
    height: float
    distance: float
    pitch: float
    yaw: float
    light: Light
    sun: float
    color: tuple[Array, Array]
    sharpness: float
    blur: float
    noise: float
    quality: int
    occlusion: float
    clumsiness: float
    crowd: float
    seed: int

    def scene(self) -> Scene:
        """The place, painted at the first call in each process."""
        return paint_scene(self.place, self.seed, self.index, self.height, self.distance)


@functools.lru_cache(maxsize=256)
def make_camera(seed: int, index: int) -> Camera:
    """The camera with a number, the same whatever else is drawn with the seed.

    Args:
        seed: Seed of the world.
        index: Number of the camera, from 0.

    Returns:
        The camera.
    """
    kinds = np.random.default_rng([seed, 3]).permutation(len(PLACES))
    turns = np.random.default_rng([seed, 7, index // 4]).permutation(4)
    rng = np.random.default_rng([seed, 3, index + 1])
    name = list(PLACES)[int(kinds[index % len(kinds)])]
    place = PLACES[name]
    height, distance = float(rng.uniform(*place.camera_heights)), float(rng.uniform(7.5, 11.0))
    sun = float(rng.uniform(0.3, 1.0)) if place.outdoor and rng.random() < 0.7 else 0.0
    side = float(rng.choice((-1, 1)))
    slant = np.array([side * rng.uniform(0.35, 0.75), -rng.uniform(0.4, 0.75), rng.uniform(0.5, 0.75)])
    slant /= np.linalg.norm(slant)
    softness = 0.3 if sun else 0.42
    light = Light(
        x=float(slant[0]),
        y=float(slant[1]),
        z=float(slant[2]),
        softness=softness,
        shade=(0.50, 0.52, 0.63) if sun else (0.58, 0.57, 0.61),
        bright=(1.13, 1.10, 1.03) if sun else (1.07, 1.06, 1.04),
    )
    return Camera(
        index=index,
        place=name,
        height=height,
        distance=distance,
        pitch=math.atan2(height - 0.9, distance),
        yaw=math.radians(_YAWS[int(turns[index % 4])] * float(rng.choice((-1, 1)))),
        light=light,
        sun=sun,
        color=_color(rng),
        sharpness=float(rng.uniform(0.5, 0.95)),
        blur=float(rng.uniform(0.0005, 0.0038)),
        noise=float(rng.uniform(0.6, 3.4)),
        quality=int(rng.integers(68, 93)),
        occlusion=float(rng.uniform(0.12, 0.32)),
        clumsiness=float(rng.uniform(0.6, 1.4)),
        crowd=float(rng.uniform(0.1, 0.3)),
        seed=seed,
    )


def _color(rng: np.random.Generator) -> tuple[Array, Array]:
    """Exposure, color temperature, tint, contrast and saturation as one matrix and offset."""
    warmth, tint = rng.uniform(-1, 1), rng.normal(0, 0.02)
    gains = np.array([1 + 0.11 * warmth, 1 + tint, 1 - 0.13 * warmth]) * rng.uniform(0.84, 1.12)
    saturation, contrast = rng.uniform(0.62, 1.1), rng.uniform(0.8, 1.12)
    gray = np.array([0.299, 0.587, 0.114])[:, None] @ np.ones((1, 3))
    matrix = np.diag(gains) @ (saturation * np.eye(3) + (1 - saturation) * gray) * contrast
    offset = 0.46 * (1 - contrast) + rng.uniform(-0.01, 0.045)
    return matrix.astype(np.float32), np.full(3, offset, np.float32)
