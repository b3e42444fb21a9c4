"""One picture: a person passing a camera, cropped as a detector would, with shadow, occluders, light, blur and noise."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from hat.errors import UsageError

from .camera import Camera, make_camera
from .canvas import Array, Canvas
from .figure import draw_figure
from .occluders import INDOOR, OUTDOOR, SHOP, draw_occluder
from .person import NUM_PEOPLE, Person, make_person
from .posture import Posture, pose_person
from .scene import PIXELS_PER_METRE, SPAN, TOP
from .view import View

__all__ = ["MAX_IDENTITIES", "draw_distractor", "draw_person"]

MAX_IDENTITIES = 9999
"""People beyond this number never get a label: they walk in the background and stand in the way."""

_SUPERSAMPLING = 2


@dataclass(frozen=True)
class _Frame:
    """The detector's box around a person and what it shows: lengths in meters at the person's distance."""

    person: Person
    posture: Posture
    phase: float
    view: View
    left: float
    top: float
    width: float
    height: float
    along: float
    depth: float


def draw_person(identity: int, camera: int, shot: int = 0, *, seed: int = 0, size: tuple[int, int] = (256, 128)) -> Image.Image:
    """Draw one person as one camera sees them in one moment.

    The same arguments give the same pixels, on their own or as part of a data set.

    Args:
        identity: Number of the person, from 0 to `MAX_IDENTITIES` - 1.
        camera: Number of the camera, from 0.
        shot: Number of the moment, from 0.
        seed: Seed of the world.
        size: (height, width) of the picture in pixels.

    Returns:
        An RGB picture.

    Raises:
        UsageError: A number is negative or the identity is too large.
    """
    if not 0 <= identity < MAX_IDENTITIES or min(camera, shot, seed) < 0:
        numbers = f"{identity}, {camera}, {shot} and {seed}"
        raise UsageError(f"identity must be from 0 to {MAX_IDENTITIES - 1}, camera, shot and seed at least 0, got {numbers}")
    lens = make_camera(seed, camera)
    track = np.random.default_rng([seed, 6, identity, camera])
    rng = np.random.default_rng([seed, 5, identity, camera, shot])
    frame = _frame(lens, make_person(seed, identity), track, rng, shot)
    return _picture(lens, frame, rng, size, occluded=bool(rng.random() < lens.occlusion))


def draw_distractor(number: int, camera: int, *, seed: int = 0, size: tuple[int, int] = (256, 128)) -> Image.Image:
    """Draw a false detection: a piece of background, things in it, or a fraction of somebody who has no label.

    Args:
        number: Number of the distractor, from 0.
        camera: Number of the camera, from 0.
        seed: Seed of the world.
        size: (height, width) of the picture in pixels.

    Returns:
        An RGB picture.
    """
    lens = make_camera(seed, camera)
    rng = np.random.default_rng([seed, 8, number, camera])
    frame = _frame(lens, _stranger(seed, rng), rng, rng, 0)
    if rng.random() < 0.5:
        return _picture(lens, frame, rng, size, occluded=True, empty=True)
    shift = float(rng.choice((-1, 1)) * rng.uniform(0.55, 0.8)) * frame.width
    part = _Frame(
        **{**vars(frame), "left": frame.left + shift, "top": frame.top + float(rng.uniform(-0.3, 0.3)) * frame.height * 0.5}
    )
    return _picture(lens, part, rng, size, occluded=bool(rng.random() < 0.5))


def _stranger(seed: int, rng: np.random.Generator) -> Person:
    return make_person(seed, int(rng.integers(MAX_IDENTITIES, NUM_PEOPLE)))


def _frame(camera: Camera, person: Person, track: np.random.Generator, rng: np.random.Generator, shot: int) -> _Frame:
    """Pose a person in front of a camera and put the detector's box around them."""
    yaw = camera.yaw + math.radians(float(track.normal(0, 13))) + (math.pi if track.random() < 0.2 else 0.0)
    standing = track.random() < 0.12
    start, drift, where = float(track.uniform(0, 2 * math.pi)), float(track.uniform(0.9, 2.1)), float(track.uniform(-1, 1))
    depth = float(track.uniform(-0.9, 0.6))
    stride = 0.08 if standing else float(track.uniform(0.7, 1.1))
    phase = start + drift * shot + float(rng.normal(0, 0.2))
    view = View(yaw + math.radians(float(rng.normal(0, 7))), camera.pitch, camera.distance + depth, 0.5 * person.height)
    posture = pose_person(person, phase, stride)
    left, top, right, bottom = _bounds(person, posture, view)
    tall = bottom - top
    wild = camera.clumsiness
    above, below = rng.uniform(0.01, 0.05, 2) * wild
    fate = rng.random()
    if fate < 0.10 * wild:
        below = -float(rng.uniform(0.08, 0.24))
    elif fate < 0.14 * wild:
        above = -float(rng.uniform(0.02, 0.07))
    elif fate < 0.28 * wild:
        above, below = rng.uniform(0.06, 0.17, 2)
    high = tall * (1 + float(above) + float(below))
    wide = max(0.5 * high * float(rng.uniform(0.86, 1.06)), min((right - left) * 0.88, 0.6 * high))
    center = 0.5 * (left + right) + float(rng.normal(0, 0.022 * wild)) * high
    return _Frame(person, posture, phase, view, center - wide / 2, top - float(above) * tall, wide, high, where, depth)


