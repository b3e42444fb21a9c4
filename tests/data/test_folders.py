"""Layouts without a split of their own, as people really have them: a folder for each identity, or for each camera."""

import re
from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hat.data import detect_dataset, load_dataset, open_dataset
from hat.data.folders import read_identity_folders
from hat.errors import DataError

IMAGES = [f"{who}/{who}_c{cam}_{i}.jpg" for who in "abcd" for cam in (1, 2) for i in range(2)]


def labels(split):
    return sorted((sample.pid, sample.camid) for sample in split)


def test_read_identity_folders_given_splits(touch, zip_names, tmp_path):
    names = ["train/anna/c1_1.jpg", "train/bob/c2_1.jpg", "query/carl/c1_1.png", "gallery/carl/c2_1.JPEG"]
    names += ["gallery/-1/c2_9.jpg", "gallery/dora/c3_1.jpg", "gallery/dora/notes.txt", "gallery/dora/.c3_2.jpg"]
    for root in (touch(tmp_path / "d", names), zip_names(tmp_path / "d.zip", names)):
        dataset = load_dataset("folder", root)
        # anna, bob, carl, dora in sorted order; -1 is junk.
        assert labels(dataset.train) == [(1, 1), (2, 2)]
        assert (labels(dataset.query), labels(dataset.gallery)) == ([(3, 1)], [(3, 2), (4, 3)])
        assert dataset.notes == ()


def test_read_identity_folders_cameras_are_made_up_where_no_name_has_one(touch, tmp_path):
    names = ["train/0010/a.jpg", "query/0007/a.jpg", "gallery/0007/b.jpg", "gallery/0000/b.jpg"]
    dataset = load_dataset("folder", touch(tmp_path, names))
    assert (labels(dataset.train), labels(dataset.query)) == ([(10, 0)], [(7, 0)])
    assert labels(dataset.gallery) == [(0, 1), (7, 1)]
    assert dataset.notes == ("nothing says a camera: query taken as camera 0, gallery as camera 1, so that all pairs count",)
    assert not dataset.has_cameras


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["anna/c1_1.jpg", "bob/x.jpg"], r"bob/x\.jpg: 1 of 2 file names say no camera"),
        (["anna/c1_1.jpg", "anna/c2_1.jpg"], "at least 2"),
        *(
            ([f"{wrong}/x_c1_1.jpg", "anna/x_c1_1.jpg"], f"{wrong} is no person's; expected a folder for each identity")
            for wrong in ("images", "annotations", "Distractors", "JPEGImages")
        ),
    ],
)
def test_read_identity_folders_refuses(names, words, touch, tmp_path):
    with pytest.raises(DataError, match=words):
        load_dataset("folder", touch(tmp_path, names))


