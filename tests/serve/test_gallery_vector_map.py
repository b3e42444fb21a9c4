"""The mapped file of a large gallery's vectors, here of galleries that are called large at a few hundred bytes."""

import json
import os
import shutil
import stat

import numpy as np
import pytest
from gallery_cases import EMBED_DIM, assert_neighbors, brute_force, new_records, open_small, unit_rows

from hat.errors import WorkError
from hat.serve.sqlite import memory_index, vector_map
from hat.serve.sqlite.vector_map import remove_map

ROW_BYTES = EMBED_DIM * 4
ROWS = unit_rows(60)


def opened(folder, **options):
    """A gallery that holds five rows in memory at most."""
    return open_small(folder / "g", map_above_bytes=5 * ROW_BYTES, **options)


def filled(folder, count=20):
    gallery = opened(folder)
    gallery.add(ROWS[:count], new_records(range(count)))
    return gallery


def assert_finds(gallery, ids):
    expected = brute_force({id_: ROWS[id_ - 1] for id_ in ids}, ROWS[:3], 7)
    assert_neighbors(gallery.search(ROWS[:3], 7), expected)


@pytest.fixture
def written(monkeypatch):
    """How many rows each file was written with."""
    counts = []
    original = memory_index.write_map

    def counting(*given):
        counts.append(len(given[3]))
        return original(*given)

    monkeypatch.setattr(memory_index, "write_map", counting)
    return counts


def test_it_is_written_once_and_used_by_whoever_opens_the_gallery(tmp_path, written):
    with filled(tmp_path, 5) as gallery:
        assert_finds(gallery, range(1, 6))
    assert not written and [path.name for path in tmp_path.iterdir()] == ["g"]  # a small gallery has none
    with opened(tmp_path) as gallery:
        gallery.add(ROWS[5:20], new_records(range(5, 20)))
        assert not written  # nothing is read before it is needed
        gallery.prepare()
        assert_finds(gallery, range(1, 21))
    with opened(tmp_path, read_only=True) as reader:
        assert_finds(reader, range(1, 21))
        with reader._reader.reading() as sqlite:
            (rows,) = reader._index.columns_and_chunks(sqlite)[1]
        while isinstance(rows, np.ndarray) and rows.base is not None:
            rows = rows.base
        assert type(rows).__name__ == "mmap"  # they are not copied into memory
    assert written == [20]
    open_small(tmp_path / "g").close()  # a reader leaves SQLite's log, empty; whoever may write clears it away
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g", "g-vectors"]


def test_new_records_stay_in_memory_until_there_are_too_many(tmp_path, written):
    with filled(tmp_path) as gallery:
        assert_finds(gallery, range(1, 21))
        for count in range(20, 32):
            gallery.add(ROWS[count : count + 1], new_records([count]))
            assert_finds(gallery, range(1, count + 2))
    assert written == [20, 26, 32]  # five rows in memory at most
    with opened(tmp_path) as gallery:
        gallery.add(ROWS[32:35], new_records(range(32, 35)))
        assert_finds(gallery, range(1, 36))  # the file's rows, and three that it does not have
    assert len(written) == 3


def test_removed_records_are_not_found_in_it(tmp_path, written):
    with filled(tmp_path) as gallery:
        gallery.prepare()
        gallery.remove(ids=[1, 20])
        assert_finds(gallery, range(2, 20))
    with opened(tmp_path) as gallery:
        assert_finds(gallery, range(2, 20))
        assert written == [20]
        gallery.remove(ids=[2, 3, 4, 5])
        assert_finds(gallery, range(6, 20))
        assert written == [20, 14]  # so many were removed that it was written anew


def test_a_restored_backup_is_told_from_the_gallery_that_it_was(tmp_path, written):
    filled(tmp_path).close()
    shutil.copy(tmp_path / "g", tmp_path / "backup")
    with opened(tmp_path) as gallery:
        gallery.add(ROWS[50:55], new_records("abcde"))
        gallery.prepare()
    shutil.copy(tmp_path / "backup", tmp_path / "g")
    with opened(tmp_path) as gallery:
        assert gallery.add(ROWS[20:25], new_records("vwxyz")) == [21, 22, 23, 24, 25]  # the same ids of other people
        assert_finds(gallery, range(1, 26))
    assert written == [25, 25]


def other_header(**values):
    def change(content):
        header = json.loads(content[: vector_map.PAGE]) | values
        return json.dumps(header).encode().ljust(vector_map.PAGE) + content[vector_map.PAGE :]

    return change


def test_one_that_does_not_match_is_written_again(tmp_path, written):
    with filled(tmp_path) as gallery:
        gallery.prepare()
    file = tmp_path / "g-vectors"
    wrong_headers = [
        {"gallery_id": "0" * 32}, {"format": 2}, {"type": "float16"}, {"embed_dim": 4}, {"num_rows": 10**30}, {"num_rows": -1},
        {"num_rows": "many"}, {"token": 5}, {"token": 10**30}, {"last_id": 19}, {"kind": "hat gallery"},
    ]  # fmt: skip
    changes = [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:100],
        lambda content: content + b"x",
        lambda content: b"x" * len(content),
        lambda content: b"[" * len(content),
        lambda content: content[: vector_map.PAGE] + b"\x07" + content[vector_map.PAGE + 1 :],
        *(other_header(**values) for values in wrong_headers),
    ]
    for count, change in enumerate(changes, start=2):
        file.write_bytes(change(file.read_bytes()))
        with opened(tmp_path) as gallery:
            assert_finds(gallery, range(1, 21))
        assert written == [20] * count


def test_where_it_cannot_be_written_the_search_says_what_it_needs(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    with filled(tmp_path) as gallery:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fails)
            with pytest.raises(WorkError, match=r"g-vectors: cannot be written: No space left on device"):
                gallery.search(ROWS[:1])
        assert not list(tmp_path.glob(".*.part"))
        (tmp_path / "g").chmod(0o640)
        assert_finds(gallery, range(1, 21))
        assert stat.S_IMODE((tmp_path / "g-vectors").stat().st_mode) == 0o640  # for those who may read the gallery


def test_unfinished_files_of_killed_processes_are_cleared_away(tmp_path):
    for name in (".g-vectors.0123abcd.part", ".g2-vectors.0123abcd.part", ".g[1]-vectors.0123abcd.part"):
        (tmp_path / name).mkdir()
    for name in ("g-vectors", "other-vectors", ".g-vectors.0123abcd.part/g-vectors"):
        (tmp_path / name).write_bytes(b"x")
    remove_map(tmp_path / "g")
    left = [".g2-vectors.0123abcd.part", ".g[1]-vectors.0123abcd.part", "other-vectors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    remove_map(tmp_path / "g[1]")
    assert sorted(path.name for path in tmp_path.iterdir()) == [left[0], left[2]]
