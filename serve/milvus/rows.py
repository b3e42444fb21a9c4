"""Rows of Milvus: the fields of a record, their limits, and a filter as one of Milvus's expressions.

Milvus 2.3 knows no null: what is unknown is a value that no record can have. No text of a user ever enters an expression:
attributes are found by hashes of their names and values, images by hexadecimal digits, anything else by numbers.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError

from ..gallery.identities import FIRST_NAMED, Identity, name_number
from ..gallery.record_checks import MAX_ATTRIBUTES, UNKNOWN
from ..gallery.records import AttributeValue, Filter, NewRecord, Record

if TYPE_CHECKING:
    from pymilvus import CollectionSchema

RECORD_FIELDS = ("id", "content_hash", "pid", "camid", "time_s", "enrolled_s", "facts")
"""Fields of a record; its thumbnail is read only on request."""

MAX_THUMBNAIL_BYTES = 65535 // 4 * 3  # as base64 it fills the longest text that Milvus keeps
_MAX_TEXT = 65535
_UNKNOWN_TIME = -1.7e308

N = TypeVar("N", int, float)


def schema(embed_dim: int) -> CollectionSchema:
    """Return the fields of a gallery."""
    from pymilvus import DataType, MilvusClient

    made = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    made.add_field("id", DataType.INT64, is_primary=True)
    made.add_field("embedding", DataType.FLOAT_VECTOR, dim=embed_dim)
    made.add_field("content_hash", DataType.VARCHAR, max_length=64)
    for name in ("pid", "camid"):
        made.add_field(name, DataType.INT64)
    for name in ("time_s", "enrolled_s"):
        made.add_field(name, DataType.DOUBLE)
    made.add_field("attributes", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=MAX_ATTRIBUTES, max_length=32)
    for name in ("facts", "thumbnail"):
        made.add_field(name, DataType.VARCHAR, max_length=_MAX_TEXT)
    return made


def row_of(record: NewRecord, number: int, embedding: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return a checked record as Milvus is given it; a `UsageError` where a text or its thumbnail is too long for Milvus."""
    name = {"name": record.pid} if isinstance(record.pid, str) else {}
    metadata = json.dumps({"source": record.source, "attributes": dict(record.attributes), **name}, ensure_ascii=False)
    if (size := len(metadata.encode())) > _MAX_TEXT:
        raise UsageError(f"{record.source[:200]}: source and attributes are {size:,} bytes as JSON, Milvus keeps {_MAX_TEXT:,}")
    thumbnail = record.thumbnail or b""
    if len(thumbnail) > MAX_THUMBNAIL_BYTES:
        raise UsageError(
            f"{record.source}: its thumbnail is {len(thumbnail):,} bytes, Milvus keeps {MAX_THUMBNAIL_BYTES:,}: make it smaller"
        )
    return {
        "id": number,
        "embedding": embedding,
        "content_hash": record.content_hash,
        "pid": UNKNOWN if record.pid is None else name_number(record.pid),
        "camid": UNKNOWN if record.camid is None else record.camid,
        "time_s": _UNKNOWN_TIME if record.time_s is None else record.time_s,
        "enrolled_s": record.enrolled_s,
        "attributes": sorted(_attribute_key(name, value) for name, value in record.attributes.items()),
        "facts": metadata,
        "thumbnail": base64.b64encode(thumbnail).decode(),
    }


def batches(rows: Sequence[dict[str, Any]], max_bytes: int) -> Iterator[Sequence[dict[str, Any]]]:
    """Yield rows in messages of about so many bytes at most; a single row is never split."""
    sizes = [4 * len(r["embedding"]) + len(r["facts"]) + len(r["thumbnail"]) + 34 * len(r["attributes"]) + 200 for r in rows]
    step = max(1, max_bytes // max(sizes, default=1))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def record_of(row: Mapping[str, Any]) -> Record:
    """Return a record as Milvus gave it back."""
    metadata = json.loads(row["facts"])
    return Record(
        id=int(row["id"]),
        content_hash=row["content_hash"],
        source=metadata["source"],
        pid=identity_of(row),
        camid=known(row["camid"]),
        time_s=known(row["time_s"]),
        enrolled_s=float(row["enrolled_s"]),
        attributes=metadata["attributes"],
        thumbnail=base64.b64decode(row["thumbnail"]) if row.get("thumbnail") else None,
    )


def identity_of(row: Mapping[str, Any]) -> Identity | None:
    """Return the identity of a row, of which ``pid`` and ``facts`` were read; None where it is not known."""
    number = known(row["pid"])
    if number is None or number > FIRST_NAMED:
        return number
    name: str = json.loads(row["facts"])["name"]
    return name


def known(value: N) -> N | None:
    """Return a number or a time as it was stored; None where it is not known."""
    return None if value in (UNKNOWN, _UNKNOWN_TIME) else value


def filter_expression(where: Filter | None) -> str:
    """Return a checked filter as an expression; empty where every record passes."""
    if where is None:
        return ""
    conditions = []
    for name, allowed in (("camid", where.camids), ("pid", where.pids)):
        if allowed is not None:
            conditions.append(among(name, allowed) if allowed else "id < 0")  # which no record passes
    for name, excluded in (("camid", where.exclude_camids), ("id", where.exclude_ids)):
        if excluded:
            conditions.append(among(name, excluded, "not in"))
    if where.since_s is not None:
        conditions.append(f"time_s >= {where.since_s!r}")
    if where.until_s is not None:
        conditions.append(f"time_s > {_UNKNOWN_TIME!r} and time_s < {where.until_s!r}")
    for name, value in where.attributes.items():
        conditions.append(f'array_contains(attributes, "{_attribute_key(name, value)}")')
    return " and ".join(f"({condition})" for condition in conditions)


def among(name: str, values: Iterable[Any], operator: str = "in") -> str:
    """Return the expression for records whose field is one of these whole numbers, or of these checked hashes."""
    listed = ", ".join(f'"{value}"' if name == "content_hash" else str(int(value)) for value in sorted(values))
    return f"{name} {operator} [{listed}]"


def _attribute_key(name: str, value: AttributeValue) -> str:
    """Return what an attribute is found by: the same for 1 and 1.0, another for true."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return hashlib.sha256(json.dumps([name, value]).encode()).hexdigest()[:32]
