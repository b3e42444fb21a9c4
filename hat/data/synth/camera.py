"""Cameras: where one hangs, its light, optics and detector, and the pictures that it takes of people and of nobody."""

import functools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hat.errors import UsageError

from .figure import Posture, build_figure, pose_person
from .scene import BELOW, OUTDOOR, PIXELS_PER_METER, PLACES, SPAN, TOP, Brush, paint_occluder, paint_scene
from .solids import Array, View
from .wardrobe import NUM_PEOPLE, Person, make_person

MAX_IDENTITIES = 9999  # people beyond this number never get a label: they walk in the background and stand in the way

# In every four cameras one sees people from the front, one from behind, one from the side and one from three quarters.
_YAWS = (0.0, 180.0, 90.0, 40.0)


@dataclass(frozen=True)
class Camera:
    """One camera of the drawn world; lengths in meters, angles in radians."""

    seed: int  # of the world
    index: int  # number of the camera, counted from 0
    place: str  # kind of place that it looks at, a key of `PLACES`
    height: float
    distance: float  # to where people walk
    pitch: float  # how far it looks down
    yaw: float  # turn of most people who pass
    light: Array  # (3,) unit vector to the light: right, up, towards the camera
    sun: float  # strength of cast shadows, 0 to 1
    color: Array  # (3, 3) exposure, temperature, tint, contrast and saturation as one matrix for rows of sRGB
    offset: float  # what is added then, in [0, 1]
    sharpness: float  # rows of the sensor in a person's box, as a share of the output's rows
    blur: float  # of the optics, as a share of the sensor's rows
    noise: float  # standard deviation of the sensor's noise in gray levels
    quality: int  # of JPEG files
    occlusion: float  # how often something stands in front of people
    misfit: float  # how badly the detector's boxes fit
    crowd: float  # how often somebody else is in the picture behind