def _bounds(person: Person, posture: Posture, view: View) -> tuple[float, float, float, float]:
    """What a perfect detector would box: left, top, right, bottom in meters of the picture's plane."""
    tall = person.height
    arms, legs = np.vstack(posture.arms), np.vstack(posture.legs)
    trunk = np.array([(x, y * tall + posture.rise, 0.0) for x in (-0.11 * tall, 0.11 * tall) for y in (0.5, 0.75)])
    crown = np.array([(0.0, (1.035 if person.hair_style == "afro" else 1.012) * tall + posture.rise, 0.03 * tall)])
    columns, rows, _, _ = view.project(np.vstack([arms, legs, trunk, crown]))
    pad = 0.022 * tall
    return float(columns.min()) - pad, float(rows.min()), float(columns.max()) + pad, float(rows.max()) + pad * 0.7


def _picture(
    camera: Camera, frame: _Frame, rng: np.random.Generator, size: tuple[int, int], *, occluded: bool, empty: bool = False
) -> Image.Image:
    """Paint background, people and occluders at the sensor's resolution and develop the picture."""
    rows = max(32, 2 * round(0.5 * size[0] * camera.sharpness * float(rng.uniform(0.85, 1.05))))
    columns = max(16, 2 * round(0.5 * rows * frame.width / frame.height))
    scale = rows / frame.height
    pixels = _background(camera, frame, rows, columns)
    _, row, ground_scale, _ = frame.view.point(0.0, 0.0, 0.0)
    ground, axis = (row - frame.top) * scale, -frame.left * scale
    if rng.random() < camera.crowd:
        _passer_by(camera, frame, rng, pixels, scale, behind=True)
    if not empty:
        figure = _figure(camera, frame.person, frame.posture, frame.view, frame.phase, frame, rows, columns, scale)
        _shadow(camera, frame, pixels, figure.alpha, ground, axis, scale * ground_scale)
        pixels *= 1 - figure.alpha
        pixels += figure.rgb
    if occluded:
        _occlude(camera, frame, rng, pixels, ground, axis, scale)
    return _develop(camera, rng, pixels, size)


