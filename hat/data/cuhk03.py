"""CUHK03 with the new protocol (Li et al., CVPR 2014; Zhong et al., CVPR 2017): 767 identities to train, 700 to search.

Two cameras saw them. It comes twice: boxes drawn by hand (``labeled``) and boxes of a detector (``detected``).
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hat.data.datasets import ReIDDataset, Sample, assemble
from hat.data.image_trees import FolderTree, ImageTree, ListedFiles, find_trees, load_mat, plain_name
from hat.data.market import has_market_folders, read_market_layout
from hat.errors import DataError

Boxes = Literal["labeled", "detected"]

_OFFICIAL_NAMES = frozenset({"cuhk03np", "cuhk03"})
_FOLDERS: dict[Boxes, tuple[str, ...]] = {"labeled": ("labeled", "labelled"), "detected": ("detected",)}
_VARIABLES = ("filelist", "labels", "camId", "train_idx", "query_idx", "gallery_idx")


def read_cuhk03_np(root: Path, boxes: Boxes) -> ReIDDataset:
    """Read CUHK03-NP from the converted folders, or else from the protocol's own .mat files; camids are 1 and 2.

    ``root`` is named like ``cuhk03-np``, or holds such a folder. In it lie either ``labeled/`` and ``detected/`` in
    Market-1501's layout, which may be named themselves too, or ``cuhk03_new_protocol_config_{labeled,detected}.mat`` beside
    ``images_labeled/`` and ``images_detected/``.
    """
    if (converted := _find_converted(root, boxes)) is not None:
        return read_market_layout(f"cuhk03-np-{boxes}", [converted])
    if (path := _find_protocol(root, boxes)) is not None:
        return _read_protocol(path, boxes)
    raise DataError(
        f"{root}: CUHK03-NP ({boxes}) was not found; expected {boxes}/ with bounding_box_train/, query/ "
        f"and bounding_box_test/, or cuhk03_new_protocol_config_{boxes}.mat beside images_{boxes}/ (1_001_1_01.png ...)"
    )


def is_cuhk03_np(root: Path, boxes: Boxes) -> bool:
    """Return whether CUHK03-NP with these boxes lies here."""
    return _find_converted(root, boxes) is not None or _find_protocol(root, boxes) is not None


def _find_converted(root: Path, boxes: Boxes) -> ImageTree | None:
    for tree in find_trees(root, _OFFICIAL_NAMES):
        for folder in (tree, *(tree.child(name) for name in tree.folders() if plain_name(name) in _FOLDERS[boxes])):
            if plain_name(folder.name) in _FOLDERS[boxes] and has_market_folders(folder):
                return folder
    return None


def _find_protocol(root: Path, boxes: Boxes) -> Path | None:
    name = f"cuhk03_new_protocol_config_{boxes}.mat"
    for tree in find_trees(root, _OFFICIAL_NAMES):
        if isinstance(tree, FolderTree) and name in tree.content.files and f"images_{boxes}" in tree.content.folders:
            return tree.path / name
    return None


def _read_protocol(path: Path, boxes: Boxes) -> ReIDDataset:
    table = load_mat(path, _VARIABLES, max_entries=1_000_000)
    names = [_text(cell, path) for cell in np.ravel(table["filelist"])]
    labels, cameras, *indices = (_integers(table[name], name, path) for name in _VARIABLES[1:])
    if not len(names) == len(labels) == len(cameras):
        raise DataError(
            f"{path}: filelist, labels and camId have {len(names)}, {len(labels)} and {len(cameras)} entries, expected as many"
        )
    files = ListedFiles(path.parent / f"images_{boxes}")
    splits: list[list[Sample]] = []
    for name, numbers in zip(_VARIABLES[3:], indices, strict=True):
        if numbers.size and (numbers.min() < 1 or numbers.max() > len(names)):
            raise DataError(f"{path}: {name} points outside the {len(names)} entries of filelist (it counts from 1)")
        rows = (numbers - 1).tolist()
        located = [(files.find(names[row], f"{path}, entry {row + 1} of filelist"), row) for row in rows]
        splits.append([Sample(where, int(labels[row]), int(cameras[row])) for where, row in located if where is not None])
    return assemble(f"cuhk03-np-{boxes}", str(path.parent), *splits, notes=files.note())


def _text(cell: Any, path: Path) -> str:
    """Return the string in a cell of a cell array, which arrives as an array of one string."""
    value = cell.item() if isinstance(cell, np.ndarray) and cell.size == 1 else cell
    if not isinstance(value, str):
        raise DataError(f"{path}: filelist is expected to be a cell array of file names")
    return value.strip()


def _integers(values: Any, name: str, path: Path) -> npt.NDArray[np.int64]:
    array = np.ravel(values)
    # Labels are doubles in MATLAB's files; neither fractions nor infinities are labels, nor what a double cannot count.
    if array.dtype.kind not in "iuf" or not (np.abs(array.astype(float)) < 2**53).all() or (array != np.round(array)).any():
        raise DataError(f"{path}: {name} is expected to hold whole numbers")
    return array.astype(np.int64)
