"""A gallery in a real Milvus server answers as a local one does and keeps its promises. See milvus_server for the server."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from gallery_cases import BINDING, EMBED_DIM, new_record, open_small, unit_rows
from milvus_server import milvus_server

from hat.errors import HatError, UsageError, WorkError
from hat.serve import CompatibleModel, Filter, Gallery
from hat.serve.milvus.gallery import MilvusGallery

pytestmark = pytest.mark.slow

HOSTILE = ['"', "\\", '") or (id > 0', "' or 1 == 1 or '", "é🙂", "\u2028", "\x00", "%s{x}"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a running server."""
    pytest.importorskip("pymilvus", reason="the extra milvus is not installed")
    with milvus_server(tmp_path_factory.mktemp("milvus")) as port:
        yield f"milvus://127.0.0.1:{port}"


@pytest.fixture
def location(server, request):
    """The address of a gallery that no other test uses."""
    return f"{server}/{request.node.originalname}"


def records(count, start=0):
    """Records of every kind: known and unknown numbers, hostile texts, thumbnails here and there."""
    made = []
    for n in range(start, start + count):
        attributes = {"color": ["red", "blue"][n % 2], HOSTILE[n % 8]: HOSTILE[(n + 3) % 8], "n": n % 4, "old": n % 3 == 0}
        values = {
            "pid": None if n % 7 == 0 else ["Zoë Ü.", "bob"][n % 2] if n % 11 == 0 else n % 5 - 1,
            "camid": None if n % 6 == 0 else n % 3,
            "time_s": None if n % 4 == 0 else 1.7e9 + n * 0.25,
            "attributes": attributes if n % 9 else {},
            "thumbnail": bytes([n % 256]) * n if n % 2 else None,
        }
        made.append(new_record(n, source=f"{HOSTILE[n % 8]}/{n}.jpg", **values))
    return made


@pytest.fixture(scope="module")
def pair(server, tmp_path_factory):
    """A gallery in Milvus and the same in SQLite, with images that are equally near, and some removed again."""
    vectors = unit_rows(300)
    vectors[[17, 250, 90]] = vectors[40]
    given = records(300)
    with (
        Gallery.open(f"{server}/pair", binding=BINDING, create=True) as gallery,
        open_small(tmp_path_factory.mktemp("local") / "pair.gallery") as local,
    ):
        for one in (gallery, local):
            for start in range(0, 300, 70):
                ids = one.add(vectors[start : start + 70], given[start : start + 70])
                assert ids == list(range(start + 1, min(start + 70, 300) + 1))
            assert one.remove(ids=[5, 6, 200, 9999]) == 3
            assert one.remove(pid=2) > 10
        yield gallery, local, vectors


FILTERS = [
    None,
    Filter(),
    Filter(camids=frozenset({1, 2})),
    Filter(camids=frozenset()),
    Filter(exclude_camids=frozenset({0, 7})),
    Filter(pids=frozenset({-1, 3, 2**70, "bob"})),
    Filter(since_s=1.7e9 + 20),
    Filter(until_s=1.7e9 + 20.25),
    Filter(since_s=1.7e9 + 10, until_s=1.7e9 + 30, camids=frozenset({1})),
    Filter(exclude_ids=frozenset(range(1, 250))),
    Filter(attributes={"color": "red", "n": 2}),
    Filter(attributes={"old": True}),
    Filter(attributes={"old": False, "n": 3.0}),
    Filter(attributes={"old": 1}),
    Filter(attributes={"n": "2"}),
    Filter(attributes={'color") or (id > 0': "red"}),
    *(Filter(attributes={HOSTILE[n]: HOSTILE[(n + 3) % 8]}) for n in range(8)),
]


