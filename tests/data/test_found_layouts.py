"""Layouts that people really have: one folder for each camera, other cases and spellings, wrappers, and what is no data set."""

import numpy as np
import pytest
from PIL import Image

from hat.data import detect_dataset, load_dataset, open_dataset
from hat.data.csv_table import write_csv_table
from hat.data.datasets import find_overlaps
from hat.data.images import describe_frames
from hat.data.labels import parse_camera, parse_camera_folder
from hat.data.market import parse_market_name
from hat.errors import DataError
from hat.evaluation import check_rankable


def labels(split):
    return sorted({(sample.pid, sample.camid) for sample in split})


VIPER = [f"{cam}/{pid:03d}_{angle}.bmp" for pid in range(8) for cam, angle in (("cam_a", 0), ("cam_b", 90))]
PRID = [f"single_shot/cam_a/person_{pid:04d}.png" for pid in range(1, 7)]
PRID += [f"single_shot/cam_b/person_{pid:04d}.png" for pid in (1, 2, 3, 4, 11, 12, 13)]
PRID += ["multi_shot/cam_a/person_0001/0001.png", "multi_shot/cam_b/person_0001/0001.png"]
GRID = [f"probe/{pid:04d}_1_25004_107_32_106_221.jpeg" for pid in range(1, 5)]
GRID += [f"gallery/{pid:04d}_2_25004_107_32_106_221.jpeg" for pid in range(1, 5)]
GRID += [f"gallery/0000_2_2500{i}_107_32_106_221.jpeg" for i in range(3)]


@pytest.mark.parametrize(
    ("folder", "files", "name", "sizes"),
    [
        ("VIPeR", VIPER, "viper", (8, 4, 4)),
        ("prid_2011", PRID, "prid2011", (4, 2, 2 + 3)),  # single shots; three more people in the gallery
        ("underground_reid", GRID, "grid", (4, 2, 2 + 3)),  # cameras from names; three distractors
    ],
)
def test_read_camera_folders_halves_and_first_camera_asks(folder, files, name, sizes, touch, tmp_path):
    data = open_dataset(touch(tmp_path / folder, files))
    assert detect_dataset(tmp_path / folder) == "camera-folders" and data.name == folder
    assert (len(data.train), len(data.query), len(data.gallery)) == sizes
    assert set(data.query.camids) == {1} and set(data.gallery.camids) == {2}
    assert set(data.gallery.pids) - set(data.query.pids) == {"viper": set(), "prid2011": {11, 12, 13}, "grid": {0}}[name]
    assert not set(data.query.pids) & set(data.train.pids)
    assert len({tuple(load_dataset(name, tmp_path / folder, split_seed=seed).query.pids) for seed in range(5)}) > 1


def test_read_camera_folders_with_identity_folders_inside(touch, tmp_path):
    names = [f"Cam{cam}/{who}/{i}.jpg" for cam in (1, 2) for who in ("anna", "bob", "carl", "dora") for i in range(2)]
    data = open_dataset(touch(tmp_path / "own", names))
    assert (len(data.train), len(data.query), len(data.gallery)) == (8, 4, 4)
    with pytest.raises(DataError, match="does not begin with an identity"):
        open_dataset(touch(tmp_path / "bad", ["cam1/x.jpg", "cam2/y.jpg"]))


def test_read_mars_middle_frames_of_tracklets(touch, tmp_path):
    io = pytest.importorskip("scipy.io", reason="the extra cuhk03 is not installed")
    test = [f"{pid:04d}C{cam}T0001F{frame:03d}.jpg" for pid in (2, 4) for cam in (1, 2) for frame in (1, 2, 3)]
    junk = [f"00-1C1T0001F{frame:03d}.jpg" for frame in (1, 2, 3)]
    touch(tmp_path, ["bbox_train/0001/0001C1T0001F001.jpg", "bbox_train/0001/0001C2T0001F001.jpg"])
    touch(tmp_path, [f"bbox_test/{name[:4]}/{name}" for name in test + junk])
    info = tmp_path / "info"
    info.mkdir()
    (info / "test_name.txt").write_text("\n".join(junk + test))
    tracks = np.array([[1, 3, -1, 1], [4, 6, 2, 1], [7, 9, 2, 2], [10, 12, 4, 1], [13, 15, 4, 2]])
    io.savemat(info / "tracks_test_info.mat", {"track_test_info": tracks})
    io.savemat(info / "query_IDX.mat", {"query_IDX": np.array([[2, 4]])})
    data = open_dataset(tmp_path)
    assert data.name == "mars" and labels(data.train) == [(1, 1), (1, 2)]
    assert [(s.pid, s.camid, s.path[-8:]) for s in data.query] == [(2, 1, "F002.jpg"), (4, 1, "F002.jpg")]
    assert labels(data.gallery) == [(2, 2), (4, 2)]


