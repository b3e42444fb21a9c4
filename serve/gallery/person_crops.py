"""The picture of a record: the box of a person in a larger one, its crop, hash and thumbnail, and how it is found again."""

import hashlib
import io
import re

from PIL import Image

from hat.data.images import decode_image, read_encoded
from hat.errors import ImageError

from .records import Record

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, the latter two excluded: a person in a larger picture
BOX_ATTRIBUTE = "box"  # which part of its source a record shows, as "left,top,right,bottom"
MIN_BOX = 4  # smallest side in pixels of what is cropped
_BOX_TEXT = re.compile(r"(-?\d{1,9}),(-?\d{1,9}),(-?\d{1,9}),(-?\d{1,9})")


def box_text(box: Box) -> str:
    """Return a box as an attribute says it: ``"left,top,right,bottom"``."""
    return ",".join(map(str, box))


def box_from_text(text: str) -> Box | None:
    """Return a box that `box_text` wrote; None for any other text."""
    match = _BOX_TEXT.fullmatch(text)
    return (int(match[1]), int(match[2]), int(match[3]), int(match[4])) if match else None


def content_hash(data: bytes, box: Box | None = None) -> str:
    """Return what makes an image the same one: SHA-256 of its encoded bytes and, where there is one, of the box, as hex."""
    digest = hashlib.sha256(data)
    if box is not None:
        digest.update(f";box={box_text(box)}".encode())
    return digest.hexdigest()


def crop_person(image: Image.Image, box: Box, name: str) -> Image.Image:
    """Return the part of a picture that a box names, cut off at its edges; next to nothing is an `ImageError` by ``name``."""
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(image.width, box[2]), min(image.height, box[3])
    if right - left < MIN_BOX or bottom - top < MIN_BOX:
        raise ImageError(
            f"{name}: of the box {box_text(box)} at least {MIN_BOX} x {MIN_BOX} pixels must lie inside the picture "
            f"({image.width} x {image.height})"
        )
    return image.crop((left, top, right, bottom))


def make_thumbnail(image: Image.Image, height: int) -> bytes:
    """Return a JPEG of a picture, at most ``height`` pixels high and twice as wide; a smaller picture keeps its size."""
    small = image.convert("RGB")
    small.thumbnail((2 * height, height))
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=80)
    return encoded.getvalue()


def box_of(record: Record) -> Box | None:
    """Return which part of its source a record shows; None where it is the whole."""
    text = record.attributes.get(BOX_ATTRIBUTE)
    return box_from_text(text) if isinstance(text, str) else None


def read_source(record: Record) -> bytes:
    """Return the encoded bytes that a record was made from; an `ImageError` where they are gone or are another image by now."""
    data = read_encoded(record.source)
    if content_hash(data, box_of(record)) != record.content_hash:
        raise ImageError(f"{record.source}: another image than the one that was enrolled")
    return data


def record_image(record: Record) -> Image.Image | None:
    """Return the picture of a record, in RGB, from the thumbnail if it was read with it; None where its source is gone too."""
    try:
        if record.thumbnail is not None:
            return decode_image(record.thumbnail, record.source)
        image = decode_image(read_source(record), record.source)
        box = box_of(record)
        return image if box is None else crop_person(image, box, record.source)
    except ImageError:
        return None
