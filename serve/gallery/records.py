"""What a gallery holds and what it answers: records, filters, matches and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["AttributeValue", "Filter", "GalleryCounts", "Neighbors", "NewRecord", "Record"]

AttributeValue = str | int | float | bool
"""What a free attribute may be."""


@dataclass(frozen=True, kw_only=True)
class NewRecord:
    """What is known of one image that is enrolled; its embedding travels beside it.

    Attributes:
        content_hash: SHA-256 of the image's bytes, hexadecimal: an image that is there already is not added again.
        source: Where the image came from, as it is shown to people: a file's name, ``video.mp4#412``.
        pid: Identity, where it is known.
        camid: Camera, where it is known.
        time_s: When the person was seen, in seconds since 1970 (UTC), where it is known.
        attributes: Anything else, by name.
        thumbnail: JPEG bytes of a small picture; None unless it was asked for.
        enrolled_s: When it was enrolled, in seconds since 1970 (UTC); None is now, and so is what lies in the future. Given
            where a record moves from another gallery, so that it is not kept for longer by it.
    """

    content_hash: str
    source: str
    pid: int | None = None
    camid: int | None = None
    time_s: float | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    thumbnail: bytes | None = None
    enrolled_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Record(NewRecord):
    """A record that a gallery holds.

    Attributes:
        id: Its number in the gallery, from 1; never given again once it was removed.
        enrolled_s: When it was enrolled, in seconds since 1970 (UTC).
    """

    id: int
    enrolled_s: float = field()


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which records may be found. Every condition must hold; a record that does not know the value fails a condition on it.

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
    pids: frozenset[int] | None = None
    since_s: float | None = None
    until_s: float | None = None
    exclude_ids: frozenset[int] = frozenset()
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether every record passes."""
        return self == Filter()


@dataclass(frozen=True)
class Neighbors:
    """The records nearest to each of several queries.

    Attributes:
        ids: (num_queries, top) int64, nearest first; -1 where fewer records pass the filter.
        similarities: (num_queries, top) float32 cosine similarities in [-1, 1], larger is closer; NaN beside -1. Equal ones are
            in the order of their ids.
    """

    ids: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class GalleryCounts:
    """How much a gallery holds.

    Attributes:
        num_records: Records.
        by_pid: Identity -> records, the unknown under None.
        by_camid: Camera -> records, the unknown under None.
        first_seen_s: Earliest time of a record; None where no record knows its time.
        last_seen_s: Latest time of a record.
    """

    num_records: int
    by_pid: Mapping[int | None, int]
    by_camid: Mapping[int | None, int]
    first_seen_s: float | None
    last_seen_s: float | None
