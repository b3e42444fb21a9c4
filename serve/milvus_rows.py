"""How a record lies in Milvus: its fields, what fits in them, and a filter as one of Milvus's expressions.

Milvus 2.3 knows no null: what is unknown is a value that no record can have. No text of a user ever enters an expression:
attributes are found by hashes of their names and values, images by hexadecimal digits, anything else by numbers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError

from .records import AttributeValue, Filter, NewRecord, Record

if TYPE_CHECKING:
    from pymilvus import CollectionSchema

__all__ = [
    "MAX_THUMBNAIL_BYTES",
    "RECORD_FIELDS",
    "batches",
    "filter_expression",
    "hash_expression",
    "ids_expression",
    "known_number",
    "known_time",
    "range_expression",
    "record_of",
    "row_of",
    "schema",
]

RECORD_FIELDS = ("id", "content_hash", "pid", "camid", "time_s", "enrolled_s", "facts")
"""What a record is made from; its thumbnail is read only when asked for."""

MAX_THUMBNAIL_BYTES = 65535 // 4 * 3
"""Most bytes of a thumbnail: as base64 it fills the longest text that Milvus keeps."""

NOTHING = "id < 0"
"""An expression that no record passes."""

_MAX_TEXT = 65535
_MAX_ATTRIBUTES = 256

_UNKNOWN = -(2**62)
"""In place of an identity or a camera that is not known."""

_UNKNOWN_TIME = -1.7e308

_HASH = re.compile(r"[0-9A-Fa-f]{1,128}")


def schema(embed_dim: int) -> CollectionSchema:
    """The fields of a gallery."""
    from pymilvus import DataType, MilvusClient

    made = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    made.add_field("id", DataType.INT64, is_primary=True)
    made.add_field("embedding", DataType.FLOAT_VECTOR, dim=embed_dim)
    made.add_field("content_hash", DataType.VARCHAR, max_length=128)
    made.add_field("pid", DataType.INT64)
    made.add_field("camid", DataType.INT64)
    made.add_field("time_s", DataType.DOUBLE)
    made.add_field("enrolled_s", DataType.DOUBLE)
    made.add_field("attributes", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=_MAX_ATTRIBUTES, max_length=32)
    made.add_field("facts", DataType.VARCHAR, max_length=_MAX_TEXT)
    made.add_field("thumbnail", DataType.VARCHAR, max_length=_MAX_TEXT)
    return made


def row_of(record: NewRecord, number: int, enrolled_s: float, embedding: npt.NDArray[np.float32]) -> dict[str, Any]:
    """A record as Milvus is given it.

    Raises:
        UsageError: Something of it does not fit.
    """
    if not _HASH.fullmatch(record.content_hash):
        raise UsageError(f"{record.source}: a content hash is hexadecimal, got {record.content_hash[:80]!r}")
    if record.time_s is not None and not (math.isfinite(record.time_s) and record.time_s > _UNKNOWN_TIME):
        raise UsageError(f"{record.source}: a time is a finite number of seconds, got {record.time_s}")
    if len(record.attributes) > _MAX_ATTRIBUTES:
        raise UsageError(f"{record.source}: a record has at most {_MAX_ATTRIBUTES} attributes, got {len(record.attributes)}")
    # ASCII: a file's name that is no valid Unicode passes through, and the length in bytes is the length.
    facts = json.dumps({"source": record.source, "attributes": dict(record.attributes)})
    if len(facts) > _MAX_TEXT:
        raise UsageError(
            f"{record.source[:200]}: source and attributes are {len(facts):,} bytes as JSON, and Milvus keeps {_MAX_TEXT:,}"
        )
    thumbnail = record.thumbnail or b""
    if len(thumbnail) > MAX_THUMBNAIL_BYTES:
        raise UsageError(
            f"{record.source}: its thumbnail is {len(thumbnail):,} bytes, Milvus keeps {MAX_THUMBNAIL_BYTES:,}: make it smaller"
        )
    return {
        "id": number,
        "embedding": embedding,
        "content_hash": record.content_hash,
        "pid": _stored(record.pid, "an identity", record.source),
        "camid": _stored(record.camid, "a camera", record.source),
        "time_s": _UNKNOWN_TIME if record.time_s is None else float(record.time_s),
        "enrolled_s": enrolled_s,
        "attributes": sorted({key for name, value in record.attributes.items() if (key := _attribute_key(name, value))}),
        "facts": facts,
        "thumbnail": base64.b64encode(thumbnail).decode(),
    }


def batches(rows: Sequence[dict[str, Any]], max_bytes: int) -> list[list[dict[str, Any]]]:
    """Rows in messages of at most so many bytes; a single row is never split."""
    made: list[list[dict[str, Any]]] = []
    room = 0
    for row in rows:
        size = _row_bytes(row)
        if not made or size > room:
            made.append([])
            room = max_bytes
        made[-1].append(row)
        room -= size
    return made


def _row_bytes(row: Mapping[str, Any]) -> int:
    """About how much of a message a row takes."""
    return 4 * len(row["embedding"]) + len(row["facts"]) + len(row["thumbnail"]) + 34 * len(row["attributes"]) + 200


def record_of(row: Mapping[str, Any]) -> Record:
    """A record as Milvus gave it back."""
    facts = json.loads(row["facts"])
    return Record(
        id=int(row["id"]),
        content_hash=row["content_hash"],
        source=facts["source"],
        pid=known_number(row["pid"]),
        camid=known_number(row["camid"]),
        time_s=known_time(row["time_s"]),
        enrolled_s=float(row["enrolled_s"]),
        attributes=facts["attributes"],
        thumbnail=base64.b64decode(row["thumbnail"]) if row.get("thumbnail") else None,
    )


def known_number(value: int) -> int | None:
    """An identity or a camera as it was stored; None where it is not known."""
    return None if value == _UNKNOWN else int(value)


def known_time(value: float) -> float | None:
    """A time as it was stored; None where it is not known."""
    return None if value <= _UNKNOWN_TIME else float(value)


def filter_expression(where: Filter | None) -> str:
    """A filter as an expression; empty where every record passes."""
    if where is None or where.is_empty:
        return ""
    conditions = []
    for name, allowed in (("camid", where.camids), ("pid", where.pids)):
        if allowed is not None:
            conditions.append(_one_of(name, allowed))
    if excluded := _storable(where.exclude_camids):
        conditions.append(f"camid not in [{_listed(excluded)}]")
    if excluded := [one for one in where.exclude_ids if 0 < one < 2**63]:
        conditions.append(f"id not in [{_listed(excluded)}]")
    for sign, bound in ((">=", where.since_s), ("<", where.until_s)):
        if bound is not None:
            conditions.append(_time_condition(sign, bound))
    for name, value in where.attributes.items():
        key = _attribute_key(name, value)
        conditions.append(f'array_contains(attributes, "{key}")' if key else NOTHING)
    return " and ".join(f"({condition})" for condition in conditions)


def range_expression(after: int, upto: int) -> str:
    """Records of a range of ids, the first bound left out."""
    return f"id > {int(after)} and id <= {int(upto)}"


def ids_expression(ids: Iterable[int]) -> str:
    """Records by id."""
    return f"id in [{_listed(ids)}]"


def hash_expression(content_hashes: Collection[str]) -> str:
    """Records by content hash; one that is not hexadecimal is of no record."""
    digits = ", ".join(f'"{one}"' for one in sorted(content_hashes) if _HASH.fullmatch(one))
    return f"content_hash in [{digits}]" if digits else NOTHING


def _stored(value: int | None, what: str, source: str) -> int:
    if value is None:
        return _UNKNOWN
    if not _storable([value]):
        raise UsageError(f"{source}: {what} is a whole number between -2^62 and 2^62, got {value}")
    return int(value)


def _storable(values: Iterable[int]) -> list[int]:
    return [int(value) for value in values if abs(value) < 2**62]


def _one_of(name: str, values: Collection[int]) -> str:
    storable = _storable(values)
    return f"{name} in [{_listed(storable)}]" if storable else NOTHING


def _time_condition(sign: str, bound: float) -> str:
    if math.isnan(bound) or bound == (math.inf if sign == ">=" else -math.inf):
        return NOTHING
    known = f"time_s > {_UNKNOWN_TIME!r}"
    return known if math.isinf(bound) else f"{known} and time_s {sign} {float(bound)!r}"


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(int(value)) for value in sorted(values))


def _attribute_key(name: str, value: AttributeValue) -> str:
    """What an attribute is found by; the same for values that Python calls equal, empty for one that equals nothing."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    # 1, 1.0 and True are equal, as they are to Python.
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    text = json.dumps([name, value], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
