"""From a path to a decoded RGB image, with every defect of an untrusted file named in one error.

Files are bounded in bytes and in pixels before anything is decoded: Pillow opens lazily, so that the size is known before
memory is taken for it. What a file is, its content decides and not its name. Color profiles are ignored: pixels are taken as
sRGB, as every published re-ID result does.
"""

import contextlib
import functools
import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from hat.data.archives import read_member, split_location
from hat.errors import ImageError, UsageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")  # read, by Pillow's names; AVIF where Pillow was built with it
# Endings, in any case, of files that a reader of folders takes for images.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
MAX_PIXELS = 64_000_000  # largest width times height that is decoded unless the caller says otherwise
MAX_FILE_BYTES = 64 * 2**20  # largest encoded file that is read

# Truncated files are an OSError to Pillow, broken PNGs a SyntaxError; the rest is what hostile ones have been seen to raise.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError, MemoryError,
    RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_HEADER_LOCK = threading.Lock()  # Python's filters of warnings belong to the process: one thread at a time may change them
_FRAMES_LOOKED_AT = 32
_SOON_BLACK = 2**14  # sixteen-bit gray whose largest value is below comes from a sensor of fewer bits
_default_gray_bits: int | None = None


def set_gray_bits(bits: int | None) -> None:
    """Set how many bits, 8 to 16, sixteen-bit gray images use in this process, wherever a call does not say: see `to_rgb`."""
    global _default_gray_bits  # noqa: PLW0603 - as Pillow's MAX_IMAGE_PIXELS: of all images that a process reads, in any thread
    if bits is not None and not 8 <= bits <= 16:
        raise UsageError(f"sixteen-bit gray uses 8 to 16 bits, got {bits}")
    _default_gray_bits = bits


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, gray_bits: int | None = None) -> Image.Image:
    """Read and decode one image: the first picture in a file of one of `FORMATS`, mode RGB, upright.

    Args:
        path: The file, whatever its name ends with, or ``archive.zip!member/inside.jpg``.
        max_pixels: Largest width times height. Pillow's own limit (``PIL.Image.MAX_IMAGE_PIXELS``) holds where it is lower.
        gray_bits: Bits that sixteen-bit gray really uses, see `to_rgb`.

    Raises:
        ImageError: The file is missing, unreadable, too large, truncated or not an image. The message begins with ``path``.
    """
    name = os.fsdecode(path)
    return decode_image(read_encoded(name), name, max_pixels=max_pixels, gray_bits=gray_bits)


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, gray_bits: int | None = None) -> Image.Image:
    """Decode one image that is already in memory, as `read_image` does; ``name`` is what errors call it.

    Raises:
        ImageError: The data is too large, truncated or not an image. The message begins with ``name``.
    """
    with _open_lazily(data, name, max_pixels) as image:
        try:
            image.load()
        except _DECODER_ERRORS as error:
            raise ImageError(f"{name}: truncated or broken {image.format} image ({error})") from None
        return to_rgb(image, name=name, gray_bits=gray_bits)


