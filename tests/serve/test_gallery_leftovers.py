"""What is beside a gallery's file, or stands for it: logs that were left over, links, and files that others change."""

import os
import shutil

import pytest
from gallery_cases import BINDING, new_records, open_small, unit_rows

from hat.errors import UsageError, WorkError
from hat.serve.sqlite.gallery import SqliteGallery


def filled(path, count, seed=0):
    with open_small(path) as gallery:
        gallery.add(unit_rows(count, seed), new_records([f"{seed}-{number}" for number in range(count)], pid=seed))
    return path


@pytest.fixture
def with_log(tmp_path):
    """A gallery whose log was left beside it, since a reader closed it last."""
    path = filled(tmp_path / "a.gallery", 3)
    reader = SqliteGallery.open(path, read_only=True)
    with open_small(path) as writer:
        writer.add(unit_rows(5, 1), new_records("abcde"))
    reader.close()
    assert (tmp_path / "a.gallery-wal").stat().st_size > 0
    return path


def test_records_of_a_deleted_gallery_do_not_come_back(with_log, tmp_path):
    backup = tmp_path / "backup.gallery"
    with SqliteGallery.open(with_log, read_only=True) as gallery:
        assert gallery.copy_to(backup) == 8
    with_log.unlink()
    with pytest.raises(UsageError, match=r"a\.gallery-wal"):
        open_small(with_log)
    with SqliteGallery.open(backup, read_only=True) as gallery, pytest.raises(UsageError, match=r"a\.gallery-wal"):
        gallery.copy_to(with_log)
    assert not with_log.exists()
    for ending in ("-wal", "-shm"):
        with_log.with_name(f"{with_log.name}{ending}").unlink(missing_ok=True)
    with open_small(with_log) as gallery:
        assert len(gallery) == 0


def test_a_copy_onto_a_gallery_is_refused_in_words_that_help(tmp_path):
    path, other = filled(tmp_path / "a.gallery", 2), filled(tmp_path / "b.gallery", 1)
    with SqliteGallery.open(path, read_only=True) as gallery, pytest.raises(UsageError, match=r"give another name$"):
        gallery.copy_to(other)


def test_a_gallery_behind_a_link_is_the_gallery(tmp_path):
    path = filled(tmp_path / "a.gallery", 3, seed=6)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "b.gallery"
    link.symlink_to(path)
    row = unit_rows(3, 6)[1].tobytes()
    with SqliteGallery.open(link, map_above_bytes=1) as gallery:
        gallery.search(unit_rows(1), 1)  # writes the file of vectors
        assert [file.name for file in tmp_path.glob("links/*")] == ["b.gallery"]
        gallery.remove(ids=[2])
        gallery.vacuum()
    assert link.is_symlink() and not [file for file in tmp_path.glob("a.gallery*") if row in file.read_bytes()]


@pytest.mark.parametrize("change", ["written", "replaced"])
def test_a_reader_that_cannot_lock_is_told_that_the_file_was_changed(tmp_path, monkeypatch, change):
    path = filled(tmp_path / "a.gallery", 3)
    may_write = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path and may_write(place, mode))
    reader = SqliteGallery.open(path, read_only=True)
    assert len(reader) == 3
    monkeypatch.undo()
    if change == "written":
        with open_small(path) as gallery:
            gallery.remove(ids=[1])
            gallery.vacuum()
    else:
        shutil.copy(filled(tmp_path / "b.gallery", 9), tmp_path / "c.gallery")
        (tmp_path / "c.gallery").replace(path)
    with pytest.raises(WorkError, match="was changed by another process since it was opened"):
        reader.search(unit_rows(1), 1)
    reader.close()
    with SqliteGallery.open(path, binding=BINDING, read_only=True) as again:
        assert len(again) == (2 if change == "written" else 9)


def test_adding_says_which_records_are_new(tmp_path):
    with open_small(tmp_path / "a.gallery") as one, open_small(tmp_path / "a.gallery") as other:
        assert one.add_new(unit_rows(2), new_records("ab")) == ([1, 2], [True, True])
        assert other.add_new(unit_rows(4), new_records("bcbc")) == ([2, 3, 2, 3], [False, True, False, False])
