"""Benchmarks whose splits stand in lists beside their images: CUHK03-NP, MSMT17 and MARS."""

import math
import re
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hat.data.datasets import JUNK_PID, ReIDDataset, Sample, assemble
from hat.data.image_trees import FolderTree, ImageTree, find_child, find_trees, leads_out, open_tree, unwrap
from hat.data.labels import plain_name
from hat.data.market import has_market_folders, parse_market_name, read_market_layout
from hat.errors import DataError

Boxes = Literal["labeled", "detected"]

_CUHK03_NAMES = frozenset({"cuhk03np", "cuhk03"})
_CUHK03_FOLDERS: dict[Boxes, tuple[str, ...]] = {"labeled": ("labeled", "labelled"), "detected": ("detected",)}
_CUHK03_VARIABLES = ("filelist", "labels", "camId", "train_idx", "query_idx", "gallery_idx")

_MSMT17_NAMES = frozenset({"msmt17", "msmt17v1", "msmt17v2"})
_MSMT17_FOLDERS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))
_TRAIN_LISTS, _TEST_LISTS = ("list_train.txt", "list_val.txt"), ("list_query.txt", "list_gallery.txt")
_LINE = re.compile(r"(?P<name>(?:.*/)?[^/_]*_[^/_]*_(?P<camid>[0-9]{1,5})_[^/]*) (?P<pid>[0-9]{1,9})", re.ASCII)

_MAX_LIST_BYTES = 64 * 2**20
_MAX_MAT_ENTRIES = 1_000_000
_BROKEN_MAT = (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, zlib.error)


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a text; a `DataError` where it is not there, too large or not UTF-8."""
    try:
        _check_size(path)
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list cannot be read ({error})") from None


def _load_mat(path: Path, names: Collection[str]) -> dict[str, Any]:
    """Return variables of a MATLAB file as arrays, whose sizes are bounded before any is taken in."""
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    try:
        _check_size(path)
        sizes = {name: math.prod(shape) for name, shape, _ in whosmat(str(path))}
        missing = [name for name in names if name not in sizes]
        if missing:
            raise DataError(f"{path}: expected the variables {', '.join(names)}; {', '.join(missing)} missing")
        if any(sizes[name] > _MAX_MAT_ENTRIES for name in names):
            raise DataError(f"{path}: a variable has over {_MAX_MAT_ENTRIES:,} entries, so this is no list of a data set")
        return dict(loadmat(str(path), variable_names=list(names)))
    except (MatReadError, *_BROKEN_MAT) as error:
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error})") from None


def _check_size(path: Path) -> None:
    if path.stat().st_size > _MAX_LIST_BYTES:
        raise DataError(f"{path}: larger than {_MAX_LIST_BYTES:,} bytes, so no list of a data set")


class _ListedFiles:
    """The files of a list below one folder, looked up.

    Folders are listed once each: asking for every file of a hundred thousand by itself takes minutes on a network disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[str] = []
        self._names: dict[str, frozenset[str]] = {}

    def find(self, relative: str, where: str) -> str | None:
        """Return the path of a file, None where it is missing; ``where`` in the list it stands begins an error's message."""
        if leads_out(relative):
            raise DataError(f"{where}: {relative!r} leads out of {self.folder}")
        parent, _, name = relative.rpartition("/")
        if parent not in self._names:
            folder = self.folder / parent
            self._names[parent] = frozenset(FolderTree(folder).content.files if folder.exists() else ())
        if name in self._names[parent]:
            return str(self.folder / relative)
        self.missing.append(relative)
        return None

    def note(self) -> tuple[str, ...]:
        """Return a note on the missing files, or nothing."""
        if not self.missing:
            return ()
        return (f"{len(self.missing):,} listed images are not in {self.folder}, the first is {self.missing[0]}",)


def read_cuhk03_np(root: Path, boxes: Boxes) -> ReIDDataset:
    """Read CUHK03-NP from the converted folders, or else from the protocol's own .mat files; camids are 1 and 2.

    That is CUHK03 (Li et al., CVPR 2014) with the new protocol of Zhong et al. (CVPR 2017), 767 identities to train and 700 to
    search, with boxes drawn by hand (``labeled``) or by a detector (``detected``).

    ``root`` is named like ``cuhk03-np``, or holds such a folder. In it lie either ``labeled/`` and ``detected/`` in
    Market-1501's layout, which may be named themselves too, or ``cuhk03_new_protocol_config_{labeled,detected}.mat`` beside
    ``images_labeled/`` and ``images_detected/``.
    """
    found = find_cuhk03_np(root, boxes)
    if isinstance(found, Path):
        return _read_protocol(found, boxes)
    if found is not None:
        return read_market_layout(f"cuhk03-np-{boxes}", [found])
    raise DataError(
        f"{root}: CUHK03-NP ({boxes}) was not found; expected {boxes}/ with bounding_box_train/, query/ "
        f"and bounding_box_test/, or cuhk03_new_protocol_config_{boxes}.mat beside images_{boxes}/ (1_001_1_01.png ...)"
    )


