"""MSMT17 (Wei et al., CVPR 2018): fifteen cameras, 4,101 identities; V2 is V1 with faces blurred."""

import re
from pathlib import Path

from hat.data.datasets import ReIDDataset, Sample, assemble
from hat.data.image_trees import FolderTree, ListedFiles, find_trees, read_lines
from hat.errors import DataError

_OFFICIAL_NAMES = frozenset({"msmt17", "msmt17v1", "msmt17v2"})
_IMAGE_FOLDERS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))
_TRAIN_LISTS, _TEST_LISTS = ("list_train.txt", "list_val.txt"), ("list_query.txt", "list_gallery.txt")
_LINE = re.compile(r"(?P<name>(?:.*/)?[^/_]*_[^/_]*_(?P<camid>[0-9]{1,5})_[^/]*) (?P<pid>[0-9]{1,9})", re.ASCII)


def read_msmt17(root: Path) -> ReIDDataset:
    """Read MSMT17 from its folder or the one around it: V1, or V2 with ``mask_train_v2/`` and ``mask_test_v2/``.

    The training part is the official train and validation lists together, which makes the 32,621 images that results are
    published with. Pids are the lists' numbers; those of train and test are counted apart and both begin at 0. Camids are the
    third field of the file names, 1 to 15.
    """
    found = _find(root)
    if not found:
        raise DataError(
            f"{root}: MSMT17 was not found; expected list_train.txt, list_val.txt, list_query.txt and list_gallery.txt beside "
            "train/ and test/ (V1) or mask_train_v2/ and mask_test_v2/ (V2)"
        )
    if len(found) > 1:
        names = " and ".join(str(folder) for folder, _, _ in found)
        raise DataError(f"{root}: MSMT17 was found {len(found)} times, in {names}; name one of them")
    folder, train_folder, test_folder = found[0]
    train_files, test_files = ListedFiles(folder / train_folder), ListedFiles(folder / test_folder)
    train = [sample for name in _TRAIN_LISTS for sample in _read_list(folder / name, train_files)]
    query, gallery = (_read_list(folder / name, test_files) for name in _TEST_LISTS)
    return assemble("msmt17", str(root), train, query, gallery, notes=train_files.note() + test_files.note())


def is_msmt17(root: Path) -> bool:
    """Return whether MSMT17 lies here, told by its lists and folders."""
    return root.is_dir() and bool(_find(root))


def _find(root: Path) -> list[tuple[Path, str, str]]:
    found = []
    for tree in find_trees(root, _OFFICIAL_NAMES):
        if isinstance(tree, FolderTree) and {_TRAIN_LISTS[0], *_TEST_LISTS} <= set(tree.content.files):
            found += [(tree.path, train, test) for train, test in _IMAGE_FOLDERS if {train, test} <= set(tree.folders())]
    return found


def _read_list(path: Path, files: ListedFiles) -> list[Sample]:
    """Return samples of one list; a line is ``0000/0000_000_01_0303morning_0015_0.jpg 0``: path and identity."""
    samples = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where, match = f"{path}, line {number}", _LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(f"{where}: expected a line like '0000/0000_000_01_0303morning_0015_0.jpg 0', got {line[:100]!r}")
        location = files.find(match["name"].strip(), where)
        if location is not None:
            samples.append(Sample(location, int(match["pid"]), int(match["camid"])))
    return samples
