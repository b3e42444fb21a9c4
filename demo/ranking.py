"""From a query and a visitor's choices to a ranked list, each step timed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.errors import UsageError
from hat.serve import Filter, Gallery
from hat.serve.gallery.identities import Identity
from hat.serve.search.searching import CenteredGallery, Match, person_embedding, search_gallery

MAX_TOP = 60
"""Longest list that a page shows."""


@dataclass(frozen=True, eq=False)
class QueryImage:
    """One image of the person who is looked for.

    Attributes:
        name: What it is called.
        image: RGB, of bounded size.
        picture: JPEG of it for the page.
        embedding: (embed_dim,) float32 of unit length, by the model that the demo was opened with.
        decode_s: How long it took to read, in seconds.
        embed_s: How long it took to embed, in seconds.
    """

    name: str
    image: Image.Image
    picture: bytes
    embedding: npt.NDArray[np.float32]
    decode_s: float
    embed_s: float


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a visitor chose beside the query.

    Attributes:
        top: Length of the list.
        rerank: Re-rank by k-reciprocal neighbors.
        center_cameras: Subtract each camera's mean embedding before ranking.
        leave_out_camera: Leave out what the query's own camera saw, where that camera is known.
        camids: Only these cameras; empty for all.
        since_s: Seen at this time or later.
        until_s: Seen before this time.
        query_pid: Identity of the query, where it is known.
        query_camid: Camera of the query, where it is known.
    """

    top: int = 10
    rerank: bool = False
    center_cameras: bool = False
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


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a search found.

    Attributes:
        gallery: Name of the gallery that was searched.
        matches: Best first.
        seconds: How long each step took: ``"decode"``, ``"embed"``, ``"search"``, and ``"re-rank"`` where it was asked for.
        query_pid: Identity of the query where it is known, which makes a match right or wrong.
        num_searched: Records that passed the filter.
        where: The filter.
        is_centered: Whether similarities are those of embeddings without their cameras' means.
    """

    gallery: str
    matches: tuple[Match, ...]
    seconds: dict[str, float]
    query_pid: Identity | None = None
    num_searched: int = 0
    where: Filter = field(default_factory=Filter)
    is_centered: bool = False

    @property
    def num_right(self) -> int:
        """Matches of the query's identity."""
        return sum(match.record.pid == self.query_pid for match in self.matches) if self.query_pid is not None else 0


def rank(gallery: Gallery, name: str, queries: Sequence[QueryImage], options: SearchOptions) -> Outcome:
    """Rank a gallery, known by a name, for one person; several images are one query by their mean embedding.

    Raises:
        UsageError: There is no query, the images have nothing in common, or no camera has a mean to subtract.
    """
    if not queries:
        raise UsageError("there is no query yet: give an image of a person, or take one of the examples")
    person = person_embedding(np.stack([query.embedding for query in queries]))
    searched: Gallery | CenteredGallery = gallery
    if options.center_cameras:
        searched = CenteredGallery(gallery)
        person = searched.center(person, set() if options.query_camid is None else {options.query_camid})
    spent: dict[str, float] = {}
    (matches,) = search_gallery(
        searched, person[None], top=options.top, where=options.where, rerank=options.rerank, thumbnails=True, seconds=spent
    )
    seconds = {
        "decode": sum(query.decode_s for query in queries),
        "embed": sum(query.embed_s for query in queries),
        "search": spent["search"] + spent["read"],
    }
    if options.rerank:
        seconds["re-rank"] = spent["rerank"]
    num_searched = len(gallery.ids(options.where))
    return Outcome(name, tuple(matches), seconds, options.query_pid, num_searched, options.where, options.center_cameras)


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
