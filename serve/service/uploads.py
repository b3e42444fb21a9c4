"""Reading a request's body: images and fields, every part of it bounded, and a place taken before a byte is kept.

The frameworks' own form parsing is not used: it reads the whole body before anyone has been asked whether it is wanted, and
spools it to disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import anyio
import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from .admission import Place
from .refusal import ClientGoneError, RefusalError
from .settings import ServiceSettings

__all__ = ["IMAGE_FIELD", "Upload", "UploadedImage", "read_upload", "skip_body"]

IMAGE_FIELD = "images"
"""Name of the multipart field that holds an image; it may be there many times."""

_MAX_FIELDS = 256
_MAX_FIELD_BYTES = 256 * 2**10
_MAX_NAME = 128
_SKIPPED_BYTES = 64 * 2**10
_SKIPPED_S = 5.0
_UNPRINTABLE = re.compile(r"[^\w .,+()@=#\[\]-]")


@dataclass(frozen=True, slots=True)
class UploadedImage:
    """One encoded image.

    Attributes:
        name: What the client calls it: a file's name without its folders.
        data: The encoded image.
    """

    name: str
    data: bytes


@dataclass(slots=True)
class Upload:
    """A request's body.

    Attributes:
        images: Its images, in order.
        fields: Its other fields: name -> values in order; of a JSON body, its content.
    """

    images: list[UploadedImage] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


async def read_upload(request: Request, place: Place, settings: ServiceSettings, *, json: bool = False) -> Upload:
    """Read a body: ``multipart/form-data``, one image alone, or JSON.

    Args:
        request: The request, its body not read yet.
        place: Where room is taken for bytes and images as they come.
        settings: The bounds.
        json: Whether JSON is taken as well.

    Raises:
        RefusalError: The body is too large, of a wrong kind, broken or too slow, or there is no room for it.
        ClientGoneError: The client went away.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    upload = Upload()
    if kind == b"multipart/form-data":
        reader: _Reader = _MultipartReader(upload, place, settings, parameters.get(b"boundary", b""))
    elif kind.startswith(b"image/") or kind == b"application/octet-stream":
        place.take(images=1)
        reader = _WholeReader()
    elif kind == b"application/json" and json:
        reader = _WholeReader()
    else:
        kinds = "multipart/form-data, image/* or application/json" if json else "multipart/form-data or image/*"
        raise RefusalError(415, f"expected a body of type {kinds}")
    await _feed(request, place, settings, reader)
    if isinstance(reader, _WholeReader):
        if kind == b"application/json":
            upload.fields = _json_object(reader.data)
        else:
            upload.images.append(UploadedImage("body", bytes(reader.data)))
    return upload


async def skip_body(request: Request) -> None:
    """Read past the body of a request that needs none, so that the end of its connection can be told.

    Raises:
        RefusalError: It has one that is not small, or that does not come.
        ClientGoneError: The client went away.
    """
    received = 0
    try:
        with anyio.fail_after(_SKIPPED_S):
            async for piece in request.stream():
                received += len(piece)
                if received > _SKIPPED_BYTES:
                    raise RefusalError(413, "this request takes no body")
    except TimeoutError:
        raise RefusalError(408, "this request takes no body, and one was announced that did not come") from None
    except ClientDisconnect:
        raise ClientGoneError from None


class _Reader:
    """Takes a body in pieces."""

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """The body has ended."""


