"""CUHK03 with the new protocol (Li et al., CVPR 2014; Zhong et al., CVPR 2017): 767 identities to train, 700 to search, two
cameras.

It comes twice: boxes drawn by hand (``labeled``) and boxes of a detector (``detected``).
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hat.data.datasets import ReIDDataset, Sample, Split
from hat.data.image_trees import FolderTree, ImageTree, ListedFiles, find_trees, plain_name
from hat.data.market import has_market_folders, read_market_layout
from hat.data.published_counts import Count, Published, assemble
from hat.errors import DataError, MissingExtraError

Boxes = Literal["labeled", "detected"]

OFFICIAL_NAMES = frozenset({"cuhk03np", "cuhk03"})

CUHK03_COUNTS: dict[Boxes, Published] = {
    "labeled": Published(train=Count(7_368, 767), query=Count(1_400, 700), gallery=Count(5_328, 700)),
    "detected": Published(train=Count(7_365, 767), query=Count(1_400, 700), gallery=Count(5_332, 700)),
}

_FOLDERS: dict[Boxes, frozenset[str]] = {
    "labeled": frozenset({"labeled", "labelled"}),
    "detected": frozenset({"detected"}),
}
_VARIABLES = ("filelist", "labels", "camId", "train_idx", "query_idx", "gallery_idx")
_MAX_MAT_BYTES = 64 * 2**20
_MAX_MAT_ENTRIES = 1_000_000


def read_cuhk03_np(root: Path, boxes: Boxes) -> ReIDDataset:
    """Read CUHK03-NP from the converted folders, or from the protocol's own .mat files.

    Args:
        root: A folder named like ``cuhk03-np`` (or one that holds it) with either ``labeled/`` and ``detected/`` in
            Market-1501's layout, or ``cuhk03_new_protocol_config_{labeled,detected}.mat`` beside ``images_labeled/`` and
            ``images_detected/``. The converted folders are read where both are there. ``labeled/`` or ``detected/`` itself may
            be named too.
        boxes: Which of the two.

    Returns:
        The data set; pids are the protocol's labels, camids 1 and 2.

    Raises:
        DataError: Neither is there, or the .mat file is broken.
        MissingExtraError: There is a .mat file to read and scipy is not installed.
    """
    converted = _find_converted(root, boxes)
    if converted is not None:
        return read_market_layout(f"cuhk03-np-{boxes}", [converted], published=CUHK03_COUNTS[boxes])
    folder = _find_protocol(root, boxes)
    if folder is None:
        raise DataError(
            f"{root}: CUHK03-NP ({boxes}) was not found; expected {boxes}/ with bounding_box_train/, query/ "
            f"and bounding_box_test/, or cuhk03_new_protocol_config_{boxes}.mat beside images_{boxes}/ (1_001_1_01.png ...)"
        )
    return _read_protocol(folder, boxes)


def is_cuhk03_np(root: Path, boxes: Boxes) -> bool:
    """Return whether CUHK03-NP with these boxes lies here."""
    return _find_converted(root, boxes) is not None or _find_protocol(root, boxes) is not None


def _find_converted(root: Path, boxes: Boxes) -> ImageTree | None:
    for tree in find_trees(root, OFFICIAL_NAMES):
        if plain_name(tree.name) in _FOLDERS[boxes] and has_market_folders(tree):
            return tree
        for name in tree.folders():
            if plain_name(name) in _FOLDERS[boxes] and has_market_folders(tree.child(name)):
                return tree.child(name)
    return None


def _find_protocol(root: Path, boxes: Boxes) -> Path | None:
    for tree in find_trees(root, OFFICIAL_NAMES):
        if isinstance(tree, FolderTree) and _mat_path(tree.path, boxes).is_file() and (tree.path / f"images_{boxes}").is_dir():
            return tree.path
    return None


def _mat_path(folder: Path, boxes: Boxes) -> Path:
    return folder / f"cuhk03_new_protocol_config_{boxes}.mat"


def _read_protocol(folder: Path, boxes: Boxes) -> ReIDDataset:
    path = _mat_path(folder, boxes)
    names, labels, cameras, indices = _load_protocol(path)
    files = ListedFiles(folder / f"images_{boxes}")

    def split(name: str, rows: npt.NDArray[np.int64]) -> Split:
        located = ((files.find(names[row], f"{path}, entry {row + 1} of filelist"), row) for row in rows.tolist())
        return Split(name, [Sample(where, int(labels[row]), int(cameras[row])) for where, row in located if where is not None])

    train, query, gallery = (split(name, rows) for name, rows in zip(("train", "query", "gallery"), indices, strict=True))
    return assemble(f"cuhk03-np-{boxes}", train, query, gallery, published=CUHK03_COUNTS[boxes], notes=files.note())


def _load_protocol(
    path: Path,
) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int64], tuple[npt.NDArray[np.int64], ...]]:
    """File names, labels, cameras, and the rows (counted from 0) of train, query and gallery."""
    try:
        from scipy.io import loadmat, whosmat
    except ImportError:
        raise MissingExtraError("scipy", "cuhk03", "CUHK03's new-protocol .mat files") from None
    if path.stat().st_size > _MAX_MAT_BYTES:
        raise DataError(f"{path}: larger than {_MAX_MAT_BYTES:,} bytes, so no file of the new protocol")
    sizes = _parse(path, lambda: {name: int(np.prod(shape, dtype=np.float64)) for name, shape, _ in whosmat(str(path))})
    missing = [name for name in _VARIABLES if name not in sizes]
    if missing:
        raise DataError(f"{path}: expected the variables {', '.join(_VARIABLES)}; {', '.join(missing)} missing")
    if any(sizes[name] > _MAX_MAT_ENTRIES for name in _VARIABLES):
        raise DataError(f"{path}: a variable has over {_MAX_MAT_ENTRIES:,} entries, so this is no file of the new protocol")
    table = _parse(path, lambda: loadmat(str(path), variable_names=list(_VARIABLES)))
    names = [_text(cell, path) for cell in np.ravel(table["filelist"])]
    labels, cameras, *indices = (_integers(table[name], name, path) for name in _VARIABLES[1:])
    if not len(names) == len(labels) == len(cameras):
        raise DataError(
            f"{path}: filelist, labels and camId have {len(names)}, {len(labels)} and {len(cameras)} entries, expected as many"
        )
    for name, rows in zip(_VARIABLES[3:], indices, strict=True):
        if rows.size and (rows.min() < 1 or rows.max() > len(names)):
            raise DataError(f"{path}: {name} points outside the {len(names)} entries of filelist (it counts from 1)")
    return names, labels, cameras, tuple(rows - 1 for rows in indices)


def _parse(path: Path, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from scipy.io.matlab import MatReadError

    try:
        return read()
    except (MatReadError, OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error})") from None


def _text(cell: Any, path: Path) -> str:
    """Return the string in a cell of a cell array, which arrives as an array of one string."""
    value = cell.item() if isinstance(cell, np.ndarray) and cell.size == 1 else cell
    if not isinstance(value, str):
        raise DataError(f"{path}: filelist is expected to be a cell array of file names")
    return value.strip()


def _integers(values: Any, name: str, path: Path) -> npt.NDArray[np.int64]:
    array = np.ravel(values)
    if (
        array.dtype.kind not in "iuf"
        or not np.all(np.abs(array.astype(np.float64)) < 2**53)
        or not np.array_equal(array, np.round(array))
    ):
        raise DataError(f"{path}: {name} is expected to hold whole numbers")
    return array.astype(np.int64)
