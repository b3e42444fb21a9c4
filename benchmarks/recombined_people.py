"""New people made of those of a training split: a student learns of its teacher on more people than were photographed.

    python benchmarks/recombined_people.py ~/data --out recombined --num-ids 600
    hat train market1501-edge --data ~/data --data recombined/data.csv --teacher teacher.onnx --out runs/edge

Each is the upper half of one person above the lower half of another, cut near the waist, in the images of the first person's
cameras. All halves of a person have one turn of the hue; each image has light, colors, sharpness, JPEG artifacts and a frame of
its own, as other cameras and detectors would make them. Nothing but the training split is read, and what results remains under
its terms.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from measuring import one_sentence_errors
from PIL import Image, ImageFilter

from hat.data import open_dataset
from hat.data.images import read_image, to_rgb
from hat.train.augmentation import color_jitter

Pixels = npt.NDArray[np.float32]  # (H, W, 3), in [0, 255]
Images = dict[int, dict[int, list[str]]]  # paths by identity and camera
SIZE = (64, 128)
WAIST, WAIST_SPREAD = 0.47, 0.05
SEAM = 4  # rows that the halves share
LARGEST_TURN = 0.12  # of the hue, 1 being the whole circle
LARGEST_CUT = 0.12  # of the width and of the height, at each side


def read_pixels(path: str) -> Pixels:
    return np.asarray(to_rgb(read_image(path)).resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float32)


def turn_hue(pixels: Pixels, turn: float) -> Pixels:
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].round().to(torch.uint8)
    turned = color_jitter(images, torch.tensor([[1.0, 1.0, 1.0, turn]]), turn_hue=True)
    return turned[0].permute(1, 2, 0).numpy().astype(np.float32)


def join_halves(upper: Pixels, lower: Pixels, waist: float) -> Pixels:
    """Blend two people at the waist, a part of the height, over the rows of the seam."""
    rows = np.arange(len(upper), dtype=np.float32) - waist * len(upper)
    part = np.clip(rows / SEAM + 0.5, 0, 1)[:, None, None]
    return upper * (1 - part) + lower * part


def as_another_camera(pixels: Pixels, rng: np.random.Generator) -> Image.Image:
    """Change the light, the colors, the frame and the sharpness, each by chance."""
    light = 255 * (pixels / 255) ** rng.uniform(0.7, 1.4) * rng.uniform(0.65, 1.3)
    gray = light.mean(axis=2, keepdims=True)
    light = gray + (light - gray) * rng.uniform(0.5, 1.4)
    mean = light.mean()
    light = mean + (light - mean) * rng.uniform(0.7, 1.25)
    light = light * rng.uniform(0.87, 1.15, size=3)
    image = Image.fromarray(light.clip(0, 255).round().astype(np.uint8))
    width, height = image.size
    if rng.random() < 0.5:
        left, right, top, bottom = rng.uniform(0, LARGEST_CUT, size=4)
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        image = image.resize(image.size, Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.25:
        part = rng.uniform(0.4, 0.9)
        small = image.resize((round(width * part), round(height * part)), Image.Resampling.BILINEAR)
        image = small.resize(image.size, Image.Resampling.BICUBIC)
    elif rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    return image


def make_people(images: Images, out: Path, num_ids: int, seed: int) -> int:
    """Write the images and ``data.csv``; returns how many images there are."""
    rng = np.random.default_rng(seed)
    # Walking around a circle of all identities, each is once an upper and once a lower half before any is again.
    walks = [rng.permutation(sorted(images)) for _ in range(math.ceil(num_ids / len(images)))]
    pairs = [pair for walk in walks for pair in zip(walk, np.roll(walk, 1), strict=True)][:num_ids]
    (out / "images").mkdir(parents=True)
    rows: list[tuple[str, int, int, str]] = []
    for person, (above, below) in enumerate(pairs):
        turns = rng.uniform(-LARGEST_TURN, LARGEST_TURN, size=2) * (rng.random(2) < 0.5)
        any_lower = [path for paths in images[below].values() for path in paths]
        for camera, paths in images[above].items():
            for path in paths:
                other = str(rng.choice(images[below].get(camera) or any_lower))
                upper, lower = (turn_hue(read_pixels(half), turn) for half, turn in zip((path, other), turns, strict=True))
                joined = join_halves(upper, lower, WAIST + rng.uniform(-WAIST_SPREAD, WAIST_SPREAD))
                encoded = io.BytesIO()
                as_another_camera(joined, rng).save(encoded, "JPEG", quality=int(rng.integers(40, 96)))
                name = f"images/{person:04d}_c{camera}_{len(rows):06d}.jpg"
                (out / name).write_bytes(encoded.getvalue())
                rows.append((name, person, camera, "train"))
    with (out / "data.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "pid", "camid", "split"), *rows])
    return len(rows)


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set: DIR or NAME=DIR")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the images and data.csv")
    parser.add_argument("--num-ids", type=int, default=600, help="people to make (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images: Images = defaultdict(lambda: defaultdict(list))
    for sample in open_dataset(options.data).train:
        images[sample.pid][sample.camid].append(sample.path)
    if len(images) < 2 or options.num_ids < 1:
        parser.error(f"at least 1 is made of at least 2 identities; got {options.num_ids} of {len(images)}")
    if options.out.exists():
        parser.error(f"{options.out} exists")
    num_images = make_people(images, options.out, options.num_ids, options.seed)
    print(f"{num_images:,} images of {options.num_ids} people in {options.out / 'data.csv'}")


if __name__ == "__main__":
    main()
