"""Anybody's images with Market-1501's file names, and the generated data set, which is written that way."""

from __future__ import annotations

from pathlib import Path

from hat.data.image_trees import open_tree
from hat.data.market_layout import MARKET_FOLDERS, has_market_folders, parse_market_name, read_market_layout
from hat.data.records import ReIDDataset
from hat.errors import DataError

__all__ = ["MANIFEST", "STYLE_FOLDERS", "is_market_style", "is_synth", "read_market_style", "read_synth"]

MANIFEST = "synth.json"
"""Beside the folders of a generated data set: its parameters, seed and counts."""

STYLE_FOLDERS = {
    "train": ("bounding_box_train", "train"),
    "query": ("query",),
    "gallery": ("bounding_box_test", "gallery", "test"),
}
"""Folder names of each split; the first that is there is read."""


def read_market_style(root: Path, *, name: str = "market-style") -> ReIDDataset:
    """Read a folder, or a zip file, of images with names like ``0002_c1s1_000451_03.jpg``: identity 2 seen by camera 1.

    Args:
        root: A folder or zip file with ``train/`` (or ``bounding_box_train/``), ``query/`` and ``gallery/`` (or
            ``bounding_box_test/``, or ``test/``). Either the first or the other two may be absent.
        name: What the data set is called.

    Returns:
        The data set; ``-1`` is left out as junk, ``0000`` in the gallery are distractors.

    Raises:
        DataError: The folders are not there, or hold no images with such names.
    """
    tree = open_tree(root)
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
    """Whether the file is there that ``hat synth`` writes beside its pictures."""
    return (root / MANIFEST).is_file() and has_market_folders(open_tree(root), MARKET_FOLDERS)


def is_market_style(root: Path) -> bool:
    """Whether the folders are there and the first image in one of them has a name of this kind."""
    tree = open_tree(root)
    if not has_market_folders(tree, STYLE_FOLDERS):
        return False
    present = set(tree.folders())
    folders = [tree.child(name) for names in STYLE_FOLDERS.values() for name in names if name in present]
    names = (file_name for folder in folders for file_name, _ in folder.images())
    return any(parse_market_name(file_name) for file_name in names)