@pytest.mark.parametrize(
    "folders",
    [
        ("Train", "Query", "Gallery"),
        ("image_train", "image_query", "image_test"),
        ("training", "probe", "TEST"),
        ("bounding_box_train", "query", "gallery"),
        ("wrapper/deeper/train", "wrapper/deeper/query", "wrapper/deeper/gallery"),
    ],
)
def test_market_names_in_folders_of_any_case_and_spelling(folders, touch, zip_names, tmp_path):
    names = [f"{folders[0]}/0001_c1_1.jpg", f"{folders[1]}/0002_c1_1.jpg", f"{folders[2]}/0002_c2_1.jpg"]
    names += [f"{folders[0]}/0000_c2_x.webp", f"{folders[2]}/0000_c1.jpeg"]
    for root in (touch(tmp_path / "own", names), zip_names(tmp_path / "own.zip", names)):
        data = open_dataset(root)
        assert data.name == "own" and detect_dataset(root) == "market-style" and data.notes == ()
        assert (labels(data.train), labels(data.query)) == ([(0, 2), (1, 1)], [(2, 1)])
        assert labels(data.gallery) == [(0, 1), (2, 2)]


def test_image_folder_train_beside_val_draws_the_query_of_val(touch, tmp_path):
    names = [f"{part}/{who}/{who}_c{cam}_{i}.jpg" for part, people in (("train", "ab"), ("val", "cd")) for who in people
             for cam in (1, 2) for i in range(2)]  # fmt: skip
    data = open_dataset(touch(tmp_path, names))
    assert (data.train.num_pids, data.query.num_pids, data.gallery.num_pids) == (2, 2, 2)
    assert len(data.train) == 8 and len(data.query) == len(data.gallery) == 4


@pytest.mark.parametrize("junk", ["@eaDir", "$RECYCLE.BIN", "lost+found", "__MACOSX", "System Volume Information", ".git"])
def test_folders_of_systems_are_nobody(junk, touch, tmp_path):
    names = [f"{who}/{who}_c{cam}_{i}.jpg" for who in "abcd" for cam in (1, 2) for i in range(2)]
    data = open_dataset(touch(tmp_path, [*names, f"{junk}/a_c1_1.jpg", f"a/{junk}/b_c1_1.jpg"]))
    assert len(set(data.train.pids) | set(data.query.pids) | set(data.gallery.pids)) == 4


def test_images_one_level_deeper_than_expected_are_named(touch, tmp_path):
    names = ["train/0001_c1_1.jpg", "query/batch1/0002_c1_1.jpg", "gallery/0002_c2_1.jpg"]
    with pytest.raises(DataError, match=r"query: no images, and the folders batch1; expected the images of the query part"):
        load_dataset("market-style", touch(tmp_path, names))
    with pytest.raises(DataError, match=rf"{tmp_path}.*the query is empty and the gallery is not"):
        load_dataset("market-style", touch(tmp_path / "b", ["query/.keep", "gallery/0002_c2_1.jpg"]))


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("0002_c1s1_000451_03.jpg", (2, 1)),
        ("-1_c3s2_1.jpg", (-1, 3)),
        ("0005_c2_f0046985.jpg", (5, 2)),
        ("0001_c001_00016450_0.jpg", (1, 1)),
        ("0001C1T0001F001.jpg", (1, 1)),
        ("12_camA_3.png", (12, 1)),
        ("12_Cam_3_x.png", (12, 3)),
        ("12_camera-2.png", (12, 2)),
        *((name, None) for name in ("anna_c1.jpg", "0002.jpg", "0002_color1.jpg", "-2_c1.jpg", "1c1.jpg", "a1_c1.jpg")),
        *((name, None) for name in ("1_d1.jpg", "1_c.jpg", "1234567890_c1.jpg", "1_c1234567.jpg", "²_c1.jpg")),
    ],
)
def test_parse_market_name_table(name, labels):
    assert parse_market_name(name) == labels


@pytest.mark.parametrize(
    ("name", "camera", "folder"),
    [
        ("cam1", 1, 1),
        ("Cam_A", 1, 1),
        ("camera-12", 12, 12),
        ("c3", 3, 3),
        *(
            (name, None, None)
            for name in ("c", "ca", "cam", "anna", "cama1", "camber_1.png", "abc1_2.jpg", "c1x.jpg", "0002.c7")
        ),
        ("x.camB.png", 2, None),
        ("0002_c1s1_000451_03.jpg", 1, None),
        ("x-camera12.frame7.JPG", 12, None),
        ("a_c05_b.jpg", 5, None),
    ],
)
def test_parse_camera_of_files_and_folders(name, camera, folder):
    assert parse_camera(name) == camera and parse_camera_folder(name) == folder


def test_cameras_from_folders_inside_identities(touch, tmp_path):
    names = [f"{who}/cam{cam}/{i}.jpg" for who in ("anna", "bob", "carl", "dora") for cam in (1, 2) for i in range(2)]
    data = open_dataset(touch(tmp_path, names))
    assert data.has_cameras and set(data.gallery.camids) == {1, 2}


