"""The layout that Market-1501 gave to the field: three folders, and file names that say identity and camera.

A name is ``PID_cCAM...``: ``0002_c1s1_000451_03.jpg`` is identity 2 seen by camera 1. Label ``-1`` is junk and left out of
every split; ``0000`` in a gallery are distractors, which stay. Files of other names are left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from hat.data.image_trees import ImageTree
from hat.data.published_counts import Published, assemble
from hat.data.records import JUNK_PID, ReIDDataset, Sample, Split
from hat.errors import DataError

__all__ = ["MARKET_FOLDERS", "has_market_folders", "parse_market_name", "read_market_layout"]

MARKET_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "train": ("bounding_box_train",),
    "query": ("query",),
    "gallery": ("bounding_box_test",),
}
"""Folder names of each split in the official layout; the first that is there is read."""

_NAME = re.compile(r"(-1|[0-9]{1,9})_c([0-9]{1,6})(?![0-9])", re.IGNORECASE)


def parse_market_name(name: str) -> tuple[int, int] | None:
    """(pid, camid) of a file name, as the name says them; None for a name of another kind."""
    match = _NAME.match(name)
    return (int(match[1]), int(match[2])) if match else None


def has_market_folders(tree: ImageTree, folders: Mapping[str, Sequence[str]] = MARKET_FOLDERS) -> bool:
    """Whether a folder has a sub-folder for training images, or one for each of query and gallery."""
    present = set(tree.folders())
    train, query, gallery = (any(name in present for name in folders[split]) for split in ("train", "query", "gallery"))
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
    return assemble(name, splits["train"], splits["query"], splits["gallery"], published=published, notes=tuple(notes))


def _read_split(split: str, trees: list[ImageTree], names: Sequence[str], notes: list[str]) -> Split:
    folder = next((tree.child(name) for name in names for tree in trees if name in tree.folders()), None)
    if folder is None:
        return Split(split, ())
    samples: list[Sample] = []
    strangers: list[str] = []
    num_junk = 0
    for file_name, location in folder.images():
        labels = parse_market_name(file_name)
        if labels is None:
            strangers.append(file_name)
        elif labels[0] == JUNK_PID:
            num_junk += 1
        else:
            samples.append(Sample(location, *labels))
    if strangers and not samples:
        raise DataError(
            f"{folder.where}: none of its {len(strangers):,} images has a name like 0002_c1s1_000451_03.jpg (identity 2, "
            f"camera 1); the first is {strangers[0]}"
        )
    if num_junk:
        notes.append(f"{num_junk:,} junk images (-1) of {folder.name} left out")
    if strangers:
        notes.append(f"{len(strangers):,} images of {folder.name} left out for their names, such as {strangers[0]}")
    return Split(split, samples)
