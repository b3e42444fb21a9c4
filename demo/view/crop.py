"""Marking one person in a larger picture: a box that is dragged, or moved and sized with the arrow keys."""

from importlib.resources import files
from typing import Any

from PIL import Image

from hat.errors import UsageError

from .markup import data_uri, jpeg_bytes

CROP_BOX = (files(__package__) / "crop_box.js").read_text(encoding="utf-8")

_MIN_SIDE = 16


def crop_box_html(photo: Image.Image) -> str:
    """Return the picture with a box to be moved, and what can be done with it."""
    uri = data_uri(jpeg_bytes(photo, max_height=900, max_width=900, quality=80))
    return (
        '<p class="hat-label">Mark the person</p>'
        f'<div class="hat-crop-area" style="aspect-ratio: {photo.width} / {photo.height}">'
        f'<img src="{uri}" alt="The picture that you gave" draggable="false">'
        '<div class="hat-crop-box" tabindex="0" role="application" aria-roledescription="crop box" '
        'aria-label="Part of the picture. Arrow keys move it, with Shift they change its size." '
        'style="left: 38%; top: 8%; width: 24%; height: 84%"><span class="hat-crop-corner"></span></div></div>'
        '<div class="hat-buttons"><button type="button" class="hat-button hat-button-main" data-use="box">Search for this '
        'person</button><button type="button" class="hat-button" data-use="whole">Use the whole picture</button></div>'
    )


def cropped(photo: Image.Image, box: Any) -> Image.Image:
    """Return the part of a picture that a page's box marks.

    Args:
        photo: The picture.
        box: ``left``, ``top``, ``right``, ``bottom`` as shares of its width and height, in [0, 1].

    Raises:
        UsageError: It is not such a box, or next to nothing lies in it.
    """
    width, height = photo.size
    sent = box if isinstance(box, dict) else {}
    left, right = (round(_share(sent.get(side)) * width) for side in ("left", "right"))
    top, bottom = (round(_share(sent.get(side)) * height) for side in ("top", "bottom"))
    if right - left < _MIN_SIDE or bottom - top < _MIN_SIDE:
        raise UsageError(f"the box is too small: it has to hold at least {_MIN_SIDE} x {_MIN_SIDE} pixels of the picture")
    return photo.crop((left, top, right, bottom))


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError("the page sent a box that means nothing: mark the person again")
    return float(value)
