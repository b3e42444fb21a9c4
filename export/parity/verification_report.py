"""Report of a verification: one frozen object for a program, for JSON, for a table and for a page."""

import base64
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from typing_extensions import Self

from hat import console
from hat.console import percent

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

RATES = {key: console.RATES[key] for key in ("mAP", "rank1", "mINP")}
"""Rates of a `hat.metrics.RankingResult` that the retrieval level looks at, and their usual names."""

Level = Literal["rows", "embedding", "batch", "ranking", "retrieval"]
Sense = Literal["<=", ">="]

_THUMBNAIL_HEIGHT = 192
_PLOT_SIZE = 278


@dataclass(frozen=True)
class Check:
    """One figure and its limit."""

    level: Level
    name: str
    value: float  # NaN fails
    limit: float
    sense: Sense  # ">=" where more is better
    reason: str  # why the limit is this number
    note: str = ""  # where the figure came from, when that helps: the batch size, the figures of both sides

    @property
    def passed(self) -> bool:
        """Return whether the figure is within its limit."""
        return self.value >= self.limit if self.sense == ">=" else self.value <= self.limit

    @property
    def used(self) -> float:
        """Share of the tolerance that was used, in [0, 1]."""
        allowed, used = (1 - self.limit, 1 - self.value) if self.sense == ">=" else (self.limit, self.value)
        return min(1.0, max(0.0, used / allowed)) if allowed > 0 and np.isfinite(used) else float(not self.passed)

    @property
    def value_text(self) -> str:
        """The figure for a reader; changes of rates in points of percent."""
        value = self.value
        if not np.isfinite(value):
            return "not a number"
        if self.level == "retrieval":
            return f"{100 * value:.2f} pt"
        if self.sense == "<=":
            return f"{value:.1e}" if 0 < abs(value) < 1e-2 else f"{value:.3g}"
        return f"{value:.6g}" if value > 0.9 else f"{value:.3g}"  # near 1 the digits that matter come late

    @property
    def limit_text(self) -> str:
        """The limit for a reader."""
        return f"{100 * self.limit:.2f} pt" if self.level == "retrieval" else f"{self.limit:g}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; a figure that is no number is None."""
        return {**vars(self), "value": self.value if np.isfinite(self.value) else None, "passed": self.passed}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Return the check that `to_dict` gave as plain data."""
        values = {field.name: content[field.name] for field in fields(cls)}
        return cls(**{**values, "value": float("nan") if values["value"] is None else values["value"]})


def judge(level: Level, name: str, value: float, sense: Sense, limit: Limit, note: str = "") -> Check:
    """Hold a figure against a limit."""
    return Check(level, name, float(value), limit.value, sense, limit.reason, note)


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
    """One candidate against the reference; ``similarities`` are (n, 2), by the reference and by it, of a sample of pairs."""

    name: str
    runtime: str
    precision: str
    tolerance: str  # the precision whose limits it is held to
    fingerprint: str | None = None  # what a gallery of its embeddings is bound to; None where the runtime does not say
    checks: tuple[Check, ...] = ()  # empty where it could not be compared
    problems: tuple[str, ...] = ()  # why it could not be compared, or what it did wrong besides figures; any one fails it
    hints: tuple[str, ...] = ()  # what the failure looks like, for whoever has to find it
    figures: dict[str, Any] = field(default_factory=dict)  # measured, without a limit
    worst_images: tuple[ImageShift, ...] = ()  # whose embeddings moved most, the worst first
    worst_pairs: tuple[PairShift, ...] = ()  # whose similarity changed most, the worst first
    similarities: npt.NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def passed(self) -> bool:
        """Return whether something was compared and all of it is within its limits."""
        return bool(self.checks) and not self.problems and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """Failures, in words."""
        bad = (check for check in self.checks if not check.passed)
        return (*self.problems, *(f"{one.name} {one.value_text}, limit {one.sense} {one.limit_text}" for one in bad))

    def check(self, name: str) -> Check | None:
        """Return the figure of a name; None where it was not measured."""
        return next((check for check in self.checks if check.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        content = asdict(replace(self, checks=(), similarities=None))
        del content["similarities"]
        return {**content, "passed": self.passed, "checks": [check.to_dict() for check in self.checks]}


@dataclass(frozen=True, eq=False)
class VerificationReport:
    """All candidates against one reference.

    ``pixels``, (n, 3, H, W) uint8 RGB, are the compared images as they were fed. They may show persons: neither `to_dict` nor
    `repr` holds them.
    """

    reference: str
    reference_runtime: str
    candidates: tuple[CandidateResult, ...]  # in the order in which they were asked for
    source: str  # where the images came from
    paths: tuple[str, ...]  # the compared images, queries first
    num_queries: int  # how many of them are queries; the rest is the gallery
    seed: int
    reference_fingerprint: str | None = None  # as of a candidate
    left_out: tuple[str, ...] = ()  # images that could not be read, with the reason
    dataset: dict[str, Any] | None = None  # of the retrieval level: its name, notes and the reference's figures
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    pixels: npt.NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def passed(self) -> bool:
        """Return whether there is a candidate and every one passed."""
        return bool(self.candidates) and all(candidate.passed for candidate in self.candidates)

    @property
    def num_gallery(self) -> int:
        """Number of gallery images among the compared ones."""
        return len(self.paths) - self.num_queries

    @property
    def summary_names(self) -> list[str]:
        """Names of the figures for a table of all candidates: those about sound rows only where one of them fails."""
        checks = [check for result in self.candidates for check in result.checks]
        shown = {check.name for check in checks if check.level != "rows" or not check.passed}
        return [name for name in dict.fromkeys(check.name for check in checks) if name in shown]

    @property
    def circumstances(self) -> dict[str, str]:
        """Images and machine of the comparison, for a reader."""
        images = f"{len(self.paths)} of {self.source}, seed {self.seed}"
        found = {"images": f"{images}: {self.num_queries} queries, {self.num_gallery} gallery images"}
        if self.left_out:
            found["left out"] = f"{len(self.left_out)} that cannot be read, the first: {self.left_out[0]}"
        if self.dataset is not None:
            metrics = self.dataset["reference"]
            counts = f"{metrics['num_queries']:,} queries, {metrics['num_gallery']:,} gallery images"
            rates = ", ".join(f"{percent(metrics[key])} {name}" for key, name in RATES.items())
            found["data set"] = "; ".join([f"{self.dataset['name']}, {counts}", f"reference {rates}", *self.dataset["notes"]])
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return {**found, "machine": self.machine, "versions": versions}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without any pixel."""
        kept = {name: value for name, value in vars(self).items() if name not in ("source", "paths", "pixels")}
        return {
            "passed": self.passed,
            **kept,
            "num_gallery": self.num_gallery,
            "images": self.source,
            "num_images": len(self.paths),
            "left_out": list(self.left_out),
            "candidates": [candidate.to_dict() for candidate in self.candidates],
        }

    def to_html(self) -> str:
        """Return the report as one page that asks nobody for anything.

        The compared images appear in it as small pictures where the report holds their pixels, and the page says so.
        """
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("hat.export.parity"),
            undefined=StrictUndefined,
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        pixels, failed = self.pixels, sum(not result.passed for result in self.candidates)
        counted = f"{failed} of {len(self.candidates)} candidates disagree with the reference"
        return environment.get_template("page.html.jinja").render(
            report=self,
            verdict="All candidates rank as the reference does" if self.passed else counted,
            has_pictures=pixels is not None and any(result.worst_images for result in self.candidates),
            short_names=SHORT_NAMES,
            plot=_plot,
            thumbnail=lambda index: _thumbnail(pixels[index]) if pixels is not None else None,
        )


def _plot(pairs: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return where the template draws similarities: by the reference to the right, by the candidate upwards."""
    low, high = float(pairs.min()), float(pairs.max())
    margin = 0.04 * (high - low) or 0.01

    def place(values: npt.NDArray[np.floating]) -> list[Any]:
        return list((values - (low - margin)) / (high - low + 2 * margin) * _PLOT_SIZE)

    ticks = np.linspace(low, high, 4)
    return {
        "dots": "".join(f"M{54 + x:.1f} {290 - y:.1f}h0" for x, y in place(pairs.astype(np.float64))),
        "ticks": [{"value": value, "at": at} for value, at in zip(ticks, place(ticks), strict=True)],
    }


def _thumbnail(pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((image.width, _THUMBNAIL_HEIGHT))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return {"width": image.width, "height": image.height, "data": base64.b64encode(buffer.getvalue()).decode("ascii")}
