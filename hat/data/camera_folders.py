"""Data sets of one folder for each camera: VIPeR, PRID 2011, GRID, and anybody's.

Their papers draw random halves of the identities that two cameras saw: one half to learn from, the other to evaluate on, and
report means over ten draws. Here a draw is a seed, the same on every machine: identities in the order of a hash.
"""

import re
from collections import defaultdict
from functools import partial
from pathlib import Path

from hat.data.datasets import DISTRACTOR_PID, JUNK_PID, ReIDDataset, Sample, assemble
from hat.data.image_trees import ImageTree, describe_unread, find_child, open_tree, unwrap
from hat.data.labels import draw_order, number_labels, parse_camera_folder
from hat.errors import DataError

# VIPeR 003_90.bmp, PRID person_0001.png, GRID 0001_1_25004_107_32_106_221.jpeg, and names that are a number alone.
_PERSON = re.compile(r"(?:person[_\- ]?|p|id[_\- ]?)?(-?[0-9]{1,9})(?![0-9])", re.IGNORECASE)
_GRID_CAMERA = re.compile(r"[0-9]{4}_([0-9]{1,3})_[0-9]+_[0-9]+_[0-9]+_[0-9]+_[0-9]+\.")


def read_camera_folders(root: Path, *, split_seed: int = 0) -> ReIDDataset:
    """Read a folder, or a zip file, with a folder for each camera.

    In a camera's folder lie images whose names begin with the identity (VIPeR's ``cam_a/000_45.bmp``, PRID's
    ``cam_a/person_0001.png``), or a folder for each identity. Of PRID, ``single_shot`` is read. GRID's ``probe/`` and
    ``gallery/`` are two such folders; its file names say the camera.

    Of the identities that two or more cameras saw, half (rounded down) are for training, drawn by ``split_seed``. Of the
    others, images of the first camera are the query and the rest the gallery, together with everybody whom the first camera did
    not see: PRID's 549 and GRID's 775 further people.
    """
    tree, is_grid = _find(open_tree(root))
    if tree is None:
        raise DataError(f"{root}: expected a folder for each camera (cam_a, cam_b), or GRID's probe and gallery")
    samples = _grid(tree) if is_grid else _cameras(tree)
    first = samples[0][0] if samples else ""
    samples = [(folder, sample) for folder, sample in samples if sample.pid != JUNK_PID]
    seen_by: dict[int, set[str]] = defaultdict(set)
    for folder, sample in samples:
        seen_by[sample.pid].add(folder)
    paired = {pid for pid, folders in seen_by.items() if len(folders) > 1 and not (is_grid and pid == DISTRACTOR_PID)}
    if len(paired) < 2:
        raise DataError(f"{root}: {len(paired)} identities are in two camera folders; a split needs at least 2")
    training = set(sorted(paired, key=partial(draw_order, split_seed))[: len(paired) // 2])
    train = [sample for _, sample in samples if sample.pid in training]
    query = [sample for folder, sample in samples if folder == first and sample.pid in paired - training]
    gallery = [sample for folder, sample in samples if folder != first and sample.pid not in training]
    notes = (
        f"half of the {len(paired):,} identities that two cameras saw are for training, drawn with seed {split_seed}",
        *describe_unread([tree, *map(tree.child, tree.folders())]),
    )
    return assemble("camera-folders", str(root), train, query, gallery, notes=notes)


def is_camera_folders(root: Path) -> bool:
    """Return whether the sub-folders are cameras, or GRID's two."""
    return _find(open_tree(root))[0] is not None


def _find(tree: ImageTree) -> tuple[ImageTree | None, bool]:
    """Return the folder that holds the cameras' folders, and whether it is GRID's."""
    tree = unwrap(tree)
    tree = find_child(tree, ("single_shot", "multi_shot")) or tree
    names = tree.folders()
    if len(names) > 1 and all(parse_camera_folder(name) is not None for name in names):
        return tree, False
    probe, gallery = find_child(tree, ("probe",)), find_child(tree, ("gallery",))
    is_grid = probe is not None and gallery is not None and any(_GRID_CAMERA.match(name) for name, _ in probe.images())
    return (tree if is_grid else None), is_grid


def _cameras(tree: ImageTree) -> list[tuple[str, Sample]]:
    """Return the samples, each with the name of its camera's folder."""
    found: list[tuple[str, str, str]] = []  # camera's folder, identity, location
    for name in tree.folders():
        folder = tree.child(name)
        found += [(name, _identity(file_name, location), location) for file_name, location in folder.images()]
        for identity in folder.folders():
            found += [(name, identity, location) for _, location in folder.child(identity).images()]
    pids = number_labels((identity for _, identity, _ in found), tree.where)
    cameras = {name: parse_camera_folder(name) or 0 for name in tree.folders()}
    return [(name, Sample(location, pids[identity], cameras[name])) for name, identity, location in found]


def _identity(file_name: str, location: str) -> str:
    match = _PERSON.match(file_name)
    if match is None:
        raise DataError(f"{location}: its name does not begin with an identity, like 003_90.bmp or person_0003.png")
    return match[1]


def _grid(tree: ImageTree) -> list[tuple[str, Sample]]:
    samples = []
    for folder in (child for name in ("probe", "gallery") if (child := find_child(tree, (name,)))):
        for file_name, location in folder.images():
            camera = _GRID_CAMERA.match(file_name)
            if camera is None:
                raise DataError(
                    f"{location}: expected a name of GRID, like 0001_1_25004_107_32_106_221.jpeg (identity, camera)"
                )
            samples.append((folder.name, Sample(location, int(file_name[:4]), int(camera[1]))))
    return samples
