"""MSMT17 (Wei et al., CVPR 2018): fifteen cameras, 4,101 identities; V2 is V1 with faces blurred."""

from pathlib import Path

from hat.data.datasets import ReIDDataset, Sample, Split
from hat.data.image_trees import FolderTree, ListedFiles, find_trees
from hat.data.published_counts import Count, Published, assemble
from hat.errors import DataError

OFFICIAL_NAMES = frozenset({"msmt17", "msmt17v1", "msmt17v2"})

MSMT17_COUNTS = Published(train=Count(32_621, 1_041), query=Count(11_659, 3_060), gallery=Count(82_161, 3_060))
"""The training part is ``list_train.txt`` (30,248 images) and ``list_val.txt`` (2,373 of the same identities) together."""

_IMAGE_FOLDERS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))
_TRAIN_LISTS, _TEST_LISTS = ("list_train.txt", "list_val.txt"), ("list_query.txt", "list_gallery.txt")
_MAX_LIST_BYTES = 64 * 2**20


def read_msmt17(root: Path) -> ReIDDataset:
    """Read MSMT17 from its folder, V1 or V2.

    Args:
        root: ``MSMT17_V1`` (``train/``, ``test/``) or ``MSMT17_V2`` (``mask_train_v2/``, ``mask_test_v2/``) itself, each with
            ``list_train.txt``, ``list_val.txt``, ``list_query.txt`` and ``list_gallery.txt``; or a folder that holds one of
            them.

    Returns:
        The data set. The training part is the official train and validation lists together, which makes the 32,621 images that
        results are published with. Pids are the lists' numbers; those of train and test are counted apart and both begin at 0.
        Camids are the third field of the file names, 1 to 15.

    Raises:
        DataError: The folders are not there, V1 and V2 are both there, or a list is broken.
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
    return assemble(
        "msmt17",
        Split("train", train),
        Split("query", query),
        Split("gallery", gallery),
        published=MSMT17_COUNTS,
        notes=train_files.note() + test_files.note(),
    )


def is_msmt17(root: Path) -> bool:
    """Return whether MSMT17 lies here, told by its lists and folders."""
    return root.is_dir() and bool(_find(root))


def _find(root: Path) -> list[tuple[Path, str, str]]:
    found = []
    for tree in find_trees(root, OFFICIAL_NAMES):
        if isinstance(tree, FolderTree) and all((tree.path / name).is_file() for name in _TRAIN_LISTS[:1] + _TEST_LISTS):
            present = set(tree.folders())
            found += [(tree.path, train, test) for train, test in _IMAGE_FOLDERS if {train, test} <= present]
    return found


def _read_list(path: Path, files: ListedFiles) -> list[Sample]:
    """Return samples of one list; a line is ``0000/0000_000_01_0303morning_0015_0.jpg 0``: path and identity."""
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise DataError(f"{path}: larger than {_MAX_LIST_BYTES:,} bytes, so no list of MSMT17")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list cannot be read ({error})") from None
    samples = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, _, pid = line.strip().rpartition(" ")
        fields = name.rpartition("/")[2].split("_")
        if not (pid.isascii() and pid.isdigit() and len(pid) < 10 and len(fields) > 3 and _is_number(fields[2])):
            raise DataError(f"{where}: expected a line like '0000/0000_000_01_0303morning_0015_0.jpg 0', got {line[:100]!r}")
        location = files.find(name.strip(), where)
        if location is not None:
            samples.append(Sample(location, int(pid), int(fields[2])))
    return samples


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6
