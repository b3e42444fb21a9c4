"""What can be wrong with a file, a folder or a disk: each is one clear error, and nothing is lost or half-written."""

import contextlib
import os
import resource
import shutil
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from gallery_cases import (
    BINDING,
    assert_neighbors,
    brute_force,
    new_records,
    open_small,
    run_python,
    unit_rows,
)

from hat.errors import UsageError, WorkError
from hat.serve import Gallery
from hat.serve.sqlite.gallery import SqliteGallery

ROWS = unit_rows(50)


@pytest.fixture
def filled(tmp_path):
    with open_small(tmp_path / "g") as gallery:
        gallery.add(ROWS, new_records(range(50)))
    return tmp_path / "g"


def assert_intact(path, count=50):
    rows = np.vstack([ROWS, unit_rows(1, 77)])[:count]
    with SqliteGallery.open(path) as gallery:
        assert gallery.ids().tolist() == list(range(1, count + 1))
        np.testing.assert_array_equal(gallery.embeddings(range(1, count + 1)), rows)
        assert_neighbors(gallery.search(ROWS[:2], 3), brute_force(dict(enumerate(rows, 1)), ROWS[:2], 3))
        with gallery._reader.reading() as sqlite:
            assert sqlite.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_full_disk_changes_nothing_and_the_gallery_goes_on(filled):
    with SqliteGallery.open(filled) as gallery:
        with gallery._writer.exclusive() as sqlite:
            (pages,) = sqlite.execute("PRAGMA page_count").fetchone()
            sqlite.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(WorkError, match="the disk is full: nothing was changed; make room and try again"):
            gallery.add(unit_rows(5000, 1), new_records(range(100, 5100)))
        assert len(gallery) == 50 and gallery.search(ROWS[:1], 1).ids == [[1]]
        with gallery._writer.exclusive() as sqlite:
            sqlite.execute("PRAGMA max_page_count = 1000000")
        assert gallery.add(unit_rows(1, 77), new_records(["late"])) == [51]
    assert_intact(filled, 51)


def test_a_file_that_may_grow_no_further_in_a_process_that_needs_no_torch(filled):
    """The system's own limit, which fails in the middle of a write as a full disk does."""
    limit = filled.stat().st_size + 2**17
    code = (
        "import sys, resource\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from gallery_cases import *\n"
        "from hat.errors import WorkError\n"
        "gallery = SqliteGallery.open(sys.argv[1])\n"
        "try:\n"
        "    gallery.add(unit_rows(5000, 1), new_records(range(100, 5100)))\n"
        "except WorkError as error:\n"
        "    print(error)\n"
        "assert len(gallery) == 50 and len(gallery.search(unit_rows(1), 3).ids[0]) == 3\n"
        "assert gallery.add(unit_rows(1, 77), new_records(['small'])) == [51]\n"
        "assert 'torch' not in sys.modules and 'faiss' not in sys.modules\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] in (resource.RLIM_INFINITY, -1)
    done = run_python(code, filled)
    assert done.returncode == 0, done.stderr
    assert str(filled) in done.stdout and ("disk I/O error" in done.stdout or "disk is full" in done.stdout)
    assert_intact(filled, 51)


def run_sql(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no gallery but an empty file: choose another path"),
        (b"\xff\xd8\xff" * 5000, "is no gallery: expected a file that `hat enroll` made"),
        (b"SQLite format 3\0", "is no gallery"),
        (b"short", "is no gallery"),
        (None, "is no gallery but the SQLite database of another program"),
    ],
)
@pytest.mark.parametrize("read_only", [True, False])
def test_another_file_is_refused_and_left_as_it_is(tmp_path, content, message, read_only):
    path = tmp_path / "holiday.jpg"
    if content is None:
        run_sql(path, "CREATE TABLE bookmarks (url TEXT)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=message):
        Gallery.open(path, binding=BINDING, create=not read_only, read_only=read_only)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_cut_off_or_overwritten_is_damaged_and_never_answers(filled):
    content = filled.read_bytes()
    for share in (0.05, 0.5, 0.95):
        filled.write_bytes(content[: int(len(content) * share)])
        with pytest.raises((WorkError, UsageError), match=r"is damaged.* restore it from a backup|is no gallery: expected"):
            SqliteGallery.open(filled)
    filled.write_bytes(content[: 8192 * 2] + os.urandom(len(content) - 8192 * 2))
    with pytest.raises(WorkError, match="is damaged"), SqliteGallery.open(filled) as gallery:
        gallery.search(ROWS[:1])


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE embeddings SET vector = x'00' WHERE id = 7", "an embedding takes 32 bytes, and among those"),
        ("DELETE FROM embeddings WHERE id = 7", "records and embeddings do not match"),
        ("INSERT INTO embeddings SELECT 99, vector FROM embeddings WHERE id = 7", "records and embeddings do not match"),
        ("DELETE FROM facts WHERE name = 'stored_type'", "what the gallery holds cannot be read"),
        ("UPDATE facts SET value = 'int8' WHERE name = 'stored_type'", "what the gallery holds cannot be read"),
        ("UPDATE facts SET value = '{' WHERE name = 'binding'", "cannot be read which model made it"),
        ("DROP TABLE embeddings", "no such table"),
        ("DELETE FROM state", "is damaged"),
        ("PRAGMA user_version = 3", "is of format 3, this version reads up to 2: update hat-reid"),
    ],
)
def test_a_gallery_that_was_tampered_with_says_where(filled, statement, message):
    run_sql(filled, statement)
    for map_above_bytes in (2**31, 0, 2**31, 0):  # and again: what could not be read is not taken for read
        refused = pytest.raises((WorkError, UsageError), match=message)
        with refused, SqliteGallery.open(filled, map_above_bytes=map_above_bytes) as gallery:
            with pytest.raises((WorkError, UsageError), match=message):
                gallery.search(ROWS[:1])
            gallery.search(ROWS[:1])


