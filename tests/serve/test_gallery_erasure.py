"""What was removed is in no file of the gallery any more once it was vacuumed."""

from pathlib import Path

import numpy as np
import pytest
from gallery_cases import EMBED_DIM, new_record, new_records, open_small, sha256, unit_rows

from hat.errors import WorkError
from hat.serve.sqlite.gallery import SqliteGallery

MAPS = Path("/proc/self/maps")
ROWS = unit_rows(300)
SECRET = {
    "source": "jane-doe-entrance.jpg",
    "attributes": {"secret name": "very secret value"},
    "thumbnail": b"\xff\xd8" + bytes(range(256)) * 40,
}


def traces(stored_type):
    embedding = ROWS[150].astype(stored_type).tobytes()
    return {
        "embedding": embedding,
        "half of the embedding": embedding[:EMBED_DIM],
        "content hash": sha256("jane").encode(),
        "source": SECRET["source"].encode(),
        "attribute": b"very secret value",
        "thumbnail": bytes(range(256)) * 2,
    }


def found_in(folder, stored_type):
    """Traces that lie in any file of a folder; every connection must be closed, since a closing file drops SQLite's locks."""
    files = [path.read_bytes() for path in folder.iterdir()]
    return {what for what, trace in traces(stored_type).items() if any(trace in file for file in files)}


def enrolled(folder, **options):
    gallery = open_small(folder / "g", **options)
    for first in (0, 100, 200):  # in several commits, before and after
        records = new_records(range(first, first + 100))
        if first == 100:
            records[50] = new_record("jane", **SECRET)
        gallery.add(ROWS[first : first + 100], records)
    return gallery


@pytest.mark.parametrize("stored_type", ["float32", "float16"])
@pytest.mark.parametrize("map_above_bytes", [2**31, 1000])
def test_nothing_is_left_of_a_removed_record(tmp_path, stored_type, map_above_bytes):
    gallery = enrolled(tmp_path, stored_type=stored_type, map_above_bytes=map_above_bytes)
    gallery.search(ROWS[:1])
    gallery.close()
    assert found_in(tmp_path, stored_type) == set(traces(stored_type))  # else the rest would prove nothing
    assert (tmp_path / "g-vectors").exists() == (map_above_bytes == 1000)
    with open_small(tmp_path / "g", map_above_bytes=map_above_bytes) as gallery:
        assert gallery.remove(ids=[151]) == 1
        gallery.search(ROWS[150:151])
        gallery.vacuum()
        gallery.search(ROWS[150:151])  # which writes a new file of vectors
    assert found_in(tmp_path, stored_type) == set()
    with open_small(tmp_path / "g") as gallery:
        assert len(gallery) == 299
        ids = [id_ for id_ in range(1, 301) if id_ != 151]
        np.testing.assert_allclose(gallery.embeddings(ids), np.delete(ROWS, 150, axis=0), atol=1e-3)


def test_the_log_holds_nothing_either_while_the_gallery_stays_open(tmp_path):
    """Read by SQLite's side, as another process would: the log is empty at once, not only when the last one leaves."""
    with enrolled(tmp_path) as gallery, open_small(tmp_path / "g", read_only=True) as reader:
        reader.search(ROWS[:1])
        gallery.remove(ids=[151])
        assert (tmp_path / "g-wal").stat().st_size > 0
        gallery.vacuum()
        assert (tmp_path / "g-wal").stat().st_size == 0
        assert reader.search(ROWS[150:151], 300).ids.tolist()[0].count(151) == 0


def test_a_reader_that_holds_the_old_state_is_waited_for_and_then_named(tmp_path):
    gallery = enrolled(tmp_path, busy_timeout_s=0.2)
    reader = SqliteGallery.open(tmp_path / "g", read_only=True)
    with reader._reader.reading() as sqlite:
        sqlite.execute("SELECT COUNT(*) FROM records").fetchone()
        gallery.remove(ids=[151])
        with pytest.raises(WorkError, match=r"another process has been reading it for over 0.2 s: try again"):
            gallery.vacuum()
    gallery.vacuum()
    reader.close()
    gallery.close()
    assert found_in(tmp_path, "float32") == set()


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists what a process has mapped")
def test_a_mapped_file_from_before_goes_when_its_reader_searches_again(tmp_path):
    """A process that has mapped the file keeps its bytes alive; after a vacuum it lets go of them with its next search."""

    def keeps_removed_file():
        return f"{tmp_path / 'g-vectors'} (deleted)" in MAPS.read_text()

    small = {"map_above_bytes": 1000}
    with enrolled(tmp_path, **small) as gallery, open_small(tmp_path / "g", read_only=True, **small) as reader:
        reader.search(ROWS[:1])
        gallery.remove(ids=[151])
        gallery.vacuum()
        assert not (tmp_path / "g-vectors").exists() and keeps_removed_file()
        reader.search(ROWS[:1])
        assert (tmp_path / "g-vectors").exists() and not keeps_removed_file()
    assert found_in(tmp_path, "float32") == set()


def test_removing_alone_overwrites_the_record_in_the_file(tmp_path):
    """The file itself, when the log was taken into it, has zeros where the record was; vacuum is for what else there is."""
    with enrolled(tmp_path) as gallery:
        gallery.remove(ids=[151])
    assert found_in(tmp_path, "float32") == set()