def image_size(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) in pixels of an encoded image as its header says, before its orientation; or an `ImageError`."""
    with _open_lazily(data, name, max_pixels) as image:
        return image.size


def describe_frames(paths: Sequence[str]) -> tuple[str, ...]:
    """Return a note where most of some images, spread over these, are wider than high: whole frames and not crops of people."""
    looked_at = paths[:: max(1, len(paths) // _FRAMES_LOOKED_AT)][:_FRAMES_LOOKED_AT]
    num_wide = 0
    for path in looked_at:
        with contextlib.suppress(ImageError):  # left to whoever decodes it
            num_wide += _is_wide(read_encoded(path), path)
    if 2 * num_wide <= len(looked_at):
        return ()
    return (
        f"{num_wide} of {len(looked_at)} images looked at are wider than high: the model expects one person a picture, cut out "
        "by a detector, and whole frames give results without a meaning",
    )


def _is_wide(data: bytes, name: str) -> bool:
    """Return whether an encoded image is wider than high, once it is upright."""
    with _open_lazily(data, name, MAX_PIXELS) as image:
        width, height = image.size
        try:
            lies = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        except (TypeError, *_DECODER_ERRORS):
            lies = False
    return height > width if lies else width > height


def to_rgb(image: Image.Image, *, name: str = "image", gray_bits: int | None = None) -> Image.Image:
    """Return an opened image of any mode as it is embedded, whether it came from a file or from a caller's hands.

    It is RGB and upright by its EXIF orientation; itself where nothing has to change. Transparent pixels are composited on
    white, as a browser shows them. Of sixteen-bit gray the upper eight of ``gray_bits`` bits are kept, since cameras store 10,
    12 or 14 in such files; None is what `set_gray_bits` says, or else 16, with a warning, which calls the image ``name``, where
    that leaves it nearly black. Numbers whose range says nothing of black and white (beyond 16 bits, or floating point other
    than 0 to 255) are an `ImageError`.
    """
    try:
        with _HEADER_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = ImageOps.exif_transpose(image)
    except _DECODER_ERRORS:
        pass  # a picture is worth more than its label, so a broken label changes nothing
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) >= 2**16:
            raise ImageError(
                f"{name}: pixels from {values.min()} to {values.max()}, expected at most 16 bits: save it with 8 or 16"
            )
        gray_bits = gray_bits or _default_gray_bits
        if gray_bits is None and 255 < values.max(initial=0) < _SOON_BLACK:
            bits = int(values.max()).bit_length()
            remedy = f"gray_bits={bits} (--gray-bits {bits}) scales it"
            warnings.warn(f"{name}: sixteen-bit gray that uses {bits} bits is nearly black; {remedy}", stacklevel=2)
        return Image.fromarray((values >> ((gray_bits or 16) - 8)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        levels = np.asarray(image)
        lowest, highest = levels.min(initial=255), levels.max(initial=0)
        if not 0 <= lowest <= highest <= 255 or 0 < highest <= 1:  # written so that NaN is wrong too
            raise ImageError(
                f"{name}: floating point from {lowest:g} to {highest:g}, expected 0 to 255: save it with 8 or 16 bits"
            )
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        canvas = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, opaque).convert("RGB")
    return image.convert("RGB")


def _open_lazily(data: bytes, name: str, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError(f"{name}: empty (0 bytes)")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name}: {len(data):,} bytes, the limit is {MAX_FILE_BYTES:,}")
    try:
        # Broken EXIF and large pictures make Pillow warn; the one does no harm, the other is refused below.
        with _HEADER_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_readable_formats())
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image, or its header is broken (it begins with {data[:8]!r})") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: its header promises far more pixels than the limit of {max_pixels:,}") from None
    except _DECODER_ERRORS as error:
        raise ImageError(f"{name}: truncated or broken image ({error})") from None
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    width, height = image.size
    if width * height > limit:
        raise ImageError(f"{name}: {width} x {height} pixels are more than the limit of {limit:,}")
    if width * height == 0:
        raise ImageError(f"{name}: broken, its header says {width} x {height} pixels")
    return image


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    Image.init()  # Pillow knows its formats only once its plugins are loaded
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_encoded(path: str) -> bytes:
    """Return the bytes of a file or of a member of a zip file, at most `MAX_FILE_BYTES`, or an `ImageError` that names it."""
    if (member := split_location(path)) is not None:
        return read_member(*member, max_bytes=MAX_FILE_BYTES)
    try:
        status = Path(path).stat()
        # Opening a pipe or a device could wait for ever, so it is looked at before it is opened.
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path}: a folder, expected an image file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{path}: not an ordinary file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(f"{path}: {status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        with Path(path).open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ImageError(f"{path}: not a path ({error})") from None
