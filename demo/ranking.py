"""Query, options and outcome of a visitor's search."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.errors import UsageError
from hat.serve import Filter
from hat.serve.gallery.identities import Identity
from hat.serve.search.searching import Match

MAX_TOP = 60
"""Longest list that a page shows."""


@dataclass(frozen=True, eq=False)
class QueryImage:
    """One image of the person who is looked for."""

    name: str
    image: Image.Image  # RGB, of bounded size
    picture: bytes  # a JPEG of it for the page
    embedding: npt.NDArray[np.float32]  # (embed_dim,) of unit length, by the model that the demo was opened with
    decode_s: float
    embed_s: float


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search, and the labels of its query that a visitor knows."""

    top: int = 10
    rerank: bool = False
    center_cameras: bool = False
    leave_out_camera: bool = True  # the query's own, where it is known
    camids: frozenset[int] = frozenset()  # only these; all where it is empty
    since_s: float | None = None
    until_s: float | None = None  # seen before, not at this time
    query_pid: Identity | None = None
    query_camid: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.top <= MAX_TOP:
            raise UsageError(f"a list has 1 to {MAX_TOP} matches, got {self.top}")

    @property
    def where(self) -> Filter:
        """The same as a filter; a `UsageError` where no time lies between the two."""
        left_out = self.query_camid if self.leave_out_camera else None
        return Filter.of(
            camids=self.camids or None,
            exclude_camids=None if left_out is None else {left_out},
            since_s=self.since_s,
            until_s=self.until_s,
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """Matches of a search, best first, and the seconds of each step: decode, embed, search, re-rank."""

    gallery: str
    matches: tuple[Match, ...]
    seconds: dict[str, float]
    num_searched: int  # records that passed the filter
    options: SearchOptions

    @property
    def num_right(self) -> int:
        """Matches of the query's identity."""
        pid = self.options.query_pid
        return sum(match.record.pid == pid for match in self.matches) if pid is not None else 0
