"""Solids of colored facets in perspective: stacks of elliptical rings, lit, sorted by depth and filled by Pillow."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .wardrobe import Color

SUPERSAMPLING = 3  # pixels in each direction that are averaged to one of a picture
Point = tuple[float, float, float]
Array = npt.NDArray[np.floating[Any]]
Field = Callable[[Array, Array], Array]
"""A function of azimuths (1, c) and places along a solid (r, 1): what broadcasts to colors (r, c, 3) of facets, or to (r, c).

Azimuth is 0 at the person's left, pi / 2 in front, pi at the right. Places run from 0 to 1 unless the solid says otherwise.
"""

Paint = Field | Color

# What a color is multiplied by in full shade and in full light, and the share of light that comes from everywhere.
_SHADE, _BRIGHT, _AMBIENT = np.array((0.52, 0.53, 0.62)), np.array((1.12, 1.09, 1.03)), 0.35


def over(color: Array | Color, mask: npt.ArrayLike, top: Color) -> Array:
    """Lay a second color over the first with opacities (r, c)."""
    return np.asarray(color + np.asarray(mask, dtype=float)[..., None] * (np.array(top) - color))


@dataclass(frozen=True)
class View:
    """A pinhole camera that looks at a person, and the picture's place in what it sees."""

    yaw: float  # turn of the person: 0 faces the camera, pi turns the back to it, pi / 2 walks to the right
    pitch: float  # how far the camera looks down, in radians
    distance: float  # from the camera to the person in meters
    middle: float  # height of the point that the camera looks at, in meters
    scale: float = 1.0  # pixels per meter at the person's distance
    left: float = 0.0  # column of the picture's left edge, counted from the person's axis
    top: float = 0.0  # row of the picture's top edge, counted from `middle`

    def turn(self, points: Array) -> Array:
        """Turn points (..., 3) from the person's axes (left, up, front) to the camera's (right, up, towards it), in meters."""
        x, y, z = points[..., 0], points[..., 1] - self.middle, points[..., 2]
        forward = z * math.cos(self.yaw) - x * math.sin(self.yaw)
        cos, sin = math.cos(self.pitch), math.sin(self.pitch)
        right = x * math.cos(self.yaw) + z * math.sin(self.yaw)
        return np.stack([right, y * cos - forward * sin, forward * cos + y * sin], axis=-1)

    def project(self, turned: Array) -> Array:
        """Return columns and rows (..., 2) of points in the camera's axes."""
        scale = self.scale * self.distance / (self.distance - turned[..., 2])
        return np.stack([turned[..., 0] * scale - self.left, -turned[..., 1] * scale - self.top], axis=-1)


class _Part(NamedTuple):
    points: Array  # (n, 3)
    facets: npt.NDArray[np.intp]  # (m, 4) rows of points
    colors: Array  # (m, 3)
    layer: float


