"""What an image file says before it is decoded: format, size, orientation, and which of its bytes make pixels.

Data sets and uploads come from strangers. A decoder is given only what was checked here: one of four formats, told by content
and not by the file's name; a size known before memory is taken for it; and, for JPEG and PNG, the parts that make pixels alone.
Comments, color profiles, thumbnails, animation and EXIF never reach it, so that they can neither expand nor make it warn.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from hat.errors import ImageError

__all__ = ["FORMATS", "ImageHeader", "read_header"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""The formats that are read, by Pillow's names."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXEL_CHUNKS = frozenset({b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_MAX_PNG_CHUNKS = 100_000

# Frame headers, tables, restart interval, arithmetic coding, and the two application segments that decide the color space.
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_JPEG_PIXEL_SEGMENTS = _JPEG_FRAMES | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment
_JPEG_NO_MARKER = frozenset({0x00, 0xFF})  # a stuffed byte, padding
_JPEG_EXIF, _JPEG_SCAN, _JPEG_END = 0xE1, 0xDA, 0xD9

_EXIF_PREFIX = b"Exif\0\0"
_EXIF_ORIENTATION = 0x0112
_MAX_EXIF_ENTRIES = 512


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header of an image file says.

    Attributes:
        format: One of `FORMATS`.
        width: Width in pixels, before the orientation is applied.
        height: Height in pixels, before the orientation is applied.
        orientation: EXIF orientation, 1 (upright) to 8.
        pixel_data: The file reduced to what a decoder needs for the first picture.
    """

    format: str
    width: int
    height: int
    orientation: int
    pixel_data: bytes


def read_header(data: bytes, name: str) -> ImageHeader:
    """Read the header of an encoded image; nothing is decoded.

    Args:
        data: The whole file.
        name: What to call it in an error.

    Returns:
        The header; its width and height are at least 1.

    Raises:
        ImageError: The data is no JPEG, PNG, WebP or BMP image, or its header is cut short or broken.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            header = _read_jpeg(data)
        elif data.startswith(_PNG_SIGNATURE):
            header = _read_png(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _read_webp(data)
        elif data.startswith(b"BM"):
            header = _read_bmp(data)
        else:
            raise ImageError(f"{name}: not an image (expected JPEG, PNG, WebP or BMP; it begins with {data[:8]!r})")
    except (struct.error, IndexError):
        raise ImageError(f"{name}: truncated, its header ends too early (the file has {len(data):,} bytes)") from None
    except ValueError as error:
        raise ImageError(f"{name}: broken, {error}") from None
    if header.width < 1 or header.height < 1:
        raise ImageError(f"{name}: broken, its header says {header.width} x {header.height} pixels")
    return header


def _read_jpeg(data: bytes) -> ImageHeader:
    kept = [b"\xff\xd8"]
    size: tuple[int, int] | None = None
    orientation = 1
    for marker, start, end in _jpeg_segments(data):
        if marker == _JPEG_SCAN:
            kept.append(data[start:])
            break
        if marker in _JPEG_FRAMES:
            if size is not None:
                raise ValueError("the JPEG has two frame headers")
            height, width = struct.unpack_from(">HH", data, start + 5)
            size = (width, height)
        if marker in _JPEG_PIXEL_SEGMENTS:
            kept.append(data[start:end])
        elif marker == _JPEG_EXIF and orientation == 1:
            orientation = _exif_orientation(data[start + 4 : end])
    if size is None:
        raise ValueError("the JPEG has a scan before its frame header")
    return ImageHeader("JPEG", *size, orientation, b"".join(kept))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment, to the head of the first scan."""
    position = 2
    while True:
        # Encoders may pad with 0xFF before a marker, and broken ones leave bytes between segments; decoders skip both.
        position = data.find(b"\xff", position)
        if position < 0:
            raise IndexError
        marker = data[position + 1]
        if marker in _JPEG_NO_MARKER:
            position += 1
        elif marker in _JPEG_BARE:
            position += 2
        elif marker == _JPEG_END:
            raise ValueError("the JPEG ends before its first scan")
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            if length < 2:
                raise ValueError("a segment of the JPEG has no length")
            end = position + 2 + length
            if end > len(data):
                raise IndexError
            yield marker, position, end
            position = end


def _read_png(data: bytes) -> ImageHeader:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13:
        raise ValueError("the PNG does not begin with its header chunk")
    kept = [data[:33]]
    orientation = 1
    position = 33
    for _ in range(_MAX_PNG_CHUNKS):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind in _PNG_PIXEL_CHUNKS:
            kept.append(data[position:end])
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : end - 4])
        if kind == b"IEND":
            break
        position = end
    else:
        raise ValueError(f"the PNG has over {_MAX_PNG_CHUNKS:,} chunks")
    return ImageHeader("PNG", width, height, orientation, b"".join(kept))


def _read_webp(data: bytes) -> ImageHeader:
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        if len(data) < 30:
            raise IndexError
        return ImageHeader("WEBP", width, height, _webp_orientation(data), data)
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise ValueError("the WebP's lossless picture has a wrong signature")
        return ImageHeader("WEBP", 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF), 1, data)
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise ValueError("the WebP's picture has a wrong signature")
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WEBP", width & 0x3FFF, height & 0x3FFF, 1, data)
    if len(data) < 16:
        raise IndexError
    raise ValueError(f"the WebP begins with an unknown chunk {kind!r}")


def _webp_orientation(data: bytes) -> int:
    position = 12
    for _ in range(_MAX_PNG_CHUNKS):
        if position + 8 > len(data):
            return 1
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return _exif_orientation(data[position + 8 : position + 8 + length])
        position += 8 + length + (length & 1)
    raise ValueError(f"the WebP has over {_MAX_PNG_CHUNKS:,} chunks")


def _read_bmp(data: bytes) -> ImageHeader:
    (header_size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_size == 12 else "<ii", data, 18)
    return ImageHeader("BMP", width, abs(height), 1, data)


def _exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block; 1 where there is none or it is broken, for a picture is worth more than its label."""
    block = block.removeprefix(_EXIF_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(f"{order}I", block, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", block, offset)
        for entry in range(min(num_entries, _MAX_EXIF_ENTRIES)):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, offset + 2 + 12 * entry)
            if tag == _EXIF_ORIENTATION and kind == 3:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
