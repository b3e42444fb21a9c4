"""What may enter a gallery: every array, record and filter is checked, once for all stores, and handed on as plain Python."""

import contextlib
import math
import operator
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError

from .identities import Identity, check_identity, name_number
from .records import AttributeValue, Filter, NewRecord, RecordLabels

MAX_TEXT_CHARACTERS = 4096
"""Longest name, source or text of an attribute."""

MAX_ATTRIBUTES = 64
"""Most free attributes of one record."""

MAX_THUMBNAIL_BYTES = 2**20
"""Largest thumbnail: it is a small picture, not the image."""

MAX_RESULT_VALUES = 2**28
"""Most neighbors of one search, over all its queries."""

UNIT_TOLERANCE = 1e-3
"""How far a row's length may be from 1: what float16 arithmetic leaves is well within it."""

MAX_SECONDS = 1e300
"""Times lie within plus or minus this, so that stores have a number that is none."""

UNKNOWN = -(2**63)
"""What stores may keep in place of an identity or a camera that is not known: no record has it."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def checked_embeddings(embeddings: npt.ArrayLike, embed_dim: int, what: str = "embeddings") -> npt.NDArray[np.float32]:
    """Return (n, embed_dim) embeddings as a contiguous float32 array; ``what`` is what errors call them.

    Raises:
        UsageError: The shape or type is another, or a row is not finite or not of unit length.
    """
    array = np.asarray(embeddings)
    if array.ndim != 2 or array.shape[1] != embed_dim or array.dtype.kind != "f":
        raise UsageError(
            f"{what}: expected floating point of shape (n, {embed_dim}), as this gallery holds; got {array.dtype} {array.shape}"
        )
    rows = np.ascontiguousarray(array, dtype=np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))  # written so that NaN is wrong too
    if len(wrong):
        raise UsageError(
            f"{what}: expected rows of length 1, got {lengths[wrong[0]]:.6g} in row {wrong[0]} ({len(wrong)} of {len(rows)} "
            "rows are wrong): divide each row by its L2 norm"
        )
    return rows


def checked_top(top: int, num_queries: int) -> int:
    """Return number of neighbors that were asked for.

    Raises:
        UsageError: It is below 1, or the result would be unreasonably large.
    """
    if top < 1:
        raise UsageError(f"top is at least 1, got {top}")
    if top * max(num_queries, 1) > MAX_RESULT_VALUES:
        raise UsageError(
            f"top {top} of {num_queries} queries is more than {MAX_RESULT_VALUES} neighbors: ask for fewer at a time"
        )
    return top


def checked_records(records: Sequence[NewRecord], count: int) -> list[NewRecord]:
    """Return records that belong to ``count`` embeddings, each with its time of enrollment.

    Raises:
        UsageError: There are more or fewer, or a value is of the wrong type or size; the record's source is named.
    """
    if len(records) != count:
        raise UsageError(f"expected a record for each embedding, got {len(records)} records and {count} embeddings")
    now_s = time.time()
    checked = []
    for record in records:
        source = _checked_text(record.source, "source", "a record")
        thumbnail: object = record.thumbnail
        if thumbnail is not None and (not isinstance(thumbnail, bytes) or not 0 < len(thumbnail) <= MAX_THUMBNAIL_BYTES):
            raise UsageError(f"{source}: thumbnail: expected JPEG bytes, at most {MAX_THUMBNAIL_BYTES} of them")
        enrolled_s = now_s if record.enrolled_s is None else _seconds(record.enrolled_s, f"{source}: enrolled_s")
        checked.append(
            NewRecord(
                content_hash=_checked_hash(record.content_hash),
                source=source,
                pid=None if record.pid is None else check_identity(record.pid, f"{source}: pid"),
                camid=None if record.camid is None else _whole(record.camid, f"{source}: camid"),
                time_s=None if record.time_s is None else _moment(record.time_s, f"{source}: time_s"),
                attributes=checked_attributes(record.attributes, source),
                thumbnail=thumbnail,
                enrolled_s=min(now_s, enrolled_s),
            )
        )
    return checked


def checked_hashes(content_hashes: Iterable[str]) -> list[str]:
    """Return content hashes.

    Raises:
        UsageError: One is no SHA-256 in lower-case hexadecimal.
    """
    return [_checked_hash(one) for one in content_hashes]


def checked_ids(ids: Iterable[int]) -> list[int]:
    """Return ids.

    Raises:
        UsageError: One is no whole number.
    """
    return [_whole(one, "an id") for one in ids]


def checked_filter(where: Filter | None) -> Filter | None:
    """Return a filter in the numbers that stores keep, names among its identities replaced; None where every record passes.

    What no record can have is left out of its sets, and its times are finite.

    Raises:
        UsageError: A value is of a type that no record can have.
    """
    if where is None or where.is_empty:
        return None
    for name in ("camids", "exclude_camids", "pids", "exclude_ids"):
        for value in getattr(where, name) or ():
            is_name = name == "pids" and isinstance(value, str)
            if isinstance(value, bool) or not (is_name or isinstance(value, int | np.integer)):
                raise UsageError(f"filter: {name}: expected whole numbers, got {value!r:.80}")
    return replace(
        where,
        camids=None if where.camids is None else _possible(where.camids),
        exclude_camids=_possible(where.exclude_camids),
        pids=None if where.pids is None else _possible(name_number(pid) for pid in where.pids),
        exclude_ids=_possible(where.exclude_ids),
        since_s=None if where.since_s is None else _bound(where.since_s, "filter: since_s"),
        until_s=None if where.until_s is None else _bound(where.until_s, "filter: until_s"),
        attributes={name: _checked_attribute(name, value, "filter") for name, value in where.attributes.items()},
    )


def checked_attributes(attributes: Mapping[str, AttributeValue], source: str) -> dict[str, AttributeValue]:
    """Return the free attributes of a record; ``source`` names it in an error.

    Raises:
        UsageError: There are too many, or a name or value is of the wrong type or size.
    """
    if len(attributes) > MAX_ATTRIBUTES:
        raise UsageError(f"{source}: {len(attributes)} attributes, the limit is {MAX_ATTRIBUTES}")
    return {name: _checked_attribute(name, value, source) for name, value in attributes.items()}


def checked_labels(labels: RecordLabels) -> RecordLabels:
    """Return labels that records are to have.

    Raises:
        UsageError: There is none, or a value is of the wrong type or size.
    """
    if not labels or labels.keys() - {"pid", "camid", "time_s", "attributes"}:
        raise UsageError(f"expected new labels by name (pid, camid, time_s, attributes), got {', '.join(labels) or 'none'}")
    checked = dict(labels)
    for name, check in (("pid", check_identity), ("camid", _whole), ("time_s", _moment)):
        if checked.get(name) is not None:
            checked[name] = check(checked[name], name)
    if "attributes" in labels:
        checked["attributes"] = checked_attributes(labels["attributes"], "labels")
    return cast(RecordLabels, checked)


def checked_removal(
    ids: Collection[int] | None, pid: Identity | None, enrolled_before_s: float | None
) -> tuple[list[int] | None, Identity | None, float | None]:
    """Return what is to be removed.

    Raises:
        UsageError: None or several of the conditions were given, or one is of the wrong type.
    """
    if sum(one is not None for one in (ids, pid, enrolled_before_s)) != 1:
        raise UsageError("say what to remove by exactly one of ids, pid and enrolled_before_s")
    return (
        None if ids is None else checked_ids(ids),
        None if pid is None else check_identity(pid, "pid"),
        None if enrolled_before_s is None else _bound(enrolled_before_s, "enrolled_before_s"),
    )


def _checked_attribute(name: str, value: AttributeValue, source: str) -> AttributeValue:
    _checked_text(name, "the name of an attribute", source)
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and UNKNOWN <= value < 2**63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str):
        return _checked_text(value, f"attribute {name}", source)
    raise UsageError(
        f"{source}: attribute {name}: expected text, a number of at most 64 bits, or true or false; got {value!r:.80}"
    )


def _checked_text(text: object, what: str, source: str) -> str:
    if not isinstance(text, str):
        raise UsageError(f"{source}: {what}: expected text, got {text!r:.80}")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise UsageError(f"{source}: {what} has {len(text):,} characters, the limit is {MAX_TEXT_CHARACTERS:,}")
    try:
        text.encode()
    except UnicodeEncodeError:
        # A file's name on disk may hold any bytes; such a name cannot be shown to anyone.
        raise UsageError(f"{source}: {what}: {text!r:.80} is no valid Unicode: rename it") from None
    return str(text)


def _checked_hash(content_hash: object) -> str:
    if not isinstance(content_hash, str) or not _SHA256.fullmatch(content_hash):
        raise UsageError(f"content_hash: expected a SHA-256 of 64 lower-case hexadecimal digits, got {content_hash!r:.80}")
    return content_hash


def _seconds(value: object, what: str) -> float:
    seconds = math.nan
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            seconds = float(value)
    if math.isnan(seconds):
        raise UsageError(f"{what}: expected seconds since 1970, got {value!r:.80}")
    return seconds


def _bound(value: object, what: str) -> float:
    """Return the time that others are compared with, finite."""
    return min(max(_seconds(value, what), -MAX_SECONDS), MAX_SECONDS)


def _moment(value: object, what: str) -> float:
    """Return the time that a record may have."""
    if (seconds := _seconds(value, what)) != _bound(value, what):
        raise UsageError(f"{what}: expected seconds since 1970, got {value!r:.80}")
    return seconds


def _whole(value: Any, what: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{what}: expected a whole number, got {value!r:.80}") from None
    if not UNKNOWN < number < 2**63:
        raise UsageError(f"{what}: expected a number of at most 64 bits, got {number}")
    return number


def _possible(numbers: Iterable[int]) -> frozenset[int]:
    return frozenset(int(number) for number in numbers if UNKNOWN < number < 2**63)
