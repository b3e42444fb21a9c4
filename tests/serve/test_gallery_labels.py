"""Identities that are names, labels that change, copies, and galleries of earlier versions."""

import contextlib
import gzip
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from gallery_cases import BINDING, assert_neighbors, brute_force, new_record, open_small, unit_rows

from hat.errors import UsageError
from hat.serve import Filter, Gallery
from hat.serve.gallery.identities import check_identity, name_number, parse_identity
from hat.serve.gallery.record_checks import MAX_ATTRIBUTES
from hat.serve.gallery.records import RecordsMissingError

ROWS = unit_rows(12)
PEOPLE = ["alice", 7, None, "Zoë Ünal", "1e5", "nan", 7, "alice", -5, None, "0x10", "alice"]


@pytest.fixture
def gallery(tmp_path):
    with open_small(tmp_path / "g") as opened:
        opened.add(ROWS, [new_record(number, pid=pid, camid=number % 3) for number, pid in enumerate(PEOPLE)])
        yield opened


def test_identities_may_be_names(gallery):
    assert [record.pid for record in gallery.records()] == PEOPLE
    assert gallery.counts().by_pid == {"alice": 3, 7: 2, None: 2, "Zoë Ünal": 1, "1e5": 1, "nan": 1, -5: 1, "0x10": 1}
    assert gallery.ids(Filter.of(pids=["alice", 7])).tolist() == [1, 2, 7, 8, 12]
    expected = brute_force({id_: ROWS[id_ - 1] for id_ in (1, 8, 12)}, ROWS[:2], 4)
    assert_neighbors(gallery.search(ROWS[:2], 4, Filter.of(pids=["alice"])), expected)
    assert gallery.remove(pid="alice") == 3 and "alice" not in gallery.counts().by_pid
    with gallery._reader.reading() as sqlite:  # of somebody who was removed not even the name is left
        assert {name for (name,) in sqlite.execute("SELECT name FROM names")} == {"Zoë Ünal", "1e5", "nan", "0x10"}


def test_check_identity_refuses_what_could_be_taken_for_another_person(gallery):
    for pid in ("7", "007", "7.0", "", " alice", "a\nb", "x" * 201, 1.5, True, -(2**62), 2**63, b"a"):
        for refuse in (lambda pid: gallery.add(ROWS[:1], [new_record("x", pid=pid)]), lambda pid: check_identity(pid, "pid")):
            with pytest.raises(UsageError, match="pid"):
                refuse(pid)


def test_parse_identity_reads_numbers_and_names_whose_numbers_meet_no_other_identity():
    assert [parse_identity(text, "--pid") for text in ("7", "007", "7.0", "alice", "7 b")] == [7, 7, 7, "alice", "7 b"]
    for text in ("-1", "-3", "", "a\tb"):
        with pytest.raises(UsageError, match="--pid"):
            parse_identity(text, "--pid")
    numbers = [name_number(f"person {number}") for number in range(10_000)]
    assert len(set(numbers)) == 10_000 and max(numbers) <= -(2**62) and min(numbers) > -(2**63)


def test_update_relabels_renames_and_merges(gallery, tmp_path):
    with Gallery.open(tmp_path / "g", read_only=True) as reader:
        reader.prepare()
        assert gallery.update([3, 10], {"pid": "bob"}) == 2
        assert reader.ids(Filter.of(pids=["bob"])).tolist() == [3, 10]  # another process follows
        assert gallery.update(gallery.ids(Filter.of(pids=["alice"])).tolist(), {"pid": 7}) == 3  # alice is 7: merged
        assert reader.counts().by_pid[7] == 5 and "alice" not in reader.counts().by_pid
        assert gallery.update([1], {"pid": 7}) == 0
        assert gallery.update([2], {"pid": None, "camid": 9, "time_s": 5.0, "attributes": {"hat": True}}) == 1
        (record,) = reader.get([2])
        assert (record.pid, record.camid, record.time_s, record.attributes) == (None, 9, 5.0, {"hat": True})
        assert gallery.update([2], {"attributes": {"hat": False, "bag": 1}}) == 1
        assert reader.get([2])[0].attributes == {"hat": False, "bag": 1}
        assert reader.ids(Filter.of(attributes={"hat": False})).tolist() == [2]
        assert_neighbors(reader.search(ROWS[:3], 5), brute_force(dict(enumerate(ROWS, 1)), ROWS[:3], 5))