@functools.lru_cache(maxsize=256)
def make_camera(seed: int, index: int) -> Camera:
    """Return the camera with a number, counted from 0, the same whatever else is drawn with the seed."""
    kinds = np.random.default_rng([seed, 3]).permutation(list(PLACES))
    turns = np.random.default_rng([seed, 7, index // 4]).permutation(_YAWS)
    rng = np.random.default_rng([seed, 3, index + 1])
    place = str(kinds[index % len(kinds)])
    height, distance = float(rng.uniform(*PLACES[place][2])), float(rng.uniform(7.5, 11.0))
    sunny = place in OUTDOOR and rng.random() < 0.7
    light = rng.uniform((0.35, 0.4, 0.5), 0.75) * (rng.choice((-1, 1)), 1, 1)
    saturation, contrast, warmth = rng.uniform(0.75, 1.1), rng.uniform(0.85, 1.12), rng.uniform(-1, 1)
    gains = np.array([1 + 0.07 * warmth, 1 + rng.normal(0, 0.01), 1 - 0.08 * warmth]) * rng.uniform(0.88, 1.1)
    gray = np.array([0.299, 0.587, 0.114])[:, None] @ np.ones((1, 3))
    return Camera(
        seed, index, place, height, distance,
        pitch=math.atan2(height - 0.9, distance),
        yaw=math.radians(float(turns[index % 4] * rng.choice((-1, 1)))),
        light=light / np.linalg.norm(light),
        sun=float(rng.uniform(0.3, 1.0)) if sunny else 0.0,
        color=(np.diag(gains) @ (saturation * np.eye(3) + (1 - saturation) * gray) * contrast).astype(np.float32),
        offset=float(0.46 * (1 - contrast) + rng.uniform(-0.01, 0.045)),
        sharpness=float(rng.uniform(0.5, 0.95)),
        blur=float(rng.uniform(0.0005, 0.0038)),
        noise=float(rng.uniform(0.6, 3.4)),
        quality=int(rng.integers(68, 93)),
        occlusion=float(rng.uniform(0.1, 0.25)),
        misfit=float(rng.uniform(0.6, 1.4)),
        crowd=float(rng.uniform(0.1, 0.3)),
    )  # fmt: skip


class _Shot(NamedTuple):
    """A person before a camera in one moment and the detector's box around them, in meters at the person's distance."""

    person: Person
    posture: Posture
    view: View
    width: float
    height: float
    along: float


def draw_person(identity: int, camera: int, shot: int = 0, *, seed: int = 0, size: tuple[int, int] = (256, 128)) -> Image.Image:
    """Draw one person as one camera sees them in one moment: RGB pixels that depend on these arguments alone.

    ``identity`` goes from 0 to `MAX_IDENTITIES` - 1, ``camera`` and ``shot`` (the moment) from 0; ``seed`` is the world's, and
    ``size`` (height, width).
    """
    if not 0 <= identity < MAX_IDENTITIES or min(camera, shot, seed) < 0:
        numbers = f"{identity}, {camera}, {shot} and {seed}"
        raise UsageError(f"identity must be from 0 to {MAX_IDENTITIES - 1}, camera, shot and seed at least 0, got {numbers}")
    lens = make_camera(seed, camera)
    track = np.random.default_rng([seed, 6, identity, camera])
    rng = np.random.default_rng([seed, 5, identity, camera, shot])
    taken = _detect(lens, make_person(seed, identity), track, rng, shot)
    return _develop(lens, rng, _compose(lens, taken, rng, size, occluded=bool(rng.random() < lens.occlusion)), size)


def draw_distractor(number: int, camera: int, *, seed: int = 0, size: tuple[int, int] = (256, 128)) -> Image.Image:
    """Draw a false detection, counted from 0: a piece of background, things in it, or a fraction of somebody unlabeled."""
    lens = make_camera(seed, camera)
    rng = np.random.default_rng([seed, 8, number, camera])
    taken = _detect(lens, make_person(seed, int(rng.integers(MAX_IDENTITIES, NUM_PEOPLE))), rng, rng, 0)
    empty = bool(rng.random() < 0.5)
    if not empty:
        left = taken.view.left + float(rng.choice((-1, 1)) * rng.uniform(0.55, 0.8)) * taken.width
        top = taken.view.top + float(rng.uniform(-0.15, 0.15)) * taken.height
        taken = taken._replace(view=replace(taken.view, left=left, top=top))
    return _develop(lens, rng, _compose(lens, taken, rng, size, occluded=empty, empty=empty), size)


def _detect(camera: Camera, person: Person, track: np.random.Generator, rng: np.random.Generator, shot: int) -> _Shot:
    """Pose a person in front of a camera and put the detector's box around them."""
    yaw = camera.yaw + math.radians(float(track.normal(0, 13))) + (math.pi if track.random() < 0.2 else 0.0)
    start, drift, along, depth, stride = track.uniform((0, 0.9, -1, -0.9, 0.7), (2 * math.pi, 2.1, 1, 0.6, 1.1)).tolist()
    stride = 0.08 if track.random() < 0.12 else stride
    tall, wild = person.height, camera.misfit
    view = View(yaw + math.radians(float(rng.normal(0, 7))), camera.pitch, camera.distance + depth, 0.5 * tall)
    posture = pose_person(person, start + drift * shot + float(rng.normal(0, 0.2)), stride)
    body = [(-0.11, 0.6, 0.0), (0.11, 0.6, 0.0), (0.0, (1.035 if person.hair_style == "afro" else 1.012) + posture.rise, 0.03)]
    corners = view.project(view.turn(np.vstack([*posture.arms, *posture.legs, body]) * tall))
    (left, top), (right, bottom) = corners.min(0) - (0.022 * tall, 0), corners.max(0) + np.array((0.022, 0.016)) * tall
    above, below = rng.uniform(0.01, 0.05, 2) * wild
    fate = rng.random()
    if fate < 0.10 * wild:
        below = -rng.uniform(0.08, 0.24)
    elif fate < 0.14 * wild:
        above = -rng.uniform(0.02, 0.07)
    elif fate < 0.28 * wild:
        above, below = rng.uniform(0.06, 0.17, 2)
    high = float((bottom - top) * (1 + above + below))
    wide = max(0.5 * high * float(rng.uniform(0.86, 1.06)), min(float(right - left) * 0.88, 0.6 * high))
    center = 0.5 * float(left + right) + float(rng.normal(0, 0.022 * wild)) * high
    view = replace(view, left=center - wide / 2, top=float(top - above * (bottom - top)))
    return _Shot(person, posture, view, wide, high, along)


def _compose(
    camera: Camera, shot: _Shot, rng: np.random.Generator, size: tuple[int, int], *, occluded: bool, empty: bool = False
) -> Array:
    """Paint background, people and occluders at the sensor's resolution: (rows, columns, 3) float32 in [0, 1]."""
    rows = max(32, 2 * round(0.5 * size[0] * camera.sharpness * float(rng.uniform(0.85, 1.05))))
    columns = max(16, 2 * round(0.5 * rows * shot.width / shot.height))
    scale = rows / shot.height
    view = replace(shot.view, scale=scale, left=shot.view.left * scale, top=shot.view.top * scale)
    axis, ground = view.project(view.turn(np.zeros(3))).tolist()
    pixels = _background(camera, shot, rows, columns, ground / scale)
    if rng.random() < camera.crowd:
        _add_stranger(camera, view, pixels, rng, axis, ground, behind=True)
    if not empty:
        figure = build_figure(shot.person, shot.posture).draw(view, camera.light, (rows, columns), shot.person.height)
        pixels *= _shadow(camera, shot, view, figure[..., 3], ground)[..., None]
        _lay(pixels, figure)
    if occluded and rng.random() < 0.3:
        _add_stranger(camera, view, pixels, rng, axis, ground, behind=False)
    elif occluded:
        # It stands nearer to the camera than the person, so lower in the picture and larger.
        where = (camera.height, camera.distance)
        brush = Brush((rows, columns), 1.12 * scale, axis, ground + 0.12 * scale, where, rng)
        _lay(pixels, paint_occluder(camera.place, brush))
    return pixels


def _lay(pixels: Array, layer: Array) -> None:
    pixels *= 1 - layer[..., 3:]
    pixels += layer[..., :3]


def _background(camera: Camera, shot: _Shot, rows: int, columns: int, ground: float) -> Array:
    """Cut what the box shows out of the scene, given the ground's place below the box's top in meters."""
    scene = paint_scene(camera.place, camera.seed, camera.index, (camera.height, camera.distance))
    share = camera.distance / shot.view.distance
    wide, high = min(shot.width * share, SPAN), min(shot.height * share, TOP + BELOW)
    left = 0.5 * (SPAN - wide) * (1 + shot.along)
    top = TOP - camera.height * (1 - share) - ground * share
    left, top = min(max(left, 0.0), SPAN - wide), min(max(top, 0.0), TOP + BELOW - high)
    right, bottom = min((left + wide) * PIXELS_PER_METER, scene.width), min((top + high) * PIXELS_PER_METER, scene.height)
    box = (left * PIXELS_PER_METER, top * PIXELS_PER_METER, right, bottom)
    return np.asarray(scene.resize((columns, rows), Image.Resampling.BILINEAR, box=box), dtype=np.float32) / 255


def _shadow(camera: Camera, shot: _Shot, view: View, alpha: Array, ground: float) -> Array:
    """Return how much light falls on the ground: less around the feet and where the sun's shadow lies."""
    rows, columns = alpha.shape
    shade = Image.new("L", (columns, rows))
    draw, flat = ImageDraw.Draw(shade), max(0.16, math.sin(camera.pitch))
    for leg in shot.posture.legs:
        lift = max(0.0, float(leg[2:, 1].min()) - 0.02)
        column, row = view.project(view.turn((0.5 * (leg[2] + leg[3]) * (1, 0, 1)) * shot.person.height)).tolist()
        reach = (0.14 + lift) * view.scale
        ellipse = (column - reach, row - reach * flat, column + reach, row + reach * flat)
        draw.ellipse(ellipse, fill=round(190 * math.exp(-lift / 0.08)))
    light = 1 - np.asarray(shade.filter(ImageFilter.GaussianBlur(0.02 * rows)), dtype=np.float32) * (0.6 / 255)
    if camera.sun:
        # The silhouette, flattened and sheared away from the light.
        squash, shear = 0.30, 1.1 * float(camera.light[0])
        matrix = (1.0, shear / squash, -shear * ground / squash, 0.0, 1 / squash, ground * (1 - 1 / squash))
        cast = Image.fromarray((alpha * 255).astype(np.uint8))
        cast = cast.transform(cast.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        cast = cast.filter(ImageFilter.GaussianBlur(0.006 * rows))
        light *= 1 - np.asarray(cast, dtype=np.float32) * np.float32(0.42 * camera.sun / 255)
    return light


def _add_stranger(
    camera: Camera, view: View, pixels: Array, rng: np.random.Generator, axis: float, ground: float, *, behind: bool
) -> None:
    """Paint somebody without a label, farther away or nearer, beside the person."""
    stranger = make_person(camera.seed, int(rng.integers(MAX_IDENTITIES, NUM_PEOPLE)))
    offset = float(rng.choice((-1, 1)) * (rng.uniform(0.3, 0.75) if behind else rng.uniform(0.34, 0.5))) * view.scale
    distance = view.distance + (float(rng.uniform(1.5, 4.5)) if behind else -0.7)
    yaw = camera.yaw + float(rng.normal(0, 0.3)) + (math.pi if rng.random() < 0.4 else 0.0)
    share = view.distance / distance
    placed = View(yaw, camera.pitch, distance, 0.5 * stranger.height, view.scale * share)
    left, top = placed.project(placed.turn(np.zeros(3))).tolist()
    # The ground lies higher in the picture that much farther away, by the rule that the scene is painted with.
    lift = camera.height * (1 - share) * view.scale
    placed = replace(placed, left=left - axis - offset, top=top - ground + lift)
    figure = build_figure(stranger, pose_person(stranger, float(rng.uniform(0, 6.28)), 0.9))
    _lay(pixels, figure.draw(placed, camera.light, pixels.shape[:2], stranger.height))


def _develop(camera: Camera, rng: np.random.Generator, pixels: Array, size: tuple[int, int]) -> Image.Image:
    """Make an RGB image of the output's size: light, optics and sensor."""
    rows, columns = pixels.shape[:2]
    if camera.sun and rng.random() < 0.3:  # The shade of trees or houses over a part of the picture.
        coarse = Image.fromarray((rng.random((5, 4)) * 255).astype(np.uint8)).resize((columns, rows), Image.Resampling.BICUBIC)
        pixels *= 1 - 0.34 * np.clip(np.asarray(coarse, dtype=np.float32) / 42 - 2.7, 0, 1)[..., None]
    exposed = pixels @ camera.color * np.float32(rng.uniform(0.92, 1.08)) + np.float32(camera.offset)
    image = Image.fromarray(np.clip(exposed * 255, 0, 255).astype(np.uint8))
    radius = camera.blur * rows * float(rng.uniform(0.6, 1.5))
    if radius > 0.25:
        image = image.filter(ImageFilter.GaussianBlur(radius))
    sheet = _grain()
    y, x = int(rng.integers(sheet.shape[0] - rows)), int(rng.integers(sheet.shape[1] - columns))
    noisy = np.asarray(image, dtype=np.float32) + sheet[y : y + rows, x : x + columns] * np.float32(camera.noise)
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return image.resize((size[1], size[0]), Image.Resampling.BICUBIC)


@functools.lru_cache(maxsize=1)
def _grain() -> Array:
    """Return a sheet of noise to cut pieces from; drawing it again for each picture would take as long as the figure."""
    return np.random.default_rng(9).standard_normal((1152, 704, 3), dtype=np.float32)
