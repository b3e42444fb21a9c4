"""Images inside zip files: by thread, by process, and from hostile archives."""

import os
import struct
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from hat.data import read_image
from hat.data.archives import list_members, read_member, split_location
from hat.errors import DataError, ImageError

LIMIT = 10_000


def make_zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def numbered(tmp_path):
    """An archive whose members say their own number, long enough to be torn by a shared file offset."""
    return make_zip(tmp_path / "n.zip", {f"m/{i}": str(i).encode() * 1000 for i in range(100)}, zipfile.ZIP_DEFLATED)


def reads_right(archive, i):
    return read_member(str(archive), f"m/{i}", max_bytes=LIMIT) == str(i).encode() * 1000


def test_image_in_an_archive_is_the_same_as_unpacked(tmp_path, picture, encode):
    data = encode(picture())
    archive = make_zip(tmp_path / "a.ZIP", {"in/side.jpg": data}, zipfile.ZIP_DEFLATED)
    (tmp_path / "side.jpg").write_bytes(data)
    assert read_image(f"{archive}!in/side.jpg").tobytes() == read_image(tmp_path / "side.jpg").tobytes()


def test_location_is_split_where_there_is_an_archive(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"b.zip!c.jpg": b"x"})
    assert split_location(f"{archive}!b.zip!c.jpg") == (str(archive), "b.zip!c.jpg")
    assert split_location(f"{tmp_path}/wow!/x.jpg") is None
    assert split_location("none.zip!x.jpg") == ("none.zip", "x.jpg")
    folder = tmp_path / "odd.zip!dir"
    folder.mkdir()
    inner = make_zip(folder / "i.zip", {"x": b"1"})
    assert split_location(f"{inner}!x") == (str(inner), "x")


def test_many_threads_share_an_archive(numbered):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(8) as pool:
        right = list(pool.map(lambda i: reads_right(numbered, i % 100), range(600)))
    sys.setswitchinterval(interval)
    assert all(right)


def test_a_forked_child_does_not_share_the_file_offset(numbered):
    assert reads_right(numbered, 0)
    child = os.fork()
    right = False
    try:
        right = all(reads_right(numbered, i % 100) for i in range(1000))
    finally:
        if child == 0:
            os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert right


def test_read_member_of_more_archives_than_are_kept_open_and_of_one_that_was_replaced(tmp_path):
    paths = [make_zip(tmp_path / f"{i}.zip", {"x": str(i).encode()}) for i in range(20)]
    for _ in range(2):
        assert [int(read_member(str(path), "x", max_bytes=LIMIT)) for path in paths] == list(range(20))
    make_zip(tmp_path / "b.zip", {"x": b"newer"}).replace(paths[0])
    assert read_member(str(paths[0]), "x", max_bytes=LIMIT) == b"newer"


def test_missing_archive_missing_member_and_no_archive(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"x.jpg": b"x"})
    text = tmp_path / "t.zip"
    text.write_text("no archive")
    wrong = {f"{tmp_path}/none.zip!x.jpg": "no such archive", f"{archive}!y.jpg": "no such member"}
    for location, words in (wrong | {f"{text}!x.jpg": "cannot be unpacked"}).items():
        with pytest.raises(ImageError, match=words) as caught:
            read_image(location)
        assert str(caught.value).startswith(location)
    with pytest.raises(DataError, match=r"t\.zip: cannot be read as a zip file"):
        list_members(text)


def test_a_climbing_member_is_read_from_the_archive_and_not_from_the_disk(tmp_path, picture, encode):
    inside, outside = encode(picture(seed=1)), encode(picture(seed=2))
    (tmp_path / "d").mkdir()
    archive = make_zip(tmp_path / "d" / "a.zip", {"../x.jpg": inside})
    for path in (tmp_path / "x.jpg", tmp_path / "d" / "x.jpg"):
        path.write_bytes(outside)
    assert read_image(f"{archive}!../x.jpg").tobytes() != read_image(tmp_path / "x.jpg").tobytes()
    with pytest.raises(ImageError, match="no such member"):
        read_image(f"{archive}!../../x.jpg")


def test_a_member_larger_than_the_limit_is_not_unpacked(tmp_path):
    archive = make_zip(tmp_path / "bomb.zip", {"x.jpg": bytes(LIMIT + 1), "y": bytes(LIMIT)}, zipfile.ZIP_DEFLATED)
    assert len(read_member(str(archive), "y", max_bytes=LIMIT)) == LIMIT
    with pytest.raises(ImageError, match="larger than the limit"):
        read_member(str(archive), "x.jpg", max_bytes=LIMIT)


def test_a_damaged_and_an_encrypted_member_are_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"x.jpg": b"a" * 100})
    damaged = bytearray(archive.read_bytes())
    encrypted = bytearray(damaged)
    damaged[60] ^= 1
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = encrypted.index(signature) + place
        encrypted[start : start + 2] = struct.pack("<H", 1)
    for data, words in ((damaged, r"x\.jpg: cannot be unpacked .*CRC"), (encrypted, r"x\.jpg: encrypted")):
        archive.write_bytes(data)
        with pytest.raises(ImageError, match=words):
            read_member(str(archive), "x.jpg", max_bytes=LIMIT)


def test_every_truncation_of_an_archive_is_an_image_error(tmp_path):
    whole = make_zip(tmp_path / "a.zip", {"x.jpg": b"abc" * 10}, zipfile.ZIP_DEFLATED).read_bytes()
    cut = tmp_path / "cut.zip"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read_member(str(cut), "x.jpg", max_bytes=LIMIT)
