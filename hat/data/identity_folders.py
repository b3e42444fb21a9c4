"""A folder for each identity: the layout that people make by hand.

With ``train/``, ``query/`` and ``gallery/`` each holding identity folders, those are the splits. Otherwise every sub-folder is
an identity and the split is drawn by `_draw`, the same on every machine and for every reader of the same folders.

The camera is read from the file name, as in ``0002_c1s1_0451.jpg``, ``c3_17.png`` or ``front_cam2.jpg``. Where no name says a
camera, the query is taken as seen by camera 0 and the gallery by camera 1, so that all their pairs count; training images are
of camera 0.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from hat.data.datasets import JUNK_PID, ReIDDataset, Sample, Split
from hat.data.image_trees import ImageTree, open_tree
from hat.data.labels import number_labels
from hat.data.published_counts import assemble
from hat.errors import DataError

__all__ = ["is_identity_folders", "parse_camera", "read_identity_folders"]

_SPLITS = ("train", "query", "gallery")
_CAMERA = re.compile(r"(?:^|[_\-. ])c(?:am(?:era)?)?([0-9]{1,6})(?=s[0-9]|[_\-. ]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Found:
    label: str
    file_name: str
    location: str
    camera: int | None


def read_identity_folders(root: Path, *, seed: int = 0) -> ReIDDataset:
    """Read a folder, or a zip file, with a folder for each identity.

    Without ``train/``, ``query/`` and ``gallery/`` the split is drawn: half of the identities (rounded down) are for training,
    the rest for evaluation. Of those, an identity seen by several cameras gives one image of each camera that has two or more
    to the query (if no camera has two: one image), and the rest to the gallery. An identity seen by one camera is in the
    gallery alone. Where no file name says a camera, each identity with two or more images gives one to the query. If none of
    this gives a query, everything is for training.

    Args:
        root: The folder or zip file.
        seed: Draws another split.

    Returns:
        The data set. Folder names that are all numbers are the pids; others are numbered from 1 in sorted order. ``-1`` is
        junk.

    Raises:
        DataError: There are no identity folders with images, only some file names say a camera, or there are too few identities
            to draw a split.
    """
    tree = open_tree(root)
    present = [name for name in _SPLITS if name in tree.folders()]
    notes: list[str] = []
    if present:
        parts = {name: _collect(tree.child(name), notes) if name in present else [] for name in _SPLITS}
    else:
        parts = {"": _collect(tree, notes)}
    everything = [image for images in parts.values() for image in images]
    if not everything:
        raise DataError(
            f"{root}: expected a folder of images for each identity, or train/, query/ and gallery/ with such folders"
        )
    pids = number_labels((image.label for image in everything), str(root))
    has_cameras = _check_cameras(everything)
    if not has_cameras:
        notes.append("no file name says a camera: query taken as camera 0, gallery as camera 1")
    if not present:
        persons = [image for image in everything if pids[image.label] != JUNK_PID]
        parts = _draw(persons, seed, root)
        if parts["query"]:
            notes.append(f"split drawn by identity and camera with seed {seed}")
        else:
            parts = {"train": persons, "query": [], "gallery": []}
            notes.append("no identity drawn for evaluation was seen twice (by two cameras): all are for training")

    def split(name: str) -> Split:
        blind = 1 if name == "gallery" else 0
        samples = (Sample(i.location, pids[i.label], blind if i.camera is None else i.camera) for i in parts[name])
        return Split(name, [sample for sample in samples if sample.pid != JUNK_PID])

    return assemble("folder", split("train"), split("query"), split("gallery"), notes=tuple(notes))


def is_identity_folders(root: Path) -> bool:
    """Whether some folder below, where an identity's would be, has images."""
    tree = open_tree(root)
    parents = [tree.child(name) for name in _SPLITS if name in tree.folders()] or [tree]
    return any(parent.child(name).images() for parent in parents for name in parent.folders())


def parse_camera(file_name: str) -> int | None:
    """The camera that a file name says, or None."""
    match = _CAMERA.search(file_name.rpartition(".")[0])
    return int(match[1]) if match else None


def _collect(tree: ImageTree, notes: list[str]) -> list[_Found]:
    found: list[_Found] = []
    num_nested = 0
    for label in tree.folders():
        folder = tree.child(label)
        num_nested += len(folder.folders())
        found += [_Found(label, name, location, parse_camera(name)) for name, location in folder.images()]
    if num_nested:
        notes.append(f"{num_nested:,} folders inside identity folders of {tree.where} were not read")
    return found


def _check_cameras(images: list[_Found]) -> bool:
    """Whether file names say cameras; some doing so and some not would make chance matches of the rest."""
    without = [image for image in images if image.camera is None]
    if without and len(without) < len(images):
        raise DataError(
            f"{without[0].location}: {len(without):,} of {len(images):,} file names say no camera and the others do; "
            "give all of them one, like 0002_c1s1_0451.jpg, or none"
        )
    return not without


def _draw(images: list[_Found], seed: int, root: Path) -> dict[str, list[_Found]]:
    """Split by identity and camera, in the order of a hash, which depends on names alone and on no random generator."""

    def rank(text: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogateescape")).digest()

    labels = sorted({image.label for image in images}, key=rank)
    if len(labels) < 2:
        raise DataError(f"{root}: {len(labels)} identity; drawing a split needs at least 2 (one to train, one to evaluate)")
    training = set(labels[: len(labels) // 2])
    parts: dict[str, list[_Found]] = {name: [] for name in _SPLITS}
    by_identity: dict[str, dict[int | None, list[_Found]]] = {}
    for image in images:
        if image.label in training:
            parts["train"].append(image)
        else:
            by_identity.setdefault(image.label, {}).setdefault(image.camera, []).append(image)
    for label, cameras in by_identity.items():
        groups = [sorted(group, key=lambda i: rank(f"{label}/{i.file_name}")) for group in cameras.values()]
        queries: list[_Found] = []
        if len(groups) > 1 or groups[0][0].camera is None:
            queries = [group[0] for group in groups if len(group) > 1]
            if not queries and len(groups) > 1:
                queries = [min((group[0] for group in groups), key=lambda i: rank(f"{label}/{i.file_name}"))]
        chosen = {query.location for query in queries}
        parts["query"] += queries
        parts["gallery"] += [image for group in cameras.values() for image in group if image.location not in chosen]
    return {name: sorted(part, key=lambda image: (image.label, image.file_name)) for name, part in parts.items()}
