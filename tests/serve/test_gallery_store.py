"""What a gallery in a file keeps: records, embeddings, ids; what it refuses; how it is read by others."""

import math
import time

import numpy as np
import pytest
from gallery_cases import (
    BINDING,
    EMBED_DIM,
    assert_neighbors,
    brute_force,
    new_record,
    new_records,
    open_small,
    sha256,
    unit_rows,
)

from hat.errors import UsageError
from hat.serve import Filter, Gallery, Record


@pytest.fixture(params=["float32", "float16"])
def gallery(request, tmp_path):
    with open_small(tmp_path / "people.gallery", stored_type=request.param) as opened:
        yield opened


def test_what_was_enrolled_is_there_after_it_was_opened_again(tmp_path):
    path = tmp_path / "people.gallery"
    rows = unit_rows(3)
    attributes = {"hat": True, "bags": 1, "height": 1.8, "note": "Grüße \0 'x'"}
    records = [
        new_record("a", pid=-1, camid=2, time_s=12.5, attributes=attributes),
        new_record("b", pid=2**63 - 1, thumbnail=b"\xff\xd8 small"),
        new_record("c", attributes={"hat": 1}),
    ]
    with Gallery.open(path, binding=BINDING, create=True) as gallery:
        assert gallery.add(rows, records) == [1, 2, 3]
        enrolled_s = [record.enrolled_s for record in gallery.get([1, 2, 3])]
    with Gallery.open(str(path)) as gallery:
        assert (len(gallery), gallery.binding, gallery.stored_type, gallery.location) == (3, BINDING, "float32", str(path))
        expected = [
            Record(**vars(r) | {"id": i, "enrolled_s": s}) for i, (r, s) in enumerate(zip(records, enrolled_s, strict=True), 1)
        ]
        assert gallery.get([2, 1, 2, 3], thumbnails=True) == [expected[1], expected[0], expected[1], expected[2]]
        assert type(gallery.get([1])[0].attributes["hat"]) is bool and type(gallery.get([3])[0].attributes["hat"]) is int
        assert gallery.get([2])[0].thumbnail is None
        np.testing.assert_array_equal(gallery.embeddings([3, 1, 3]), rows[[2, 0, 2]])
    assert [path.name for path in tmp_path.iterdir()] == ["people.gallery"]


def test_half_precision_is_kept_as_it_was_rounded(tmp_path):
    rows = unit_rows(5)
    with open_small(tmp_path / "a", stored_type="float16") as gallery:
        gallery.add(rows, new_records("abcde"))
        kept = gallery.embeddings([1, 2, 3, 4, 5])
        found = gallery.search(rows, 1)
    halves = rows.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(kept, halves / np.linalg.norm(halves, axis=1, keepdims=True), rtol=1e-6)
    assert_neighbors(found, brute_force(dict(enumerate(halves, 1)), rows, 1))
    with open_small(tmp_path / "a", stored_type="float32") as gallery:
        assert gallery.stored_type == "float16"  # it keeps its own


def test_an_image_that_is_there_keeps_its_id_and_its_record(gallery):
    rows = unit_rows(4)
    assert gallery.add(rows[:2], [new_record("a", pid=1), new_record("b", pid=2)]) == [1, 2]
    again = [new_record("b", pid=9), new_record("c"), new_record("c", pid=7), new_record("a")]
    assert gallery.add(rows, again) == [2, 3, 3, 1]
    assert [record.pid for record in gallery.get([1, 2, 3])] == [1, 2, None]
    assert len(gallery) == 3 and gallery.search(rows[1:2], 2).ids.tolist() == [[2, 3]]  # equal embeddings, by their ids
    assert gallery.ids_by_hash([sha256("a"), sha256("z"), sha256("c")]) == {sha256("a"): 1, sha256("c"): 3}


def test_a_record_may_have_been_enrolled_before_and_never_later(gallery):
    now = time.time()
    given = [new_record("a", enrolled_s=1000.0), new_record("b", enrolled_s=now + 1e6), new_record("c")]
    old, *rest = gallery.get(gallery.add(unit_rows(3), given))
    assert old.enrolled_s == 1000.0 and all(now <= record.enrolled_s <= time.time() for record in rest)
    with pytest.raises(UsageError, match="enrolled_s: expected seconds since 1970"):
        gallery.add(unit_rows(1), [new_record("d", enrolled_s=math.nan)])
    assert gallery.remove(enrolled_before_s=1000.0) == 0
    assert gallery.remove(enrolled_before_s=np.nextafter(1000.0, np.inf)) == 1 and gallery.ids().tolist() == [2, 3]