def find_cuhk03_np(root: Path, boxes: Boxes) -> ImageTree | Path | None:
    """Return the converted folder with these boxes, or else the protocol's .mat file, or None."""
    trees = list(find_trees(root, _CUHK03_NAMES))
    for tree in trees:
        for folder in (tree, *(tree.child(name) for name in tree.folders() if plain_name(name) in _CUHK03_FOLDERS[boxes])):
            if plain_name(folder.name) in _CUHK03_FOLDERS[boxes] and has_market_folders(folder):
                return folder
    name = f"cuhk03_new_protocol_config_{boxes}.mat"
    for tree in trees:
        if isinstance(tree, FolderTree) and name in tree.content.files and f"images_{boxes}" in tree.content.folders:
            return tree.path / name
    return None


def _read_protocol(path: Path, boxes: Boxes) -> ReIDDataset:
    table = _load_mat(path, _CUHK03_VARIABLES)
    # A cell of MATLAB's arrives as an array of one string.
    cells = [cell.item() if isinstance(cell, np.ndarray) and cell.size == 1 else cell for cell in np.ravel(table["filelist"])]
    if not all(isinstance(cell, str) for cell in cells):
        raise DataError(f"{path}: filelist is expected to be a cell array of file names")
    names = [cell.strip() for cell in cells]
    labels, cameras, *indices = (_integers(table[name], name, path) for name in _CUHK03_VARIABLES[1:])
    if not len(names) == len(labels) == len(cameras):
        raise DataError(
            f"{path}: filelist, labels and camId have {len(names)}, {len(labels)} and {len(cameras)} entries, expected as many"
        )
    files = _ListedFiles(path.parent / f"images_{boxes}")
    splits: list[list[Sample]] = []
    for name, numbers in zip(_CUHK03_VARIABLES[3:], indices, strict=True):
        if numbers.size and (numbers.min() < 1 or numbers.max() > len(names)):
            raise DataError(f"{path}: {name} points outside the {len(names)} entries of filelist (it counts from 1)")
        rows = (numbers - 1).tolist()
        located = [(files.find(names[row], f"{path}, entry {row + 1} of filelist"), row) for row in rows]
        splits.append([Sample(where, int(labels[row]), int(cameras[row])) for where, row in located if where is not None])
    return assemble(f"cuhk03-np-{boxes}", str(path.parent), *splits, notes=files.note())


def _integers(values: Any, name: str, path: Path) -> npt.NDArray[np.int64]:
    array = np.ravel(values)
    # Labels are doubles in MATLAB's files; neither fractions nor infinities are labels, nor what a double cannot count.
    if array.dtype.kind not in "iuf" or not (np.abs(array.astype(float)) < 2**53).all() or (array != np.round(array)).any():
        raise DataError(f"{path}: {name} is expected to hold whole numbers")
    return array.astype(np.int64)


def read_msmt17(root: Path) -> ReIDDataset:
    """Read MSMT17 (Wei et al., CVPR 2018), fifteen cameras and 4,101 identities, from its folder or the one around it.

    V2, which has the images in ``mask_train_v2/`` and ``mask_test_v2/``, is V1 with faces blurred. The training part is the
    official train and validation lists together, which makes the 32,621 images that results are published with. Pids are the
    lists' numbers; those of train and test are counted apart and both begin at 0. Camids are the third field of the file names,
    1 to 15.
    """
    found = find_msmt17(root)
    if not found:
        raise DataError(
            f"{root}: MSMT17 was not found; expected list_train.txt, list_val.txt, list_query.txt and list_gallery.txt beside "
            "train/ and test/ (V1) or mask_train_v2/ and mask_test_v2/ (V2)"
        )
    if len(found) > 1:
        names = " and ".join(str(folder) for folder, _, _ in found)
        raise DataError(f"{root}: MSMT17 was found {len(found)} times, in {names}; name one of them")
    folder, train_folder, test_folder = found[0]
    train_files, test_files = _ListedFiles(folder / train_folder), _ListedFiles(folder / test_folder)
    train = [sample for name in _TRAIN_LISTS for sample in _read_list(folder / name, train_files)]
    query, gallery = (_read_list(folder / name, test_files) for name in _TEST_LISTS)
    return assemble("msmt17", str(root), train, query, gallery, notes=train_files.note() + test_files.note())