def test_files_that_are_not_read_are_counted_and_named(touch, tmp_path):
    names = [f"{who}/{who}_c{cam}_{i}.jpg" for who in "ab" for cam in (1, 2) for i in range(2)]
    touch(tmp_path, [*names, "a/x.heic", "a/y.heic", "b/b_c2_9.tiff", "a/readme.txt", "b/Thumbs.db"])
    (tmp_path / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    data = open_dataset(tmp_path)
    assert any(note.startswith("3 files are not read (2 .heic, 1 broken link to .jpg)") for note in data.notes), data.notes


def test_without_cameras_counts_every_pair_and_says_so(touch, tmp_path):
    names = [f"{who}/{who}_c1_{i}.jpg" for who in "ab" for i in range(3)]
    data = load_dataset("folder", touch(tmp_path, [*(f"query/{n}" for n in names), *(f"gallery/{n}" for n in names)]))
    blind = data.without_cameras()
    assert data.has_cameras and not blind.has_cameras
    assert set(blind.query.camids) == {0} and set(blind.gallery.camids) == {1} and blind.query.paths == data.query.paths


def test_find_overlaps_by_content_and_identity(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train/0001_c1_1.png", "train/0002_c1_1.png", "query/0002_c1_2.png", "gallery/0002_c2_1.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 4, 3), np.uint8)).save(path)
    assert find_overlaps(open_dataset(tmp_path)) == ()
    assert any("1 of 1 query identities are in the training part too" in note for note in open_dataset(tmp_path).notes)
    (tmp_path / "gallery" / "0002_c3_9.png").write_bytes((tmp_path / "query" / "0002_c1_2.png").read_bytes())
    (note,) = find_overlaps(open_dataset(tmp_path))
    assert note.startswith("1 pictures are in query and gallery both, such as ")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_read_csv_table_as_spreadsheets_write_it(encoding, separator, touch, tmp_path):
    touch(tmp_path, ["a/1.jpg", "a/2.jpg", "a/3.jpg"])
    rows = [("Path", "pid", "camid", "split"), ("a\\1.jpg", "7.0", "1", "query"), ("a/2.jpg", "007", "2", "gallery"),
            ("a/3.jpg", "-1.0", "2", "gallery")]  # fmt: skip
    table = tmp_path / "people.csv"
    table.write_text("\n".join(separator.join(row) for row in rows), encoding=encoding)
    data = open_dataset(table)
    assert data.name == "people" and (labels(data.query), labels(data.gallery)) == ([(7, 1)], [(7, 2)])


def test_read_csv_table_missing_and_repeated_files(touch, tmp_path):
    touch(tmp_path, ["1.jpg", "2.jpg"])
    rows = ["1.jpg,1,1,query", "2.jpg,1,2,gallery", "2.jpg,1,2,gallery", "3.jpg,1,2,gallery", "4.jpg,1,2,gallery"]
    table = tmp_path / "t.csv"
    table.write_text("path,pid,camid,split\n" + "\n".join(rows))
    with pytest.raises(DataError, match=r"line 5: there is no file .*3\.jpg \(and 1 more of 5; --skip-bad leaves them out\)"):
        open_dataset(table)
    data = open_dataset(table, skip_missing=True)
    assert len(data.gallery) == 2
    assert any("2 listed files are not there" in note for note in data.notes)
    assert any("1 files are listed more than once in one split" in note for note in data.notes)


def test_write_csv_table_gives_the_same_split_to_others(touch, tmp_path):
    names = [f"{who}/{who}_c{cam}_{i}.jpg" for who in "abcdef" for cam in (1, 2) for i in range(2)]
    data = load_dataset("folder", touch(tmp_path / "own", names), split_seed=3)
    write_csv_table(data, tmp_path / "split.csv")
    again = open_dataset(tmp_path / "split.csv")
    for split in ("train", "query", "gallery"):
        assert getattr(again, split).samples == getattr(data, split).samples


def test_check_rankable_says_what_is_void(touch, tmp_path):
    one_camera = load_dataset("market-style", touch(tmp_path / "a", ["query/0001_c1_1.jpg", "gallery/0001_c1_2.jpg"]))
    with pytest.raises(DataError, match="--no-cameras counts all pairs"):
        check_rankable(one_camera)
    check_rankable(one_camera.without_cameras())
    strangers = load_dataset("market-style", touch(tmp_path / "b", ["query/0001_c1_1.jpg", "gallery/0002_c2_2.jpg"]))
    with pytest.raises(DataError, match="no identity of the query is in the gallery"):
        check_rankable(strangers)


def test_describe_frames_whole_frames_are_told(tmp_path):
    for name, size in (("frame.png", (64, 36)), ("person.png", (32, 64))):
        Image.new("RGB", size).save(tmp_path / name)
    frame, person = str(tmp_path / "frame.png"), str(tmp_path / "person.png")
    assert describe_frames([frame, frame, person])[0].startswith("2 of 3 images looked at are wider than high")
    assert describe_frames([frame, person]) == describe_frames([]) == ()
