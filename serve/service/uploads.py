"""Reading a request's body: images and fields, every part of it bounded, and room reserved before a byte is kept.

The framework's own form parsing reads the whole body before anyone has been asked whether it is wanted, spools it to disk, and
takes thirty times as long for one crop as ``multipart``, whose parser takes a body in pieces.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import anyio
import orjson
from fastapi.exceptions import RequestValidationError
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from hat.data.images import FORMATS

from .admission import Reservation, ServiceSettings
from .api_error import ApiError

M = TypeVar("M", bound=BaseModel)

IMAGE_FIELD = "images"  # of a form; it may be there many times
_MAX_FIELDS = 256
_MAX_FIELD_BYTES = 256 * 2**10
_MAX_HEADER_BYTES = 4096
_MAX_NAME = 128
_SKIPPED_BYTES = 64 * 2**10
_SKIPPED_S = 5.0
_UNPRINTABLE = re.compile(r"[^\w .,+()@=#\[\]-]")


class UploadedImage(NamedTuple):
    """One encoded image, and what the client calls it: a file's name without its folders."""

    name: str
    data: bytes


@dataclass(slots=True)
class Upload:
    """A request's body: its images in order, and its other fields, of which one that is there several times has a list."""

    images: list[UploadedImage] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def parse(self, model: type[M]) -> M:
        """Return the fields as a model, or raise `RequestValidationError` where one is unknown, missing or wrong."""
        try:
            return model.model_validate(self.fields)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_input=False, include_url=False, include_context=False)) from None


async def read_upload(request: Request, reservation: Reservation, settings: ServiceSettings, *, json: bool = False) -> Upload:
    """Read a body that was not read yet: ``multipart/form-data``, one image alone, or with ``json`` a JSON object.

    Room is acquired for all of it at once where its length is known, else as it comes, and for images as they come. A body that
    is too large, of a wrong kind, broken or too slow, or that finds no room, is an `ApiError`.
    """
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise ApiError(415, "compressed bodies are not taken: send images as they are")
    declared = request.headers.get("content-length")
    if declared is not None:
        if not declared.isdecimal() or len(declared) > 18:
            raise ApiError(400, "the Content-Length header is not a number")
        if int(declared) > settings.max_body_bytes:
            raise ApiError(413, f"the body has more than {settings.max_body_bytes:,} bytes")
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    is_form, is_image = kind == "multipart/form-data", kind.startswith("image/") or kind == "application/octet-stream"
    if not (is_form or is_image or (json and kind == "application/json")):
        kinds = "multipart/form-data, image/* or application/json" if json else "multipart/form-data or image/*"
        raise ApiError(415, f"expected a body of type {kinds}")
    upload, data = Upload(), bytearray()
    form = _FormReader(upload, reservation, settings, parameters.get("boundary", "")) if is_form else None
    reservation.acquire(num_images=int(is_image), num_bytes=int(declared or 0))

    def write(piece: bytes) -> None:
        if declared is None:
            reservation.acquire(num_bytes=len(piece))
        (data.extend if form is None else form.write)(piece)

    try:
        await _receive(request, write, max_bytes=settings.max_body_bytes, timeout_s=settings.receive_timeout_s)
        if form is not None:
            form.close()
        elif is_image:
            upload.images.append(UploadedImage("body", bytes(data)))
        else:
            upload.fields = orjson.loads(data)
    except MultipartError as error:
        raise ApiError(400, f"the multipart body is broken: {str(error)[:100]}") from None
    except orjson.JSONDecodeError:
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(upload.fields, dict):
        raise ApiError(422, "expected a JSON object")
    return upload


async def skip_body(request: Request) -> None:
    """Read past the body of a request that needs none, so that the end of its connection can be detected."""
    await _receive(request, lambda piece: None, max_bytes=_SKIPPED_BYTES, timeout_s=_SKIPPED_S)