def test_searches_answer_as_a_local_gallery_does(pair):
    gallery, local, vectors = pair
    queries, sizes = np.concatenate([unit_rows(4, seed=1), vectors[[40, 3]]]), []
    for where in FILTERS:
        for top in (3, 400):
            found, expected = gallery.search(queries, top, where), local.search(queries, top, where)
            np.testing.assert_array_equal(found.ids, expected.ids, err_msg=str(where))
            np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)
            assert (found.ids.dtype, found.similarities.dtype) == (np.int64, np.float32)
        np.testing.assert_array_equal(gallery.ids(where), local.ids(where))
        sizes.append(len(local.ids(where)))
    assert len(set(sizes)) > 10 and sizes.count(0) == 4  # the filters tell records apart


def test_records_come_back_as_they_were(pair):
    gallery, local, vectors = pair
    ids = [int(one) for one in gallery.ids()]
    shuffled = [*ids[::-1], ids[0]]
    for mine, theirs in zip(gallery.get(shuffled, thumbnails=True), local.get(shuffled, thumbnails=True), strict=True):
        assert replace(mine, enrolled_s=0) == replace(theirs, enrolled_s=0)
        assert abs(mine.enrolled_s - theirs.enrolled_s) < 600
    assert all(record.thumbnail is None for record in gallery.get(ids))
    np.testing.assert_array_equal(gallery.embeddings(shuffled), local.embeddings(shuffled))
    np.testing.assert_array_equal(gallery.embeddings([3]), vectors[[2]])
    assert gallery.get([]) == [] and gallery.embeddings([]).shape == (0, EMBED_DIM)
    read, expected = ([r.id for r in one.records(Filter(camids=frozenset({1})), chunk=40)] for one in (gallery, local))
    assert read == expected
    for missing in (5, 0, -1, 2**60):
        for read in (gallery.get, gallery.embeddings):
            with pytest.raises(UsageError, match=f"no record with id {missing}"):
                read([3, missing])
    assert gallery.counts() == local.counts() and len(gallery) == len(local)
    hashes = {record.content_hash for record in records(320)}
    assert gallery.ids_by_hash(hashes) == local.ids_by_hash(hashes) and gallery.ids_by_hash(set()) == {}
    where, after = Filter(camids=frozenset({1, 2})), 0
    while after is not None:
        page, expected = (one.page(where, after_id=after, limit=40) for one in (gallery, local))
        assert [record.id for record in page.records] == [record.id for record in expected.records]
        assert (page.num_matching, page.next_after_id) == (expected.num_matching, expected.next_after_id)
        after = page.next_after_id


def test_what_is_refused_leaves_nothing(pair):
    gallery, good = pair[0], unit_rows(2)
    with pytest.raises(UsageError, match="hexadecimal"):
        gallery.ids_by_hash({'x" or "'})
    with pytest.raises(UsageError, match="make it smaller"):
        gallery.add(good, [*records(1, start=900), new_record("b", thumbnail=bytes(60_000))])
    assert gallery.search(good[:0], 3).ids.shape == (0, 3) and gallery.add(good[:0], []) == []
    assert gallery.ids_by_hash({record.content_hash for record in records(2, start=900)}) == {}


def test_an_image_is_enrolled_once_and_an_id_is_given_once(location):
    vectors = unit_rows(8)
    with Gallery.open(location, binding=BINDING, create=True) as gallery:
        given = records(6)
        again = replace(given[0], source="again")
        assert gallery.add(vectors[[0, 1, 0, 2]], [given[0], given[1], again, given[2]]) == [1, 2, 1, 3]
        assert gallery.add(vectors[[3, 1]], [given[3], given[1]]) == [4, 2]
        assert (len(gallery), gallery.get([1])[0].source) == (4, given[0].source)
        assert gallery.remove(ids={3, 4}) == 2
        assert gallery.add(vectors[[3]], [given[3]]) == [5]
        before_s = time.time()
        assert gallery.remove(enrolled_before_s=before_s - 3600) == 0
        assert gallery.remove(enrolled_before_s=before_s + 3600) == 3
        assert (len(gallery), gallery.search(vectors[:1], 2).ids.tolist()) == (0, [[-1, -1]])
    with Gallery.open(location, create=True) as gallery:
        assert gallery.add(vectors[[5]], [given[5]]) == [6]


