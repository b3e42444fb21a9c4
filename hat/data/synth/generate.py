"""Generated data sets in the layout of Market-1501, written whole or not at all by a pool of processes."""

import functools
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from hat.data.loading import default_num_workers
from hat.data.market import MANIFEST
from hat.errors import UsageError, WorkError
from hat.io.atomic_output import atomic_folder, writing

from .camera import MAX_IDENTITIES, draw_distractor, draw_person, make_camera
from .wardrobe import make_person

_GENERATOR = "hat synth"
_TRAIN, _QUERY, _GALLERY = _FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
_MAX_IMAGES = 2_000_000


@dataclass(frozen=True)
class _Plan:
    """Plan of a data set: all that decides its bytes."""

    seed: int
    size: tuple[int, int]
    num_ids: int
    num_train_ids: int
    num_cameras: int
    images_per_camera: int
    num_distractors: int

    def counts(self) -> dict[str, int]:
        """Return the numbers of images in the three folders."""
        test, shots = self.num_ids - self.num_train_ids, self.images_per_camera
        return {
            "num_train_images": self.num_train_ids * self.num_cameras * shots,
            "num_query_images": test * self.num_cameras,
            "num_gallery_images": test * self.num_cameras * (shots - 1) + self.num_distractors,
        }


@dataclass(frozen=True)
class SynthSummary(_Plan):
    """Summary of a generated data set: parameters, images in each part, processes that drew, and the time."""

    out: str
    num_train_images: int
    num_query_images: int
    num_gallery_images: int
    num_workers: int
    seconds: float

    @property
    def num_images(self) -> int:
        """Images of all parts together."""
        return self.num_train_images + self.num_query_images + self.num_gallery_images


def generate_dataset(
    out: str | os.PathLike[str],
    *,
    num_ids: int = 100,
    num_cameras: int = 4,
    images_per_camera: int = 4,
    num_train_ids: int | None = None,
    num_distractors: int = 0,
    size: tuple[int, int] = (256, 128),
    seed: int = 0,
    num_workers: int | None = None,
    force: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> SynthSummary:
    """Draw a multi-camera data set of pedestrians in the layout of Market-1501.

    ``out``, absent or empty, gets the three folders with names like ``0001_c1s1_000051_00.jpg`` (identity, camera, frame;
    identities and cameras from 1), and ``synth.json``, complete or not at all. With ``force`` it replaces a drawn data set that
    holds nothing else. The first ``num_train_ids`` identities, half of all if None, are for training; of every other one an
    image from each camera is a query and the rest is in the gallery, with ``num_distractors`` false detections labeled 0000.
    Many programs read one digit from Market's names: stay below 10 cameras for them.

    The same parameters give the same bytes whatever ``num_workers`` is (with the same versions of NumPy and Pillow), and an
    identity of a seed looks the same whatever the other parameters but ``size`` (height, width) are. With several workers a
    script needs the usual ``if __name__ == "__main__":`` around its code, since workers import it; None is one for each core.
    ``on_progress`` is called with the numbers of images done and to do.
    """
    train = num_ids // 2 if num_train_ids is None else num_train_ids
    plan = _Plan(seed, (size[0], size[1]), num_ids, train, num_cameras, images_per_camera, num_distractors)
    total = num_ids * num_cameras * images_per_camera + num_distractors
    if num_workers is None:
        # Below a few hundred images a second process takes longer to start than it saves.
        num_workers = max(1, min(default_num_workers(), total // 150))
    for what, value, least, most in (
        ("number of identities", num_ids, 2, MAX_IDENTITIES),
        ("number of cameras", num_cameras, 2, 99),
        ("number of images per camera", images_per_camera, 2, 100),
        ("number of training identities", train, 1, num_ids - 1),
        ("number of distractors", num_distractors, 0, 30_000),
        ("image height", size[0], 32, 1024),
        ("image width", size[1], 16, 512),
        ("seed", seed, 0, 2**32 - 1),
        ("number of workers", num_workers, 1, 256),
    ):
        if not least <= value <= most:
            raise UsageError(f"the {what} must be from {least} to {most}, got {value}")
    if total > _MAX_IMAGES:
        raise UsageError(
            f"a data set has at most {_MAX_IMAGES:,} images, got parameters for {total:,}: take fewer of something"
        )
    target = Path(out).expanduser().absolute()
    _check_target(target, force)
    started = time.perf_counter()
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target, overwrite=True, marker=MANIFEST, flush=False) as folder:
        for name in _FOLDERS:
            (folder / name).mkdir()
        _draw_all(plan, folder, num_workers, total, on_progress)
        manifest = {
            "generator": _GENERATOR,
            "version": version("hat-reid"),
            "drawing": 2,  # counts up whenever the same seed gives other pictures
            "parameters": asdict(plan),
            "counts": plan.counts(),
            "cameras": [make_camera(seed, index).place for index in range(num_cameras)],
            "identities": {f"{index + 1:04d}": make_person(seed, index).description for index in range(num_ids)},
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    seconds = time.perf_counter() - started
    return SynthSummary(**(vars(plan) | plan.counts()), out=str(target), num_workers=num_workers, seconds=seconds)


def _check_target(target: Path, force: bool) -> None:
    """Refuse a target that holds anything which is not ours to replace."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target} is a file or a link, and a data set is a folder: name another place")
    entries = {entry.name for entry in target.iterdir()} if target.exists() else set()
    if not entries:
        return
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("generator") != _GENERATOR:
        problem = "is not empty and holds no data set of hat synth, so it is not replaced: name another folder"
    elif not force:
        problem = "already holds a drawn data set: name another folder, or replace it with --force"
    elif foreign := sorted(entries - {*_FOLDERS, MANIFEST}):
        problem = f"holds {foreign[0]}, which hat synth did not write, so it is not replaced: move it away first"
    else:
        return
    raise UsageError(f"{target} {problem}")


def _draw_all(plan: _Plan, folder: Path, workers: int, total: int, on_progress: Callable[[int, int], None] | None) -> None:
    draw, done = functools.partial(_draw_job, plan, folder), 0
    jobs = range(plan.num_ids + plan.num_distractors)
    # Spawned, not forked: the caller may run threads (torch does), and a fork of them can hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) if workers > 1 else None
    try:
        for count in pool.map(draw, jobs) if pool else map(draw, jobs):
            done += count
            if on_progress:
                on_progress(done, total)
    except BrokenProcessPool:
        raise WorkError("a drawing process died (out of memory, or killed): try again with fewer --workers") from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _draw_job(plan: _Plan, folder: Path, job: int) -> int:
    """Draw all images of one identity, or one distractor if the job's number is beyond the identities; return how many."""

    def save(image: Image.Image, part: str, label: int, camera: int, frame: int) -> None:
        name = f"{label:04d}_c{camera + 1}s1_{frame:06d}_00.jpg"
        image.save(folder / part / name, "JPEG", quality=make_camera(plan.seed, camera).quality)

    if job >= plan.num_ids:
        number = job - plan.num_ids
        camera = number % plan.num_cameras
        save(draw_distractor(number, camera, seed=plan.seed, size=plan.size), _GALLERY, 0, camera, 51 + 25 * number)
        return 1
    for camera, shot in itertools.product(range(plan.num_cameras), range(plan.images_per_camera)):
        part = _TRAIN if job < plan.num_train_ids else _GALLERY if shot else _QUERY
        frame = (job * 613 + camera * 171) % 990_000 + 51 + 25 * shot
        save(draw_person(job, camera, shot, seed=plan.seed, size=plan.size), part, job + 1, camera, frame)
    return plan.num_cameras * plan.images_per_camera
