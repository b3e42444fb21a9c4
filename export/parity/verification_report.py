"""What a verification found: one frozen object for a program, for JSON and for a page."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .tolerances import Limit

SHORT_NAMES = {
    "worst cosine": "cosine",
    "relative shift": "shift",
    "batch max abs": "batches",
    "top-1 agreement": "top-1",
    "top-10 agreement": "top-10",
    "rank correlation": "order",
    "change of mAP": "mAP",
    "change of Rank-1": "Rank-1",
    "change of mINP": "mINP",
}
"""Names of figures that fit above their columns; the reports have them in full."""

Level = Literal["rows", "embedding", "batch", "ranking", "retrieval"]


@dataclass(frozen=True)
class Check:
    """One figure and its limit.

    Attributes:
        level: What kind of figure it is.
        name: Its name in tables.
        value: The figure; NaN fails.
        limit: What it is held to.
        sense: ``">="`` where more is better, ``"<="`` where less is.
        reason: Why the limit is this number.
        note: Where the figure came from, when that helps: the batch size, the figures of both sides.
    """

    level: Level
    name: str
    value: float
    limit: float
    sense: Literal["<=", ">="]
    reason: str
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure is within its limit."""
        return self.value >= self.limit if self.sense == ">=" else self.value <= self.limit

    @property
    def value_text(self) -> str:
        """The figure for a reader; changes of rates in points of percent."""
        return self._text(self.value)

    @property
    def limit_text(self) -> str:
        """The limit for a reader."""
        return self._text(self.limit) if self.level == "retrieval" else f"{self.limit:g}"

    def _text(self, value: float) -> str:
        if not np.isfinite(value):
            return "not a number"
        if self.level == "retrieval":
            return f"{100 * value:.2f} pt"
        if self.sense == "<=":
            return f"{value:.1e}" if 0 < abs(value) < 1e-2 else f"{value:.3g}"
        return f"{value:.6g}" if value > 0.9 else f"{value:.3g}"  # near 1 the digits that matter come late

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; a figure that is no number is None."""
        value = self.value if np.isfinite(self.value) else None
        shown = {"level": self.level, "name": self.name, "value": value, "sense": self.sense, "limit": self.limit}
        return {**shown, "passed": self.passed, "reason": self.reason, "note": self.note}


def at_least(level: Level, name: str, value: float, limit: Limit, note: str = "") -> Check:
    """Make a check of which more is better."""
    return Check(level, name, float(value), limit.value, ">=", limit.reason, note)


def at_most(level: Level, name: str, value: float, limit: Limit, note: str = "") -> Check:
    """Make a check of which less is better."""
    return Check(level, name, float(value), limit.value, "<=", limit.reason, note)


@dataclass(frozen=True)
class ImageShift:
    """An image whose embedding moved: its index among the compared images, and how far."""

    index: int
    path: str
    cosine: float
    max_abs: float


@dataclass(frozen=True)
class PairShift:
    """A query and a gallery image whose similarity changed; ranks are counted from 1, the nearest first."""

    query: int
    gallery: int
    query_path: str
    gallery_path: str
    reference_similarity: float
    candidate_similarity: float
    reference_rank: int
    candidate_rank: int


@dataclass(frozen=True, eq=False)
class CandidateResult:
    """One candidate against the reference.

    Attributes:
        name: As it was asked for.
        runtime: What ran it.
        precision: In which it computes.
        tolerance: The precision whose limits it is held to.
        fingerprint: What a gallery of its embeddings is bound to; None where the runtime does not say.
        checks: The figures; empty where it could not be compared.
        problems: Why it could not be compared, or what it did wrong besides figures. Any one fails it.
        hints: What the failure looks like, for whoever has to find it.
        figures: Measured figures that have no limit.
        worst_images: The images whose embeddings moved most, the worst first.
        worst_pairs: The pairs whose similarity changed most, the worst first.
        similarities: (n, 2) float32 pairs (reference, candidate) of similarities, a sample of all pairs, for a picture.
    """

    name: str
    runtime: str
    precision: str
    tolerance: str
    fingerprint: str | None = None
    checks: tuple[Check, ...] = ()
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    worst_images: tuple[ImageShift, ...] = ()
    worst_pairs: tuple[PairShift, ...] = ()
    similarities: npt.NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def passed(self) -> bool:
        """Whether something was compared and all of it is within its limits."""
        return bool(self.checks) and not self.problems and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, in words."""
        figures = (
            f"{check.name} {check.value_text}, limit {check.sense} {check.limit_text}"
            for check in self.checks
            if not check.passed
        )
        return (*self.problems, *figures)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        names = ("name", "runtime", "precision", "tolerance", "fingerprint", "passed", "figures")
        return {
            **{name: getattr(self, name) for name in names},
            "problems": list(self.problems),
            "hints": list(self.hints),
            "checks": [check.to_dict() for check in self.checks],
            "worst_images": [vars(shift) for shift in self.worst_images],
            "worst_pairs": [vars(pair) for pair in self.worst_pairs],
        }


@dataclass(frozen=True, eq=False)
class VerificationReport:
    """All candidates against one reference.

    Attributes:
        reference: As it was asked for.
        reference_runtime: What ran it.
        reference_fingerprint: What a gallery of its embeddings is bound to; None where the runtime does not say.
        candidates: One result each, in the order in which they were asked for.
        source: Where the images came from.
        paths: The compared images, queries first.
        num_queries: How many of them are queries; the rest is the gallery.
        seed: Seed of their choice.
        left_out: Images that could not be read, with the reason.
        dataset: Name and counts of the data set of the retrieval level; None where there was none.
        machine: Where it ran.
        versions: Of the libraries that took part.
        pixels: (n, 3, H, W) uint8 RGB, the compared images as they were fed. They may show persons: neither `to_dict` nor
            `repr` holds them.
    """

    reference: str
    reference_runtime: str
    candidates: tuple[CandidateResult, ...]
    source: str
    paths: tuple[str, ...]
    num_queries: int
    seed: int
    reference_fingerprint: str | None = None
    left_out: tuple[str, ...] = ()
    dataset: dict[str, Any] | None = None
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    pixels: npt.NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def summary_names(self) -> list[str]:
        """Names of the figures for a table of all candidates: those about sound rows only where one of them fails."""
        checks = [check for result in self.candidates for check in result.checks]
        shown = {check.name for check in checks if check.level != "rows" or not check.passed}
        return [name for name in dict.fromkeys(check.name for check in checks) if name in shown]

    @property
    def passed(self) -> bool:
        """Whether there is a candidate and every one passed."""
        return bool(self.candidates) and all(candidate.passed for candidate in self.candidates)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without any pixel."""
        names = ("passed", "reference", "reference_runtime", "reference_fingerprint", "num_queries", "seed", "dataset")
        return {
            **{name: getattr(self, name) for name in (*names, "machine", "versions")},
            "images": self.source,
            "num_images": len(self.paths),
            "num_gallery": len(self.paths) - self.num_queries,
            "left_out": list(self.left_out),
            "candidates": [candidate.to_dict() for candidate in self.candidates],
        }
