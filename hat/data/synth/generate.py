"""Writes a drawn data set in the layout of Market-1501, whole or not at all, with a pool of processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from hat.data.market import MANIFEST
from hat.errors import UsageError, WorkError

from .camera import make_camera
from .person import make_person
from .shot import MAX_IDENTITIES, draw_distractor, draw_person

__all__ = ["MANIFEST", "SynthSummary", "generate_dataset"]

_GENERATOR = "hat synth"
_DRAWING = 1  # Counts up whenever the same seed gives other pictures.
_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
_MAX_IMAGES = 2_000_000
_MAX_DISTRACTORS = 30_000
_BATCH = 16


@dataclass(frozen=True)
class SynthSummary:
    """What was written.

    Attributes:
        out: The data set's folder.
        seed: Seed of the world.
        size: (height, width) of the images in pixels.
        num_ids: Number of identities.
        num_train_ids: How many of them are in the training part; the others are in query and gallery.
        num_cameras: Number of cameras.
        images_per_camera: Images of each identity from each camera.
        num_train_images: Images in ``bounding_box_train``.
        num_query_images: Images in ``query``.
        num_gallery_images: Images in ``bounding_box_test``, distractors among them.
        num_distractors: Images without a person of the data set, labeled 0000.
        num_workers: Processes that drew.
        seconds: Time it took.
    """

    out: str
    seed: int
    size: tuple[int, int]
    num_ids: int
    num_train_ids: int
    num_cameras: int
    images_per_camera: int
    num_train_images: int
    num_query_images: int
    num_gallery_images: int
    num_distractors: int
    num_workers: int
    seconds: float

    @property
    def num_images(self) -> int:
        """Images of all parts together."""
        return self.num_train_images + self.num_query_images + self.num_gallery_images


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the bytes of a data set."""

    seed: int
    size: tuple[int, int]
    num_ids: int
    num_train_ids: int
    num_cameras: int
    images_per_camera: int
    num_distractors: int


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

    ``out`` gets ``bounding_box_train``, ``query`` and ``bounding_box_test`` with names like ``0001_c1s1_000051_00.jpg``
    (identity, camera, frame; identities and cameras from 1), and ``synth.json``. The first ``num_train_ids`` identities are for
    training, half of all by default as in Market-1501; of every other identity one image from each camera is a query and the
    rest is in the gallery.

    The same parameters give the same bytes whatever ``num_workers`` is (with the same versions of NumPy and Pillow), and an
    identity of a seed looks the same whatever the other parameters but ``size`` are. The folder appears complete or not at all.

    With several workers a script needs the usual ``if __name__ == "__main__":`` around its code, since workers import it.

    Args:
        out: Folder to write; it must be absent or empty.
        num_ids: Number of identities, 2 to 9,999.
        num_cameras: Number of cameras, 2 to 99. Many programs read one digit from Market's names: stay below 10 for them.
        images_per_camera: Images of each identity from each camera, 2 to 100.
        num_train_ids: Identities in the training part, 1 to ``num_ids`` - 1; None takes half of them, rounded down.
        num_distractors: False detections in the gallery, labeled 0000, up to 30,000.
        size: (height, width) of the images in pixels, 32 x 16 to 1024 x 512.
        seed: Seed of the world, 0 to 2**32 - 1.
        num_workers: Processes that draw, 1 to 256; None takes as many as the machine has cores.
        force: Replace ``out`` where it is a drawn data set and holds nothing else.
        on_progress: Called with the numbers of images done and to do.

    Returns:
        What was written.

    Raises:
        UsageError: A parameter is out of its bounds, or ``out`` is not empty or may not be replaced.
        WorkError: Writing failed, or a worker died.
    """
    plan = _checked_plan(num_ids, num_cameras, images_per_camera, num_train_ids, num_distractors, size, seed)
    workers = _checked_workers(num_workers, plan)
    target = Path(out).expanduser().absolute()
    _check_target(target, force)
    started = time.perf_counter()
    try:
        with _assembled(target) as folder:
            for name in _FOLDERS:
                (folder / name).mkdir()
            _draw_all(plan, folder, workers, on_progress)
            counts = _counts(plan)
            manifest = {
                "generator": _GENERATOR,
                "version": version("hat-reid"),
                "drawing": _DRAWING,
                "parameters": asdict(plan),
                "counts": counts,
                "cameras": [make_camera(seed, index).place for index in range(num_cameras)],
                "identities": {f"{index + 1:04d}": make_person(seed, index).description for index in range(num_ids)},
            }
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise WorkError(f"{target} could not be written: {error.strerror or error}") from error
    return SynthSummary(
        out=str(target),
        seed=seed,
        size=plan.size,
        num_ids=num_ids,
        num_train_ids=plan.num_train_ids,
        num_cameras=num_cameras,
        images_per_camera=images_per_camera,
        num_distractors=num_distractors,
        **counts,
        num_workers=workers,
        seconds=time.perf_counter() - started,
    )


def _checked_plan(
    num_ids: int,
    num_cameras: int,
    images_per_camera: int,
    num_train_ids: int | None,
    num_distractors: int,
    size: tuple[int, int],
    seed: int,
) -> _Plan:
    _check("number of identities", num_ids, 2, MAX_IDENTITIES)
    _check("number of cameras", num_cameras, 2, 99)
    _check("number of images per camera", images_per_camera, 2, 100)
    _check("number of distractors", num_distractors, 0, _MAX_DISTRACTORS)
    _check("image height", size[0], 32, 1024)
    _check("image width", size[1], 16, 512)
    _check("seed", seed, 0, 2**32 - 1)
    train = num_ids // 2 if num_train_ids is None else num_train_ids
    _check("number of training identities", train, 1, num_ids - 1)
    total = num_ids * num_cameras * images_per_camera + num_distractors
    if total > _MAX_IMAGES:
        raise UsageError(
            f"a data set has at most {_MAX_IMAGES:,} images, these parameters ask for {total:,}: take fewer of something"
        )
    return _Plan(seed, (size[0], size[1]), num_ids, train, num_cameras, images_per_camera, num_distractors)


def _check(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"the {what} must be from {least} to {most}, got {value}")


def _checked_workers(num_workers: int | None, plan: _Plan) -> int:
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # Below a few hundred images a second process takes longer to start than it saves.
        images = plan.num_ids * plan.num_cameras * plan.images_per_camera + plan.num_distractors
        return max(1, min(cores, images // 150, 256))
    _check("number of workers", num_workers, 1, 256)
    return num_workers


def _counts(plan: _Plan) -> dict[str, int]:
    test = plan.num_ids - plan.num_train_ids
    return {
        "num_train_images": plan.num_train_ids * plan.num_cameras * plan.images_per_camera,
        "num_query_images": test * plan.num_cameras,
        "num_gallery_images": test * plan.num_cameras * (plan.images_per_camera - 1) + plan.num_distractors,
    }


def _check_target(target: Path, force: bool) -> None:
    """Refuse a target that holds anything which is not ours to replace."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target} is a file or a link, and a data set is a folder: name another place")
    if not target.exists():
        return
    entries = {entry.name for entry in target.iterdir()}
    if not entries:
        return
    if not _is_ours(target):
        raise UsageError(
            f"{target} is not empty and holds no data set of hat synth, so it is not replaced: name another folder"
        )
    if not force:
        raise UsageError(f"{target} already holds a drawn data set: name another folder, or replace it with --force")
    foreign = sorted(entries - {*_FOLDERS, MANIFEST})
    if foreign:
        raise UsageError(
            f"{target} holds {foreign[0]}, which hat synth did not write, so it is not replaced: move it away first"
        )