def test_the_one_who_opened_it_last_writes_and_readers_see_it_at_once(location):
    vectors, given = unit_rows(4), records(4)
    first = Gallery.open(location, binding=BINDING, create=True)
    reader = Gallery.open(location, binding=BINDING, read_only=True)
    first.add(vectors[:1], given[:1])
    assert (len(reader), reader.search(vectors[:1], 1).ids.tolist()) == (1, [[1]])
    second = Gallery.open(location)
    for change in (lambda: first.add(vectors[1:2], given[1:2]), lambda: first.remove(ids=[1]), first.vacuum):
        with pytest.raises(WorkError, match="another process has opened it for writing since"):
            change()
    assert second.add(vectors[1:3], given[1:3]) == [2, 3]
    assert first.search(vectors[2:3], 1).ids.tolist() == reader.search(vectors[2:3], 1).ids.tolist() == [[3]]
    assert second.remove(ids=[1]) == 1
    assert (len(reader), reader.search(vectors[:1], 3).ids.tolist()[0].count(1)) == (2, 0)
    compatible = CompatibleModel(fingerprint="b" * 64, precision="fp16", worst_cosine=0.9999)
    for change in (lambda: reader.add(vectors[3:], given[3:]), reader.vacuum, lambda: reader.accept(compatible)):
        with pytest.raises(UsageError, match="read only"):
            change()
    first.close()
    first.close()
    assert len(second) == len(reader) == 2
    reader.close()
    second.close()


def test_it_knows_whose_embeddings_it_holds(location):
    other = replace(BINDING, fingerprint="b" * 64, precision="fp16")
    for options, words in (
        ({"binding": BINDING}, "no such gallery"),
        ({"binding": BINDING, "create": True, "read_only": True}, "no such gallery"),
        ({"create": True}, "needs to know the model"),
    ):
        with pytest.raises(UsageError, match=words):
            Gallery.open(location, **options)
    with Gallery.open(location, binding=BINDING, create=True) as gallery:
        assert (gallery.binding, gallery.location, gallery.stored_type) == (BINDING, location, "float32")
        with pytest.raises(UsageError, match="precision: fp32, fp16"):
            Gallery.open(location, binding=other)
        for cosine in (0.99, 0.9999):
            gallery.accept(CompatibleModel(fingerprint="b" * 64, precision="fp16", worst_cosine=cosine))
        gallery.check_model(other)
    with Gallery.open(location, binding=other, read_only=True) as gallery:
        assert [one.worst_cosine for one in gallery.binding.compatible_models] == [0.9999]


