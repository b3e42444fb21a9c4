"""Fields of a request checked against what they should be, with errors that name the field and quote nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .refusal import RefusalError

__all__ = ["checked", "described", "request_body"]

M = TypeVar("M", bound=BaseModel)

_MAX_TOLD = 5


def checked(model: type[M], fields: Mapping[str, Any]) -> M:
    """Fields as a model.

    Raises:
        RefusalError: A field is unknown, missing or wrong.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise RefusalError(
            422, described(error.errors(include_input=False, include_url=False, include_context=False))
        ) from None


def described(errors: Any) -> str:
    """What is wrong, field by field, in one sentence."""
    told = []
    for item in errors[:_MAX_TOLD]:
        place = ".".join(str(part) for part in item["loc"] if part not in ("body", "query", "path", "header"))
        told.append(f"{place[:100]}: {item['msg'].removeprefix('Value error, ')}" if place else str(item["msg"]))
    more = f"; and {len(errors) - _MAX_TOLD} more" if len(errors) > _MAX_TOLD else ""
    return "; ".join(told) + more


def request_body(
    form: type[BaseModel] | None = None, *, images: bool, alone: bool = False, json: bool = False
) -> dict[str, Any]:
    """A request's body for OpenAPI, since routes read their bodies themselves.

    Args:
        form: Its fields beside the images.
        images: Whether it takes images.
        alone: Whether one image may be the whole body.
        json: Whether the fields may come as JSON, without images.
    """
    fields = form.model_json_schema() if form is not None else {}
    fields = _inlined(fields, fields.pop("$defs", {}))
    properties, required = dict(fields.get("properties", {})), list(fields.get("required", []))
    content: dict[str, Any] = {}
    if json:
        content["application/json"] = {"schema": {**fields, "type": "object"}}
    if images:
        picture = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "JPEG, PNG, WebP or BMP."}
        schema = {"type": "object", "additionalProperties": False, "properties": {"images": picture, **properties}}
        schema["required"] = required if json else ["images", *required]
        content["multipart/form-data"] = {"schema": schema}
    if alone:
        content["image/jpeg"] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with its definitions where they are used: beside a route there is no place for them."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    return [_inlined(one, definitions) for one in schema] if isinstance(schema, list) else schema
