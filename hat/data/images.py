"""From a path to a decoded RGB image, with everything that a stranger's file can get wrong named in one error.

Files are bounded in bytes and in pixels before anything is decoded. Of an animated file the first picture is taken. The EXIF
orientation is applied. Transparent pixels are composited on white, as a browser shows them. Sixteen-bit gray keeps its upper
eight bits. Color profiles are ignored: pixels are taken as sRGB, as every published re-ID result does.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from hat.data.archives import read_member, split_location
from hat.data.image_headers import ImageHeader, read_header
from hat.errors import ImageError

__all__ = ["MAX_FILE_BYTES", "MAX_PIXELS", "decode_image", "read_encoded", "read_image"]

MAX_PIXELS = 64_000_000
"""Largest width times height that is decoded unless the caller says otherwise."""

MAX_FILE_BYTES = 64 * 2**20
"""Largest encoded file that is read."""

_DECODER_ERRORS = (
    OSError,  # Pillow's word for truncated and undecodable files
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

# What undoes each EXIF orientation (2 to 8).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read and decode one image.

    Args:
        path: A JPEG, PNG, WebP or BMP file, whatever its name ends with, or ``archive.zip!member/inside.jpg``.
        max_pixels: Largest width times height. Pillow's own limit (``PIL.Image.MAX_IMAGE_PIXELS``) holds where it is lower.

    Returns:
        The first picture in the file: mode RGB, upright.

    Raises:
        ImageError: The file is missing, not a file, unreadable, empty, too large, truncated or not an image. The message begins
            with ``path``.
    """
    name = os.fsdecode(path)
    return decode_image(read_encoded(name), name, max_pixels=max_pixels)


def read_encoded(path: str) -> bytes:
    """Read the bytes of a file or of a member of a zip file, at most `MAX_FILE_BYTES` of them; nothing is decoded.

    Args:
        path: A file's path, or ``archive.zip!member/inside.jpg``.

    Raises:
        ImageError: The file is missing, not a file, unreadable or too large. The message begins with ``path``.
    """
    member = split_location(path)
    return _read_file(path) if member is None else read_member(*member, max_bytes=MAX_FILE_BYTES)


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image that is already in memory.

    Args:
        data: An encoded JPEG, PNG, WebP or BMP file.
        name: What to call it in an error: its path, for example.
        max_pixels: Largest width times height. Pillow's own limit (``PIL.Image.MAX_IMAGE_PIXELS``) holds where it is lower.

    Returns:
        The first picture: mode RGB, upright.

    Raises:
        ImageError: The data is empty, too large, truncated or not an image. The message begins with ``name``.
    """
    if not data:
        raise ImageError(f"{name}: empty (0 bytes)")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name}: {len(data):,} bytes, the limit is {MAX_FILE_BYTES:,}")
    header = read_header(data, name)
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    if header.width * header.height > limit:
        raise ImageError(f"{name}: {header.width} x {header.height} pixels are more than the limit of {limit:,}")
    try:
        image = _decode(header)
    except _DECODER_ERRORS as error:
        raise ImageError(f"{name}: truncated or broken {header.format} image ({error})") from None
    return image.transpose(_UPRIGHT[header.orientation]) if header.orientation > 1 else image


def _read_file(name: str) -> bytes:
    try:
        path = Path(name)
        status = path.stat()
        # Opening a pipe or a device could wait for ever, so it is looked at before it is opened.
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{name}: a folder, expected an image file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name}: not an ordinary file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(f"{name}: {status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file") from None
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ImageError(f"{name}: not a path ({error})") from None


def _decode(header: ImageHeader) -> Image.Image:
    with Image.open(io.BytesIO(header.pixel_data), formats=(header.format,)) as image:
        if image.size != (header.width, header.height):
            raise ValueError(f"its header says both {header.width} x {header.height} and {image.width} x {image.height}")
        image.load()
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        # Pillow would clip every value above 255 to white.
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        canvas = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, opaque).convert("RGB")
    return image.convert("RGB")
