"""Readers of Market-1501's layout: the benchmark, DukeMTMC-reID, and anybody's own."""

import zipfile
from pathlib import Path

import pytest

from hat.data import Sample, detect_dataset, load_dataset, open_dataset
from hat.data.datasets import assemble
from hat.errors import DataError

TRAIN = ["bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0007_c3s3_077419_01.JPG"]
TEST = ["query/0001_c1s1_001051_00.jpg", "query/0003_c6s2_000001_00.jpg"]
TEST += [f"bounding_box_test/{pid}_c{rest}.jpg" for pid, rest in (("0001", "2s1_1"), ("0003", "5s1_4"), ("0000", "4s6_8"))]
TEST += ["bounding_box_test/-1_c3s1_000551_04.jpg", "bounding_box_test/-1_c3s1_000552_04.jpg"]
CLUTTER = ["readme.txt", "bounding_box_train/Thumbs.db", "bounding_box_test/Thumbs.db", "gt_bbox/0001_c1s1_001051_00.jpg"]
CLUTTER += ["bounding_box_test/._0001_c2s1_000301_01.jpg", "gt_query/0001_c1s1_001051_00_good.mat"]
OFFICIAL = "Market-1501-v15.09.15"


def labels(split):
    return sorted((sample.pid, sample.camid) for sample in split)


def check_small_market(dataset):
    assert dataset.name == "market1501"
    assert labels(dataset.train) == [(2, 1), (7, 3)]
    assert labels(dataset.query) == [(1, 1), (3, 6)]
    assert labels(dataset.gallery) == [(0, 4), (1, 2), (3, 5)]
    assert (dataset.train.name, dataset.query.name, dataset.gallery.name) == ("train", "query", "gallery")
    assert "2 junk images (-1) of bounding_box_test left out" in dataset.notes
    for split, num, published in (("train", 2, "12,936"), ("query", 2, "3,368"), ("gallery", 3, "15,913")):
        words = f"{split} has {num} images of {num} identities, published are {published} images of 75"
        assert words in dataset.notes[-1]


@pytest.mark.parametrize("folder", ["", OFFICIAL, "market1501", f"Market1501/{OFFICIAL}"])
def test_market_is_found_as_itself_and_below_its_parent(folder, touch, tmp_path):
    touch(tmp_path / folder, TRAIN + TEST + CLUTTER)
    dataset = load_dataset("market1501", tmp_path)
    check_small_market(dataset)
    assert all(Path(sample.path).is_file() for split in (dataset.train, dataset.query, dataset.gallery) for sample in split)


def test_market_from_two_zips_of_any_name_beside_other_archives(zip_names, tmp_path):
    zip_names(tmp_path / "part b.ZIP", [f"{OFFICIAL}/{name}" for name in TEST + CLUTTER])
    zip_names(tmp_path / "a.zip", [f"{OFFICIAL}/{name}" for name in TRAIN])
    zip_names(tmp_path / "aa.zip", ["DukeMTMC-reID/query/0009_c1_f1.jpg"])
    dataset = load_dataset("market1501", tmp_path)
    check_small_market(dataset)
    assert dataset.train[0].path == f"{tmp_path}/a.zip!{OFFICIAL}/{TRAIN[0]}"


def test_market_from_one_zip_named_by_itself(zip_names, tmp_path):
    for number, below in enumerate((f"{OFFICIAL}/", "")):
        archive = zip_names(tmp_path / f"{number}.zip", [f"{below}{name}" for name in TRAIN + TEST])
        check_small_market(load_dataset("market1501", archive))


def test_training_part_alone_and_test_part_alone(zip_names, tmp_path):
    for part, sizes, note in (
        (TRAIN, (2, 0, 0), "no query and gallery: only for training"),
        (TEST, (0, 2, 3), "no training part: only for evaluation"),
    ):
        data = load_dataset("market1501", zip_names(tmp_path / "part.zip", [f"{OFFICIAL}/{name}" for name in part]))
        assert (len(data.train), len(data.query), len(data.gallery)) == sizes and note in data.notes


def test_an_unpacked_folder_is_preferred_to_the_zip_and_nothing_is_read_twice(touch, zip_names, tmp_path):
    touch(tmp_path / OFFICIAL, TRAIN + TEST)
    zip_names(tmp_path / "m.zip", [f"{OFFICIAL}/{name}" for name in TRAIN + TEST])
    dataset = load_dataset("market1501", tmp_path)
    check_small_market(dataset)
    assert not any("!" in path for path in dataset.train.paths)


