"""From meters to pixels: a pinhole camera that looks at a person, turned by any yaw and from any elevation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .canvas import Rings

__all__ = ["View"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """A camera and the picture's place in what it sees.

    Attributes:
        yaw: Turn of the person in radians: 0 faces the camera, pi turns the back to it, pi / 2 walks to the right.
        pitch: How far the camera looks down, in radians.
        distance: From the camera to the person in meters.
        middle: Height of the point the camera looks at, in meters.
        scale: Pixels per meter at the person's distance.
        left: What the picture's left edge is right of the person's axis, in pixels (negative as a rule).
        top: What the picture's top edge is below the point the camera looks at, in pixels.
    """

    yaw: float
    pitch: float
    distance: float
    middle: float
    scale: float = 1.0
    left: float = 0.0
    top: float = 0.0

    def project(self, points: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Project points.

        Args:
            points: (n, 3) points in meters in the person's axes.

        Returns:
            Columns, rows, pixels per meter there and depth towards the camera in meters, each (n,).
        """
        x, y, z = points[:, 0], points[:, 1] - self.middle, points[:, 2]
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        across, forward = x * cos + z * sin, z * cos - x * sin
        up = y * math.cos(self.pitch) - forward * math.sin(self.pitch)
        depth = forward * math.cos(self.pitch) + y * math.sin(self.pitch)
        scale = self.scale * self.distance / (self.distance - depth)
        return across * scale - self.left, -up * scale - self.top, scale, depth

    def point(self, x: float, y: float, z: float) -> tuple[float, float, float, float]:
        """Project one point: column, row, pixels per meter, depth."""
        column, row, scale, depth = self.project(np.array([[x, y, z]]))
        return float(column[0]), float(row[0]), float(scale[0]), float(depth[0])

    def line(self, points: Floats) -> tuple[Floats, Floats]:
        """Project a chain of joints: (n, 2) points in pixels and (n,) pixels per meter."""
        column, row, scale, _ = self.project(points)
        return np.stack([column, row], axis=1), scale

    def rings(
        self, centers: Floats, half_width: Floats, half_depth: Floats, along: Floats, twist: Floats | float = 0.0
    ) -> Rings:
        """Project horizontal ellipses.

        Args:
            centers: (n, 3) centers in meters, from top to bottom.
            half_width: (n,) half axes from side to side in meters.
            half_depth: (n,) half axes from front to back in meters.
            along: (n,) positions along the body.
            twist: Turn of each ring against the person, in radians.

        Returns:
            The rings as the picture shows them.
        """
        column, row, scale, _ = self.project(centers)
        yaw = self.yaw + np.asarray(twist)
        cos, sin = np.cos(yaw), np.sin(yaw)
        radius = np.hypot(half_width * cos, half_depth * sin) * scale
        near = np.hypot(half_width * sin, half_depth * cos) * scale * math.sin(self.pitch)
        turn = np.unwrap(np.arctan2(half_depth * sin, half_width * cos))
        row = np.maximum.accumulate(row + np.arange(len(row)) * 1e-3)
        return Rings(x=column, y=row, radius=radius, turn=turn + np.zeros_like(row), sag=near, along=along)
