"""A small painter of shaded solids: tubes, limbs, balls and boxes drawn by distance fields, anti-aliased at their edges.

Every solid knows its surface normal, so one light shades all of them alike; where a solid is painted over another it darkens it
a little around its edge, which is what makes limbs stand out from the trunk. Colors are premultiplied by coverage.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .palette import Color
from .sheet import Array, Box, Light, Material, Rings, Sheet, Surface, solid

__all__ = ["Array", "Canvas", "Light", "Material", "Rings", "Surface", "solid"]


class Canvas(Sheet):
    """A sheet with the solids that a person is made of; see `Sheet` for its arguments and attributes."""

    def tube(
        self, rings: Rings, material: Material, *, folds: Material | None = None, flat_top: bool = False, fade: float = 0.0
    ) -> None:
        """Paint an upright tube of elliptical rings: trunks, skirts, hair.

        Args:
            rings: Its cross-sections.
            material: Color of its surface.
            folds: Change of brightness of its surface, about -0.2 to 0.2.
            flat_top: Cut the top along the first ring; otherwise the first ring's own roundness closes it.
            fade: Share of contact shadow around it.
        """
        sag_max = float(rings.sag.max())
        reach = self.contact if fade else 0.0
        half = float(rings.radius.max()) + reach
        box = self.clip(
            float(rings.x.min()) - half, float(rings.y[0]) - 1, float(rings.x.max()) + half, float(rings.y[-1]) + sag_max + 1
        )
        if box is None:
            return
        xs, ys = self.grid(box)
        rows = ys[:, 0]

        def by_row(values: npt.NDArray[np.float64]) -> Array:
            return np.interp(rows, rings.y, values).astype(np.float32)[:, None]

        radius, center = by_row(rings.radius), by_row(rings.x)
        offset = xs - center
        across = np.clip(offset / np.maximum(radius, 0.5), -1.0, 1.0)
        square = across * across
        facing = np.sqrt(1 - square)
        # The silhouette's slope turns a horizontal distance into the distance from the edge.
        slope = np.gradient(radius[:, 0])[:, None] if len(rows) > 1 else np.zeros_like(radius)
        edge = (radius - np.abs(offset)) / np.sqrt(1 + slope * slope)
        cover = np.clip(edge + 0.5, 0.0, 1.0)
        lowered = ys - by_row(rings.sag) * facing
        cover = cover * np.clip(np.float32(rings.y[-1]) - lowered + 0.5, 0.0, 1.0)
        if flat_top:
            cover = cover * np.clip(lowered - np.float32(rings.y[0]) + 0.5, 0.0, 1.0)
        if fade:
            self.dim(box, np.clip(1 + edge / np.float32(reach), 0.0, 1.0) ** 2 * np.float32(fade))
        pace = by_row(np.gradient(rings.along, rings.y))
        # Below the last center the near half of its ring still shows, and the pattern goes on there.
        along = by_row(rings.along) + pace * (lowered - np.minimum(ys, np.float32(rings.y[-1])))
        surface = Surface(across, facing, along, by_row(rings.turn))
        brightness = self.brightness(across, -0.15 * slope, facing)
        brightness -= np.float32(0.1) * square * square
        if folds is not None:
            brightness = brightness + folds(surface)
        self.blend(box, cover, material(surface), np.clip(brightness, 0.0, 1.0))

    def limb(
        self,
        points: npt.NDArray[np.float64],
        radii: npt.NDArray[np.float64],
        material: Material,
        *,
        turn: float = 0.0,
        folds: Material | None = None,
        flat_end: bool = False,
        fade: float = 0.22,
        dark: float = 0.0,
    ) -> None:
        """Paint a chain of tapered round bones: arms, legs, shoes, straps.

        Args:
            points: (n, 2) joints as (x, y) in pixels.
            radii: (n,) radius at each joint in pixels.
            material: Color of its surface; ``along`` runs from 0 at the first joint to 1 at the last.
            turn: Azimuth of the middle of the visible side in radians.
            folds: Change of brightness of its surface.
            flat_end: Cut the far end square, as a sleeve is, where it would be round.
            fade: Share of contact shadow around it.
            dark: Taken from its brightness: the far limb stands in the body's shadow.
        """
        reach = self.contact if fade else 1.0
        pad = float(radii.max()) + reach
        (left, top), (right, bottom) = points.min(0) - pad, points.max(0) + pad
        box = self.clip(float(left), float(top), float(right), float(bottom))
        if box is None:
            return
        best, signed, along, radius, normal_x, normal_y = self._chain(box, points, radii, flat_end)
        cover = np.clip(np.float32(0.5) - best, 0.0, 1.0)
        if fade:
            # No shadow where the limb grows out of the body.
            self.dim(
                box,
                np.clip(1 - best / np.float32(reach), 0.0, 1.0) ** 2 * np.clip(along * 4 - 0.4, 0.0, 1.0) * np.float32(fade),
            )
        across = np.clip(signed / np.maximum(radius, 0.5), -1.0, 1.0)
        square = across * across
        facing = np.sqrt(1 - square)
        surface = Surface(across, facing, along, turn)
        brightness = self.brightness(across * normal_x, across * normal_y, facing)
        brightness -= np.float32(0.08) * square * square + np.float32(dark)
        if folds is not None:
            brightness = brightness + folds(surface)
        self.blend(box, cover, material(surface), np.clip(brightness, 0.0, 1.0))

    def _chain(
        self, box: Box, points: npt.NDArray[np.float64], radii: npt.NDArray[np.float64], flat_end: bool
    ) -> tuple[Array, Array, Array, Array, Array | np.float32, Array | np.float32]:
        """For each pixel and its nearest bone: distance to the surface, offset from the axis, place along, radius, normal."""
        xs, ys = self.grid(box)
        steps = np.diff(points, axis=0)
        lengths = np.maximum(np.sqrt((steps * steps).sum(1)), 1e-3)
        total, before, last = float(lengths.sum()), 0.0, len(lengths) - 1
        found: tuple[Array, Array, Array, Array] | None = None
        normal_x: Array | np.float32 = np.float32(0)
        normal_y: Array | np.float32 = np.float32(0)
        for index, length in enumerate(lengths.tolist()):
            ax, ay = points[index].tolist()
            ux, uy = np.float32(steps[index, 0] / length), np.float32(steps[index, 1] / length)
            start, end = float(radii[index]), float(radii[index + 1])
            px, py = xs - np.float32(ax), ys - np.float32(ay)
            ahead = px * ux + py * uy
            side = px * uy - py * ux
            share = ahead * np.float32(1 / length)
            np.minimum(np.maximum(share, 0, out=share), 1, out=share)
            beyond = ahead - share * np.float32(length)
            here = share * np.float32(end - start)
            here += np.float32(start)
            beyond *= beyond
            distance = side * side
            distance += beyond
            np.sqrt(distance, out=distance)
            distance -= here
            if flat_end and index == last:
                np.maximum(distance, ahead - np.float32(length), out=distance)
            share *= np.float32(length / total)
            share += np.float32(before / total)
            before += length
            if found is None:
                found, normal_x, normal_y = (distance, side, share, here), uy, -ux
                continue
            nearer = distance < found[0]
            for kept, new in zip(found, (distance, side, share, here), strict=True):
                np.copyto(kept, new, where=nearer)
            normal_x, normal_y = np.where(nearer, uy, normal_x), np.where(nearer, -ux, normal_y)
        assert found is not None
        return (*found, normal_x, normal_y)

    def ball(
        self,
        x: float,
        y: float,
        radius_x: float,
        radius_y: float,
        color: Color,
        *,
        gloss: float = 1.0,
        cover: float = 1.0,
        fade: float = 0.0,
    ) -> None:
        """Paint an ellipsoid of one color.

        Args:
            x: Column of its center.
            y: Row of its center.
            radius_x: Half its width in pixels.
            radius_y: Half its height in pixels.
            color: Its color.
            gloss: How round it looks: 0 is flat, 1 a ball.
            cover: Its opacity.
            fade: Share of contact shadow around it.
        """
        reach = self.contact if fade else 1.0
        box = self.clip(x - radius_x - reach, y - radius_y - reach, x + radius_x + reach, y + radius_y + reach)
        if box is None or min(radius_x, radius_y) < 0.05:
            return
        xs, ys = self.grid(box)
        nx, ny = (xs - np.float32(x)) / np.float32(radius_x), (ys - np.float32(y)) / np.float32(radius_y)
        length = np.sqrt(nx * nx + ny * ny)
        edge = (1 - length) * np.float32(min(radius_x, radius_y))
        if fade:
            self.dim(box, np.clip(1 + edge / np.float32(reach), 0.0, 1.0) ** 2 * np.float32(fade))
        nz = np.sqrt(np.maximum(1 - length * length, 0.0))
        brightness = self.brightness(
            nx * np.float32(gloss), ny * np.float32(gloss), nz * np.float32(gloss) + np.float32(1 - gloss)
        )
        self.blend(box, np.clip(edge + 0.5, 0.0, 1.0) * np.float32(cover), solid(color), brightness)

    def block(
        self,
        x: float,
        y: float,
        half_width: float,
        half_height: float,
        corner: float,
        color: Color,
        *,
        bulge: float = 0.5,
        fade: float = 0.25,
        shift: float = 0.0,
    ) -> None:
        """Paint a rounded box of one color: bags and their pockets.

        Args:
            x: Column of its center.
            y: Row of its center.
            half_width: Half its width in pixels.
            half_height: Half its height in pixels.
            corner: Radius of its corners in pixels.
            color: Its color.
            bulge: How much its front is rounded: 0 is flat.
            fade: Share of contact shadow around it.
            shift: Added to its brightness.
        """
        reach = self.contact if fade else 1.0
        box = self.clip(x - half_width - reach, y - half_height - reach, x + half_width + reach, y + half_height + reach)
        if box is None or min(half_width, half_height) < 0.3:
            return
        corner = min(corner, half_width, half_height)
        xs, ys = self.grid(box)
        dx, dy = xs - np.float32(x), ys - np.float32(y)
        qx, qy = np.abs(dx) - np.float32(half_width - corner), np.abs(dy) - np.float32(half_height - corner)
        outside = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2)
        distance = outside + np.minimum(np.maximum(qx, qy), 0) - np.float32(corner)
        if fade:
            self.dim(box, np.clip(1 - distance / np.float32(reach), 0.0, 1.0) ** 2 * np.float32(fade))
        nx = np.clip(dx / np.float32(half_width), -1.0, 1.0) ** 3 * np.float32(bulge)
        ny = np.clip(dy / np.float32(half_height), -1.0, 1.0) ** 3 * np.float32(bulge)
        nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0.1))
        self.blend(
            box,
            np.clip(0.5 - distance, 0.0, 1.0),
            solid(color),
            np.clip(self.brightness(nx, ny, nz) + np.float32(shift), 0, 1),
        )