class Solids:
    """Facets of a person in the person's axes: left, up, front."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []

    def add(self, other: Solids, offset: Array) -> None:
        """Add what other solids hold, moved by (3,) ``place``."""
        self._parts += [part._replace(points=part.points + offset) for part in other._parts]

    def rings(
        self, centers: Array, half_width: Array, half_depth: Array, color: Paint, *, along: Array | None = None,
        twist: Array | float = 0.0, columns: int = 16, square: float = 1.0, upright: bool = True,
        keep: Field | None = None, swell: Field | None = None, layer: float = 0.0,
    ) -> None:  # fmt: skip
        """Add a stack of elliptical rings around ``centers`` (n, 3), with half axes (n,) from side to side and front to back.

        Each has a place ``along`` the solid (from 0 to 1 if not given) and a ``twist`` in radians. A ``square`` below 1 makes
        rounded rectangles of the ellipses. Rings that are not ``upright`` stand across the line through the centers. Facets
        are left out where ``keep`` is not positive, ``swell`` is a factor of the half axes, and ``layer`` is how much nearer
        than it is the solid counts when facets hide each other: cloth over what it covers.
        """
        along = np.linspace(0, 1, len(centers)) if along is None else along
        azimuth, cos, sin = _circle(columns, square)
        across = np.zeros_like(centers)
        across[:, 0], across[:, 2] = np.cos(twist), -np.sin(twist)
        if upright:
            front = across[:, ::-1] * (-1.0, 0.0, 1.0)
        else:
            bones = centers[1:] - centers[:-1]
            axis = np.concatenate([bones[:1], bones[1:] + bones[:-1], bones[-1:]])
            axis /= np.sqrt((axis * axis).sum(1, keepdims=True))
            across -= axis * (axis * across).sum(1, keepdims=True)
            across /= np.sqrt((across * across).sum(1, keepdims=True))
            front = _cross(axis, across)
        points = (half_width[:, None] * cos)[..., None] * across[:, None]
        points = points + (half_depth[:, None] * sin)[..., None] * front[:, None]
        if swell is not None:
            points *= swell(azimuth[None], along[:, None])[..., None]
        points += centers[:, None]
        places = (0.5 * (azimuth[1:] + azimuth[:-1]))[None], (0.5 * (along[1:] + along[:-1]))[:, None]
        painted = color(*places) if callable(color) else color
        facets = _facets(*points.shape[:2])
        colors = np.broadcast_to(painted, (places[1].size, places[0].size, 3)).reshape(-1, 3)
        if keep is not None:
            there = (keep(*places) > 0).ravel()
            facets, colors = facets[there], colors[there]
        self._parts.append(_Part(points.reshape(-1, 3), facets, colors, layer))

    def limb(
        self, joints: npt.ArrayLike, radii: npt.ArrayLike, color: Paint, *, steps: int, side: int = 0, **options: Any
    ) -> None:
        """Add a limb along joints (n, 3) with a radius at each, round where it begins; each bone has the same share of places.

        ``steps`` rings belong to each bone; ``side`` is 1 for a limb of the left, -1 for one of the right side: what looks at
        the body is in its shade. The other options are those of `rings`.
        """
        rows = np.column_stack([np.asarray(joints), np.asarray(radii)]).T
        bones = np.arange(rows.shape[1])
        places = np.linspace(0, bones[-1], bones[-1] * steps + 1)
        *axes, radius = (np.interp(places, bones, row) for row in rows)
        centers = np.stack(axes, axis=1)
        back = (centers[0] - centers[1]) * (radius[0] / math.dist(centers[0], centers[1]))
        centers = np.vstack([centers[0] + back, centers[0] + 0.75 * back, centers, 1.01 * centers[-1] - 0.01 * centers[-2]])
        radius = np.concatenate([[0.0, 0.66 * radius[0]], radius, [0.0]])
        along = np.clip(np.arange(-2, len(places) + 1) / (len(places) - 1), 0, 1)

        def shaded(azimuth: Array, along: Array) -> Array:
            inner = 0.3 * np.clip(-side * np.cos(azimuth), 0, 1)[..., None]
            return np.asarray((color(azimuth, along) if callable(color) else color) * (1 - inner))

        options = {"columns": 10} | options
        self.rings(centers, radius, radius, shaded if side else color, along=along, upright=False, **options)

    def ball(self, center: Point, half: Point, color: Paint, *, rows: int = 5, jaw: float = 0.0, **options: Any) -> None:
        """Add an ellipsoid with ``half`` width, height and depth; places run from 1 at its top to -1 over ``rows`` facets.

        ``jaw`` is how much narrower it is below; the other options are those of `rings`: ``square`` makes a rounded box.
        """
        turn, square = np.linspace(math.pi / 2, -math.pi / 2, rows + 1), options.get("square", 1.0)
        up = np.sign(turn) * np.abs(np.sin(turn)) ** square
        ring = np.maximum(np.cos(turn), 0.0) ** square * (1 - jaw * np.clip(-up - 0.1, 0, 1))
        centers = center + up[:, None] * (0.0, half[1], 0.0)
        self.rings(centers, ring * half[0], ring * half[2], color, **({"columns": 8} | options), along=up)

    def draw(self, view: View, light: Array, size: tuple[int, int], unit: float) -> Array:
        """Draw the facets, of which one unit is ``unit`` meters, on a picture of ``size`` (height, width) in pixels.

        ``light`` is a (3,) unit vector to the light in the camera's axes. Returned is (height, width, 4) float32 in [0, 1]:
        red, green, blue, premultiplied by the opacity that follows.
        """
        points, _, colors, layers = zip(*self._parts, strict=True)
        turned = view.turn(np.concatenate(points) * unit)
        starts = np.cumsum([0, *map(len, points)])
        facets = np.concatenate([part.facets + start for part, start in zip(self._parts, starts, strict=False)])
        layer = np.repeat(layers, list(map(len, colors)))
        corners = turned[facets]
        normal = _cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
        center = 0.5 * (corners[:, 0] + corners[:, 2])
        seen = np.flatnonzero((normal * ((0.0, 0.0, view.distance) - center)).sum(1) > 0)
        seen = seen[np.argsort((center[:, 2] + unit * layer)[seen])]
        length = np.sqrt((normal[seen] ** 2).sum(1))
        lit = np.clip(_AMBIENT + (1 - _AMBIENT) * (normal[seen] @ light) / np.maximum(length, 1e-12), 0.0, 1.0)[:, None]
        # Dark cloth reflects a little of the sky too; without it black clothes have no form.
        shaded = np.concatenate(colors)[seen] * (_SHADE + lit * (_BRIGHT - _SHADE)) + 0.03 * lit
        fills = np.clip(np.insert(shaded, 3, 1.0, axis=1) * 255, 0, 255).astype(np.uint8).view("<u4")[:, 0]
        outlines = (view.project(turned) * SUPERSAMPLING - 0.5)[facets[seen]].reshape(-1, 8)
        picture = Image.new("RGBa", (size[1] * SUPERSAMPLING, size[0] * SUPERSAMPLING))
        draw = ImageDraw.Draw(picture)
        for outline, fill in zip(outlines.tolist(), fills.tolist(), strict=True):
            draw.polygon(outline, fill=fill)
        return np.asarray(picture.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def _cross(a: Array, b: Array) -> Array:
    """Return the vector products of rows; ``np.cross`` takes several times as long for a few of them."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


@functools.lru_cache(maxsize=64)
def _circle(columns: int, square: float) -> tuple[Array, Array, Array]:
    """Return azimuths of the edges of facets, half a facet off so that one is in the middle of the front; cosine, sine."""
    azimuth = np.arange(columns + 1) * (2 * math.pi / columns) + math.pi / 2 - math.pi / columns
    cos, sin = np.cos(azimuth), np.sin(azimuth)
    return azimuth, np.sign(cos) * np.abs(cos) ** square, np.sign(sin) * np.abs(sin) ** square


@functools.lru_cache(maxsize=64)
def _facets(rows: int, columns: int) -> npt.NDArray[np.intp]:
    """Return the corners (n, 4) of the facets between rows and columns of points."""
    first = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1, 1)
    return np.asarray(first + np.array((0, 1, columns + 1, columns)))