def test_one_that_was_left_half_made_is_finished(location, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(MilvusGallery, "_load", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Gallery.open(location, binding=BINDING, create=True)
    with Gallery.open(location, binding=BINDING) as gallery:
        assert gallery.add(unit_rows(2), records(2)) == [1, 2]
        assert gallery.search(unit_rows(2), 1).ids.tolist() == [[1], [2]]


def test_what_is_no_gallery_is_left_alone(location, server):
    from pymilvus import MilvusClient

    client = MilvusClient(uri=server.replace("milvus", "http"))
    name = location.rpartition("/")[2]
    client.create_collection(name, dimension=4)
    for create in (False, True):
        with pytest.raises(UsageError, match="a collection of something else and no gallery"):
            Gallery.open(location, binding=BINDING, create=create)
    assert not any(key.startswith("hat_reid") for key in client.describe_collection(name).get("properties") or {})
    client.alter_collection_properties(name, properties={"hat_reid.format": "2", "hat_reid.binding": "{}"})
    with pytest.raises(UsageError, match="is of format 2, this version reads up to 1: update"):
        Gallery.open(location)
    client.alter_collection_properties(name, properties={"hat_reid.format": "1"})
    with pytest.raises(UsageError, match=r"cannot be read which model made it|is missing"):
        Gallery.open(location)
    client.close()
    with pytest.raises(UsageError, match="has no database 'nowhere'"):
        Gallery.open(f"{server}/people?db=nowhere")


def test_more_than_one_answer_holds_is_asked_for_in_parts(location):
    """Milvus gives at most 16,384 rows at once."""
    count = 20_000
    vectors = unit_rows(count)
    vectors[::1000] = vectors[0]
    with Gallery.open(location, binding=BINDING, create=True) as gallery:
        for start in range(0, count, 5000):
            given = [new_record(n, pid=n % 2) for n in range(start, start + 5000)]
            gallery.add(vectors[start : start + 5000], given)
        assert gallery.ids().tolist() == list(range(1, count + 1))
        similarities = vectors[:2] @ vectors.T
        for top, where, passing in (
            (19_000, None, np.arange(count)),
            (count, Filter(pids=frozenset({1})), np.arange(1, count, 2)),
            (16_384, None, np.arange(count)),
        ):
            found = gallery.search(vectors[:2], top, where)
            for row in range(2):
                num_found = min(top, len(passing))
                ids = found.ids[row, :num_found]
                assert len(set(ids.tolist())) == num_found and set((ids - 1).tolist()) <= set(passing.tolist())
                nearest = np.sort(similarities[row, passing])[::-1][:num_found]
                np.testing.assert_allclose(found.similarities[row, :num_found], nearest, atol=1e-6)
                np.testing.assert_allclose(similarities[row, ids - 1], nearest, atol=1e-6)
                assert (found.ids[row, num_found:] == -1).all()
        assert gallery.search(vectors[:1], 10).ids.tolist() == [[n + 1 for n in range(0, 10_000, 1000)]]
        assert gallery.counts().by_pid == {0: 10_000, 1: 10_000}
        np.testing.assert_array_equal(gallery.embeddings(range(1, count + 1)), vectors)
        assert gallery.remove(pid=0) == 10_000
        assert (len(gallery), gallery.counts().by_pid) == (10_000, {1: 10_000})


def test_threads_share_a_gallery(location):
    vectors = unit_rows(120)
    with Gallery.open(location, binding=BINDING, create=True) as gallery, ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda n: gallery.add(vectors[n : n + 10], records(10, start=n)), range(0, 120, 10)))
        assert sorted(one for part in parts for one in part) == list(range(1, 121))
        where_each_is = np.array([one for part in parts for one in part])
        answers = list(pool.map(lambda n: gallery.search(vectors[n : n + 1], 1).ids[0, 0], range(0, 120, 4)))
        np.testing.assert_array_equal(answers, where_each_is[::4])


def test_a_write_that_fails_leaves_nothing(location, monkeypatch):
    """Faked: the server's refusal of the second of several messages."""
    from pymilvus.exceptions import MilvusException

    vectors, given = unit_rows(40), [new_record(n, thumbnail=bytes(40_000)) for n in range(40)]
    with Gallery.open(location, binding=BINDING, create=True) as gallery:
        client, sent = gallery._client, []
        upsert = client.upsert

        def fail_at_second(*args, **kwargs):
            sent.append(1)
            if len(sent) == 2:
                raise MilvusException(message="disk\nfull")
            return upsert(*args, **kwargs)

        monkeypatch.setattr("hat.serve.milvus.gallery.MESSAGE_BYTES", 2**20)
        monkeypatch.setattr(client, "upsert", fail_at_second)
        with pytest.raises(WorkError, match=r"could not do it: disk full$"):
            gallery.add(vectors, given)
        assert (len(sent), len(gallery), gallery.ids_by_hash({one.content_hash for one in given})) == (2, 0, {})
        assert gallery.add(vectors[:2], given[:2]) == [41, 42]

        def fail(*args, **kwargs):
            raise MilvusException(message="gone")

        sent.clear()
        monkeypatch.setattr(client, "delete", fail)
        with pytest.raises(WorkError, match="some of the 38 records may have been written; writing them again is safe"):
            gallery.add(vectors[2:], given[2:])
        known = gallery.ids_by_hash({one.content_hash for one in given})
        assert 2 < len(known) < 40
        monkeypatch.undo()
        ids = gallery.add(vectors, given)
        assert len(gallery) == len(set(ids)) == 40 and ids[:2] == [41, 42]


