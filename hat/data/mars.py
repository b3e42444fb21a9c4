"""MARS (Zheng et al., ECCV 2016): tracklets of the 1,261 people of Market-1501's cameras, read as images."""

import re
from pathlib import Path

from hat.data.datasets import JUNK_PID, ReIDDataset, Sample, assemble
from hat.data.image_trees import FolderTree, ImageTree, find_child, load_mat, open_tree, read_lines, unwrap
from hat.errors import DataError

_NAME = re.compile(r"(-1|00-1|[0-9]{4})C([0-9])T([0-9]{4})F([0-9]{3,4})\.")


def read_mars(root: Path) -> ReIDDataset:
    """Read MARS from a folder with ``bbox_train/``, ``bbox_test/`` and, for evaluation, its lists in ``info/``.

    It is every training image and of each test tracklet the middle frame, since a tracklet is one probe or one gallery entry
    there. Junk tracklets are left out.
    """
    tree = unwrap(open_tree(root))
    train_tree, test_tree = find_child(tree, ("bbox_train",)), find_child(tree, ("bbox_test",))
    if train_tree is None and test_tree is None:
        raise DataError(f"{root}: expected MARS's bbox_train/ and bbox_test/")
    train = [sample for sample in _samples(train_tree) if sample.pid != JUNK_PID] if train_tree else []
    if test_tree is None:
        return assemble("mars", str(root), train, [], [])
    info = tree.path / "info" if isinstance(tree, FolderTree) else None
    if info is None or not info.is_dir():
        raise DataError(f"{root}: MARS's lists are missing; expected info/ with query_IDX.mat and tracks_test_info.mat")
    query, gallery = _test(info, {Path(sample.path).name: sample for sample in _samples(test_tree)})
    note = "of each test tracklet the middle frame is read: figures are those of images and not of videos"
    return assemble("mars", str(root), train, query, gallery, notes=[note])


def is_mars(root: Path) -> bool:
    """Return whether MARS's two folders are there."""
    tree = unwrap(open_tree(root))
    return find_child(tree, ("bbox_train",)) is not None and find_child(tree, ("bbox_test",)) is not None


def _samples(tree: ImageTree) -> list[Sample]:
    samples = []
    for name, location in (image for identity in tree.folders() for image in tree.child(identity).images()):
        match = _NAME.match(name)
        if match is None:
            raise DataError(f"{location}: expected a name of MARS, like 0001C1T0001F001.jpg")
        samples.append(Sample(location, JUNK_PID if match[1].endswith("-1") else int(match[1]), int(match[2])))
    return samples


def _test(info: Path, by_name: dict[str, Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return query and gallery from ``test_name.txt``, ``tracks_test_info.mat`` and ``query_IDX.mat``."""
    names = " ".join(read_lines(info / "test_name.txt")).split()
    tracks = load_mat(info / "tracks_test_info.mat", ["track_test_info"])["track_test_info"]
    queries = set(load_mat(info / "query_IDX.mat", ["query_IDX"])["query_IDX"].reshape(-1).tolist())
    if tracks.ndim != 2 or tracks.shape[1] != 4:
        raise DataError(f"{info}: tracks_test_info.mat has the shape {tracks.shape}, expected four columns")
    query: list[Sample] = []
    gallery: list[Sample] = []
    for number, (first, last, pid, _) in enumerate(tracks.tolist(), start=1):  # first and last image from 1, pid, camera
        if pid < 0:
            continue
        middle = (int(first) + int(last)) // 2 - 1
        sample = by_name.get(names[middle]) if 0 <= middle < len(names) else None
        if sample is None:
            raise DataError(f"{info}: the middle frame of test tracklet {number} is not in bbox_test/")
        (query if number in queries else gallery).append(sample)
    return query, gallery
