"""The layout that Market-1501 gave to the field, its two benchmarks, and anybody's images with such names.

A name is ``PID_cCAM...``: ``0002_c1s1_000451_03.jpg`` is identity 2 seen by camera 1. Label ``-1`` is junk and left out of
every split; ``0000`` in a gallery are distractors, which stay. Files of other names are left out and counted.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hat.data.datasets import JUNK_PID, ReIDDataset, Sample, Split
from hat.data.image_trees import ImageTree, describe_unread, find_child, find_trees, has_name, open_tree, unwrap
from hat.data.labels import parse_camera
from hat.data.published_counts import Count, Published, assemble
from hat.errors import DataError

MARKET_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "train": ("bounding_box_train",),
    "query": ("query",),
    "gallery": ("bounding_box_test",),
}
"""Folder names of each split in the official layout; the first that is there is read."""

_IDENTITY = re.compile(r"(-1|[0-9]{1,9})(?=_|C[0-9]{1,2}T[0-9]{4}F)")


def parse_market_name(name: str) -> tuple[int, int] | None:
    """(pid, camid) of a file name, as the name says them; None for a name of another kind."""
    identity, camera = _IDENTITY.match(name), parse_camera(name)
    return (int(identity[1]), camera) if identity and camera is not None else None


def has_market_folders(tree: ImageTree, folders: Mapping[str, Sequence[str]] = MARKET_FOLDERS) -> bool:
    """Return whether a folder has a sub-folder for training images, or one for each of query and gallery."""
    train, query, gallery = (find_child(tree, folders[split]) is not None for split in ("train", "query", "gallery"))
    return train or (query and gallery)


def read_market_layout(
    name: str,
    trees: Iterable[ImageTree],
    *,
    folders: Mapping[str, Sequence[str]] = MARKET_FOLDERS,
    published: Published | None = None,
) -> ReIDDataset:
    """Read a data set in Market-1501's layout.

    Args:
        name: The data set's registered name.
        trees: Where its folders lie. Each split is read from the first tree that has it, so that the training part may lie in
            one zip file and the test part in another.
        folders: Folder names of each split.
        published: Sizes to compare with.

    Returns:
        The data set; pids and camids are the numbers in the file names.

    Raises:
        DataError: A split has images, none of them with a name of this kind; or there is nothing to read.
    """
    trees = list(trees)
    notes: list[str] = []
    splits = {split: _read_split(split, trees, names, notes) for split, names in folders.items()}
    return assemble(
        name,
        splits["train"],
        splits["query"],
        splits["gallery"],
        published=published,
        notes=tuple(notes),
        where=trees[0].where if trees else "",
    )


def _read_split(split: str, trees: list[ImageTree], names: Sequence[str], notes: list[str]) -> Split:
    found = (find_child(tree, [name]) for name in names for tree in trees)
    folder = next((child for child in found if child is not None), None)
    if folder is None:
        return Split(split, ())
    samples: list[Sample] = []
    unmatched: list[str] = []
    num_junk = 0
    for file_name, location in folder.images():
        labels = parse_market_name(file_name)
        if labels is None:
            unmatched.append(file_name)
        elif labels[0] == JUNK_PID:
            num_junk += 1
        else:
            samples.append(Sample(location, *labels))
    if unmatched and not samples:
        raise DataError(
            f"{folder.where}: none of its {len(unmatched):,} images has a name like 0002_c1s1_000451_03.jpg (identity 2, "
            f"camera 1); the first is {unmatched[0]}"
        )
    if not folder.images() and folder.folders():
        raise DataError(
            f"{folder.where}: no images, and the folders {', '.join(folder.folders()[:3])}; expected the images of the {split} "
            "part directly in it, with names like 0002_c1s1_000451_03.jpg"
        )
    notes += describe_unread([folder])
    if num_junk:
        notes.append(f"{num_junk:,} junk images (-1) of {folder.name} left out")
    if unmatched:
        notes.append(f"{len(unmatched):,} images of {folder.name} left out for their names, such as {unmatched[0]}")
    return Split(split, samples)


_MARKET1501_NAMES = frozenset({"market1501v150915", "market1501", "market"})

MARKET1501_COUNTS = Published(train=Count(12_936, 751), query=Count(3_368, 750), gallery=Count(15_913, 751))
"""``bounding_box_test`` holds 19,732 images: 13,115 of 750 identities, 2,798 distractors ``0000``, and 3,819 junk images."""


def read_market1501(root: Path) -> ReIDDataset:
    """Read Market-1501 from its folder or straight from its zip files.

    Args:
        root: ``Market-1501-v15.09.15`` itself; the folder that holds it; a folder that holds zip files with it inside (the
            training part and the test part may be two files); or one such zip file. An unpacked folder is preferred to zip
            files.

    Returns:
        The data set. Distractors ``0000`` are part of the gallery, junk ``-1`` is not; ``gt_bbox`` and ``gt_query`` are not
        read.

    Raises:
        DataError: None of these is there.
    """
    trees = _trees_below(root, _MARKET1501_NAMES, "Market-1501 was not found; expected Market-1501-v15.09.15/", "zip files")
    return read_market_layout("market1501", trees, published=MARKET1501_COUNTS)


def is_market1501(root: Path) -> bool:
    """Return whether Market-1501 lies here under its own name, unpacked or zipped."""
    return _lies_below(root, _MARKET1501_NAMES)


_DUKEMTMC_NAMES = frozenset({"dukemtmcreid", "dukemtmc", "duke"})

DUKEMTMC_COUNTS = Published(train=Count(16_522, 702), query=Count(2_228, 702), gallery=Count(17_661, 1_110))
"""The gallery holds the 702 identities of the query and 408 that only one camera saw."""


def read_dukemtmc(root: Path) -> ReIDDataset:
    """Read DukeMTMC-reID from its folder or straight from its zip file.

    Args:
        root: ``DukeMTMC-reID`` itself; the folder that holds it, or that holds a zip file with it inside; or that zip file. An
            unpacked folder is preferred to a zip file.

    Returns:
        The data set. Names are like ``0005_c2_f0046985.jpg``: pid and camid are the numbers in them.

    Raises:
        DataError: None of these is there.
    """
    trees = _trees_below(root, _DUKEMTMC_NAMES, "DukeMTMC-reID was not found; expected DukeMTMC-reID/", "a zip file")
    return read_market_layout("dukemtmc-reid", trees, published=DUKEMTMC_COUNTS)


def is_dukemtmc(root: Path) -> bool:
    """Return whether DukeMTMC-reID lies here under its own name, unpacked or zipped."""
    return _lies_below(root, _DUKEMTMC_NAMES)


def _trees_below(root: Path, official: frozenset[str], missing: str, zipped: str) -> list[ImageTree]:
    """Return where a benchmark's folders lie, or say what was expected."""
    trees = [tree for tree in find_trees(root, official) if has_market_folders(tree)]
    if not trees:
        folders = "with bounding_box_train/, query/ and bounding_box_test/"
        raise DataError(f"{root}: {missing} {folders}, as a folder or inside {zipped}")
    return trees