def test_removed_records_are_gone_and_their_ids_are_never_given_again(gallery):
    rows = unit_rows(6)
    gallery.add(rows, [new_record(name, pid=pid) for name, pid in zip("abcdef", [1, 1, 2, 2, None, 3], strict=True)])
    gallery.search(rows[:1])
    assert gallery.remove(pid=1) == 2 and gallery.remove(ids=[6, 6, 99]) == 1 and gallery.remove(pid=1) == 0
    assert gallery.ids().tolist() == [3, 4, 5] and len(gallery) == 3
    assert set(gallery.search(rows, 6).ids.ravel()) == {3, 4, 5, -1}
    with pytest.raises(UsageError, match="no record with id 1, 6: it was never enrolled, or was removed"):
        gallery.get([1, 3, 6])
    with pytest.raises(UsageError, match="no record with id 6"):
        gallery.embeddings([6, 3])
    assert gallery.add(rows[:2], new_records("af")) == [7, 8]  # not 6 again, and the image may be enrolled again
    gallery.vacuum()
    assert gallery.add(rows[:1], new_records("g")) == [9]
    assert gallery.get([7])[0].pid is None and gallery.search(rows[:1], 1).ids.item() in (7, 9)
    for conditions in ({}, {"ids": [7], "pid": 2}, {"enrolled_before_s": math.nan}, {"enrolled_before_s": "x"}):
        with pytest.raises(UsageError, match=r"exactly one|expected seconds"):
            gallery.remove(**conditions)
    assert len(gallery) == 6 and gallery.remove(ids=[]) == 0


def test_an_empty_gallery_and_no_queries(gallery):
    found = gallery.search(unit_rows(2), 3)
    assert (found.ids == -1).all() and np.isnan(found.similarities).all() and found.ids.shape == (2, 3)
    assert gallery.add(np.empty((0, EMBED_DIM), dtype=np.float32), []) == []
    with pytest.raises(UsageError, match="got 1 records and 2 embeddings"):
        gallery.add(unit_rows(2), new_records("a"))
    assert gallery.get([]) == [] and gallery.embeddings([]).shape == (0, EMBED_DIM) and list(gallery.records()) == []
    gallery.add(unit_rows(1), new_records("a"))
    assert gallery.search(np.empty((0, EMBED_DIM), dtype=np.float32), 3).ids.shape == (0, 3)
    assert gallery.counts().first_seen_s is None


def test_counts_and_records_of_a_filter(gallery):
    values = [(1, 0, 30.0), (1, 1, None), (None, 1, 10.0), (2, None, 20.0)]
    records = [new_record(i, pid=pid, camid=camid, time_s=time_s) for i, (pid, camid, time_s) in enumerate(values)]
    gallery.add(unit_rows(4), records)
    counts = gallery.counts()
    assert (counts.num_records, counts.first_seen_s, counts.last_seen_s) == (4, 10.0, 30.0)
    assert counts.by_pid == {1: 2, 2: 1, None: 1} and counts.by_camid == {0: 1, 1: 2, None: 1}
    assert [record.id for record in gallery.records(Filter(camids=frozenset([1])), chunk=1)] == [2, 3]
    gallery.remove(ids=[1])
    assert gallery.counts().by_pid == {1: 1, 2: 1, None: 1}
    streamed = []
    for record in gallery.records(chunk=1):
        streamed.append(record.id)
        gallery.remove(ids=[3])
    assert streamed == [2, 4]


