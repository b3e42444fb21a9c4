"""MARS (Zheng et al., ECCV 2016): tracklets of the 1,261 people of Market-1501's cameras, read as images."""

import re
from pathlib import Path

from hat.data.datasets import JUNK_PID, ReIDDataset, Sample, Split
from hat.data.image_trees import FolderTree, ImageTree, find_child, open_tree, unwrap
from hat.data.published_counts import assemble
from hat.errors import DataError, MissingExtraError

_NAME = re.compile(r"(-1|00-1|[0-9]{4})C([0-9])T([0-9]{4})F([0-9]{3,4})\.")
_MAX_MAT_BYTES = 64 * 2**20


def read_mars(root: Path) -> ReIDDataset:
    """Read MARS from its folder.

    Args:
        root: A folder with ``bbox_train/``, ``bbox_test/`` and, for evaluation, ``info/`` with ``test_name.txt``,
            ``tracks_test_info.mat`` and ``query_IDX.mat``.

    Returns:
        The data set: every training image; of each test tracklet its middle frame, since a tracklet is one probe or one
        gallery entry there. Junk tracklets are left out.

    Raises:
        DataError: The folders or lists are not there, or the lists do not fit the images.
        MissingExtraError: SciPy, which reads the lists, is not installed.
    """
    tree = unwrap(open_tree(root))
    train_tree, test_tree = find_child(tree, ("bbox_train",)), find_child(tree, ("bbox_test",))
    if train_tree is None and test_tree is None:
        raise DataError(f"{root}: expected MARS's bbox_train/ and bbox_test/")
    train = [sample for sample in _samples(train_tree) if sample.pid != JUNK_PID]
    query: list[Sample] = []
    gallery: list[Sample] = []
    notes: tuple[str, ...] = ()
    if test_tree is not None:
        info = tree.path / "info" if isinstance(tree, FolderTree) else None
        if info is None or not info.is_dir():
            raise DataError(f"{root}: MARS's lists are missing; expected info/ with query_IDX.mat and tracks_test_info.mat")
        query, gallery = _test(info, {Path(sample.path).name: sample for sample in _samples(test_tree)})
        notes = ("of each test tracklet the middle frame is read: figures are those of images and not of videos",)
    return assemble(
        "mars", Split("train", train), Split("query", query), Split("gallery", gallery), notes=notes, where=str(root)
    )


def is_mars(root: Path) -> bool:
    """Return whether MARS's two folders are there, or one of them with names of its kind."""
    tree = unwrap(open_tree(root))
    return find_child(tree, ("bbox_train",)) is not None and find_child(tree, ("bbox_test",)) is not None


def _samples(tree: ImageTree | None) -> list[Sample]:
    if tree is None:
        return []
    samples = []
    for identity in tree.folders():
        for name, location in tree.child(identity).images():
            match = _NAME.match(name)
            if match is None:
                raise DataError(f"{location}: expected a name of MARS, like 0001C1T0001F001.jpg")
            pid = JUNK_PID if match[1].endswith("-1") else int(match[1])
            samples.append(Sample(location, pid, int(match[2])))
    return samples


def _test(info: Path, by_name: dict[str, Sample]) -> tuple[list[Sample], list[Sample]]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingExtraError("scipy", "cuhk03", "the lists of MARS") from None
    try:
        names = (info / "test_name.txt").read_text(encoding="ascii").split()
        for name in ("tracks_test_info.mat", "query_IDX.mat"):
            if (info / name).stat().st_size > _MAX_MAT_BYTES:
                raise DataError(f"{info / name}: larger than {_MAX_MAT_BYTES:,} bytes")
        tracks = loadmat(info / "tracks_test_info.mat")["track_test_info"]  # (n, 4): first and last image from 1, pid, camera
        queries = set(loadmat(info / "query_IDX.mat")["query_IDX"].reshape(-1).tolist())
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise DataError(f"{info}: MARS's lists cannot be read ({error})") from None
    query: list[Sample] = []
    gallery: list[Sample] = []
    for number, (first, last, pid, _) in enumerate(tracks.tolist(), start=1):
        middle = (int(first) + int(last)) // 2 - 1
        sample = by_name.get(names[middle]) if 0 <= middle < len(names) else None
        if pid < 0:
            continue
        if sample is None:
            raise DataError(f"{info}: the middle frame of test tracklet {number} is not in bbox_test/")
        (query if number in queries else gallery).append(sample)
    return query, gallery