def test_hostile_members_are_no_part_of_the_data_set(tmp_path):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in TRAIN + TEST:
            archive.writestr(f"{OFFICIAL}/{name}", b"")
        train = f"{OFFICIAL}/bounding_box_train"
        deep = f"{OFFICIAL}/{'deep/' * 12_000}"
        for hostile in (f"../{train}", f"{train}/..", f"/{train}", f"{train}/", f"{train}/deeper", deep):
            archive.writestr(f"{hostile}/0100_c1s1_1.jpg", b"")
        archive.writestr(f"{train}/0105_c1s1\\x.jpg", b"")
    check_small_market(load_dataset("market1501", path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("market1501", "Market-1501-v15.09.15/"),
        ("dukemtmc-reid", "DukeMTMC-reID/"),
        ("cuhk03-np-labeled", "cuhk03_new_protocol_config_labeled.mat"),
        ("cuhk03-np-detected", "images_detected/"),
        ("msmt17", "list_train.txt"),
        ("market-style", "bounding_box_train"),
        ("synth", "hat synth"),
        ("folder", "folder of images for each identity"),
    ],
)
def test_a_folder_without_the_data_set_is_told_with_what_was_expected(name, expected, touch, tmp_path):
    touch(tmp_path, ["readme.txt", "something/else.txt"])
    with pytest.raises(DataError) as caught:
        load_dataset(name, tmp_path)
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DataError, match="there is no such folder"):
        load_dataset(name, tmp_path / "none")


def test_images_of_other_names_are_counted_and_alone_are_an_error(touch, tmp_path):
    touch(tmp_path / OFFICIAL, [*TRAIN, *TEST, "query/holiday.jpg", "query/12_1.png"])
    dataset = load_dataset("market1501", tmp_path)
    assert len(dataset.query) == 2
    assert "2 images of query left out for their names, such as 12_1.png" in dataset.notes
    touch(tmp_path / "other", ["bounding_box_train/holiday.jpg"])
    with pytest.raises(DataError, match=r"0002_c1s1_000451_03\.jpg .*holiday\.jpg"):
        load_dataset("market-style", tmp_path / "other")


def test_duke_from_folder_and_zip(touch, zip_names, tmp_path):
    names = ["train/0001_c2_f0046182.jpg", "test/0005_c8_f0051341.jpg", "test/0003_c1_f0044158.jpg"]
    names = [f"DukeMTMC-reID/bounding_box_{name}" for name in names] + ["DukeMTMC-reID/query/0005_c2_f0046985.jpg"]
    (tmp_path / "b").mkdir()
    zip_names(tmp_path / "b" / "d.zip", names)
    for root in (touch(tmp_path / "a", names), tmp_path / "b"):
        dataset = load_dataset("dukemtmc-reid", root)
        assert (labels(dataset.train), labels(dataset.gallery)) == ([(1, 2)], [(3, 1), (5, 8)])
        for counts in ("17,661 images of 1,110", "2,228 images of 702", "16,522 images of 702"):
            assert f"published are {counts} identities" in dataset.notes[-1]


def test_assemble_tells_whether_counts_are_the_published_ones():
    def samples(num_images, num_pids):
        return [Sample("", i % num_pids + 1, 1) for i in range(num_images)]

    train, query, gallery = samples(16_522, 702), samples(2_228, 702), samples(17_661, 1_110)
    assert assemble("dukemtmc-reid", "d", train, query, gallery).notes == (
        "counts of images and identities are the published ones",
    )
    assert assemble("dukemtmc-reid", "d", train, query[1:], gallery).notes == (
        "not the published data set: query has 2,227 images of 702 identities, published are 2,228 images of 702 identities",
    )


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


def test_images_one_level_deeper_than_expected_are_named(touch, tmp_path):
    names = ["train/0001_c1_1.jpg", "query/batch1/0002_c1_1.jpg", "gallery/0002_c2_1.jpg"]
    with pytest.raises(DataError, match=r"query: no images, and the folders batch1; expected the images of the query part"):
        load_dataset("market-style", touch(tmp_path, names))
    with pytest.raises(DataError, match=rf"{tmp_path}.*the query is empty and the gallery is not"):
        load_dataset("market-style", touch(tmp_path / "b", ["query/.keep", "gallery/0002_c2_1.jpg"]))
