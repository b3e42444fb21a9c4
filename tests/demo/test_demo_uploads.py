"""What visitors hand in is bounded, named in errors, and gone once it was read."""

import io
import struct
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hat.demo.pages.search import cropped
from hat.demo.uploads import UPLOAD_LIMITS, received_files, reduce_image, upload_items, uploaded_image
from hat.errors import DataError, ImageError, UsageError


def jpeg(seed=0, size=(32, 64)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def bomb(width=60_000, height=60_000):
    """A PNG of a hundred bytes whose header promises gigabytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"MZ not an image at all", "not an image"),
        (jpeg()[:300], "a.jpg"),
        (bomb(), "far more pixels than the limit of 32,000,000"),
        (bomb(8000, 8000), "8000 x 8000 pixels are more than the limit"),
    ],
)
def test_what_is_no_image_is_refused_by_its_name_alone(tmp_path, data, words):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=words) as caught:
        uploaded_image(str(tmp_path / "a.jpg"))
    assert str(caught.value).startswith("a.jpg") and str(tmp_path) not in str(caught.value)


def test_an_image_is_read_and_named_and_one_beyond_the_limit_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    name, image, seconds = uploaded_image(str(tmp_path / "a.jpg"))
    assert (name, image.size, image.mode) == ("a.jpg", (32, 64), "RGB") and seconds > 0
    (tmp_path / "a.jpg").write_bytes(jpeg() + bytes(5000))
    with pytest.raises(ImageError, match="limit"):
        uploaded_image(str(tmp_path / "a.jpg"), replace(UPLOAD_LIMITS, file_bytes=4000))


def test_a_large_image_is_reduced():
    sizes = {(100, 200): (100, 200), (2000, 4000): (707, 1414), (1, 2_000_000): (1, 1_414_213)}
    assert {size: reduce_image(Image.new("L", size), 1_000_000).size for size in sizes} == sizes


def test_received_files_are_deleted_whatever_happens_and_read_once(make_image, tmp_path):
    path = make_image(tmp_path / "a.png")
    with pytest.raises(UsageError), received_files([path, str(tmp_path / "gone.png")]) as at_hand:
        assert at_hand == [path]
        raise UsageError("no")
    with received_files([path]) as at_hand:
        assert at_hand == [] and not (tmp_path / "a.png").exists()


def test_a_zip_file_gives_its_images_with_the_labels_of_their_names(tmp_path):
    members = {
        "in/0002_c3s1_000451_03.jpg": jpeg(1),
        "in/holiday.PNG": jpeg(2),
        "0011_c1.jpg": jpeg(4),
        "-1_c2s1.jpg": jpeg(3),
        "__MACOSX/in/._0002_c3s1.jpg": b"junk",
        "readme.txt": b"hello",
        "0000_c2s1.jpg": jpeg(5),
    }
    archive = zipped(tmp_path / "people.zip", members)
    by_name = {item.source: item for item in upload_items([archive])}
    assert {source: (item.pid, item.camid) for source, item in by_name.items() if "-1_" not in source} == {
        "people.zip!in/0002_c3s1_000451_03.jpg": (2, 3),
        "people.zip!in/holiday.PNG": (None, None),
        "people.zip!0011_c1.jpg": (11, 1),
        "people.zip!0000_c2s1.jpg": (None, 2),
    }
    assert by_name["people.zip!in/0002_c3s1_000451_03.jpg"].read() == jpeg(1)
    with pytest.raises(ImageError, match="junk"):
        by_name["people.zip!-1_c2s1.jpg"].read()
    told_nothing = upload_items([archive], parse_labels_from_names=False)
    assert {(item.pid, item.camid) for item in told_nothing} == {(None, None)}


def test_labels_that_were_given_stand_above_those_of_names(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"0002_c3s1_000451_03.jpg": jpeg(1), "-1_c2s1.jpg": jpeg(3), "holiday.png": jpeg(2)})

    def labels(**given):
        return {item.source.removeprefix("a.zip!"): (item.pid, item.camid) for item in upload_items([archive], **given)}

    assert set(labels(pid="anna", camid=8).values()) == {("anna", 8)}
    only_person = {"0002_c3s1_000451_03.jpg": ("anna", 3), "-1_c2s1.jpg": ("anna", 2), "holiday.png": ("anna", None)}
    assert labels(pid="anna") == only_person
    assert labels(camid=8)["0002_c3s1_000451_03.jpg"] == (2, 8)


def test_bounds_of_an_enrollment(tmp_path):
    archive = zipped(tmp_path / "a.zip", {f"{n}.jpg": jpeg(n) for n in range(6)})
    with pytest.raises(UsageError, match="more than the 5 images"):
        upload_items([archive], limits=replace(UPLOAD_LIMITS, enroll_images=5))
    few = upload_items([archive], limits=replace(UPLOAD_LIMITS, enroll_bytes=2 * len(jpeg(0))))
    assert [item.read() for item in few[:2]] == [jpeg(0), jpeg(1)]
    with pytest.raises(ImageError, match="left out"):
        [item.read() for item in few[2:4]]
    zeros = zipped(tmp_path / "c.zip", {"zeros.jpg": bytes(10_000)})
    (long,) = upload_items([zeros], limits=replace(UPLOAD_LIMITS, file_bytes=9000))
    with pytest.raises(ImageError, match="larger than the limit"):
        long.read()


def test_a_zip_file_without_images_or_that_is_none_is_refused(tmp_path):
    (tmp_path / "none.zip").write_bytes(b"PK not a zip")
    with pytest.raises(DataError):
        upload_items([str(tmp_path / "none.zip")])
    for members in ({"readme.txt": b"no image"}, {}):
        with pytest.raises(UsageError):
            upload_items([zipped(tmp_path / "a.zip", members)])


def test_a_crop_is_the_part_that_was_marked_and_a_box_that_means_nothing_is_refused():
    photo = Image.fromarray(np.arange(200 * 100 * 3, dtype=np.uint32).astype(np.uint8).reshape(100, 200, 3))
    part = cropped(photo, {"left": 0.25, "top": 0.1, "right": 0.5, "bottom": 0.9})
    assert np.array_equal(np.asarray(part), np.asarray(photo)[10:90, 50:100])
    whole = {"left": 0, "top": 0, "right": 1, "bottom": 1}
    assert cropped(photo, whole).size == (200, 100)
    wrong = [{"left": -1}, {"right": float("nan")}, {"right": True}, {"left": 0.5, "right": 0.5}, {"left": 0.9, "right": 0.1}]
    for box in (None, "everything", {"left": 0, "top": 0, "right": 1}, *(whole | changes for changes in wrong)):
        with pytest.raises(UsageError):
            cropped(photo, box)
