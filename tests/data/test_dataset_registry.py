"""Data sets by name, by folder, and by the spelling of the command line; and training sets joined."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hat.data import (
    JUNK_PID,
    ReIDDataset,
    Sample,
    Split,
    detect_dataset,
    list_datasets,
    load_dataset,
    merge_training,
    open_dataset,
)
from hat.data.datasets import find_overlaps
from hat.errors import DataError
from hat.evaluation import check_rankable

MARKET = ["bounding_box_train/0002_c1s1_1.jpg", "query/0001_c1s1_1.jpg", "bounding_box_test/0001_c2s1_1.jpg"]


@pytest.fixture
def layouts(tmp_path, touch, zip_names):
    """A folder with one data set of every kind."""
    touch(tmp_path / "m" / "Market-1501-v15.09.15", MARKET)
    (tmp_path / "mz").mkdir()
    zip_names(tmp_path / "mz" / "x.zip", [f"Market-1501-v15.09.15/{name}" for name in MARKET])
    touch(tmp_path / "d" / "DukeMTMC-reID", MARKET)
    touch(tmp_path / "own", MARKET)
    touch(tmp_path / "drawn", [*MARKET, "synth.json"])
    touch(tmp_path / "f", ["anna/c1_1.jpg", "anna/c2_1.jpg", "bob/c1_1.jpg", "bob/c2_1.jpg"])
    touch(tmp_path / "fs", ["train/anna/c1_1.jpg", "query/bob/c1_1.jpg", "gallery/bob/c2_1.jpg"])
    (tmp_path / "t.csv").write_text("path,pid,camid,split\nf/anna/c1_1.jpg,anna,1,train\n")
    return tmp_path


KINDS = dict.fromkeys(("m", "m/Market-1501-v15.09.15", "mz", "mz/x.zip"), "market1501")
KINDS |= {"d": "dukemtmc-reid", "own": "market-style", "drawn": "synth", "f": "folder", "fs": "folder", "t.csv": "csv"}


@pytest.mark.parametrize("folder", KINDS)
def test_every_kind_is_detected_and_opened(folder, layouts):
    root = layouts / folder
    assert detect_dataset(root) == KINDS[folder]
    detected, named = open_dataset(str(root)), open_dataset(f"{KINDS[folder]}={root}")
    own = KINDS[folder] in ("csv", "folder", "market-style")
    assert (detected.name, named.name) == (root.stem if own else KINDS[folder], KINDS[folder])
    assert detected.train.samples == named.train.samples != ()


def test_two_benchmarks_nothing_known_and_nothing_there(touch, tmp_path):
    touch(tmp_path / "Market-1501-v15.09.15", MARKET)
    touch(tmp_path / "DukeMTMC-reID", MARKET)
    with pytest.raises(DataError, match="holds market1501 and dukemtmc-reid; name the one that is meant, like market1501="):
        detect_dataset(tmp_path)
    assert open_dataset(f"duke={tmp_path}").name == "dukemtmc-reid"
    with pytest.raises(DataError, match="no known data set was found"):
        detect_dataset(touch(tmp_path / "none", ["a.txt", "b/c.txt", "train/holiday.jpg"]))
    with pytest.raises(DataError, match="there is no such folder"):
        detect_dataset(tmp_path / "nowhere")


def test_names(touch, tmp_path):
    others = ("cuhk03-np-labeled", "cuhk03-np-detected", "msmt17", "mars", "camera-folders")
    assert set(list_datasets()) == {*KINDS.values(), *others}
    touch(tmp_path, MARKET)
    for name in ("Market1501", "market-1501", "MARKET_1501", "market"):
        assert load_dataset(name, tmp_path).name == "market1501"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("markt1501", "market1501"), ("dukemtmc-ried", "dukemtmc-reid"), ("msmt71", "msmt17"), ("marketstyle2", "market-style")],
)
def test_a_wrong_name_brings_the_nearest_one(wrong, right, tmp_path):
    for call in (lambda: load_dataset(wrong, tmp_path), lambda: open_dataset(f"{wrong}={tmp_path}")):
        with pytest.raises(DataError, match=rf"unknown data set '{wrong}' \(did you mean {right}\?"):
            call()
    with pytest.raises(DataError, match=r"unknown data set 'zzzzzz' \(known: market1501,"):
        load_dataset("zzzzzz", tmp_path)


def test_home_folder_and_equals_signs_in_paths(touch, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path / "a=b", MARKET)
    assert len(load_dataset("market1501", "~/a=b").train) == 1
    assert open_dataset("market1501=~/a=b").name == "market1501"
    assert open_dataset("~/a=b").name == "a=b"
    assert detect_dataset("~/a=b") == "market-style"
    assert open_dataset(f"mine={tmp_path / 'a=b'}").name == "mine"
    assert open_dataset(f"market-style={tmp_path / 'a=b'}").name == "market-style"
    with pytest.raises(DataError, match="no folder after the ="):
        open_dataset("market1501=")


def test_importing_and_reading_brings_no_torch(touch, tmp_path):
    touch(tmp_path, MARKET)
    code = f"import sys, hat.data; hat.data.open_dataset({str(tmp_path)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def dataset(name, labels):
    train = Split("train", [Sample(f"{name}/{i}", pid, camid) for i, (pid, camid) in enumerate(labels)])
    return ReIDDataset(name, train, Split("query", ()), Split("gallery", ()))


label_lists = st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 4)), min_size=1, max_size=12)


@settings(max_examples=40)
@given(st.lists(label_lists, min_size=1, max_size=4))
def test_merged_labels_are_dense_and_keep_who_is_who(parts):
    parts = [[*labels, (3, 2)] for labels in parts]
    merged = merge_training([dataset(f"d{i}", labels) for i, labels in enumerate(parts)])
    before = [
        (f"d{i}/{j}", (i, pid), (i, camid))
        for i, labels in enumerate(parts)
        for j, (pid, camid) in enumerate(labels)
        if pid != JUNK_PID
    ]
    assert merged.paths == [path for path, _, _ in before]
    for values, origins in ((merged.pids, [pid for _, pid, _ in before]), (merged.camids, [cam for _, _, cam in before])):
        # The same label after exactly where it was the same in the same data set; rising with it; without gaps.
        assert values.tolist() == [sorted(set(origins)).index(origin) for origin in origins]
    assert merged.num_pids == merged.pids.max() + 1
    assert merged.name == "train"


def test_merging_nothing_and_a_part_without_training_images():
    with pytest.raises(DataError, match="no data set to train on"):
        merge_training([])
    with pytest.raises(DataError, match="empty has no training images"):
        merge_training([dataset("full", [(1, 1)]), dataset("empty", [(-1, 1)])])


def test_find_overlaps_by_content_and_identity(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train/0001_c1_1", "train/0002_c1_1", "query/0002_c1_2", "gallery/0002_c2_1", "gallery/0001_c2_1"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 4, 3), np.uint8)).save(path)
    assert find_overlaps(open_dataset(tmp_path)) == ()
    assert any("1 of 1 query identities are in the training part too" in note for note in open_dataset(tmp_path).notes)
    (tmp_path / "gallery" / "0002_c3_9.png").write_bytes((tmp_path / "query" / "0002_c1_2.png").read_bytes())
    (note,) = find_overlaps(open_dataset(tmp_path))
    assert note.startswith("1 pictures are in query and gallery both, such as ")
    table = tmp_path / "twice.csv"  # no two of these files are of one size
    (tmp_path / "train" / "0002_c1_1.png").write_bytes(b"0" * 1000)
    names = ("train/0001_c1_1.png", "train/0002_c1_1.png")
    rows = [f"{name},{pid},{split},{split}" for pid, name in enumerate(names) for split in ("train", "query", "gallery")]
    table.write_text("\n".join(["path,pid,camid,split", *rows]))
    notes = find_overlaps(open_dataset(table))
    assert [note[:44] for note in notes] == [
        f"2 pictures are in {first} and {second} both, such as"[:44]
        for first, second in (("query", "gallery"), ("train", "query"), ("train", "gallery"))
    ]


def test_check_rankable_says_what_is_void(touch, tmp_path):
    one_camera = load_dataset("market-style", touch(tmp_path / "a", ["query/0001_c1_1.jpg", "gallery/0001_c1_2.jpg"]))
    with pytest.raises(DataError, match="hat eval --no-cameras counts all pairs"):
        check_rankable(one_camera)
    without = one_camera.without_cameras()
    check_rankable(without)
    assert one_camera.has_cameras and not without.has_cameras
    assert set(without.query.camids) == {0} and set(without.gallery.camids) == {1}
    assert without.query.paths == one_camera.query.paths
    strangers = load_dataset("market-style", touch(tmp_path / "b", ["query/0001_c1_1.jpg", "gallery/0002_c2_2.jpg"]))
    with pytest.raises(DataError, match="no identity of the query is in the gallery"):
        check_rankable(strangers)