class _WholeReader(_Reader):
    """Keeps a body as it is."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data


async def _feed(request: Request, place: Place, settings: ServiceSettings, reader: _Reader) -> None:
    """Give a body to a reader. Room is taken for all of it at once where its length is known, else as it comes."""
    declared = request.headers.get("content-length")
    if declared is not None:
        place.take(num_bytes=int(declared))
    received = 0
    try:
        with anyio.fail_after(settings.receive_timeout_s):
            async for piece in request.stream():
                received += len(piece)
                if received > settings.max_body_bytes:
                    raise RefusalError(413, f"the body has more than {settings.max_body_bytes:,} bytes")
                if declared is None:
                    place.take(num_bytes=len(piece))
                reader.write(piece)
        reader.finish()
    except TimeoutError:
        raise RefusalError(408, f"the body did not arrive within {settings.receive_timeout_s:g} s") from None
    except ClientDisconnect:
        raise ClientGoneError from None
    except FormParserError:
        raise RefusalError(400, "the multipart body is broken") from None


class _MultipartReader(_Reader):
    """Sorts the parts of a multipart body into images and fields."""

    def __init__(self, upload: Upload, place: Place, settings: ServiceSettings, boundary: bytes) -> None:
        if not boundary or len(boundary) > 200:
            raise RefusalError(400, "the multipart body has no usable boundary")
        self.upload, self.place, self.settings = upload, place, settings
        self.ended = False
        self.num_fields = 0
        self.header_name, self.header_value, self.disposition = b"", b"", b""
        self.field_name, self.file_name = "", ""
        self.data = bytearray()
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self.on_part_begin,
                "on_header_field": self.on_header_field,
                "on_header_value": self.on_header_value,
                "on_header_end": self.on_header_end,
                "on_headers_finished": self.on_headers_finished,
                "on_part_data": self.on_part_data,
                "on_part_end": self.on_part_end,
                "on_end": self.on_end,
            },
        )

    def write(self, data: bytes) -> None:
        self.parser.write(data)

    def finish(self) -> None:
        self.parser.finalize()
        if not self.ended:
            raise RefusalError(400, "the multipart body is broken: its last boundary is missing")

    def on_part_begin(self) -> None:
        self.disposition = b""
        self.data = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.header_value += data[start:end]

    def on_header_end(self) -> None:
        if self.header_name.lower() == b"content-disposition":
            self.disposition = self.header_value
        self.header_name, self.header_value = b"", b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self.disposition)
        name = options.get(b"name")
        if name is None:
            raise RefusalError(400, "a part of the multipart body has no name")
        self.field_name = name.decode("utf-8", "replace")
        self.file_name = options.get(b"filename", b"").decode("utf-8", "replace")
        if self.field_name == IMAGE_FIELD:
            if len(self.upload.images) >= self.settings.max_images:
                raise RefusalError(413, f"more than {self.settings.max_images} images in one request")
            self.place.take(images=1)
            return
        self.num_fields += 1
        if self.num_fields > _MAX_FIELDS:
            raise RefusalError(413, f"more than {_MAX_FIELDS} fields in one request")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.data += data[start:end]
        if self.field_name != IMAGE_FIELD and len(self.data) > _MAX_FIELD_BYTES:
            raise RefusalError(413, f"a field has more than {_MAX_FIELD_BYTES:,} bytes")

    def on_part_end(self) -> None:
        if self.field_name == IMAGE_FIELD:
            name = printable_name(self.file_name) or f"image {len(self.upload.images) + 1}"
            self.upload.images.append(UploadedImage(name, bytes(self.data)))
            return
        try:
            value = self.data.decode("utf-8")
        except UnicodeDecodeError:
            raise RefusalError(422, f"a field is not UTF-8 text; images go into fields named {IMAGE_FIELD}") from None
        self.upload.fields.setdefault(self.field_name, []).append(value)

    def on_end(self) -> None:
        self.ended = True


def printable_name(name: str) -> str:
    """A client's name of a file, fit to be shown and stored: no folders, nothing but plain characters, not too long."""
    return _UNPRINTABLE.sub("_", re.split(r"[/\\]", name)[-1])[-_MAX_NAME:].strip()


def _json_object(data: bytearray) -> dict[str, Any]:
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise RefusalError(400, "the body is not JSON") from None
    if not isinstance(content, dict):
        raise RefusalError(422, "expected a JSON object")
    return content
