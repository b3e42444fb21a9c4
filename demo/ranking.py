"""From a query and the page's choices to a ranked list, each step timed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from hat.errors import UsageError
from hat.serve import Filter, Gallery
from hat.serve.gallery.identities import Identity
from hat.serve.search.searching import person_embedding, search_gallery

from .session import Outcome, QueryImage, Timings

MAX_TOP = 60
"""Longest list that a page shows."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a visitor chose beside the query.

    Attributes:
        top: Length of the list.
        rerank: Re-rank by k-reciprocal neighbors.
        leave_out_camera: Leave out what the query's own camera saw, where that camera is known.
        camids: Only these cameras; empty for all.
        since_s: Seen at this time or later.
        until_s: Seen before this time.
        query_pid: Identity of the query, where it is known.
        query_camid: Camera of the query, where it is known.
    """

    top: int = 10
    rerank: bool = False
    leave_out_camera: bool = True
    camids: frozenset[int] = frozenset()
    since_s: float | None = None
    until_s: float | None = None
    query_pid: Identity | None = None
    query_camid: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.top <= MAX_TOP:
            raise UsageError(f"a list has 1 to {MAX_TOP} matches, got {self.top}")
        if self.since_s is not None and self.until_s is not None and self.since_s >= self.until_s:
            raise UsageError("the time that the list begins at must lie before the time that it ends at")

    @property
    def where(self) -> Filter:
        """The same as a filter."""
        left_out = self.query_camid if self.leave_out_camera else None
        return Filter(
            camids=self.camids or None,
            exclude_camids=frozenset() if left_out is None else frozenset({left_out}),
            since_s=self.since_s,
            until_s=self.until_s,
        )


def rank(gallery: Gallery, name: str, queries: Sequence[QueryImage], options: SearchOptions) -> Outcome:
    """Rank a gallery for one person.

    Args:
        gallery: The gallery.
        name: What it is called.
        queries: Images of the person, at least one; several are one query by their mean embedding.
        options: The page's choices.

    Raises:
        UsageError: There is no query, or the images have nothing in common.
    """
    if not queries:
        raise UsageError("there is no query yet: give an image of a person, or take one of the examples")
    person = person_embedding(np.stack([query.embedding for query in queries]))[None]
    where = options.where
    seconds: dict[str, float] = {}
    (matches,) = search_gallery(
        gallery, person, top=options.top, where=where, rerank=options.rerank, thumbnails=True, seconds=seconds
    )
    timings = Timings(
        decode_s=sum(query.decode_s for query in queries),
        embed_s=sum(query.embed_s for query in queries),
        search_s=seconds["search"] + seconds["read"],
        rerank_s=seconds.get("rerank"),
    )
    return Outcome(name, tuple(matches), timings, options.query_pid, len(gallery.ids(where)), where)


def parse_time(text: str) -> float | None:
    """Return a time as a visitor types it in seconds since 1970, UTC unless it says otherwise; None for an empty field.

    Raises:
        UsageError: It is not a time.
    """
    if not text.strip():
        return None
    try:
        typed = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{text.strip()[:40]} is not a time: write it like 2026-01-05 09:30") from None
    return (typed if typed.tzinfo else typed.replace(tzinfo=timezone.utc)).timestamp()


def format_time(seconds: float) -> str:
    """Return a time for a reader: ``2026-01-05 09:30`` (UTC); one that no calendar has is shown as it is."""
    try:
        return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"
