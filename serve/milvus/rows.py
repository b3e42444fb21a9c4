"""How a record lies in Milvus: its fields, what fits in them, and a filter as one of Milvus's expressions.

Milvus 2.3 knows no null: what is unknown is a value that no record can have. No text of a user ever enters an expression:
attributes are found by hashes of their names and values, images by hexadecimal digits, anything else by numbers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError

from ..gallery.identities import FIRST_NAMED, Identity, name_number, numbers_of
from ..gallery.record_checks import MAX_ATTRIBUTES
from ..gallery.records import AttributeValue, Filter, NewRecord, Record

if TYPE_CHECKING:
    from pymilvus import CollectionSchema


RECORD_FIELDS = ("id", "content_hash", "pid", "camid", "time_s", "enrolled_s", "facts")
"""What a record is made from; its thumbnail is read only when asked for."""

MAX_THUMBNAIL_BYTES = 65535 // 4 * 3
"""Most bytes of a thumbnail: as base64 it fills the longest text that Milvus keeps."""

NOTHING = "id < 0"
"""An expression that no record passes."""

_MAX_TEXT = 65535

_UNKNOWN = -(2**63)
"""In place of an identity or a camera that is not known."""

_UNKNOWN_TIME = -1.7e308


def schema(embed_dim: int) -> CollectionSchema:
    """Return the fields of a gallery."""
    from pymilvus import DataType, MilvusClient

    made = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    made.add_field("id", DataType.INT64, is_primary=True)
    made.add_field("embedding", DataType.FLOAT_VECTOR, dim=embed_dim)
    made.add_field("content_hash", DataType.VARCHAR, max_length=64)
    made.add_field("pid", DataType.INT64)
    made.add_field("camid", DataType.INT64)
    made.add_field("time_s", DataType.DOUBLE)
    made.add_field("enrolled_s", DataType.DOUBLE)
    made.add_field("attributes", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=MAX_ATTRIBUTES, max_length=32)
    made.add_field("facts", DataType.VARCHAR, max_length=_MAX_TEXT)
    made.add_field("thumbnail", DataType.VARCHAR, max_length=_MAX_TEXT)
    return made


def row_of(record: NewRecord, number: int, embedding: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return a checked record as Milvus is given it.

    Raises:
        UsageError: Milvus cannot keep it: a text or its thumbnail is too long, or a number stands for what is not known.
    """
    kept: dict[str, Any] = {"source": record.source, "attributes": dict(record.attributes)}
    if isinstance(record.pid, str):
        kept["name"] = record.pid
    facts = json.dumps(kept, ensure_ascii=False)
    if (size := len(facts.encode())) > _MAX_TEXT:
        raise UsageError(f"{record.source[:200]}: source and attributes are {size:,} bytes as JSON, Milvus keeps {_MAX_TEXT:,}")
    thumbnail = record.thumbnail or b""
    if len(thumbnail) > MAX_THUMBNAIL_BYTES:
        raise UsageError(
            f"{record.source}: its thumbnail is {len(thumbnail):,} bytes, Milvus keeps {MAX_THUMBNAIL_BYTES:,}: make it smaller"
        )
    if record.camid == _UNKNOWN or (record.time_s or 0) <= _UNKNOWN_TIME:
        raise UsageError(f"{record.source}: Milvus keeps {_UNKNOWN} and the time {_UNKNOWN_TIME} for what is not known")
    return {
        "id": number,
        "embedding": embedding,
        "content_hash": record.content_hash,
        "pid": _UNKNOWN if record.pid is None else name_number(record.pid),
        "camid": _UNKNOWN if record.camid is None else record.camid,
        "time_s": _UNKNOWN_TIME if record.time_s is None else record.time_s,
        "enrolled_s": record.enrolled_s,
        "attributes": sorted(_attribute_key(name, value) for name, value in record.attributes.items()),
        "facts": facts,
        "thumbnail": base64.b64encode(thumbnail).decode(),
    }


def batches(rows: Sequence[dict[str, Any]], max_bytes: int) -> list[list[dict[str, Any]]]:
    """Return rows in messages of at most so many bytes; a single row is never split."""
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
    """Return a record as Milvus gave it back."""
    facts = json.loads(row["facts"])
    return Record(
        id=int(row["id"]),
        content_hash=row["content_hash"],
        source=facts["source"],
        pid=identity_of(row),
        camid=known_number(row["camid"]),
        time_s=known_time(row["time_s"]),
        enrolled_s=float(row["enrolled_s"]),
        attributes=facts["attributes"],
        thumbnail=base64.b64decode(row["thumbnail"]) if row.get("thumbnail") else None,
    )


def identity_of(row: Mapping[str, Any]) -> Identity | None:
    """Return the identity of a row, of which ``pid`` and ``facts`` were read; None where it is not known."""
    number = known_number(row["pid"])
    if number is None or number > FIRST_NAMED:
        return number
    name: str = json.loads(row["facts"])["name"]
    return name


def known_number(value: int) -> int | None:
    """Return an identity or a camera as it was stored; None where it is not known."""
    return None if value == _UNKNOWN else int(value)


def known_time(value: float) -> float | None:
    """Return a time as it was stored; None where it is not known."""
    return None if value <= _UNKNOWN_TIME else float(value)


def filter_expression(where: Filter | None) -> str:
    """Return a checked filter as an expression; empty where every record passes."""
    if where is None:
        return ""
    conditions = []
    for name, allowed in (("camid", where.camids), ("pid", None if where.pids is None else numbers_of(where.pids))):
        if allowed is not None:
            possible = _possible(allowed)
            conditions.append(f"{name} in [{_listed(possible)}]" if possible else NOTHING)
    for name, excluded in (("camid", where.exclude_camids), ("id", where.exclude_ids)):
        if possible := _possible(excluded):
            conditions.append(f"{name} not in [{_listed(possible)}]")
    for sign, bound_s in ((">=", where.since_s), ("<", where.until_s)):
        if bound_s is not None:
            conditions.append(f"time_s > {_UNKNOWN_TIME!r} and time_s {sign} {_finite(bound_s)!r}")
    for name, value in where.attributes.items():
        conditions.append(f'array_contains(attributes, "{_attribute_key(name, value)}")')
    return " and ".join(f"({condition})" for condition in conditions)


def range_expression(after: int, upto: int | None) -> str:
    """Return records of a range of ids, the first bound left out; without an end where there is no second."""
    return f"id > {int(after)}" + ("" if upto is None else f" and id <= {int(upto)}")


def ids_expression(ids: Iterable[int]) -> str:
    """Return records by id."""
    return f"id in [{_listed(ids)}]"


def hash_expression(content_hashes: Collection[str]) -> str:
    """Return records by checked content hash."""
    digits = ", ".join(f'"{one}"' for one in sorted(content_hashes))
    return f"content_hash in [{digits}]"


def _possible(values: Iterable[int]) -> list[int]:
    """Return those that a record can have."""
    return [int(value) for value in values if _UNKNOWN < value < 2**63]


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(int(value)) for value in sorted(values))


def _finite(value: float) -> float:
    """Return the nearest number that Milvus can read."""
    return float(min(max(value, -sys.float_info.max), sys.float_info.max))


def _attribute_key(name: str, value: AttributeValue) -> str:
    """Return what an attribute is found by: the same for 1 and 1.0, another for true."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return hashlib.sha256(json.dumps([name, value]).encode()).hexdigest()[:32]