def find_msmt17(root: Path) -> list[tuple[Path, str, str]]:
    """Locate MSMT17 by its lists and folders: its folder, and the names of those of train and test images."""
    found = []
    for tree in find_trees(root, _MSMT17_NAMES):
        if isinstance(tree, FolderTree) and {_TRAIN_LISTS[0], *_TEST_LISTS} <= set(tree.content.files):
            found += [(tree.path, train, test) for train, test in _MSMT17_FOLDERS if {train, test} <= set(tree.folders())]
    return found


def _read_list(path: Path, files: _ListedFiles) -> list[Sample]:
    """Return samples of one list; a line is ``0000/0000_000_01_0303morning_0015_0.jpg 0``: path and identity."""
    samples = []
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        where, match = f"{path}, line {number}", _LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(f"{where}: expected a line like '0000/0000_000_01_0303morning_0015_0.jpg 0', got {line[:100]!r}")
        location = files.find(match["name"].strip(), where)
        if location is not None:
            samples.append(Sample(location, int(match["pid"]), int(match["camid"])))
    return samples


def read_mars(root: Path) -> ReIDDataset:
    """Read MARS (Zheng et al., ECCV 2016): tracklets of the 1,261 people of Market-1501's cameras, read as images.

    They lie in ``bbox_train/``, ``bbox_test/`` and, for evaluation, lists in ``info/``. Every training image is read and of
    each test tracklet the middle frame, since a tracklet is one probe or one gallery entry there; junk tracklets are left out.
    """
    tree = unwrap(open_tree(root))
    train_tree, test_tree = find_child(tree, ("bbox_train",)), find_child(tree, ("bbox_test",))
    if train_tree is None and test_tree is None:
        raise DataError(f"{root}: expected MARS's bbox_train/ and bbox_test/")
    train = [sample for sample in _read_tracklets(train_tree) if sample.pid != JUNK_PID] if train_tree else []
    if test_tree is None:
        return assemble("mars", str(root), train, [], [])
    info = Path(tree.where) / "info"
    if not info.is_dir():
        raise DataError(f"{root}: MARS's lists are missing; expected info/ with query_IDX.mat and tracks_test_info.mat")
    query, gallery = _middle_frames(info, {Path(sample.path).name: sample for sample in _read_tracklets(test_tree)})
    note = "of each test tracklet the middle frame is read: figures are those of images and not of videos"
    return assemble("mars", str(root), train, query, gallery, notes=[note])


def is_mars(root: Path) -> bool:
    """Return whether MARS's two folders are there."""
    tree = unwrap(open_tree(root))
    return find_child(tree, ("bbox_train",)) is not None and find_child(tree, ("bbox_test",)) is not None


def _read_tracklets(tree: ImageTree) -> list[Sample]:
    samples = []
    for name, location in (image for identity in tree.folders() for image in tree.child(identity).images()):
        labels = parse_market_name(name.replace("00-1", "-1", 1))
        if labels is None:
            raise DataError(f"{location}: expected a name of MARS, like 0001C1T0001F001.jpg")
        samples.append(Sample(location, *labels))
    return samples


def _middle_frames(info: Path, by_name: dict[str, Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return query and gallery from ``test_name.txt``, ``tracks_test_info.mat`` and ``query_IDX.mat``."""
    names = " ".join(_read_lines(info / "test_name.txt")).split()
    tracks_file, query_file = info / "tracks_test_info.mat", info / "query_IDX.mat"
    table = _load_mat(tracks_file, ["track_test_info"])["track_test_info"]
    tracks = _integers(table, "track_test_info", tracks_file)
    if np.ndim(table) != 2 or np.shape(table)[1] != 4:
        raise DataError(f"{tracks_file}: track_test_info has the shape {np.shape(table)}, expected four columns")
    queries = set(_integers(_load_mat(query_file, ["query_IDX"])["query_IDX"], "query_IDX", query_file).tolist())
    query: list[Sample] = []
    gallery: list[Sample] = []
    for number, (first, last, pid, _) in enumerate(
        tracks.reshape(-1, 4).tolist(), start=1
    ):  # first and last image from 1, pid, camera
        if pid < 0:
            continue
        middle = (first + last) // 2 - 1
        sample = by_name.get(names[middle]) if 0 <= middle < len(names) else None
        if sample is None:
            raise DataError(f"{info}: the middle frame of test tracklet {number} is not in bbox_test/")
        (query if number in queries else gallery).append(sample)
    return query, gallery