def _lies_below(root: Path, official: frozenset[str]) -> bool:
    return any(has_name(tree, official) and has_market_folders(tree) for tree in find_trees(root, official))


MANIFEST = "synth.json"
"""Beside the folders of a generated data set: its parameters, seed and counts."""

STYLE_FOLDERS = {
    "train": ("bounding_box_train", "train", "training", "image_train"),
    "query": ("query", "image_query", "probe"),
    "gallery": ("bounding_box_test", "gallery", "image_test", "test"),
}
"""Folder names of each split; the first that is there is read."""


def read_market_style(root: Path, *, name: str = "market-style") -> ReIDDataset:
    """Read a folder, or a zip file, of images with names like ``0002_c1s1_000451_03.jpg``: identity 2 seen by camera 1.

    Args:
        root: A folder or zip file with ``train/`` (or ``bounding_box_train/``), ``query/`` and ``gallery/`` (or
            ``bounding_box_test/``, or ``test/``), in any case; VeRi's ``image_train/``, ``image_query/`` and ``image_test/``;
            or a folder that holds nothing but such a folder. Either the first or the other two may be absent.
        name: What the data set is called.

    Returns:
        The data set; ``-1`` is left out as junk, ``0000`` in the gallery are distractors.

    Raises:
        DataError: The folders are not there, or hold no images with such names.
    """
    tree = unwrap(open_tree(root))
    if not has_market_folders(tree, STYLE_FOLDERS):
        raise DataError(
            f"{root}: expected the folders train (or bounding_box_train), query, and gallery (or bounding_box_test); "
            f"found {', '.join(tree.folders()[:8]) or 'no folders'}"
        )
    return read_market_layout(name, [tree], folders=STYLE_FOLDERS)


def read_synth(root: Path) -> ReIDDataset:
    """Read a data set that ``hat synth`` wrote.

    Args:
        root: The folder that was given to ``hat synth``.

    Raises:
        DataError: It holds no generated data set.
    """
    tree = open_tree(root)
    if not has_market_folders(tree, MARKET_FOLDERS):
        raise DataError(f"{root}: no generated data set; make one with: hat synth {root}")
    return read_market_layout("synth", [tree])


def is_synth(root: Path) -> bool:
    """Return whether the file is there that ``hat synth`` writes beside its pictures."""
    return (root / MANIFEST).is_file() and has_market_folders(open_tree(root), MARKET_FOLDERS)


def is_market_style(root: Path) -> bool:
    """Return whether the folders are there and the first image in one of them has a name of this kind."""
    tree = unwrap(open_tree(root))
    if not has_market_folders(tree, STYLE_FOLDERS):
        return False
    folders = [find_child(tree, names) for names in STYLE_FOLDERS.values()]
    names = (file_name for folder in folders if folder is not None for file_name, _ in folder.images())
    return any(parse_market_name(file_name) for file_name in names)
