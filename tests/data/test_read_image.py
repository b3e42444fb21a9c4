"""Reading one image: every mode and format that is accepted, and every way in which a file can be bad."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hat.data import decode_image, images, read_image
from hat.errors import ImageError

FORMATS = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"quality": 95}, "BMP": {}}
PREFIXES = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPVP8L", b"BM"]


def png_of_size(width, height):
    """A valid PNG header of any size, with a few bytes of pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white_and_half_transparent_ones_lighter(mode, encode):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    pixels = np.asarray(decode_image(encode(image.convert(mode), "PNG"), "x"))[0]
    assert pixels.tolist() == [[0, 0, 0], [255, 255, 255], [127, 127, 127]]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_transparent_palette_entry_becomes_white(transparency, encode):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(decode_image(encode(image, "PNG", transparency=transparency), "x"))[0]
    assert pixels.tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_first_picture_of_an_animation_is_taken(kind, options, picture, encode):
    frames = [picture(seed=seed) for seed in range(3)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert decode_image(data, "x").tobytes() == frames[0].tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied_as_pillow_does(kind, orientation, picture, encode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    data = encode(picture(20, 30), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    image = decode_image(data, "x")
    assert (image.size, image.tobytes()) == (expected.size, expected.tobytes())


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"rubbish"]
)
def test_broken_exif_does_not_harm_the_picture_and_does_not_warn(block, picture, encode):
    plain = encode(picture(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    assert decode_image(plain[:2] + segment + plain[2:], "x").tobytes() == decode_image(plain, "x").tobytes()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_truncation_is_an_error_or_loses_nothing(kind, picture, encode):
    data = encode(picture(12, 20), kind)
    whole = decode_image(data, "x").tobytes()
    num_errors = 0
    for length in range(len(data)):
        try:
            assert decode_image(data[:length], "cut").tobytes() == whole
        except ImageError as error:
            assert str(error).startswith("cut: ")
            num_errors += 1
    assert num_errors > 0.9 * len(data)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(FORMATS)), changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6)
)
def test_damaged_bytes_give_a_picture_or_an_image_error(kind, changes, picture, encode):
    data = bytearray(encode(picture(12, 20), kind))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        assert decode_image(bytes(data), "damaged").mode == "RGB"
    except ImageError as error:
        assert str(error).startswith("damaged: ")


@settings(max_examples=50, deadline=None)
@given(prefix=st.sampled_from(PREFIXES), body=st.binary(max_size=80))
def test_rubbish_is_an_image_error(prefix, body):
    with pytest.raises(ImageError, match=r"^rubbish: "):
        decode_image(prefix + body, "rubbish")


