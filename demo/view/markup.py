"""HTML of the pages: the macros of their templates, in which every value is text until it is said to be markup."""

import base64
import html
import io
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from hat.serve.gallery.identities import Identity

MAX_TEXT = 400
"""Longest text of a record that is shown, in characters; a file's name has no business being longer."""

# Gradio's own templates look for braces and dollars; as references they are text wherever they land.
_TEMPLATE_SIGNS = {ord("{"): "&#123;", ord("}"): "&#125;", ord("$"): "&#36;", ord("`"): "&#96;"}


class Cell(NamedTuple):
    """A cell of a table: its text, a smaller one below, and ``"good"`` or ``"bad"`` where it is a verdict."""

    text: str
    small: str = ""
    kind: str = ""


@cache
def fragments(page: str) -> Any:
    """Return the macros of a page's template, functions that give markup."""
    return _environment().get_template(f"{page}.html.jinja").module


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hat.demo.view"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(escaped(value)),
    )
    filters = (person_name, plural, last_part, data_uri, jpeg_bytes, camera_name)
    environment.filters |= {function.__name__: function for function in filters}
    return environment


def escaped(text: object) -> str:
    """Return text as text: safe between tags and in a quoted attribute, without control characters, of bounded length."""
    shown = "".join(character if character.isprintable() else " " for character in str(text)[: MAX_TEXT + 1])
    if len(shown) > MAX_TEXT:
        shown = shown[: MAX_TEXT - 1] + "…"
    return html.escape(shown, quote=True).translate(_TEMPLATE_SIGNS)


def data_uri(jpeg: bytes) -> Markup:
    """Return a JPEG as a URI that holds it, so that a page shows it and no file is written or served."""
    return Markup(f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}")


def jpeg_bytes(image: Image.Image, *, max_height: int = 256, max_width: int = 512, quality: int = 88) -> bytes:
    """Encode an image, made smaller where it is larger than a page needs; proportions are kept."""
    rgb = image.convert("RGB")
    rgb.thumbnail((max_width, max_height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    rgb.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: "1 image", "1,204 images", "2 people"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def person_name(pid: Identity | None, *, starts: bool = False) -> str:
    """Return an identity for people: a name as it is, ``starts`` with a capital for any other."""
    if isinstance(pid, str):
        return pid
    return f"{'U' if starts else 'u'}nknown person" if pid is None else f"{'P' if starts else 'p'}erson {pid}"


def camera_name(camid: int | None) -> str:
    """Return a camera for people."""
    return "unknown camera" if camid is None else f"camera {camid}"


def last_part(location: str) -> str:
    """Return the last part of a path or an address."""
    return location.replace("\\", "/").rstrip("/").rpartition("/")[2] or location
