"""Layouts without a split of their own: a folder for each identity, as people make them by hand, or one for each camera.

Splits are drawn by a seed, the same on every machine: labels in the order of a hash. Of a folder for each identity the camera
is read from the file name, as in ``0002_c1s1_0451.jpg``, ``c3_17.png`` or ``front_cam2.jpg``, or from a folder inside the
identity's (``ID/cam1/x.jpg``). Where nothing says a camera, the query is taken as seen by camera 0 and the gallery by camera 1,
so that all their pairs count; training images are of camera 0.
"""

import hashlib
import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hat.data.datasets import DISTRACTOR_PID, JUNK_PID, ReIDDataset, Sample, assemble
from hat.data.image_trees import ImageTree, describe_unread, find_child, open_tree, unwrap
from hat.data.labels import number_labels, parse_camera, parse_camera_folder, plain_name
from hat.errors import DataError

_SPLITS = ("train", "query", "gallery")
_SPLIT_FOLDERS = {
    "train": ("train", "training", "bounding_box_train", "image_train"),
    "query": ("query", "probe", "image_query"),
    "gallery": ("gallery", "bounding_box_test", "image_test"),
    "test": ("test", "testing", "val", "valid", "validation"),  # the gallery beside a query, or people to draw a split of
}
# Folders of these names hold people or parts of a data set, and are nobody's name.
_NOT_A_PERSON = frozenset(
    {"images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "crops", "labels", "annotations", "data", "dataset"}
    | {"masks", "videos", "frames", "all", "raw", "other", "unknown", "distractors"}
    | {plain_name(name) for names in _SPLIT_FOLDERS.values() for name in names}
)
# VIPeR 003_90.bmp, PRID person_0001.png, GRID 0001_1_25004_107_32_106_221.jpeg, and names that are a number alone.
_PERSON = re.compile(r"(?:person[_\- ]?|p|id[_\- ]?)?(-?[0-9]{1,9})(?![0-9])", re.IGNORECASE)
# PRID 2011 numbers the people of each camera from 1: the first 200 are the same, and from there on a number means two people.
_PRID = re.compile(r"person_([0-9]{4})(?:\.[a-z]+)?", re.IGNORECASE)
_PRID_NUM_SHARED = 200
_GRID = re.compile(r"([0-9]{4})_([0-9]{1,3})_[0-9]+_[0-9]+_[0-9]+_[0-9]+_[0-9]+\.")  # identity, camera


class _Found(NamedTuple):
    label: str
    file_name: str
    location: str
    camera: int | None


def _draw_order(seed: int, label: object) -> bytes:
    """Return what to sort labels by to draw some: a hash, since random generators change with their versions."""
    return hashlib.sha256(f"{seed}\0{label}".encode("utf-8", "surrogateescape")).digest()


def read_identity_folders(root: Path, *, split_seed: int = 0) -> ReIDDataset:
    """Read a folder, or a zip file, with a folder for each identity, by itself or as all that another folder holds.

    With ``train/``, ``query/`` and ``gallery/``, in any case, each holding identity folders, those are the splits. Otherwise
    the split is drawn: half of the identities (rounded down) are for training, the rest for evaluation. Of those, an identity
    seen by several cameras gives one image of each camera that has two or more to the query (if no camera has two: one image),
    and the rest to the gallery. An identity seen by one camera is in the gallery alone. Where nothing says a camera, each
    identity with two or more images gives one to the query. If none of this gives a query, everything is for training. With
    ``train/`` and ``test/`` (or ``val/``) alone, the test part's query is drawn so.
    """
    notes: list[str] = []
    parts = _read_parts(root, notes)
    everything = [image for images in parts.values() for image in images]
    if not everything:
        raise DataError(
            f"{root}: expected a folder of images for each identity, or train/, query/ and gallery/ with such folders"
        )
    pids = number_labels((image.label for image in everything), str(root))
    without_camera = [image for image in everything if image.camera is None]
    if without_camera and len(without_camera) < len(everything):  # chance matches of the others would count
        raise DataError(
            f"{without_camera[0].location}: {len(without_camera):,} of {len(everything):,} file names say no camera and the "
            "others do; give all of them one, like 0002_c1s1_0451.jpg, or none"
        )
    if without_camera:
        notes.append("nothing says a camera: query taken as camera 0, gallery as camera 1, so that all pairs count")
    parts = {name: [image for image in images if pids[image.label] != JUNK_PID] for name, images in parts.items()}
    drawn_from = next((name for name in ("", "test") if name in parts), None)
    if drawn_from is not None:
        persons = parts.pop(drawn_from)
        names: dict[int, str] = {}  # 7 and 007 are one person, who must not be drawn into two parts
        for label in sorted(pids):
            names.setdefault(pids[label], label)
        persons = [image._replace(label=names[pids[image.label]]) for image in persons]
        drawn = _draw(persons, split_seed, root, with_train=drawn_from == "")
        if drawn["query"]:
            notes.append(f"split drawn by identity and camera with seed {split_seed}")
        else:
            drawn = {"train": persons, "query": [], "gallery": []}
            notes.append("no identity drawn for evaluation was seen twice (by two cameras): all are for training")
        parts = {name: parts.get(name, []) + drawn[name] for name in _SPLITS}
    splits = []
    for name, unknown in zip(_SPLITS, (0, 0, 1), strict=True):
        images = parts.get(name, [])
        splits.append([Sample(i.location, pids[i.label], unknown if i.camera is None else i.camera) for i in images])
    return assemble("folder", str(root), *splits, notes=notes, has_cameras=not without_camera)


def find_people(root: Path) -> dict[str, tuple[str, int | None]]:
    """Return who is on every image of identity folders: location -> the identity's label, and the camera where it is said."""
    parts = _read_parts(root, [])
    return {image.location: (image.label, image.camera) for images in parts.values() for image in images}


def is_identity_folders(root: Path) -> bool:
    """Return whether some folder below, where an identity's would be, has images."""
    tree = unwrap(open_tree(root))
    children = [child for names in _SPLIT_FOLDERS.values() if (child := find_child(tree, names)) is not None]
    people = (parent.child(name) for parent in children or [tree] for name in parent.folders())
    return any(
        folder.images() or any(parse_camera_folder(n) is not None and folder.child(n).images() for n in folder.folders())
        for folder in people
    )


def _read_parts(root: Path, notes: list[str]) -> dict[str, list[_Found]]:
    """Return images by the part of the data set that they are in; all under ``""`` where there are no parts."""
    tree = unwrap(open_tree(root))
    found = {name: find_child(tree, names) for name, names in _SPLIT_FOLDERS.items()}
    if found["gallery"] is None and found["query"] is not None:
        found["gallery"], found["test"] = found["test"], None
    parts = {name: _collect(child, notes) for name, child in found.items() if child is not None}
    return parts or {"": _collect(tree, notes)}


def _collect(tree: ImageTree, notes: list[str]) -> list[_Found]:
    found: list[_Found] = []
    nested: list[str] = []
    labels = tree.folders()
    if wrong := [label for label in labels if label.isascii() and plain_name(label) in _NOT_A_PERSON]:
        raise DataError(
            f"{tree.where}: the folder {wrong[0]} is no person's; expected a folder for each identity (the nearest layout), "
            "train/, query/ and gallery/ with such folders, or Market-style names like 0002_c1s1_000451_03.jpg in those three"
        )
    for label in labels:
        folder = tree.child(label)
        found += [_Found(label, name, location, parse_camera(name)) for name, location in folder.images()]
        for inner in folder.folders():
            if (camera := parse_camera_folder(inner)) is None:
                nested.append(f"{label}/{inner}")
            else:
                images = folder.child(inner).images()
                found += [_Found(label, f"{inner}/{name}", location, camera) for name, location in images]
    if nested:
        notes.append(f"{len(nested):,} folders inside identity folders of {tree.where} are not read, such as {nested[0]}")
    notes += describe_unread([tree, *map(tree.child, labels)])
    if found and (loose := tree.images()):
        notes.append(
            f"{len(loose):,} images directly in {tree.where} belong to no identity and are not read, such as {loose[0][0]}"
        )
    return found


def _draw(images: list[_Found], seed: int, root: Path, *, with_train: bool) -> dict[str, list[_Found]]:
    """Split by identity and camera, see `read_identity_folders`."""
    labels = sorted({image.label for image in images}, key=partial(_draw_order, seed))
    if with_train and len(labels) < 2:
        raise DataError(f"{root}: {len(labels)} identity; drawing a split needs at least 2 (one to train, one to evaluate)")
    training = set(labels[: len(labels) // 2]) if with_train else set()
    parts: dict[str, list[_Found]] = {name: [] for name in _SPLITS}
    by_identity: dict[str, dict[int | None, list[_Found]]] = defaultdict(lambda: defaultdict(list))
    for image in sorted(images, key=lambda image: _draw_order(seed, f"{image.label}/{image.file_name}")):
        if image.label in training:
            parts["train"].append(image)
        else:
            by_identity[image.label][image.camera].append(image)
    for cameras in by_identity.values():
        groups = list(cameras.values())
        can_match = len(groups) > 1 or groups[0][0].camera is None
        queries = [group[0] for group in groups if can_match and len(group) > 1]
        if len(groups) > 1 and not queries:
            queries = groups[0][:1]  # the first in the order of the draw
        chosen = {query.location for query in queries}
        parts["query"] += queries
        parts["gallery"] += [image for group in groups for image in group if image.location not in chosen]
    return {name: sorted(part, key=lambda image: (image.label, image.file_name)) for name, part in parts.items()}


def read_camera_folders(root: Path, *, split_seed: int = 0) -> ReIDDataset:
    """Read a folder, or a zip file, with a folder for each camera: VIPeR, PRID 2011, GRID, and anybody's.

    In a camera's folder lie images whose names begin with the identity (VIPeR's ``cam_a/000_45.bmp``, PRID's
    ``cam_a/person_0001.png``), or a folder for each identity. Of PRID, ``single_shot`` is read. GRID's ``probe/`` and
    ``gallery/`` are two such folders; its file names say the camera.

    As in their papers, which report means over ten draws, half (rounded down) of the identities that two or more cameras saw
    are for training. Of the others, images of the first camera are the query and the rest the gallery, together with everybody
    whom the first camera did not see: PRID's 549 and GRID's 775 further people. Of PRID, whose cameras share the first 200
    people alone, 100 are for training and 100 the query, and the gallery has 649.
    """
    located = find_camera_folders(root)
    if located is None:
        raise DataError(f"{root}: expected a folder for each camera (cam_a, cam_b), or GRID's probe and gallery")
    tree, folders, is_grid = located
    strangers = _prid_strangers(folders)
    samples = _read_cameras(folders, tree.where, is_grid, strangers)
    first = samples[0][0] if samples else ""
    samples = [(folder, sample) for folder, sample in samples if sample.pid != JUNK_PID]
    seen_by: dict[int, set[str]] = defaultdict(set)
    for folder, sample in samples:
        seen_by[sample.pid].add(folder)
    paired = {pid for pid, folders in seen_by.items() if len(folders) > 1 and not (is_grid and pid == DISTRACTOR_PID)}
    if len(paired) < 2:
        raise DataError(f"{root}: {len(paired)} identities are in two camera folders; a split needs at least 2")
    training = set(sorted(paired, key=partial(_draw_order, split_seed))[: len(paired) // 2])
    train = [sample for _, sample in samples if sample.pid in training]
    query = [sample for folder, sample in samples if folder == first and sample.pid in paired - training]
    gallery = [sample for folder, sample in samples if folder != first and sample.pid not in training]
    notes = (
        f"half of the {len(paired):,} identities that two cameras saw are for training, drawn with seed {split_seed}",
        *describe_unread([tree, *folders]),
    )
    if strangers:
        notes += (
            f"PRID 2011: {len(strangers):,} people of {folders[0].name} numbered above {_PRID_NUM_SHARED} are left out: "
            f"{folders[1].name} has other people of these numbers",
        )
    return assemble("camera-folders", str(root), train, query, gallery, notes=notes)


def find_camera_folders(root: Path) -> tuple[ImageTree, list[ImageTree], bool] | None:
    """Return the folder of the cameras' folders, those, the query's first, and whether they are GRID's; None without them."""
    tree = unwrap(open_tree(root))
    tree = find_child(tree, ("single_shot", "multi_shot")) or tree
    names = tree.folders()
    if len(names) > 1 and all(parse_camera_folder(name) is not None for name in names):
        return tree, [tree.child(name) for name in names], False
    probe, gallery = find_child(tree, ("probe",)), find_child(tree, ("gallery",))
    if probe is not None and gallery is not None and any(_GRID.match(name) for name, _ in probe.images()):
        return tree, [probe, gallery], True
    return None


def _prid_strangers(folders: list[ImageTree]) -> set[str]:
    """Return the files and folders of PRID's first camera whose names are other people's in the second; none of other data."""
    if [folder.name.lower() for folder in folders] != ["cam_a", "cam_b"]:
        return set()
    names = [[*folder.folders(), *(name for name, _ in folder.images())] for folder in folders]
    if not all(_PRID.fullmatch(name) for part in names for name in part):
        return set()
    return {name for name in names[0] if (match := _PRID.fullmatch(name)) and int(match[1]) > _PRID_NUM_SHARED}


def _read_cameras(folders: list[ImageTree], where: str, is_grid: bool, strangers: set[str]) -> list[tuple[str, Sample]]:
    """Return the samples, each with the name of its camera's folder; without the ``strangers`` in the first."""
    found: list[tuple[str, str, str, int]] = []  # camera's folder, identity, location, camera
    wanted, example = _PERSON, "its name does not begin with an identity, like 003_90.bmp or person_0003.png"
    if is_grid:
        wanted, example = _GRID, "expected a name of GRID, like 0001_1_25004_107_32_106_221.jpeg (identity, camera)"
    for folder in folders:
        camera = parse_camera_folder(folder.name) or 0
        left_out: set[str] = strangers if folder is folders[0] else set()
        for name, location in folder.images():
            if name in left_out:
                continue
            if (match := wanted.match(name)) is None:
                raise DataError(f"{location}: {example}")
            found.append((folder.name, match[1], location, int(match[2]) if is_grid else camera))
        for identity in folder.folders():
            if identity in left_out:
                continue
            found += [(folder.name, identity, location, camera) for _, location in folder.child(identity).images()]
    pids = number_labels((identity for _, identity, _, _ in found), where)
    return [(name, Sample(location, pids[identity], camera)) for name, identity, location, camera in found]