async def _receive(request: Request, write: Callable[[bytes], None], *, max_bytes: int, timeout_s: float) -> None:
    """Give a body on in pieces."""
    received = 0
    try:
        with anyio.fail_after(timeout_s):
            async for piece in request.stream():
                received += len(piece)
                if received > max_bytes:
                    raise ApiError(413, f"the body has more than {max_bytes:,} bytes")
                write(piece)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {timeout_s:g} s") from None


def describe_body(
    form: type[BaseModel] | None = None, *, images: bool = False, alone: bool = False, json: bool = False
) -> dict[str, Any]:
    """Return a body for OpenAPI: a form with images and a model's fields, one image ``alone``, or the fields as JSON."""
    schema = form.model_json_schema() if form is not None else {}
    schema = _inline(schema, schema.pop("$defs", {}))
    content: dict[str, Any] = {}
    if json:
        content["application/json"] = {"schema": {**schema, "type": "object"}}
    if images:
        binary = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": f"{', '.join(FORMATS)}."}
        multipart = {"type": "object", "additionalProperties": False}
        multipart["properties"] = {IMAGE_FIELD: binary, **schema.get("properties", {})}
        multipart["required"] = [*([] if json else [IMAGE_FIELD]), *schema.get("required", [])]
        content["multipart/form-data"] = {"schema": multipart}
    if alone:
        content["image/jpeg"] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Put a schema's definitions where they are used: beside a route there is no place for them."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inline(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _inline(value, definitions) for key, value in schema.items()}
    return [_inline(item, definitions) for item in schema] if isinstance(schema, list) else schema


class _FormReader:
    """Sorts the parts of a multipart body into images and fields."""

    def __init__(self, upload: Upload, reservation: Reservation, settings: ServiceSettings, boundary: str) -> None:
        if not 0 < len(boundary) <= 200 or not boundary.isprintable():
            raise ApiError(400, "the multipart body has no usable boundary")
        self._upload, self._reservation, self._settings = upload, reservation, settings
        self._parser = PushMultipartParser(boundary, max_header_size=_MAX_HEADER_BYTES)
        self._fields: dict[str, list[str]] = {}
        self._part = MultipartSegment([])
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Take a piece of the body."""
        for event in self._parser.parse(data) if data else ():  # no data would be the end to the parser
            if event is None:
                self._end_part()
            elif isinstance(event, MultipartSegment):
                self._begin_part(event)
            else:
                self._pieces.append(event)
                if self._part.name != IMAGE_FIELD and self._part.bytes_received > _MAX_FIELD_BYTES:
                    raise ApiError(413, f"a field has more than {_MAX_FIELD_BYTES:,} bytes")

    def close(self) -> None:
        """Take the end of the body. A field that was there once has one value, another a list of them."""
        self._parser.close()
        self._upload.fields = {name: values if values[1:] else values[0] for name, values in self._fields.items()}

    def _begin_part(self, part: MultipartSegment) -> None:
        self._part, self._pieces = part, []
        if part.name == IMAGE_FIELD:
            if len(self._upload.images) >= self._settings.max_images:
                raise ApiError(413, f"more than {self._settings.max_images} images in one request")
            self._reservation.acquire(num_images=1)
        elif sum(map(len, self._fields.values())) >= _MAX_FIELDS:
            raise ApiError(413, f"more than {_MAX_FIELDS} fields in one request")

    def _end_part(self) -> None:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = []
        if self._part.name == IMAGE_FIELD:
            # Fit to be shown and stored: no folders, nothing but plain characters, not too long.
            name = re.split(r"[/\\]", self._part.filename or "")[-1]
            name = _UNPRINTABLE.sub("_", name)[-_MAX_NAME:].strip() or f"image {len(self._upload.images) + 1}"
            self._upload.images.append(UploadedImage(name, data))
            return
        try:
            value = data.decode("utf-8")
        except UnicodeDecodeError:
            raise ApiError(422, f"a field is not UTF-8 text; images go into fields named {IMAGE_FIELD}") from None
        self._fields.setdefault(self._part.name, []).append(value)