def test_compaction_keeps_what_is_there(location):
    vectors = unit_rows(200)
    with Gallery.open(location, binding=BINDING, create=True) as gallery:
        gallery.add(vectors, records(200))
        gallery.remove(ids=range(1, 151))
        before = gallery.search(vectors[150:], 60)
        gallery.vacuum()
        after = gallery.search(vectors[150:], 60)
        np.testing.assert_array_equal(after.ids, before.ids)
        assert len(gallery) == 50 and set(after.ids.ravel().tolist()) == {-1, *range(151, 201)}


def test_two_who_open_it_at_once_agree_who_writes(location):
    Gallery.open(location, binding=BINDING, create=True).close()
    ready, outcomes = threading.Barrier(3), []

    def work(seed):
        vectors, given = unit_rows(30, seed), records(30, start=1000 * seed)
        ready.wait()
        try:
            with Gallery.open(location) as gallery:
                for n in range(0, 30, 3):
                    outcomes.extend(gallery.add(vectors[n : n + 3], given[n : n + 3]))
        except WorkError as error:
            assert "another process has opened it for writing" in str(error)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, (1, 2, 3)))
    assert max(Counter(outcomes).values()) == 1
    with Gallery.open(location, read_only=True) as gallery:
        assert gallery.ids().tolist() == sorted(outcomes)
        assert len(gallery) == len(outcomes) >= 30


def test_a_gallery_outlasts_its_server_and_is_for_those_who_know_the_password(tmp_path, monkeypatch, capfd):
    vectors, given = unit_rows(5), records(5)
    folder = tmp_path / "milvus"
    folder.mkdir()
    with milvus_server(folder, password_is_asked_for=True) as port:
        where = f"127.0.0.1:{port}/people"
        for wrong in (f"milvus://{where}", f"milvus://root:hidden@{where}"):
            with pytest.raises(HatError, match="HAT_MILVUS_PASSWORD") as caught:
                Gallery.open(wrong, binding=BINDING, create=True)
            assert "hidden" not in str(caught.value)
        with Gallery.open(f"milvus://root:Milvus@{where}", binding=BINDING, create=True) as gallery:
            assert gallery.add(vectors, given) == [1, 2, 3, 4, 5]
            assert gallery.remove(ids=[5]) == 1
            assert "Milvus" not in gallery.location
        gallery = MilvusGallery.open(f"milvus://root:Milvus@{where}", timeout_s=2.0)
    with pytest.raises(WorkError, match="the server could not do it"):
        gallery.search(vectors[:1])
    with pytest.raises(WorkError, match="the server could not do it"):
        gallery.add(vectors[:1], records(1, start=70))
    gallery.close()
    monkeypatch.setenv("HAT_MILVUS_USER", "root")
    monkeypatch.setenv("HAT_MILVUS_PASSWORD", "Milvus")
    with (
        milvus_server(folder, password_is_asked_for=True) as port,
        Gallery.open(f"milvus://127.0.0.1:{port}/people", binding=BINDING) as gallery,
    ):
        assert gallery.ids().tolist() == [1, 2, 3, 4]
        assert gallery.search(vectors[2:3], 1).ids.tolist() == [[3]]
        assert gallery.add(vectors[4:], given[4:]) == [6]
    assert capfd.readouterr() == ("", "")
