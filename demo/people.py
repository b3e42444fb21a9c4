"""The people of the demo: a small generated gallery, or the gallery of a data set, with queries that can be tried at once."""

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hat.console import stderr
from hat.data import DISTRACTOR_PID, JUNK_PID, ReIDDataset, Sample, load_dataset, read_image
from hat.data.images import read_encoded
from hat.errors import DataError, ImageError
from hat.serve import Gallery
from hat.serve.enroll.enrolling import ImageEmbedder, enroll_images
from hat.serve.enroll.items import Item
from hat.serve.gallery.identities import Identity

from .view.markup import jpeg_bytes, plural

THUMBNAIL_HEIGHT = 256

_SEED = 7
"""Not the seed that `hat synth` begins with: a model that was trained on its people has not seen these."""

_START_S = 1_767_603_600.0
"""Time at which the generated people walk by: 5 January 2026, 9:00 UTC."""


@dataclass(frozen=True, eq=False)
class SampleQuery:
    """A query that can be tried with one click, and a JPEG of it for the page."""

    path: str
    pid: int
    camid: int | None  # None where the data set knows no cameras
    picture: bytes


def draw_people(folder: Path, advance: Callable[[int, int], None]) -> ReIDDataset:
    """Draw thirty people whom four cameras see; ``advance`` is called with the numbers of images done and to do."""
    from hat.data.synth import generate_dataset

    # One identity has to be for training; it is not used here.
    generate_dataset(
        folder, num_ids=31, num_train_ids=1, num_cameras=4, images_per_camera=3, seed=_SEED, num_workers=1, on_progress=advance
    )
    return load_dataset("synth", folder)


def enroll_dataset(
    gallery: Gallery,
    embedder: ImageEmbedder,
    dataset: ReIDDataset,
    chosen: Sequence[Sample],
    advance: Callable[[int], None] | None = None,
) -> None:
    """Enroll the chosen images of a data set's gallery; a DataError where none of them can be used."""
    described = _descriptions(chosen)
    # The label that distractors share is nobody, unless somebody is looked for under it.
    nobody = {JUNK_PID, DISTRACTOR_PID} - {sample.pid for sample in dataset.query}
    times = _times(chosen) if dataset.name == "synth" else {}
    items = [
        Item(
            source="/".join(Path(sample.path).parts[-2:]),
            read=partial(read_encoded, sample.path),
            pid=None if sample.pid in nobody else sample.pid,
            camid=sample.camid if dataset.has_cameras else None,
            time_s=times.get(sample.path),
            attributes=described.get(sample.pid, {}),
        )
        for sample in chosen
    ]
    done = enroll_images(gallery, embedder, items, thumbnail_height=THUMBNAIL_HEIGHT, progress=advance)
    if not done.ids:
        raise DataError(f"{dataset.name}: none of its {len(items)} gallery images can be used; the first: {done.bad[0][1]}")
    if done.bad:
        stderr.print(f"left out: {plural(len(done.bad), 'image')}, the first: {': '.join(done.bad[0])}", soft_wrap=True)


def gallery_sample(dataset: ReIDDataset, max_images: int) -> list[Sample]:
    """Return the gallery's images, or those of whole identities, chosen by a fixed seed, that are at most so many together."""
    if not len(dataset.gallery):
        raise DataError(f"{dataset.name} has no gallery images to search in")
    if len(dataset.gallery) <= max_images:
        return list(dataset.gallery)
    by_pid: dict[int, list[Sample]] = {}
    for sample in dataset.gallery:
        by_pid.setdefault(sample.pid, []).append(sample)
    asked = {sample.pid for sample in dataset.query}
    pids = sorted(by_pid.keys() - {DISTRACTOR_PID, JUNK_PID}, key=lambda pid: (pid not in asked, pid))
    order = np.random.default_rng(0).permutation(sum(pid in asked for pid in pids))
    chosen: list[Sample] = []
    for pid in [pids[place] for place in order] + pids[len(order) :]:
        if len(chosen) + len(by_pid[pid]) > max_images:
            break
        chosen += by_pid[pid]
    return chosen or list(dataset.gallery)[:max_images]


def sample_queries(dataset: ReIDDataset, pids: Collection[Identity | None]) -> tuple[SampleQuery, ...]:
    """Return queries to try: one of each of a dozen people that the gallery knows, chosen by a fixed seed.

    Images that cannot be read are passed over.
    """
    by_pid: dict[int, list[Sample]] = {}
    for sample in dataset.query:
        if sample.pid in pids:
            by_pid.setdefault(sample.pid, []).append(sample)
    random = np.random.default_rng(0)
    chosen: list[SampleQuery] = []
    for pid in random.permutation(sorted(by_pid)).tolist():
        sample = by_pid[pid][int(random.integers(len(by_pid[pid])))]
        with suppress(ImageError):
            picture = jpeg_bytes(read_image(sample.path), max_height=160)
            chosen.append(SampleQuery(sample.path, sample.pid, sample.camid if dataset.has_cameras else None, picture))
        if len(chosen) == 12:
            break
    return tuple(chosen)


def _descriptions(samples: Sequence[Sample]) -> dict[int, dict[str, str]]:
    """Return what generated people wear, by identity, from the file beside their pictures."""
    manifest = Path(samples[0].path).parent.parent / "synth.json"
    if not manifest.is_file():
        return {}
    identities = json.loads(manifest.read_text(encoding="utf-8")).get("identities", {})
    return {int(pid): {"looks": str(text)} for pid, text in identities.items()}


def _times(samples: Sequence[Sample]) -> dict[str, float]:
    """Return when generated people walk by, from camera to camera, so that a filter by time has something to find."""
    pids = {pid: place for place, pid in enumerate(sorted({sample.pid for sample in samples}))}
    seen: dict[tuple[int, int], int] = {}
    times = {}
    for sample in samples:
        shot = seen[sample.pid, sample.camid] = seen.get((sample.pid, sample.camid), -1) + 1
        times[sample.path] = _START_S + 300.0 * pids[sample.pid] + 60.0 * sample.camid + 2.0 * shot
    return times
