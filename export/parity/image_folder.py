"""Images of a folder, and a reproducible choice of some of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hat.data.image_trees import FolderTree, ImageTree, open_tree


def list_images(root: str | os.PathLike[str]) -> list[str]:
    """Locations of all images below a folder or in a zip file, sorted.

    Raises:
        DataError: There is neither a folder nor a zip file.
    """
    return list(_walk(open_tree(Path(root).expanduser()), frozenset()))


def _walk(tree: ImageTree, above: frozenset[Path]) -> Iterator[str]:
    if isinstance(tree, FolderTree):
        place = tree.path.resolve()
        if place in above:  # a link to a folder above itself
            return
        above |= {place}
    yield from (location for _, location in tree.images())
    for name in tree.folders():
        yield from _walk(tree.child(name), above)


def choose_images(paths: list[str], count: int, seed: int) -> list[str]:
    """Return some of the images, in an order drawn by the seed alone: file names often stand in the order of identities."""
    order = np.random.default_rng(seed).permutation(len(paths))
    return [paths[i] for i in order[:count]]
