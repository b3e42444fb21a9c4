"""The picture of a record: its thumbnail, or its source where that is still the same image."""

from PIL import Image

from hat.data.images import decode_image, read_encoded
from hat.errors import ImageError

from .person_crops import BOX_ATTRIBUTE, Box, box_from_text, content_hash, crop_person
from .records import Record


def box_of(record: Record) -> Box | None:
    """Return which part of its source a record shows; None where it is the whole."""
    text = record.attributes.get(BOX_ATTRIBUTE)
    return box_from_text(text) if isinstance(text, str) else None


def read_source(record: Record) -> bytes:
    """Return the encoded bytes that a record was made from.

    Raises:
        ImageError: Its source is no file or member of a zip file, cannot be read, or is another image by now.
    """
    data = read_encoded(record.source)
    if content_hash(data, box_of(record)) != record.content_hash:
        raise ImageError(f"{record.source}: another image than the one that was enrolled")
    return data


def record_image(record: Record) -> Image.Image | None:
    """Return the picture of a record, in RGB; None where neither a thumbnail nor the source is there.

    Args:
        record: Read with its thumbnail, if that is to be used.
    """
    try:
        if record.thumbnail is not None:
            return decode_image(record.thumbnail, record.source)
        image = decode_image(read_source(record), record.source)
        box = box_of(record)
        return image if box is None else crop_person(image, box, record.source)
    except ImageError:
        return None