def _background(camera: Camera, frame: _Frame, rows: int, columns: int) -> Array:
    """The part of the scene that the box shows: (3, rows, columns) float32 in [0, 1]."""
    scene = camera.scene()
    share = camera.distance / (camera.distance + frame.depth)
    unit = PIXELS_PER_METRE * share
    foot = (TOP - camera.height * (1 - share)) * PIXELS_PER_METRE
    _, row, _, _ = frame.view.point(0.0, 0.0, 0.0)
    room = 0.5 * SPAN - 0.5 * frame.width * share - 0.05
    x = (
        0.5 * SPAN * PIXELS_PER_METRE
        + frame.along * (min(room, 1.5) if camera.place == "corridor" else room) * PIXELS_PER_METRE
    )
    left, top = x - 0.5 * frame.width * unit, foot + (frame.top - row) * unit
    wide, high = frame.width * unit, frame.height * unit
    width, height = scene.image.size
    high, wide = min(high, float(height)), min(wide, float(width))
    left, top = min(max(left, 0.0), width - wide), min(max(top, 0.0), height - high)
    crop = scene.image.resize((columns, rows), Image.Resampling.BILINEAR, box=(left, top, left + wide, top + high))
    return np.asarray(crop, dtype=np.float32).transpose(2, 0, 1) * np.float32(1 / 255)


def _figure(
    camera: Camera,
    person: Person,
    posture: Posture,
    view: View,
    phase: float,
    frame: _Frame,
    rows: int,
    columns: int,
    scale: float,
) -> Canvas:
    fine = scale * _SUPERSAMPLING
    canvas = Canvas(rows * _SUPERSAMPLING, columns * _SUPERSAMPLING, camera.light)
    seen = View(view.yaw, view.pitch, view.distance, view.middle, fine, frame.left * fine, frame.top * fine)
    draw_figure(canvas, person, posture, seen, phase)
    canvas.shrink(_SUPERSAMPLING)
    return canvas


def _shadow(camera: Camera, frame: _Frame, pixels: Array, alpha: Array, ground: float, axis: float, scale: float) -> None:
    """Darken the ground: under each foot, around both, and where the sun's shadow falls."""
    rows, columns = pixels.shape[1:]
    flat = max(0.16, math.sin(camera.pitch))
    xs = np.arange(columns, dtype=np.float32)[None, :]
    ys = np.arange(rows, dtype=np.float32)[:, None]
    spots = [(0.0, 0.0, 0.34, 0.25 + 0.1 * (1 - camera.sun))]
    for leg in frame.posture.legs:
        column, row, _, _ = frame.view.point(float(leg[2, 0]), 0.0, float(leg[2, 2] * 0.6 + leg[3, 2] * 0.4))
        lift = max(0.0, float(leg[2:, 1].min()) - 0.03)
        spots.append(((column - frame.left) * 1.0, (row - frame.top) * 1.0, 0.15 + lift, 0.5 * math.exp(-lift / 0.08)))
    unit = rows / frame.height
    for index, (x, y, radius, strength) in enumerate(spots):
        column, row = (axis, ground) if index == 0 else (x * unit, y * unit)
        first = max(0, int(row - 3 * radius * flat * scale))
        if first >= rows:
            continue
        dx, dy = (
            (xs - np.float32(column)) / np.float32(radius * scale),
            (ys[first:] - np.float32(row)) / np.float32(radius * flat * scale),
        )
        pixels[:, first:] *= 1 - np.float32(strength) * np.exp(-(dx * dx)) * np.exp(-(dy * dy))
    if camera.sun:
        # The silhouette, flattened and sheared away from the light.
        squash, shear = 0.30, -1.1 * camera.light.x
        source = Image.fromarray((alpha * 255).astype(np.uint8))
        matrix = (1.0, shear / squash, -shear * ground / squash, 0.0, 1 / squash, ground * (1 - 1 / squash))
        cast = source.transform((columns, rows), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR).filter(
            ImageFilter.GaussianBlur(0.006 * rows)
        )
        pixels *= 1 - np.asarray(cast, dtype=np.float32) * np.float32(0.42 * camera.sun / 255)


