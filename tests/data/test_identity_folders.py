"""A folder for each identity: given splits, drawn splits, and cameras in file names."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hat.data import load_dataset
from hat.data.folders import read_identity_folders
from hat.errors import DataError


def labels(split):
    return sorted((sample.pid, sample.camid) for sample in split)


def test_given_splits(touch, zip_names, tmp_path):
    names = [
        "train/anna/c1_1.jpg",
        "train/bob/c2_1.jpg",
        "query/carl/c1_1.png",
        "gallery/carl/c2_1.JPEG",
        "gallery/-1/c2_9.jpg",
        "gallery/dora/c3_1.jpg",
        "gallery/dora/notes.txt",
        "gallery/dora/.c3_2.jpg",
    ]
    for root in (touch(tmp_path / "d", names), zip_names(tmp_path / "d.zip", names)):
        dataset = load_dataset("folder", root)
        # anna, bob, carl, dora in sorted order; -1 is junk.
        assert labels(dataset.train) == [(1, 1), (2, 2)]
        assert labels(dataset.query) == [(3, 1)]
        assert labels(dataset.gallery) == [(3, 2), (4, 3)]
        assert dataset.notes == ()


def test_numbers_are_kept_and_cameras_are_made_up_where_no_name_has_one(touch, tmp_path):
    names = ["train/0010/a.jpg", "query/0007/a.jpg", "gallery/0007/b.jpg", "gallery/0000/b.jpg"]
    dataset = load_dataset("folder", touch(tmp_path, names))
    assert labels(dataset.train) == [(10, 0)]
    assert labels(dataset.query) == [(7, 0)]
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


def test_nested_folders_are_told(touch, tmp_path):
    dataset = load_dataset(
        "folder", touch(tmp_path, [f"{pid}/{name}" for pid in "1234" for name in ("c1.jpg", "c2.jpg", "old/c3.jpg")])
    )
    assert any(note.startswith("4 folders inside identity folders") for note in dataset.notes)


def test_everything_is_for_training_where_nobody_was_seen_twice(touch, tmp_path):
    dataset = load_dataset("folder", touch(tmp_path, ["anna/c1_1.jpg", "anna/c1_2.jpg", "bob/c1_1.jpg", "carl/c2_1.jpg"]))
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (4, 0, 0)
    assert any("seen twice" in note for note in dataset.notes)


# Images by (identity, camera): identities 0 to 7, cameras 1 to 4, up to 3 images each; camera None is "not said".
collections = st.dictionaries(st.tuples(st.integers(0, 7), st.integers(1, 4)), st.integers(1, 3), min_size=2, max_size=16)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=collections, with_cameras=st.booleans(), seed=st.integers(0, 3))
def test_a_drawn_split_is_whole_fair_and_repeatable(counts, with_cameras, seed, touch, tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    names = [
        f"p{pid}/{'c' if with_cameras else 'x'}{cam}_{i}.jpg" for (pid, cam), number in counts.items() for i in range(number)
    ]
    num_identities = len({pid for pid, _ in counts})
    assume(num_identities >= 2)
    touch(root, names)
    dataset = read_identity_folders(root, split_seed=seed)
    splits = (dataset.train, dataset.query, dataset.gallery)
    assert sorted(path for split in splits for path in split.paths) == sorted(str(root / name) for name in names)
    again = read_identity_folders(root, split_seed=seed)
    assert [split.samples for split in (again.train, again.query, again.gallery)] == [split.samples for split in splits]
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


def test_another_seed_draws_another_split_and_the_first_one_is_fixed(touch, tmp_path):
    touch(tmp_path, [f"p{pid:02d}/c{cam}_{i}.jpg" for pid in range(12) for cam in (1, 2) for i in range(2)])
    drawn = {seed: read_identity_folders(tmp_path, split_seed=seed) for seed in range(4)}
    assert len({tuple(sorted(set(dataset.train.pids.tolist()))) for dataset in drawn.values()}) > 1
    # Results on a drawn split can be compared across machines and versions only while the draw stays what it is.
    assert sorted(set(drawn[0].train.pids.tolist())) == [1, 5, 6, 8, 10, 12]
    assert load_dataset("folder", tmp_path).train.paths == drawn[0].train.paths
