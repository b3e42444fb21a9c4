"""Data types of a gallery: records, filters, matches and counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError

from .identities import Identity
from .timestamps import format_timestamp

AttributeValue = str | int | float | bool  # what a free attribute may be


@dataclass(frozen=True, kw_only=True)
class NewRecord:
    """Record to be enrolled, without its embedding.

    Attributes:
        content_hash: SHA-256 of the image's bytes, hexadecimal: an image that is there already is not added again.
        source: Where the image came from, as it is shown to people: a file's name, ``video.mp4#412``.
        pid: Identity, a number or a name, where it is known.
        camid: Camera, where it is known.
        time_s: When the person was seen, in seconds since 1970 (UTC), where it is known.
        attributes: Anything else, by name.
        thumbnail: JPEG bytes of a small picture; None unless it was asked for.
        enrolled_s: When it was enrolled, like ``time_s``; None is now, and so is what lies in the future. Given where a record
            moves from another gallery, so that it is not kept for longer by it.
    """

    content_hash: str
    source: str
    pid: Identity | None = None
    camid: int | None = None
    time_s: float | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    thumbnail: bytes | None = None
    enrolled_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Record(NewRecord):
    """A record that a gallery holds; ``id`` is its number there, from 1, never given again once it was removed."""

    id: int
    enrolled_s: float = field()


class Added(NamedTuple):
    """Result of adding records: the id of each, and whether it is new or was there already."""

    ids: list[int]
    is_new: list[bool]


class RecordLabels(TypedDict, total=False):
    """Labels that records are to have; what is not given they keep, and None makes a label unknown."""

    pid: Identity | None
    camid: int | None
    time_s: float | None
    attributes: Mapping[str, AttributeValue]  # those given are set or replaced, others stay


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Filter of records. Every condition must hold; a record that does not know the value fails a condition on it.

    Attributes:
        camids: Only these cameras.
        exclude_camids: None of these cameras; a record without a camera passes.
        pids: Only these identities.
        since_s: Seen at this time or later, in seconds since 1970 (UTC).
        until_s: Seen before this time.
        exclude_ids: Not these records.
        attributes: Only records with these values.
    """

    camids: frozenset[int] | None = None
    exclude_camids: frozenset[int] = frozenset()
    pids: frozenset[Identity] | None = None
    since_s: float | None = None
    until_s: float | None = None
    exclude_ids: frozenset[int] = frozenset()
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        *,
        camids: Iterable[int] | None = None,
        exclude_camids: Iterable[int] | None = None,
        pids: Iterable[Identity] | None = None,
        since_s: float | None = None,
        until_s: float | None = None,
        exclude_ids: Iterable[int] | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Filter:
        """Make a filter of what was asked for; None leaves a condition out.

        Raises:
            UsageError: No time lies between ``since_s`` and ``until_s``, or ``pids`` is one name.
        """
        if isinstance(pids, str):  # its letters would be taken for names
            raise UsageError(f"pids: expected several identities, got {pids!r}: put it in a list")
        if since_s is not None and until_s is not None and since_s >= until_s:
            raise UsageError(f"nothing is seen at {format_timestamp(since_s)} or later and before {format_timestamp(until_s)}")
        return cls(
            camids=None if camids is None else frozenset(camids),
            exclude_camids=frozenset(exclude_camids or ()),
            pids=None if pids is None else frozenset(pids),
            since_s=since_s,
            until_s=until_s,
            exclude_ids=frozenset(exclude_ids or ()),
            attributes=dict(attributes or {}),
        )

    @property
    def is_empty(self) -> bool:
        """Return whether every record passes."""
        return self == Filter()


@dataclass(frozen=True)
class Neighbors:
    """The records nearest to each of several queries, nearest first; equally near ones in the order of their ids.

    Attributes:
        ids: (num_queries, top) int64; -1 where fewer records pass the filter.
        similarities: (num_queries, top) float32 cosine similarities in [-1, 1], larger is closer; NaN beside -1.
    """

    ids: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class RecordPage:
    """Some of the records that pass a filter, by ascending id.

    Attributes:
        num_matching: How many records pass the filter in all.
        next_after_id: The id after which the next page begins; None on the last one.
    """

    records: list[Record]
    num_matching: int
    next_after_id: int | None


@dataclass(frozen=True, kw_only=True)
class GalleryCounts:
    """Numbers of records of a gallery, in all, by identity and by camera (the unknown under None), and their range of time.

    The earliest and the latest time at which somebody was seen are None where no record knows its time.
    """

    num_records: int
    by_pid: Mapping[Identity | None, int]
    by_camid: Mapping[int | None, int]
    first_seen_s: float | None
    last_seen_s: float | None


class RecordsMissingError(UsageError):
    """Records were asked for by ids that none has."""


def missing_records(ids: Iterable[int]) -> RecordsMissingError:
    """Return the error of ids that no record has."""
    first = sorted(ids)[:6]
    named = ", ".join(map(str, first[:5])) + (", ..." if first[5:] else "")
    return RecordsMissingError(f"there is no record with id {named}: it was never enrolled, or was removed")
