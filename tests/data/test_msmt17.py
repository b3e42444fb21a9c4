"""MSMT17, V1 and V2: lists of paths and identities beside folders of images."""

from __future__ import annotations

import pytest

from hat.data import load_dataset
from hat.errors import DataError

NAMES = {
    "list_train.txt": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_003_14_0113noon_0872_1.jpg 1"],
    "list_val.txt": ["0000/0000_001_05_0303afternoon_0015_0.jpg 0"],
    "list_query.txt": ["0000/0000_002_15_0302noon_0001_2.jpg 0"],
    "list_gallery.txt": ["0000/0000_004_02_0302noon_0009_2.jpg 0", "0007/0007_000_03_0114morning_0001_1_ex.jpg 7"],
}
LAYOUTS = {"MSMT17_V1": ("train", "test"), "MSMT17_V2": ("mask_train_v2", "mask_test_v2")}


def write(root, version, touch, lists=NAMES):
    folder = root / version
    train, test = LAYOUTS[version]
    for name, lines in lists.items():
        parent = train if name in ("list_train.txt", "list_val.txt") else test
        touch(folder, [f"{parent}/{line.rpartition(' ')[0]}" for line in NAMES.get(name, lines)])
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("version", LAYOUTS)
@pytest.mark.parametrize("below", [True, False])
def test_both_versions(version, below, touch, tmp_path):
    folder = write(tmp_path, version, touch)
    dataset = load_dataset("msmt17", tmp_path if below else folder)
    train, test = LAYOUTS[version]
    assert [(sample.pid, sample.camid) for sample in dataset.train] == [(0, 1), (1, 14), (0, 5)]
    assert [(sample.pid, sample.camid) for sample in dataset.query] == [(0, 15)]
    assert [(sample.pid, sample.camid) for sample in dataset.gallery] == [(0, 2), (7, 3)]
    assert dataset.train[0].path == str(folder / train / "0000/0000_000_01_0303morning_0015_0.jpg")
    assert dataset.gallery[1].path == str(folder / test / "0007/0007_000_03_0114morning_0001_1_ex.jpg")
    assert (dataset.train.num_pids, dataset.query.num_pids, dataset.gallery.num_pids) == (2, 1, 2)
    (comparison,) = dataset.notes
    for words in (
        "train has 3 images of 2 identities, published are 32,621 images of 1,041 identities",
        "published are 11,659 images of 3,060 identities",
        "published are 82,161 images of 3,060 identities",
    ):
        assert words in comparison


def test_two_versions_at_once_are_ambiguous(touch, tmp_path):
    for version in LAYOUTS:
        write(tmp_path, version, touch)
    with pytest.raises(DataError, match=r"MSMT17_V1 and .*MSMT17_V2; name one of them"):
        load_dataset("msmt17", tmp_path)
    assert len(load_dataset("msmt17", tmp_path / "MSMT17_V2").train) == 3


def test_missing_images_are_left_out_and_told(touch, tmp_path):
    folder = write(tmp_path, "MSMT17_V1", touch)
    (folder / "train/0001/0001_003_14_0113noon_0872_1.jpg").unlink()
    (folder / "test/0007/0007_000_03_0114morning_0001_1_ex.jpg").unlink()
    (folder / "test/0007").rmdir()
    dataset = load_dataset("msmt17", folder)
    assert (len(dataset.train), len(dataset.gallery)) == (2, 1)
    assert any("1 listed images are not in" in note and "0001_003_14" in note for note in dataset.notes)
    assert any("0007_000_03" in note for note in dataset.notes)


@pytest.mark.parametrize(
    "line",
    [
        "0000/0000_000_01_0303morning_0015_0.jpg",
        "0000/0000_000_01_0303morning_0015_0.jpg x",
        "0000/0000_000_01_0303morning_0015_0.jpg -1",
        "0000/0000_000_xx_0303morning_0015_0.jpg 0",
        "0000/short.jpg 0",
        "0",
    ],
)
def test_a_broken_line_is_named_by_file_and_number(line, touch, tmp_path):
    folder = write(tmp_path, "MSMT17_V1", touch, NAMES | {"list_query.txt": [*NAMES["list_query.txt"], "", line]})
    with pytest.raises(DataError, match=r"list_query\.txt, line 3: expected a line like"):
        load_dataset("msmt17", folder)


@pytest.mark.parametrize("path", ["../0000/0_0_01_a.jpg", "/etc/0_0_01_a.jpg", "0000/../../0_0_01_a.jpg", "..\\0_0_01_a.jpg"])
def test_a_path_that_leads_out_and_what_is_no_text_are_refused(path, touch, tmp_path):
    folder = write(tmp_path, "MSMT17_V1", touch)
    (folder / "list_val.txt").write_text(f"{path} 0\n")
    with pytest.raises(DataError, match=r"list_val\.txt, line 1: .* leads out of"):
        load_dataset("msmt17", folder)
    (folder / "list_train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"list_train\.txt: the list cannot be read"):
        load_dataset("msmt17", folder)