def _passer_by(camera: Camera, frame: _Frame, rng: np.random.Generator, pixels: Array, scale: float, *, behind: bool) -> None:
    """Somebody without a label, farther away or nearer, beside the person."""
    stranger = _stranger(camera.seed, rng)
    side = float(rng.choice((-1, 1)))
    offset = side * float(rng.uniform(0.3, 0.75) if behind else rng.uniform(0.34, 0.5))
    away = float(rng.uniform(1.5, 4.5)) if behind else -0.7
    posture = pose_person(stranger, float(rng.uniform(0, 6.28)), 0.9)
    phase, yaw = float(rng.uniform(0, 6.28)), camera.yaw + float(rng.normal(0, 0.3)) + (math.pi if rng.random() < 0.4 else 0.0)
    distance = camera.distance + frame.depth + away
    _, ground, _, _ = frame.view.point(0.0, 0.0, 0.0)
    share = (camera.distance + frame.depth) / distance
    # Where the ground lies that much farther away, by the rule that the scene is painted with.
    lift = camera.height * (1 - share)
    shrunk = View(yaw, camera.pitch, distance, 0.5 * stranger.height)
    _, own_ground, _, _ = shrunk.point(0.0, 0.0, 0.0)
    rows, columns = pixels.shape[1:]
    left = (frame.left - offset) / share
    top = (frame.top - (ground - lift)) / share + own_ground
    placed = _Frame(**{**vars(frame), "left": left, "top": top})
    figure = _figure(camera, stranger, posture, shrunk, phase, placed, rows, columns, scale * share)
    pixels *= 1 - figure.alpha
    pixels += figure.rgb


def _occlude(
    camera: Camera, frame: _Frame, rng: np.random.Generator, pixels: Array, ground: float, axis: float, scale: float
) -> None:
    if rng.random() < 0.3:
        _passer_by(camera, frame, rng, pixels, scale, behind=False)
        return
    kinds = OUTDOOR if camera.scene().outdoor else SHOP if camera.place == "shop" else INDOOR
    rows, columns = pixels.shape[1:]
    layer = draw_occluder(kinds[int(rng.integers(len(kinds)))], rng, columns, rows, ground, axis, scale)
    values = np.asarray(layer, dtype=np.float32).transpose(2, 0, 1) * np.float32(1 / 255)
    pixels *= 1 - values[3]
    pixels += values[:3]


def _develop(camera: Camera, rng: np.random.Generator, pixels: Array, size: tuple[int, int]) -> Image.Image:
    """Light, optics and sensor: from a painted (3, h, w) picture to an RGB image of the output's size."""
    rows, columns = pixels.shape[1:]
    matrix, offset = camera.color
    if camera.sun and rng.random() < 0.3:
        pixels *= _cloud(rng, rows, columns)
    flat = pixels.reshape(3, -1)
    exposed = matrix.T @ flat * np.float32(rng.uniform(0.92, 1.08)) + offset[:, None]
    levels = np.clip(exposed * 255, 0, 255).astype(np.uint8).reshape(3, rows, columns)
    image = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))
    radius = camera.blur * rows * float(rng.uniform(0.6, 1.5))
    if radius > 0.25:
        image = image.filter(ImageFilter.GaussianBlur(radius))
    sheet = _grain()
    y, x = int(rng.integers(sheet.shape[0] - rows)), int(rng.integers(sheet.shape[1] - columns))
    noisy = np.asarray(image, dtype=np.float32) + sheet[y : y + rows, x : x + columns] * np.float32(camera.noise)
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


@functools.lru_cache(maxsize=1)
def _grain() -> Array:
    """A sheet of noise to cut pieces from; drawing it anew for each picture would take as long as the figure."""
    return np.random.default_rng(9).standard_normal((1152, 704, 3), dtype=np.float32)


def _cloud(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Shade of trees or houses over a part of the picture: a factor for each pixel."""
    coarse = rng.random((5, 4)) if rng.random() < 0.5 else np.linspace(0, 1, 20).reshape(5, 4)[:: int(rng.choice((-1, 1)))]
    soft = Image.fromarray((coarse * 255).astype(np.uint8)).resize((columns, rows), Image.Resampling.BICUBIC)
    mask = np.clip((np.asarray(soft, dtype=np.float32) / 255 - 0.45) * 6, 0, 1)
    return 1 - np.float32(0.34) * mask