def test_what_could_not_be_read_is_not_taken_for_read(filled):
    """A record that comes without its embedding while the gallery is open: an error now and later, not a row of zeros."""
    with SqliteGallery.open(filled) as gallery:
        gallery.prepare()
        with gallery._writer.writing() as sqlite:
            sqlite.execute("INSERT INTO records VALUES (60, 'x', 'x', NULL, NULL, NULL, 0)")
            sqlite.execute("UPDATE state SET generation = generation + 1, num_records = num_records + 1")
        for _ in range(2):
            with pytest.raises(WorkError, match="records and embeddings do not match"):
                gallery.search(ROWS[:1])


def test_paths_that_cannot_be_a_gallery(filled):
    os.mkfifo(filled.with_name("pipe"))
    for name, message in (
        (".", "is a folder; a gallery is a file"),
        ("missing/g", "there is no folder .*missing: make it first"),
        ("x" * 300, "cannot be opened|cannot be made"),
        ("a\0b", "expected the path of a gallery's file"),
        ("g/h", "there is no folder|cannot be opened"),
        ("pipe", "is no gallery: expected a file"),  # which is not waited for
    ):
        with pytest.raises((UsageError, WorkError), match=message):
            open_small(f"{filled.parent}/{name}")


def test_locations_that_mean_nothing_and_a_gallery_that_is_not_there(tmp_path):
    path, made = tmp_path / "g", {"create": True}
    for location, options, message in (
        ("", made, "expected the path of a gallery's file, got ''"),
        ("redis://localhost/0", made, "nothing is known by redis://"),
        (b"bytes", made, "expected the path of a gallery's file"),
        (path, {}, r"there is no gallery at .*g: `hat enroll` makes one"),
        (path, {"create": True, "read_only": True}, "one that is made cannot be read only"),
    ):
        with pytest.raises(UsageError, match=message):
            Gallery.open(location, binding=BINDING, **options)
    assert not list(tmp_path.iterdir())


def test_odd_names_are_names(tmp_path):
    for name in ("g?mode=memory", "g#1", "%41", "a b'c\"", "grüße", "file:g", "g;ls"):
        with open_small(tmp_path / name) as gallery:
            gallery.add(ROWS[:1], new_records("a"))
        assert (tmp_path / name).is_file()
    assert len(list(tmp_path.iterdir())) == 7


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_who_may_not_write_is_told_and_may_read():
    modes = [(0o444, 0o755), (0o666, 0o555), (0o000, 0o755), (0o444, 0o555)]  # of the file and of its folder
    folders = [Path(tempfile.mkdtemp()) for _ in modes]  # not tmp_path, which its owner alone may enter
    try:
        for folder, (file_mode, folder_mode) in zip(folders, modes, strict=True):
            with open_small(folder / "g") as gallery:
                gallery.add(ROWS[:20], new_records(range(20)))
            (folder / "g").chmod(file_mode)
            folder.chmod(folder_mode)
        code = (  # root gives itself up when all is imported
            "import mmap, os, sys, tempfile\nfrom gallery_cases import *\nfrom hat.errors import UsageError\n"
            "with tempfile.TemporaryDirectory() as scratch, open_small(scratch + '/g', map_above_bytes=0) as gallery:\n"
            "    gallery.add(unit_rows(3), new_records(range(3)))\n    gallery.search(gallery.embeddings([2]), 1)\n"
            "if os.geteuid() == 0:\n    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "for folder in sys.argv[1:]:\n"
            "    for name, options in (('g', {}), ('g', {'read_only': True, 'map_above_bytes': 0}), ('g2', {})):\n"
            "        try:\n            gallery = open_small(f'{folder}/{name}', **options)\n"
            "            print(gallery.search(gallery.embeddings([7]), 1).ids.item(), len(gallery))\n"
            "        except UsageError as error:\n            print(error)\n"
        )
        done = run_python(code, *folders)
        lines = done.stdout.splitlines()
        assert len(lines) == 12, done.stderr
        for (file_mode, _), to_write, to_read, to_make in zip(modes, lines[::3], lines[1::3], lines[2::3], strict=True):
            assert "open it to be read only" in to_write and "may not be written" in to_make
            assert to_read == "7 20" if file_mode else "cannot be opened" in to_read
        assert [path.name for path in folders[-1].iterdir()] == ["g"]  # searched from a nameless file
    finally:
        for folder in folders:
            folder.chmod(0o755)
            shutil.rmtree(folder)
