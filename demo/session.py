"""What one visitor is doing. Each has a session of their own, and nothing of it is ever written to disk or shown to another."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.serve import Filter
from hat.serve.gallery.identities import Identity
from hat.serve.search.searching import Match


class Upload(NamedTuple):
    """An image as a visitor handed it in.

    Attributes:
        name: What it is called.
        image: RGB, upright.
        decode_s: How long it took to read, in seconds.
    """

    name: str
    image: Image.Image
    decode_s: float


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


@dataclass(frozen=True)
class Timings:
    """Seconds of each step of a search; None where there was no such step."""

    decode_s: float
    embed_s: float
    search_s: float
    rerank_s: float | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a search found.

    Attributes:
        gallery: Name of the gallery that was searched.
        matches: Best first.
        timings: How long its steps took.
        query_pid: Identity of the query where it is known, which makes a match right or wrong.
        num_searched: Records that passed the filter.
        where: The filter.
    """

    gallery: str
    matches: tuple[Match, ...]
    timings: Timings
    query_pid: Identity | None = None
    num_searched: int = 0
    where: Filter = field(default_factory=Filter)

    @property
    def num_right(self) -> int:
        """Matches of the query's identity."""
        return sum(match.record.pid == self.query_pid for match in self.matches) if self.query_pid is not None else 0


@dataclass(eq=False)
class Session:
    """The state of one visitor's page.

    Attributes:
        queries: Images of one person.
        query_pid: Identity of the query, where it is known.
        query_camid: Camera of the query, where it is known.
        photo: A larger picture that waits to be cropped.
        outcome: The last search.
        chosen: Which match is looked at, from 0.
        gallery: Name of the gallery that this visitor works with.
        marked: Ids of the records that are marked for removal.
        removal: What waits to be confirmed: keyword arguments of `Gallery.remove`.
    """

    queries: tuple[QueryImage, ...] = ()
    query_pid: Identity | None = None
    query_camid: int | None = None
    photo: Upload | None = None
    outcome: Outcome | None = None
    chosen: int = 0
    gallery: str = ""
    marked: set[int] = field(default_factory=set)
    removal: dict[str, Any] = field(default_factory=dict)

    def forget_query(self) -> None:
        """Start over: no query, no result."""
        self.queries, self.query_pid, self.query_camid = (), None, None
        self.photo, self.outcome, self.chosen = None, None, 0