def test_update_changes_all_or_nothing(gallery):
    with pytest.raises(RecordsMissingError, match="no record with id 99"):
        gallery.update([1, 99], {"pid": 3})
    for labels in ({}, {"source": "x"}, {"pid": "7"}, {"camid": "a"}, {"time_s": float("nan")}):
        with pytest.raises(UsageError):
            gallery.update([1], labels)
    assert [record.pid for record in gallery.records()] == PEOPLE
    with Gallery.open(gallery.location, read_only=True) as reader, pytest.raises(UsageError, match="read only"):
        reader.update([1], {"pid": 3})


def test_a_gallery_of_the_first_release_opens_and_takes_names(tmp_path):
    """Made by the code as it was before identities had names: five records, the second removed, a compatible model accepted."""
    path = tmp_path / "old.gallery"
    path.write_bytes(gzip.decompress((Path(__file__).parent / "format_1.gallery.gz").read_bytes()))
    with Gallery.open(path, binding=BINDING, read_only=True) as gallery:
        records = gallery.get([1, 3, 4, 5], thumbnails=True)
        labels = [(record.pid, record.camid, record.time_s) for record in records]
        assert labels == [(None, 0, 0.0), (2, 0, 20.0), (3, 1, 30.0), (4, 0, 40.0)]
        assert records[2].attributes == {"hat": True, "n": 3} and records[0].thumbnail == b"jpeg"
        assert [model.precision for model in gallery.binding.compatible_models] == ["int8"]
        assert gallery.search(np.eye(8, dtype=np.float32)[3:4], 1).ids == [[4]]
    for pid, version in ((9, 1), ("bob", 2)):  # without names it is of the first format, which earlier versions read too
        with Gallery.open(path) as gallery:
            assert gallery.update([1], {"pid": pid}) == 1
        with contextlib.closing(sqlite3.connect(path)) as raw:
            assert raw.execute("PRAGMA user_version").fetchone() == (version,)
    with Gallery.open(path) as gallery:
        assert gallery.add(unit_rows(1, 3), [new_record("new", pid="eve")]) == [6]
        assert gallery.counts().by_pid == {"bob": 1, 2: 1, 3: 1, 4: 1, "eve": 1}


def test_page_goes_through_all_records_and_leaves_out_those_that_vanish(gallery, monkeypatch):
    where = Filter.of(camids=[0, 1])
    ids, after = [], 0
    while after is not None:
        page = gallery.page(where, after_id=after, limit=4)
        assert page.num_matching == 8 and len(page.records) == 4
        ids += [record.id for record in page.records]
        after = page.next_after_id
    assert ids == gallery.ids(where).tolist()
    before = gallery.ids().tolist()
    gallery.remove(ids=[2, 3])
    # As they were a moment ago.
    monkeypatch.setattr(gallery, "_ids", lambda where, after_id=0, limit=None: np.array(before[:limit]))
    page = Gallery.page(gallery, None, limit=4)
    assert [record.id for record in page.records] == [1, 4] and page.next_after_id == 4
    assert [record.id for record in Gallery.records(gallery, chunk=5)] == [1, *range(4, 13)]


def test_the_log_is_taken_into_the_file_as_it_grows(tmp_path, gallery):
    for start in range(0, 400, 20):  # a megabyte each
        gallery.add(unit_rows(20), [new_record(f"n{number}", thumbnail=bytes(50_000)) for number in range(start, start + 20)])
    assert (tmp_path / "g-wal").stat().st_size < 2 * 2**22
    shutil.copy(tmp_path / "g", tmp_path / "torn")
    with Gallery.open(tmp_path / "torn", read_only=True) as torn:
        assert len(torn) > 200  # a plain copy lacks what is in the log, and by now most of it is not


def test_attributes_are_bounded_over_all_changes_and_the_box_is_not_theirs(tmp_path):
    with open_small(tmp_path / "a.gallery") as gallery:
        gallery.add(unit_rows(1), [new_record("a")])
        gallery.update([1], {"attributes": {f"first{number}": number for number in range(MAX_ATTRIBUTES)}})
        with pytest.raises(UsageError, match="65 attributes, the limit is 64"):
            gallery.update([1], {"pid": 3, "attributes": {"second": 1}})
        with pytest.raises(UsageError, match="'box' is kept for"):
            gallery.update([1], {"attributes": {"box": "1,2,30,40"}})
        (record,) = gallery.get([1])
        assert record.pid is None and len(record.attributes) == MAX_ATTRIBUTES
        assert gallery.update([1], {"attributes": {"first1": True}}) == 1  # which equals 1, and is another value
        assert gallery.get([1])[0].attributes["first1"] is True
