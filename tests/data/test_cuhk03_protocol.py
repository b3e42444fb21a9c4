"""CUHK03-NP from the new protocol's own .mat files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.io import savemat

from hat.data import load_dataset
from hat.errors import DataError, MissingExtraError

FILES = ["1_001_1_01.png", "1_001_2_06.png", "2_010_1_03.png", "2_010_2_07.png", "5_002_2_10.png"]


def cells(names):
    column = np.empty((len(names), 1), dtype=object)
    column[:, 0] = names
    return column


def protocol(**changes):
    table = {
        "filelist": cells(FILES),
        "labels": np.array([[1], [1], [350], [350], [1400]], dtype=np.float64),
        "camId": np.array([[1], [2], [1], [2], [2]], dtype=np.uint8),
        "train_idx": np.array([[1], [2]]),
        "query_idx": np.array([[3]]),
        "gallery_idx": np.array([[5], [4]]),
    }
    table.update(changes)
    return {name: value for name, value in table.items() if value is not None}


def write(root, boxes, touch, **changes):
    root.mkdir(exist_ok=True)
    savemat(root / f"cuhk03_new_protocol_config_{boxes}.mat", protocol(**changes))
    touch(root / f"images_{boxes}", FILES)
    return root


@pytest.mark.parametrize("boxes", ["labeled", "detected"])
@pytest.mark.parametrize("folder", ["", "cuhk03"])
def test_indices_count_from_one_and_labels_are_kept(boxes, folder, touch, tmp_path):
    root = write(tmp_path / folder, boxes, touch)
    dataset = load_dataset(f"cuhk03-np-{boxes}", tmp_path)
    assert [(sample.path, sample.pid, sample.camid) for sample in dataset.train] == [
        (str(root / f"images_{boxes}" / "1_001_1_01.png"), 1, 1),
        (str(root / f"images_{boxes}" / "1_001_2_06.png"), 1, 2),
    ]
    assert [(sample.pid, sample.camid) for sample in dataset.query] == [(350, 1)]
    assert [(sample.pid, sample.camid) for sample in dataset.gallery] == [(1400, 2), (350, 2)]
    train, gallery = {"labeled": ("7,368", "5,328"), "detected": ("7,365", "5,332")}[boxes]
    (comparison,) = dataset.notes
    assert f"published are {train} images of 767 identities" in comparison
    assert "published are 1,400 images of 700 identities" in comparison
    assert f"published are {gallery} images of 700 identities" in comparison


def test_missing_images_are_told(touch, tmp_path):
    root = write(tmp_path, "labeled", touch)
    (root / "images_labeled" / FILES[1]).unlink()
    dataset = load_dataset("cuhk03-np-labeled", root)
    assert len(dataset.train) == 1
    assert any("1 listed images are not in" in note and FILES[1] in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, "labels missing"),
        ({"labels": np.ones((3, 1))}, "5, 3 and 5 entries"),
        ({"labels": np.full((5, 1), 1.5)}, "labels is expected to hold whole numbers"),
        ({"labels": np.full((5, 1), np.inf)}, "labels is expected to hold whole numbers"),
        ({"labels": np.full((5, 1), np.nan)}, "labels is expected to hold whole numbers"),
        ({"train_idx": np.array([[0]])}, "train_idx points outside"),
        ({"gallery_idx": np.array([[6]])}, "gallery_idx points outside"),
        ({"filelist": np.ones((5, 1))}, "cell array of file names"),
        ({"filelist": cells(["../../x.png", *FILES[1:]])}, "entry 1 of filelist: .* leads out of"),
        ({"camId": np.ones((1001, 1000), dtype=np.uint8)}, "over 1,000,000 entries"),
    ],
)
def test_a_wrong_table_is_told(changes, words, touch, tmp_path):
    root = write(tmp_path, "labeled", touch, **changes)
    with pytest.raises(DataError, match=words) as caught:
        load_dataset("cuhk03-np-labeled", root)
    assert "cuhk03_new_protocol_config_labeled.mat" in str(caught.value)


def test_every_truncation_of_the_file_is_a_data_error(touch, tmp_path):
    root = write(tmp_path, "labeled", touch)
    path = root / "cuhk03_new_protocol_config_labeled.mat"
    whole = path.read_bytes()
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            load_dataset("cuhk03-np-labeled", root)


def test_without_scipy_the_extra_is_named(touch, tmp_path, monkeypatch):
    root = write(tmp_path, "labeled", touch)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingExtraError, match=r"hat-reid\[cuhk03\]"):
        load_dataset("cuhk03-np-labeled", root)
