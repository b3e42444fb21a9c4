"""Market-1501 (Zheng et al., ICCV 2015): six cameras on a campus, 1,501 identities, detected boxes of 128 x 64 pixels."""

from __future__ import annotations

from pathlib import Path

from hat.data.image_trees import find_trees, has_name
from hat.data.market_layout import has_market_folders, read_market_layout
from hat.data.published_counts import Count, Published
from hat.data.records import ReIDDataset
from hat.errors import DataError

__all__ = ["MARKET1501_COUNTS", "is_market1501", "read_market1501"]

OFFICIAL_NAMES = frozenset({"market1501v150915", "market1501", "market"})

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
    trees = [tree for tree in find_trees(root, OFFICIAL_NAMES) if has_market_folders(tree)]
    if not trees:
        raise DataError(
            f"{root}: Market-1501 was not found; expected Market-1501-v15.09.15/ with bounding_box_train/, query/ and "
            "bounding_box_test/, as a folder or inside zip files"
        )
    return read_market_layout("market1501", trees, published=MARKET1501_COUNTS)


def is_market1501(root: Path) -> bool:
    """Whether Market-1501 lies here under its own name, unpacked or zipped."""
    return any(has_name(tree, OFFICIAL_NAMES) and has_market_folders(tree) for tree in find_trees(root, OFFICIAL_NAMES))
