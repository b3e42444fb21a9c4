"""CUHK03-NP, MSMT17 and MARS: lists of files and labels beside folders of images."""

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from hat.data import detect_dataset, load_dataset, open_dataset
from hat.errors import DataError


def labels(split):
    return [(sample.pid, sample.camid) for sample in split]


CUHK03 = ["1_001_1_01.png", "1_001_2_06.png", "2_010_1_03.png", "2_010_2_07.png", "5_002_2_10.png"]


def cells(names):
    column = np.empty((len(names), 1), dtype=object)
    column[:, 0] = names
    return column


def write_cuhk03(root, boxes, touch, **changes):
    table = {
        "filelist": cells(CUHK03),
        "labels": np.array([[1], [1], [350], [350], [1400]], dtype=np.float64),
        "camId": np.array([[1], [2], [1], [2], [2]], dtype=np.uint8),
        "train_idx": np.array([[1], [2]]),
        "query_idx": np.array([[3]]),
        "gallery_idx": np.array([[5], [4]]),
    } | changes
    touch(root / f"images_{boxes}", CUHK03)
    path = root / f"cuhk03_new_protocol_config_{boxes}.mat"
    savemat(path, {name: value for name, value in table.items() if value is not None})
    return path


@pytest.mark.parametrize(("boxes", "train", "gallery"), [("labeled", "7,368", "5,328"), ("detected", "7,365", "5,332")])
@pytest.mark.parametrize("folder", ["", "cuhk03"])
def test_read_cuhk03_np_indices_count_from_one_and_labels_are_kept(boxes, train, gallery, folder, touch, tmp_path):
    images = write_cuhk03(tmp_path / folder, boxes, touch).parent / f"images_{boxes}"
    dataset = load_dataset(f"cuhk03-np-{boxes}", tmp_path)
    assert detect_dataset(tmp_path) == f"cuhk03-np-{boxes}"
    assert dataset.train.paths == [str(images / name) for name in CUHK03[:2]]
    assert labels(dataset.train) == [(1, 1), (1, 2)]
    assert (labels(dataset.query), labels(dataset.gallery)) == ([(350, 1)], [(1400, 2), (350, 2)])
    (comparison,) = dataset.notes
    for counts in (f"{train} images of 767", "1,400 images of 700", f"{gallery} images of 700"):
        assert f"published are {counts} identities" in comparison


@pytest.mark.parametrize(("boxes", "folder"), [("labeled", "labeled"), ("labeled", "labelled"), ("detected", "detected")])
@pytest.mark.parametrize("parent", ["", "cuhk03-np", "data/../CUHK03_NP"])
def test_read_cuhk03_np_converted(boxes, folder, parent, touch, tmp_path):
    names = ["bounding_box_train/0001_c1_1.png", "query/0768_c2_7.png", "bounding_box_test/0768_c1_2.png"]
    (tmp_path / "data").mkdir()
    touch(tmp_path / parent / folder, names)
    other = {"labeled": "detected", "detected": "labeled"}[boxes]
    for root in (tmp_path, tmp_path / parent / folder):
        dataset = load_dataset(f"cuhk03-np-{boxes}", root)
        assert dataset.name == detect_dataset(root) == f"cuhk03-np-{boxes}"
        assert labels(dataset.query) == [(768, 2)]
        with pytest.raises(DataError, match=f"CUHK03-NP .{other}. was not found"):
            load_dataset(f"cuhk03-np-{other}", root)


