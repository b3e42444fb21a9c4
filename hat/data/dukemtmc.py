"""DukeMTMC-reID (Ristani et al., ECCVW 2016; Zheng et al., ICCV 2017): eight cameras, 702 + 702 identities."""

from __future__ import annotations

from pathlib import Path

from hat.data.image_trees import find_trees, has_name
from hat.data.market_layout import has_market_folders, read_market_layout
from hat.data.published_counts import Count, Published
from hat.data.records import ReIDDataset
from hat.errors import DataError

__all__ = ["DUKEMTMC_COUNTS", "is_dukemtmc", "read_dukemtmc"]

OFFICIAL_NAMES = frozenset({"dukemtmcreid", "dukemtmc", "duke"})

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
    trees = [tree for tree in find_trees(root, OFFICIAL_NAMES) if has_market_folders(tree)]
    if not trees:
        raise DataError(
            f"{root}: DukeMTMC-reID was not found; expected DukeMTMC-reID/ with bounding_box_train/, query/ and "
            "bounding_box_test/, as a folder or inside a zip file"
        )
    return read_market_layout("dukemtmc-reid", trees, published=DUKEMTMC_COUNTS)


def is_dukemtmc(root: Path) -> bool:
    """Whether DukeMTMC-reID lies here under its own name, unpacked or zipped."""
    return any(has_name(tree, OFFICIAL_NAMES) and has_market_folders(tree) for tree in find_trees(root, OFFICIAL_NAMES))