def _is_ours(target: Path) -> bool:
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("generator") == _GENERATOR


@contextmanager
def _assembled(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target that takes its place when all has gone well and vanishes when not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    building = target.with_name(f".{target.name}.{token}.partial")
    building.mkdir()
    try:
        yield building
        if target.exists():
            retired = target.with_name(f".{target.name}.{token}.old")
            target.rename(retired)
            building.rename(target)
            shutil.rmtree(retired)
        else:
            building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _draw_all(plan: _Plan, folder: Path, workers: int, on_progress: Callable[[int, int], None] | None) -> None:
    jobs = [("person", index) for index in range(plan.num_ids)]
    jobs += [("distractors", first) for first in range(0, plan.num_distractors, _BATCH)]
    total = sum(_counts(plan).values())
    done = 0
    if workers == 1:
        for job in jobs:
            done += _draw_job(plan, str(folder), job)
            if on_progress:
                on_progress(done, total)
        return
    # Spawned, not forked: the caller may run threads (torch does), and a fork of them can hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = [pool.submit(_draw_job, plan, str(folder), job) for job in jobs]
        for future in futures:
            done += future.result()
            if on_progress:
                on_progress(done, total)
    except BrokenProcessPool:
        raise WorkError("a drawing process died (out of memory, or killed): try again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _draw_job(plan: _Plan, folder: str, job: tuple[str, int]) -> int:
    """Draw all images of one identity, or one batch of distractors; returns how many."""
    kind, number = job
    images = _images_of_person(plan, number) if kind == "person" else _distractors(plan, number)
    count = 0
    for part, name, camera, image in images:
        image.save(Path(folder) / part / name, "JPEG", quality=make_camera(plan.seed, camera).quality)
        count += 1
    return count


def _images_of_person(plan: _Plan, identity: int) -> Iterator[tuple[str, str, int, Image.Image]]:
    for camera in range(plan.num_cameras):
        for shot in range(plan.images_per_camera):
            part = _FOLDERS[0] if identity < plan.num_train_ids else _FOLDERS[1] if shot == 0 else _FOLDERS[2]
            frame = (identity * 613 + camera * 171) % 990_000 + 51 + 25 * shot
            image = draw_person(identity, camera, shot, seed=plan.seed, size=plan.size)
            yield part, f"{identity + 1:04d}_c{camera + 1}s1_{frame:06d}_00.jpg", camera, image


def _distractors(plan: _Plan, first: int) -> Iterator[tuple[str, str, int, Image.Image]]:
    for number in range(first, min(first + _BATCH, plan.num_distractors)):
        camera = number % plan.num_cameras
        image = draw_distractor(number, camera, seed=plan.seed, size=plan.size)
        yield _FOLDERS[2], f"0000_c{camera + 1}s1_{51 + 25 * number:06d}_00.jpg", camera, image