def test_read_cuhk03_np_missing_images_are_told(touch, tmp_path):
    write_cuhk03(tmp_path, "labeled", touch)
    (tmp_path / "images_labeled" / CUHK03[1]).unlink()
    dataset = load_dataset("cuhk03-np-labeled", tmp_path)
    assert len(dataset.train) == 1 and any("1 listed images are not in" in note and CUHK03[1] in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, "labels missing"),
        ({"labels": np.ones((3, 1))}, "5, 3 and 5 entries"),
        *(({"labels": np.full((5, 1), value)}, "labels is expected to hold whole numbers") for value in (1.5, np.inf, np.nan)),
        ({"train_idx": np.array([[0]])}, "train_idx points outside"),
        ({"gallery_idx": np.array([[6]])}, "gallery_idx points outside"),
        ({"filelist": np.ones((5, 1))}, "cell array of file names"),
        ({"filelist": cells(["../../x.png", *CUHK03[1:]])}, "entry 1 of filelist: .* leads out of"),
        ({"camId": np.ones((1001, 1000), dtype=np.uint8)}, "over 1,000,000 entries"),
    ],
)
def test_read_cuhk03_np_a_wrong_table_is_told(changes, words, touch, tmp_path):
    write_cuhk03(tmp_path, "labeled", touch, **changes)
    with pytest.raises(DataError, match=words) as caught:
        load_dataset("cuhk03-np-labeled", tmp_path)
    assert "cuhk03_new_protocol_config_labeled.mat" in str(caught.value)


def test_read_cuhk03_np_every_truncation_of_the_table_is_a_data_error(touch, tmp_path):
    path = write_cuhk03(tmp_path, "labeled", touch)
    whole = path.read_bytes()
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            load_dataset("cuhk03-np-labeled", tmp_path)


MSMT17 = {
    "list_train.txt": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_003_14_0113noon_0872_1.jpg 1"],
    "list_val.txt": ["0000/0000_001_05_0303afternoon_0015_0.jpg 0"],
    "list_query.txt": ["0000/0000_002_15_0302noon_0001_2.jpg 0"],
    "list_gallery.txt": ["0000/0000_004_02_0302noon_0009_2.jpg 0", "0007/0007_000_03_0114morning_0001_1_ex.jpg 7"],
}
MSMT17_FOLDERS = {"MSMT17_V1": ("train", "test"), "MSMT17_V2": ("mask_train_v2", "mask_test_v2")}


def write_msmt17(root, version, touch):
    train, test = MSMT17_FOLDERS[version]
    for name, lines in MSMT17.items():
        parent = train if name in ("list_train.txt", "list_val.txt") else test
        touch(root / version, [f"{parent}/{line.rpartition(' ')[0]}" for line in lines])
        (root / version / name).write_text("\n".join(lines) + "\n")
    return root / version


@pytest.mark.parametrize("version", MSMT17_FOLDERS)
@pytest.mark.parametrize("below", [True, False])
def test_read_msmt17_both_versions(version, below, touch, tmp_path):
    folder = write_msmt17(tmp_path, version, touch)
    dataset = load_dataset("msmt17", tmp_path if below else folder)
    train, test = MSMT17_FOLDERS[version]
    assert detect_dataset(tmp_path) == detect_dataset(folder) == "msmt17"
    assert labels(dataset.train) == [(0, 1), (1, 14), (0, 5)]
    assert (labels(dataset.query), labels(dataset.gallery)) == ([(0, 15)], [(0, 2), (7, 3)])
    assert dataset.train[0].path == str(folder / train / "0000/0000_000_01_0303morning_0015_0.jpg")
    assert dataset.gallery[1].path == str(folder / test / "0007/0007_000_03_0114morning_0001_1_ex.jpg")
    (comparison,) = dataset.notes
    assert "train has 3 images of 2 identities, published are 32,621 images of 1,041 identities" in comparison
    for counts in ("11,659", "82,161"):
        assert f"published are {counts} images of 3,060 identities" in comparison


def test_read_msmt17_two_versions_at_once_are_ambiguous(touch, tmp_path):
    for version in MSMT17_FOLDERS:
        write_msmt17(tmp_path, version, touch)
    with pytest.raises(DataError, match=r"MSMT17_V1 and .*MSMT17_V2; name one of them"):
        load_dataset("msmt17", tmp_path)
    assert len(load_dataset("msmt17", tmp_path / "MSMT17_V2").train) == 3


