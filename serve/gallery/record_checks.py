"""Validation of a gallery's input: every array, record and filter is checked, for all stores, and returned as plain Python.

Also free attributes of the command line: ``color=red``. What is wrong is a `UsageError` that says where it was found.
"""

import contextlib
import math
import operator
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError

from .identities import check_identity, name_number
from .person_crops import BOX_ATTRIBUTE
from .records import AttributeValue, Filter, NewRecord, RecordLabels

MAX_TEXT_CHARACTERS = 4096  # of a name, a source, or the text of an attribute
MAX_ATTRIBUTES = 64  # of one record
MAX_THUMBNAIL_BYTES = 2**20  # it is a small picture, not the image
MAX_RESULT_VALUES = 2**28  # neighbors of one search, over all its queries
UNIT_TOLERANCE = 1e-3  # how far a row's length may be from 1: what float16 arithmetic leaves is well within it
MAX_SECONDS = 1e300  # times lie within plus or minus this, so that stores have a number that is none
UNKNOWN = -(2**63)  # what stores may keep in place of an identity or a camera that is not known: no record has it

_SHA256 = re.compile(r"[0-9a-f]{64}")
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,17})\.\d{1,18}")


def checked_embeddings(embeddings: npt.ArrayLike, embed_dim: int, what: str = "embeddings") -> npt.NDArray[np.float32]:
    """Return (n, embed_dim) finite rows of unit length as a contiguous float32 array; ``what`` is what errors call them."""
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
    """Return the number of neighbors that were asked for: at least 1, and no more than a result can hold."""
    if top < 1:
        raise UsageError(f"top is at least 1, got {top}")
    if top * max(num_queries, 1) > MAX_RESULT_VALUES:
        raise UsageError(
            f"top {top} of {num_queries} queries is more than {MAX_RESULT_VALUES} neighbors: ask for fewer at a time"
        )
    return top


def checked_records(records: Sequence[NewRecord], count: int) -> list[NewRecord]:
    """Return records that belong to ``count`` embeddings, each with its time of enrollment; an error names the source."""
    if len(records) != count:
        raise UsageError(f"expected a record for each embedding, got {len(records)} records and {count} embeddings")
    now_s = time.time()
    checked = []
    for record in records:
        source = _checked_text(record.source, "source", "a record")
        thumbnail: object = record.thumbnail
        if thumbnail is not None and (not isinstance(thumbnail, bytes) or not 0 < len(thumbnail) <= MAX_THUMBNAIL_BYTES):
            raise UsageError(f"{source}: thumbnail: expected JPEG bytes, at most {MAX_THUMBNAIL_BYTES} of them")
        enrolled_s = now_s if record.enrolled_s is None else time_bound(record.enrolled_s, f"{source}: enrolled_s")
        checked.append(
            NewRecord(
                content_hash=checked_hash(record.content_hash),
                source=source,
                attributes=checked_attributes(record.attributes, source),
                thumbnail=thumbnail,
                enrolled_s=min(now_s, enrolled_s),
                **{name: _checked_label(name, getattr(record, name), f"{source}: ") for name in _LABEL_CHECKS},
            )
        )
    return checked


def checked_labels(labels: RecordLabels) -> RecordLabels:
    """Return labels that records are to have, at least one."""
    if not labels or labels.keys() - {*_LABEL_CHECKS, "attributes"}:
        raise UsageError(f"expected new labels by name (pid, camid, time_s, attributes), got {', '.join(labels) or 'none'}")
    checked = {name: _checked_label(name, value, "") for name, value in labels.items() if name != "attributes"}
    if "attributes" in labels:
        _check_is_free(labels["attributes"], "labels")
        checked["attributes"] = checked_attributes(labels["attributes"], "labels")
    return cast(RecordLabels, checked)


def checked_hash(content_hash: object) -> str:
    """Return a content hash: a SHA-256 in lower-case hexadecimal."""
    if not isinstance(content_hash, str) or not _SHA256.fullmatch(content_hash):
        raise UsageError(f"content_hash: expected a SHA-256 of 64 lower-case hexadecimal digits, got {content_hash!r:.80}")
    return content_hash


def checked_ids(ids: Iterable[int]) -> list[int]:
    """Return ids, whole numbers of at most 64 bits."""
    return [_whole(one, "an id") for one in ids]


def checked_filter(where: Filter | None) -> Filter | None:
    """Return a filter in the numbers that stores keep, names among its identities replaced; None where every record passes.

    What no record can have is left out of its sets, and its times are finite.
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
        since_s=None if where.since_s is None else time_bound(where.since_s, "filter: since_s"),
        until_s=None if where.until_s is None else time_bound(where.until_s, "filter: until_s"),
        attributes={name: _checked_attribute(name, value, "filter") for name, value in where.attributes.items()},
    )


def checked_attributes(attributes: Mapping[str, AttributeValue], source: str) -> dict[str, AttributeValue]:
    """Return the free attributes of a record; ``source`` names it in an error."""
    check_num_attributes(attributes, source)
    return {name: _checked_attribute(name, value, source) for name, value in attributes.items()}


def check_num_attributes(attributes: Mapping[str, AttributeValue], where: str) -> None:
    """Refuse more attributes than a record may have."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise UsageError(f"{where}: {len(attributes)} attributes, the limit is {MAX_ATTRIBUTES}")


def check_attribute_name(name: str, where: str) -> None:
    """Raise an error for a name that could not be shown to others; ``where`` names its context."""
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise UsageError(f"{where}: {name[:80]!r} is not a name for an attribute: 1 to 64 printable characters")
    _check_is_free((name,), where)


def _check_is_free(names: Iterable[str], where: str) -> None:
    if BOX_ATTRIBUTE in names:
        raise UsageError(f"{where}: {BOX_ATTRIBUTE!r} is kept for where a person is in a larger picture: take another name")


def time_bound(value: object, what: str) -> float:
    """Return a time in seconds since 1970, brought into the range of those that records may have."""
    seconds = math.nan
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            seconds = float(value)
    if math.isnan(seconds):
        raise UsageError(f"{what}: expected seconds since 1970, got {value!r:.80}")
    return min(max(seconds, -MAX_SECONDS), MAX_SECONDS)


def parse_attributes(pairs: Iterable[tuple[str, str]], where: str) -> dict[str, AttributeValue]:
    """Return attributes from (name, text), of which an empty text is none; ``where`` is what they were written in."""
    attributes: dict[str, AttributeValue] = {}
    for name, text in pairs:
        check_attribute_name(name, where)
        if name in attributes:
            raise UsageError(f"{where}: the attribute {name} is given twice")
        if text:
            attributes[name] = attribute_value(text)
    return checked_attributes(attributes, where)


def attribute_value(text: str) -> AttributeValue:
    """Return the value that a text stands for: ``true`` and ``false``, whole and decimal numbers, or else the text itself.

    A number with a sign or zeros that it does not need (``007``, ``+1``) stays text: it is a name rather than a number.
    """
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


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


def _time(value: Any, what: str) -> float:
    if (seconds := time_bound(value, what)) != float(value):
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


_LABEL_CHECKS: dict[str, Callable[[Any, str], Any]] = {"pid": check_identity, "camid": _whole, "time_s": _time}


def _checked_label(name: str, value: object, source: str) -> Any:
    """Return a label of a record, None where it is not known."""
    return None if value is None else _LABEL_CHECKS[name](value, f"{source}{name}")


def _possible(numbers: Iterable[int]) -> frozenset[int]:
    return frozenset(int(number) for number in numbers if UNKNOWN < number < 2**63)
