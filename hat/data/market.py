"""The layout that Market-1501 gave to the field: its two benchmarks, drawn data sets, and anybody's images with such names.

A name is ``PID_cCAM...``: ``0002_c1s1_000451_03.jpg`` is identity 2 seen by camera 1. Label ``-1`` is junk and left out of
every split; ``0000`` in a gallery are distractors, which stay. Files of other names are left out and counted.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hat.data.datasets import JUNK_PID, ReIDDataset, Sample, assemble
from hat.data.image_trees import ImageTree, describe_unread, find_child, find_trees, open_tree, unwrap
from hat.data.labels import parse_camera, plain_name
from hat.errors import DataError

MANIFEST = "synth.json"  # beside the folders of a generated data set: its parameters, seed and counts

# Folder names of train, query and gallery; of each, the first that is there is read.
_OFFICIAL_FOLDERS = (("bounding_box_train",), ("query",), ("bounding_box_test",))
_STYLE_FOLDERS = (
    ("bounding_box_train", "train", "training", "image_train"),
    ("query", "image_query", "probe"),
    ("bounding_box_test", "gallery", "image_test", "test"),
)
# A benchmark's title, its own folder and the names, as `plain_name` gives them, under which people keep it.
_BENCHMARKS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "market1501": ("Market-1501", "Market-1501-v15.09.15", ("market1501v150915", "market1501", "market")),
    "dukemtmc-reid": ("DukeMTMC-reID", "DukeMTMC-reID", ("dukemtmcreid", "dukemtmc", "duke")),
}
_IDENTITY = re.compile(r"(-1|[0-9]{1,9})(?=_|C[0-9]{1,2}T[0-9]{4}F)")


def parse_market_name(name: str) -> tuple[int, int] | None:
    """Return (pid, camid) as a file name says them; None for a name of another kind."""
    identity, camera = _IDENTITY.match(name), parse_camera(name)
    return (int(identity[1]), camera) if identity and camera is not None else None


def has_market_folders(tree: ImageTree, folders: Sequence[Sequence[str]] = _OFFICIAL_FOLDERS) -> bool:
    """Return whether a folder has a sub-folder for training images, or one for each of query and gallery."""
    train, query, gallery = (find_child(tree, names) is not None for names in folders)
    return train or (query and gallery)


def read_market_layout(
    name: str, trees: Sequence[ImageTree], folders: Sequence[Sequence[str]] = _OFFICIAL_FOLDERS
) -> ReIDDataset:
    """Read a data set in Market-1501's layout, with the numbers of the file names as pids and camids.

    ``folders`` are names of those of train, query and gallery. Each split is read from the first of ``trees`` that has it, so
    that the training part may lie in one zip file and the test part in another. A `DataError` where there is nothing to read.
    """
    notes: list[str] = []
    splits = []
    for split, names in zip(("train", "query", "gallery"), folders, strict=True):
        found = (find_child(tree, [name]) for name in names for tree in trees)
        folder = next((child for child in found if child is not None), None)
        splits.append(_read_split(split, folder, notes) if folder else [])
    return assemble(name, trees[0].where, *splits, notes=notes)


def _read_split(split: str, folder: ImageTree, notes: list[str]) -> list[Sample]:
    labels = {image: parse_market_name(image[0]) for image in folder.images()}
    samples = [Sample(location, *known) for (_, location), known in labels.items() if known and known[0] != JUNK_PID]
    unmatched = [name for (name, _), known in labels.items() if known is None]
    num_junk = len(labels) - len(unmatched) - len(samples)
    if unmatched and not samples:
        raise DataError(
            f"{folder.where}: none of its {len(unmatched):,} images has a name like 0002_c1s1_000451_03.jpg (identity 2, "
            f"camera 1); the first is {unmatched[0]}"
        )
    if not labels and folder.folders():
        raise DataError(
            f"{folder.where}: no images, and the folders {', '.join(folder.folders()[:3])}; expected the images of the {split} "
            "part directly in it, with names like 0002_c1s1_000451_03.jpg"
        )
    notes += describe_unread([folder])
    if num_junk:
        notes.append(f"{num_junk:,} junk images (-1) of {folder.name} left out")
    if unmatched:
        notes.append(f"{len(unmatched):,} images of {folder.name} left out for their names, such as {unmatched[0]}")
    return samples


def read_market_benchmark(root: Path, name: str) -> ReIDDataset:
    """Read Market-1501 or DukeMTMC-reID, by registered name, from its folder or straight from its zip files.

    ``root`` is its own folder (``Market-1501-v15.09.15``, ``DukeMTMC-reID``); the folder that holds it, which is preferred to
    zip files; a folder that holds zip files with it inside (the training part and the test part may be two files); or one such
    zip file. ``gt_bbox`` and ``gt_query`` are not read.
    """
    title, folder, known_as = _BENCHMARKS[name]
    trees = [tree for tree in find_trees(root, known_as) if has_market_folders(tree)]
    if not trees:
        raise DataError(
            f"{root}: {title} was not found; expected {folder}/ with bounding_box_train/, query/ and bounding_box_test/, as a "
            "folder or inside zip files"
        )
    return read_market_layout(name, trees)


def is_market_benchmark(root: Path, name: str) -> bool:
    """Return whether that benchmark lies here under its own name, unpacked or zipped."""
    known_as = _BENCHMARKS[name][2]
    return any(plain_name(tree.name) in known_as and has_market_folders(tree) for tree in find_trees(root, known_as))


def read_market_style(root: Path) -> ReIDDataset:
    """Read a folder, or a zip file, of images with names like ``0002_c1s1_000451_03.jpg``: identity 2 seen by camera 1.

    In it, or in a folder that is all it holds, lie folders of `_STYLE_FOLDERS`, in any case; ``image_`` are VeRi's. Either that
    of train or the other two may be absent.
    """
    tree = unwrap(open_tree(root))
    if not has_market_folders(tree, _STYLE_FOLDERS):
        raise DataError(
            f"{root}: expected the folders train (or bounding_box_train), query, and gallery (or bounding_box_test); "
            f"found {', '.join(tree.folders()[:8]) or 'no folders'}"
        )
    return read_market_layout("market-style", [tree], _STYLE_FOLDERS)


def is_market_style(root: Path) -> bool:
    """Return whether the folders are there and an image in one of them has a name of this kind."""
    tree = unwrap(open_tree(root))
    if not has_market_folders(tree, _STYLE_FOLDERS):
        return False
    folders = [find_child(tree, names) for names in _STYLE_FOLDERS]
    return any(parse_market_name(name) for folder in folders if folder for name, _ in folder.images())


def read_synth(root: Path) -> ReIDDataset:
    """Read the folder that was given to ``hat synth``."""
    tree = open_tree(root)
    if not has_market_folders(tree):
        raise DataError(f"{root}: no generated data set; make one with: hat synth {root}")
    return read_market_layout("synth", [tree])


def is_synth(root: Path) -> bool:
    """Return whether the file is there that ``hat synth`` writes beside its pictures."""
    return (root / MANIFEST).is_file() and has_market_folders(open_tree(root))