def test_what_is_no_embedding_is_refused(gallery):
    for embeddings, message in (
        (unit_rows(2, dim=7), r"expected floating point of shape \(n, 8\), as this gallery holds; got float32 \(2, 7\)"),
        (unit_rows(2)[0], r"got float32 \(8,\)"),
        (np.ones((2, EMBED_DIM), dtype=np.int64), "got int64"),
        (unit_rows(2) * 1.01, "expected rows of length 1, got 1.01 in row 0 .2 of 2"),
        (np.full((2, EMBED_DIM), np.nan), "got nan in row 0"),
        (np.vstack([unit_rows(1), np.zeros((1, EMBED_DIM))]), "got 0 in row 1 .1 of 2"),
        (np.full((2, EMBED_DIM), 3e38), "got inf in row 0"),
    ):
        for use in (gallery.search, lambda rows: gallery.add(rows, new_records("ab"))):
            with pytest.raises(UsageError, match=message):
                use(embeddings)
    assert len(gallery) == 0


def test_search_refuses_a_number_of_neighbors_that_cannot_be(gallery):
    for top in (0, -1, 2**40):
        with pytest.raises(UsageError, match="top"):
            gallery.search(unit_rows(1), top)


def test_a_wrong_record_is_refused_with_all_that_came_with_it(gallery):
    for values, message in (
        ({"content_hash": "abc"}, "content_hash: expected a SHA-256"),
        ({"content_hash": "A" * 64}, "64 lower-case hexadecimal"),
        ({"source": "x" * 5000}, "source has 5,000 characters, the limit is 4,096"),
        ({"source": "\udcff.jpg"}, "no valid Unicode"),
        ({"pid": 2**63}, "pid: expected a number between"),
        ({"pid": 1.5}, "pid: expected a whole number or a name, got 1.5"),
        ({"camid": "1"}, "camid: expected a whole number"),
        ({"time_s": float("inf")}, "time_s: expected seconds"),
        ({"time_s": "12:30"}, "time_s: expected seconds since 1970, got '12:30'"),
        ({"attributes": {"x": [1]}}, "attribute x: expected text, a number of at most 64 bits"),
        ({"attributes": {"x": float("nan")}}, "attribute x"),
        ({"attributes": {"x": 2**70}}, "attribute x"),
        ({"attributes": {1: "x"}}, "name of an attribute"),
        ({"attributes": {f"{i}": i for i in range(65)}}, "65 attributes, the limit is 64"),
        ({"thumbnail": b""}, "thumbnail: expected JPEG bytes"),
        ({"thumbnail": bytes(2**20 + 1)}, "at most 1048576"),
    ):
        with pytest.raises(UsageError, match=message):
            gallery.add(unit_rows(2), [new_record("good"), new_record("bad", **values)])
    assert len(gallery) == 0


def test_numbers_of_numpy_are_numbers(gallery):
    values = {"pid": np.int64(4), "camid": np.uint8(2), "time_s": np.float32(1.5), "attributes": {"x": np.float64(0.5)}}
    (id_,) = gallery.add(unit_rows(1).astype(np.float64), [new_record("a", **values)])
    record = gallery.get([np.int64(id_)])[0]
    assert (record.pid, record.camid, record.time_s, record.attributes) == (4, 2, 1.5, {"x": 0.5})
    assert gallery.ids(Filter(pids=frozenset([np.int64(4)]))).tolist() == [1]


def test_a_reader_changes_nothing_and_sees_what_is_written(tmp_path):
    rows = unit_rows(3)
    with open_small(tmp_path / "g") as writer, open_small(tmp_path / "g", read_only=True) as reader:
        assert reader.read_only and reader.search(rows[:1], 1).ids == [[-1]]
        writer.add(rows[:2], new_records("ab"))
        assert len(reader) == 2 and reader.search(rows[:1], 1).ids == [[1]]
        writer.remove(ids=[1])
        writer.add(rows[2:], new_records("c"))
        assert reader.search(rows[:1], 3).ids.tolist()[0][2] == -1 and reader.ids().tolist() == [2, 3]
        writer.vacuum()
        assert sorted(reader.search(rows[:1], 2).ids[0]) == [2, 3]
        for change in (lambda: reader.add(rows[:1], new_records("d")), lambda: reader.remove(ids=[2]), reader.vacuum):
            with pytest.raises(UsageError, match="opened to be read only and cannot be changed"):
                change()
        assert len(writer) == 2


def test_a_closed_gallery_says_so(gallery):
    gallery.close()
    gallery.close()
    for ask in (lambda: len(gallery), lambda: gallery.search(unit_rows(1)), gallery.vacuum):
        with pytest.raises(UsageError, match="was closed: open it again"):
            ask()