def test_read_identity_folders_what_is_not_read_is_told(touch, tmp_path):
    touch(tmp_path, [*IMAGES, "a/old/c3.jpg", "loose.jpg", "a/x.heic", "a/y.heic", "a/readme.txt", "b/Thumbs.db"])
    (tmp_path / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    notes = open_dataset(tmp_path).notes
    unread = "3 files are not read (2 .heic, 1 broken link to .jpg)"
    for start in ("1 folders inside identity folders", "1 images directly in", unread):
        assert any(note.startswith(start) for note in notes), notes


def test_read_identity_folders_all_are_for_training_where_nobody_was_seen_twice(touch, tmp_path):
    dataset = load_dataset("folder", touch(tmp_path, ["anna/c1_1.jpg", "anna/c1_2.jpg", "bob/c1_1.jpg", "carl/c2_1.jpg"]))
    assert (len(dataset.train), len(dataset.query)) == (4, 0) and any("seen twice" in note for note in dataset.notes)


def test_read_identity_folders_train_beside_val_draws_the_query_of_val(touch, tmp_path):
    data = open_dataset(touch(tmp_path, [f"{'train' if name[0] in 'ab' else 'val'}/{name}" for name in IMAGES]))
    assert (data.train.num_pids, data.query.num_pids, data.gallery.num_pids) == (2, 2, 2)
    assert len(data.train) == 8 and len(data.query) == len(data.gallery) == 4


@pytest.mark.parametrize("junk", ["@eaDir", "$RECYCLE.BIN", "lost+found", "__MACOSX", "System Volume Information", ".git"])
def test_read_identity_folders_folders_of_systems_are_nobody(junk, touch, tmp_path):
    data = open_dataset(touch(tmp_path, [*IMAGES, f"{junk}/a_c1_1.jpg", f"a/{junk}/b_c1_1.jpg"]))
    assert len(set(data.train.pids) | set(data.query.pids) | set(data.gallery.pids)) == 4


def test_read_identity_folders_cameras_from_folders_inside(touch, tmp_path):
    data = open_dataset(touch(tmp_path, [f"{who}/cam{cam}/{i}.jpg" for who in "abcd" for cam in (1, 2) for i in range(2)]))
    assert data.has_cameras and set(data.gallery.camids) == {1, 2}


# Images by (identity, camera): identities 0 to 7, cameras 1 to 4, up to 3 images each; camera None is "not said".
collections = st.dictionaries(st.tuples(st.integers(0, 7), st.integers(1, 4)), st.integers(1, 3), min_size=2, max_size=16)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=collections, with_cameras=st.booleans(), seed=st.integers(0, 3))
def test_read_identity_folders_a_drawn_split_is_whole_fair_and_repeatable(counts, with_cameras, seed, touch, tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    names = [
        f"p{pid}/{'c' if with_cameras else 'x'}{cam}_{i}.jpg" for (pid, cam), number in counts.items() for i in range(number)
    ]
    num_identities = len({pid for pid, _ in counts})
    assume(num_identities >= 2)
    touch(root, names)
    dataset, again = (read_identity_folders(root, split_seed=seed) for _ in range(2))
    splits = [split.samples for split in (dataset.train, dataset.query, dataset.gallery)]
    assert sorted(sample.path for split in splits for sample in split) == sorted(str(root / name) for name in names)
    assert [split.samples for split in (again.train, again.query, again.gallery)] == splits
    if not len(dataset.query):
        assert len(dataset.train) == len(names)
        return
    assert dataset.train.num_pids == num_identities // 2
    assert not set(dataset.train.pids.tolist()) & (set(dataset.query.pids.tolist()) | set(dataset.gallery.pids.tolist()))
    for query in dataset.query:
        assert any(match.pid == query.pid and match.camid != query.camid for match in dataset.gallery)
    assert max(Counter((query.pid, query.camid) for query in dataset.query).values()) == 1
    # Every identity for evaluation that could be searched for is.
    seen = {(s.pid, s.camid if with_cameras else s.path) for s in (*dataset.query, *dataset.gallery)}
    assert {query.pid for query in dataset.query} == {pid for pid, times in Counter(p for p, _ in seen).items() if times > 1}


def test_read_identity_folders_another_seed_draws_another_split_and_the_first_one_is_fixed(touch, tmp_path):
    touch(tmp_path, [f"p{pid:02d}/c{cam}_{i}.jpg" for pid in range(12) for cam in (1, 2) for i in range(2)])
    drawn = {seed: read_identity_folders(tmp_path, split_seed=seed) for seed in range(4)}
    assert len({tuple(sorted(set(dataset.train.pids.tolist()))) for dataset in drawn.values()}) > 1
    # Results on a drawn split can be compared across machines and versions only while the draw stays what it is.
    assert sorted(set(drawn[0].train.pids.tolist())) == [1, 5, 6, 8, 10, 12]
    assert "".join(path[-5] for path in drawn[0].query.paths) == "110110101011"
    assert load_dataset("folder", tmp_path).train.paths == drawn[0].train.paths


VIPER = [f"{cam}/{pid:03d}_{angle}.bmp" for pid in range(8) for cam, angle in (("cam_a", 0), ("cam_b", 90))]
PRID = [f"single_shot/cam_a/person_{pid:04d}.png" for pid in range(1, 7)]
PRID += [f"single_shot/cam_b/person_{pid:04d}.png" for pid in (1, 2, 3, 4, 11, 12, 13)]
PRID += ["multi_shot/cam_a/person_0001/0001.png", "multi_shot/cam_b/person_0001/0001.png"]
GRID = [f"probe/{pid:04d}_1_25004_107_32_106_221.jpeg" for pid in range(1, 5)]
GRID += [f"gallery/{pid:04d}_2_25004_107_32_106_221.jpeg" for pid in range(1, 5)]
GRID += [f"gallery/0000_2_2500{i}_107_32_106_221.jpeg" for i in range(3)]


@pytest.mark.parametrize(
    ("folder", "files", "name", "sizes", "others"),
    [
        ("VIPeR", VIPER, "viper", (8, 4, 4), set()),
        ("prid_2011", PRID, "prid2011", (4, 2, 2 + 3), {11, 12, 13}),  # single shots; three more people in the gallery
        ("underground_reid", GRID, "grid", (4, 2, 2 + 3), {0}),  # cameras from names; three distractors
    ],
)
def test_read_camera_folders_halves_and_the_first_camera_is_the_query(folder, files, name, sizes, others, touch, tmp_path):
    data = open_dataset(touch(tmp_path / folder, files))
    assert detect_dataset(tmp_path / folder) == "camera-folders" and data.name == folder
    assert (len(data.train), len(data.query), len(data.gallery)) == sizes
    assert set(data.query.camids) == {1} and set(data.gallery.camids) == {2}
    assert set(data.gallery.pids) - set(data.query.pids) == others
    assert not set(data.query.pids) & set(data.train.pids)
    assert len({tuple(load_dataset(name, tmp_path / folder, split_seed=seed).query.pids) for seed in range(5)}) > 1


@pytest.mark.parametrize("name", ["single_shot/{}/person_{:04d}.png", "multi_shot/{}/person_{:04d}/0001.png"])
def test_read_camera_folders_a_number_above_200_is_two_people_of_prid(name, touch, tmp_path):
    numbers = {"cam_a": (1, 2, 199, 200, 201, 202, 385), "cam_b": (1, 2, 199, 200, 201, 202, 203, 749)}
    files = [name.format(camera, number) for camera, people in numbers.items() for number in people]
    data = load_dataset("prid2011", touch(tmp_path, files))
    assert (data.train.num_pids, data.query.num_pids, data.gallery.num_pids) == (2, 2, 2 + 4)
    seen = [{re.search("person_([0-9]{4})", path)[1] for path in split.paths} for split in (data.train, data.query)]
    assert seen[0] | seen[1] == {"0001", "0002", "0199", "0200"} and not seen[0] & seen[1]
    assert any("3 people of cam_a numbered above 200 are left out" in note for note in data.notes)
    # Anybody's own people may have such numbers.
    own = [file.replace("person_", "p") for file in files]
    assert load_dataset("prid2011", touch(tmp_path / "own", own)).train.num_pids == 3


def test_read_camera_folders_with_identity_folders_inside(touch, tmp_path):
    names = [f"Cam{cam}/{who}/{i}.jpg" for cam in (1, 2) for who in ("anna", "bob", "carl", "dora") for i in range(2)]
    data = open_dataset(touch(tmp_path / "own", names))
    assert (len(data.train), len(data.query), len(data.gallery)) == (8, 4, 4)
    with pytest.raises(DataError, match="does not begin with an identity"):
        open_dataset(touch(tmp_path / "bad", ["cam1/x.jpg", "cam2/y.jpg"]))


def test_7_and_007_are_one_person_who_is_drawn_into_one_part(touch, tmp_path):
    names = [f"{who}/{file}_{who}.jpg" for who in ("7", "007", "8", "9") for file in "ab"]
    for seed in range(8):
        dataset = load_dataset("folder", touch(tmp_path / "own", names), split_seed=seed)
        assert not {sample.pid for sample in dataset.train} & {sample.pid for sample in dataset.query}
        assert Counter(sample.pid for part in (dataset.train, dataset.query, dataset.gallery) for sample in part)[7] == 4


def test_a_link_to_itself_and_names_with_accents_are_no_obstacle(touch, tmp_path):
    touch(tmp_path, [f"{who}/c{camera}_{number}.jpg" for who in ("Allé", "Zoë") for camera in (1, 2) for number in (1, 2)])
    (tmp_path / "Zoë" / "self.jpg").symlink_to("self.jpg")
    dataset = load_dataset("folder", tmp_path)
    assert len(dataset.train) + len(dataset.query) + len(dataset.gallery) == 8
    assert any("self.jpg" in note for note in dataset.notes)