def test_read_msmt17_missing_images_are_left_out_and_told(touch, tmp_path):
    folder = write_msmt17(tmp_path, "MSMT17_V1", touch)
    (folder / "train/0001/0001_003_14_0113noon_0872_1.jpg").unlink()
    (folder / "test/0007/0007_000_03_0114morning_0001_1_ex.jpg").unlink()
    (folder / "test/0007").rmdir()
    dataset = load_dataset("msmt17", folder)
    assert (len(dataset.train), len(dataset.gallery)) == (2, 1)
    assert any("1 listed images are not in" in note and "0001_003_14" in note for note in dataset.notes)
    assert any("0007_000_03" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        *((f"0000/0000_000_01_0303morning_0015_0.jpg{rest}", "expected a line like") for rest in ("", " x", " -1")),
        *((f"{line}0", "expected a line like") for line in ("0000/0000_000_xx_0303morning_0015_0.jpg ", "0000/short.jpg ", "")),
        *((f"{path}0_0_01_a.jpg 0", ".* leads out of") for path in ("../0000/", "/etc/", "0000/../../", "..\\")),
    ],
)
def test_read_msmt17_a_wrong_line_is_named_by_file_and_number(line, words, touch, tmp_path):
    folder = write_msmt17(tmp_path, "MSMT17_V1", touch)
    (folder / "list_query.txt").write_text("\n".join([*MSMT17["list_query.txt"], "", line]))
    with pytest.raises(DataError, match=rf"list_query\.txt, line 3: {words}"):
        load_dataset("msmt17", folder)
    (folder / "list_train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"list_train\.txt: the list cannot be read"):
        load_dataset("msmt17", folder)


def test_read_mars_middle_frames_of_tracklets(touch, tmp_path):
    test = [f"{pid:04d}C{cam}T0001F{frame:03d}.jpg" for pid in (2, 4) for cam in (1, 2) for frame in (1, 2, 3)]
    junk = [f"00-1C1T0001F{frame:03d}.jpg" for frame in (1, 2, 3)]
    touch(tmp_path / "bbox_train", ["0001/0001C1T0001F001.jpg", "0001/0001C2T0001F001.jpg", f"00-1/{junk[0]}"])
    touch(tmp_path / "bbox_test", [f"{name[:4]}/{name}" for name in test + junk])
    info = tmp_path / "info"
    with pytest.raises(DataError, match="MARS's lists are missing"):
        open_dataset(tmp_path)
    info.mkdir()
    (info / "test_name.txt").write_text("\n".join(junk + test))
    tracks = np.array([[1, 3, -1, 1], [4, 6, 2, 1], [7, 9, 2, 2], [10, 12, 4, 1], [13, 15, 4, 2]])
    savemat(info / "tracks_test_info.mat", {"track_test_info": tracks})
    savemat(info / "query_IDX.mat", {"query_IDX": np.array([[2, 4]])})
    data = open_dataset(tmp_path)
    assert data.name == "mars" and labels(data.train) == [(1, 1), (1, 2)]
    assert [(s.pid, s.camid, s.path[-8:]) for s in data.query] == [(2, 1, "F002.jpg"), (4, 1, "F002.jpg")]
    assert labels(data.gallery) == [(2, 2), (4, 2)]
    cells = np.empty((1, 2), dtype=object)
    cells[0, 0], cells[0, 1] = np.array([2.0]), np.array([4.0])
    for lists, words in (
        ({"track_test_info": np.where(tracks == 7, np.nan, tracks)}, "track_test_info is expected to hold whole numbers"),
        ({"track_test_info": np.where(tracks == 15, 99, tracks)}, "middle frame of test tracklet 5 is not in bbox_test"),
        ({"track_test_info": csc_matrix(tracks)}, "track_test_info is expected to hold whole numbers"),
        ({"track_test_info": tracks[:, :3]}, "expected four columns"),
        ({"query_IDX": cells}, "query_IDX is expected to hold whole numbers"),
        ({"query_IDX": csc_matrix(np.array([[2.0, 4.0]]))}, "query_IDX is expected to hold whole numbers"),
    ):
        content = {"track_test_info": tracks, "query_IDX": np.array([[2, 4]]), **lists}
        savemat(info / "tracks_test_info.mat", {"track_test_info": content["track_test_info"]})
        savemat(info / "query_IDX.mat", {"query_IDX": content["query_IDX"]})
        with pytest.raises(DataError, match=words):
            open_dataset(tmp_path)
    touch(tmp_path, ["bbox_train/0001/holiday.jpg"])
    with pytest.raises(DataError, match=r"holiday\.jpg: expected a name of MARS"):
        open_dataset(tmp_path)