def test_read_image_empty_missing_folder_text_pipe_and_odd_paths(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")  # refused without waiting for a writer
    for name, words in {
        "empty.jpg": "empty",
        "text.jpg": "not an image",
        "folder.jpg": "folder",
        "pipe.jpg": "not an ordinary file",
        "none.jpg": "no such file",
        "text.jpg/x.jpg": "cannot be read",
        "a\0b.jpg": "not a path",
        f"{'n' * 5000}.jpg": "cannot be read",
    }.items():
        with pytest.raises(ImageError) as caught:
            read_image(f"{tmp_path}/{name}")
        assert str(caught.value).startswith(f"{tmp_path}/{name}: ")
        assert words in str(caught.value)


VARIANTS = [
    *(("RGB", *kind) for kind in FORMATS.items()), *((mode, "PNG", {}) for mode in ("L", "1", "P")), ("CMYK", "JPEG", {}),
    ("RGB", "GIF", {}), ("RGB", "TIFF", {}), ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGB", "MPO", {}),
    ("RGB", "JPEG", {"progressive": True}), ("RGB", "JPEG", {"subsampling": 0}), ("RGB", "WEBP", {"lossless": True}),
    ("RGB", "PNG", {"interlace": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "kind", "options"), VARIANTS)
def test_read_image_formats_as_pillow_reads_them_whatever_the_name(mode, kind, options, picture, encode, tmp_path):
    data = encode(picture().convert(mode), kind, **options)
    (tmp_path / "wrong.txt").write_bytes(data)
    image = read_image(tmp_path / "wrong.txt")
    assert image.mode == "RGB"
    assert image.tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_read_image_a_format_that_is_not_listed_is_refused(picture, encode):
    with pytest.raises(ImageError, match=r"^x: not an image"):
        decode_image(encode(picture(), "PPM"), "x")


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_read_image_gray_of_fewer_bits_warns_and_is_scaled_on_request(bits, encode):
    values = (np.arange(64).reshape(8, 8) * (2**bits - 1) // 63).astype(np.uint16)
    data = encode(Image.fromarray(values), "PNG")
    with pytest.warns(UserWarning, match=f"uses {bits} bits .* gray_bits={bits}"):
        decode_image(data, "x")
    image = decode_image(data, "x", gray_bits=bits)
    assert np.array_equal(np.asarray(image)[..., 0], values >> (bits - 8))
    whole = np.array([[0, 255, 256, 0x1234], [0x7FFF, 0x8000, 0xFFFF, 0x00FF]], dtype=np.uint16)  # keeps its upper byte
    assert np.array_equal(np.asarray(decode_image(encode(Image.fromarray(whole), "PNG"), "x"))[..., 0], whole >> 8)


@pytest.mark.parametrize(
    ("kind", "values"),
    [(np.float32, one) for one in ([0, 0.5, 1], [0, np.nan, 9], [0, np.inf], [-1, 200])]
    + [(np.int32, one) for one in ([0, 2**16], [-1, 5])],
)
def test_numbers_whose_range_says_nothing_of_black_and_white_are_refused(kind, values, encode):
    with pytest.raises(ImageError, match=r"^odd: .* save it with 8 or 16"):
        decode_image(encode(Image.fromarray(np.array([values], dtype=kind)), "TIFF"), "odd")


def test_floating_point_from_0_to_255_is_gray(encode):
    pixels = np.asarray(decode_image(encode(Image.fromarray(np.float32([[0, 100.4, 255]])), "TIFF"), "x"))
    assert pixels[0, :, 0].tolist() == [0, 100, 255]


def test_to_rgb_is_the_same_from_a_path_and_from_a_callers_image(picture, encode):
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    for data in (
        encode(picture(20, 30), "JPEG", exif=exif),
        encode(Image.fromarray(alpha), "PNG"),
        encode(picture().convert("P"), "PNG", transparency=3),
        encode(Image.fromarray(np.arange(2**15, 2**15 + 64, dtype=np.uint16).reshape(8, 8)), "PNG"),
    ):
        assert images.to_rgb(Image.open(io.BytesIO(data))).tobytes() == decode_image(data, "x").tobytes()


@pytest.mark.parametrize("size", [(8001, 8000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_enormous_picture_is_refused_by_its_header_without_a_warning(size):
    with pytest.raises(ImageError, match=r"^bomb\.png: .*pixels"):
        decode_image(png_of_size(*size), "bomb.png")


def test_pixel_limit_is_inclusive_and_settable_up_to_pillows_own(picture, encode):
    with pytest.raises(ImageError, match="pixels are more than the limit"):
        decode_image(png_of_size(10_000, 10_000), "x", max_pixels=10**12)
    data = encode(picture(10, 20), "PNG")
    assert decode_image(data, "x", max_pixels=200).size == (10, 20)
    with pytest.raises(ImageError, match="10 x 20 pixels are more than the limit of 199"):
        decode_image(data, "x", max_pixels=199)


def test_file_size_is_bounded_before_it_is_read(tmp_path, monkeypatch, picture, encode):
    data = encode(picture(), "BMP")
    path = tmp_path / "large.bmp"
    path.write_bytes(data)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(data) - 1)
    with pytest.raises(ImageError, match=r"large\.bmp: .* bytes, the limit is"):
        read_image(path)
    with pytest.raises(ImageError, match=r"^memory: .* bytes, the limit is"):
        decode_image(data, "memory")


def test_text_in_a_png_that_expands_without_end_is_refused(picture, encode):
    plain = encode(picture(), "PNG")
    body = b"key\0\0" + zlib.compress(bytes(2 * 2**20))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    with pytest.raises(ImageError, match=r"^x: .*too large"):
        decode_image(plain[:33] + chunk + plain[33:], "x")


def test_describe_frames_whole_frames_are_told(tmp_path):
    for name, size in (("frame.png", (64, 36)), ("person.png", (32, 64))):
        Image.new("RGB", size).save(tmp_path / name)
    frame, person = str(tmp_path / "frame.png"), str(tmp_path / "person.png")
    assert images.describe_frames([frame, frame, person])[0].startswith("2 of 3 images looked at are wider than high")
    assert images.describe_frames([frame, person]) == images.describe_frames([]) == ()
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, size in (("lying.jpg", (64, 32)), ("standing.jpg", (32, 64))):  # each the other way round, as it is shown
        Image.new("RGB", size).save(tmp_path / name, exif=turned)
    assert images.describe_frames([str(tmp_path / "lying.jpg")]) == ()
    assert images.describe_frames([str(tmp_path / "standing.jpg")])
