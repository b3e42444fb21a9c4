"""Calibration of similarity thresholds: false and true match rates of a gallery.

The unit is one comparison of two images. A search compares its query with every record: at least one false match among N has
the chance 1 - (1 - f)^N where f is the rate of one (`chance_of_any`), so that a threshold for 10,000 has to be far stricter.
The rates are those of this gallery's people and cameras: others, who dress more alike or are seen in other light, have others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from hat.errors import UsageError
from hat.io.plot_file import save_picture, style_axes

from .gallery.gallery import Gallery
from .gallery.identities import name_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pairs: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Places of the one and of the other image of each pair."""

CONFIDENCE = 0.95
"""Of the one-sided upper bound on a false match rate."""

_ROWS_BYTES = 256 * 2**20  # embeddings that are held at once; a larger gallery is read pair by pair
_BLOCK_BYTES = 32 * 2**20

_DIFFERENT, _SAME, _ROC = "#c8552b", "#0c7f5c", "#2f5fd0"


@dataclass(frozen=True)
class RocPoint:
    """Point of the ROC: two images whose similarity is at least ``similarity`` count as one person."""

    similarity: float
    false_match_rate: float  # share of pairs of different people that reach it, as estimated
    false_match_bound: float  # upper bound on that share in this gallery, with a confidence of 95 % (Clopper-Pearson)
    true_match_rate: float | None  # share of pairs of one person, from different cameras, that reach it, if there are such


@dataclass(frozen=True, kw_only=True, eq=False)
class ThresholdCalibration:
    """Similarities of pairs of a gallery, and the rates that follow.

    Attributes:
        num_records: Records whose identity is known; only these take part.
        num_identities: Their identities.
        impostor: (num_pairs,) float32, ascending: similarities of pairs of different people.
        genuine: (num_genuine,) float32, ascending: of pairs of one person seen by two cameras; empty where there are none.
        is_exhaustive: Whether ``impostor`` holds every pair there is, and not a sample.
    """

    num_records: int
    num_identities: int
    impostor: npt.NDArray[np.float32] = field(repr=False)
    genuine: npt.NDArray[np.float32] = field(repr=False)
    is_exhaustive: bool

    @property
    def num_pairs(self) -> int:
        """Pairs of different people that were compared."""
        return len(self.impostor)

    @property
    def num_genuine(self) -> int:
        """Pairs of one person, from different cameras, that were compared."""
        return len(self.genuine)

    @property
    def lowest_rate(self) -> float:
        """The lowest false match rate that these pairs can show: the bound where none of them is a false match, about 3 / n."""
        return _upper_bound(0, self.num_pairs)

    def point_at(self, similarity: float) -> RocPoint:
        """Return all rates at a similarity."""
        false, true = (
            len(pairs) - int(np.searchsorted(pairs, np.float32(similarity), side="left"))
            for pairs in (self.impostor, self.genuine)
        )
        true_match_rate = true / self.num_genuine if self.num_genuine else None
        return RocPoint(similarity, false / self.num_pairs, _upper_bound(false, self.num_pairs), true_match_rate)

    def threshold_at(self, false_match_rate: float) -> float:
        """Return the lowest similarity that keeps to a false match rate: its upper bound, not only the estimate, is within.

        It lies just above that of the pair of different people which would break the rate, so it may be a little more than 1.

        Args:
            false_match_rate: Of one comparison, in (0, 1).

        Raises:
            UsageError: The rate is another number, or so low that too few pairs were compared to show it.
        """
        from scipy.stats import binom  # it takes a second to import

        if not 0 < false_match_rate < 1:
            raise UsageError(f"a false match rate lies between 0 and 1, got {false_match_rate}")
        # The largest number whose chance is at most 5 % under this rate: one less than the 5 % quantile; of a little more than
        # 5 %, so that rounding does not refuse the lowest rate.
        num_allowed = int(binom.ppf((1 - CONFIDENCE) * (1 + 1e-9), self.num_pairs, false_match_rate)) - 1
        if num_allowed < 0:
            needed = math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-false_match_rate))
            remedy = "enroll more people" if self.is_exhaustive else "compare more pairs (hat gallery calibrate --pairs)"
            raise UsageError(
                f"a false match rate of {false_match_rate:g} cannot be shown by {self.num_pairs:,} pairs of different people: "
                f"it takes {needed:,}, and these show {self.lowest_rate:.2g} at best; {remedy}, or ask for a higher rate"
            )
        return float(np.nextafter(self.impostor[self.num_pairs - 1 - num_allowed], np.float32(2)))

    def roc(self) -> list[RocPoint]:
        """Return what keeps to the false match rates 10 %, 5, 2, 1, 0.5 ... down to the lowest that can be shown."""
        rates = [step * 10.0**-power for power in range(2, 8) for step in (10, 5, 2)]
        return [self.point_at(self.threshold_at(rate)) for rate in rates if rate >= self.lowest_rate]


def calibrate_thresholds(gallery: Gallery, *, num_pairs: int = 300_000, seed: int = 0) -> ThresholdCalibration:
    """Estimate what similarities mean in a gallery.

    Pairs of different people are drawn with equal chances from all that the gallery has, with replacement; so the number of
    false matches among them is binomial, and its bound is exact for this gallery. Where there are no more pairs than were asked
    for, every one is compared. The same holds for pairs of one person, of which only those from two different known cameras
    count: two pictures of one walk past one camera are nearly the same picture and would flatter the model.

    Args:
        gallery: Records that know their identity take part.
        num_pairs: Most pairs of either kind; 300,000 can show false match rates down to 1e-5.
        seed: Of the draw.

    Raises:
        UsageError: Fewer than two identities are known, or ``num_pairs`` is out of range.
    """
    if not 1 <= num_pairs <= 50_000_000:
        raise UsageError(f"the number of pairs is 1 to 50,000,000, got {num_pairs:,}")
    known = [record for record in gallery.records() if record.pid is not None]
    ids = np.array([record.id for record in known], dtype=np.int64)
    pids = np.array([0 if record.pid is None else name_number(record.pid) for record in known], dtype=np.int64)
    identities = len(np.unique(pids))
    if identities < 2:
        raise UsageError(
            f"{gallery.location} knows {identities} identities, and a threshold needs pairs of different people: enroll images "
            "with their identities (--pid, a CSV with the column pid, or Market-style names)"
        )
    rng = np.random.default_rng(seed)
    different = PairSet(np.zeros_like(ids), pids)
    # Without a camera there is no other camera: such a record is in no pair of one person.
    with_camera = np.array([place for place, record in enumerate(known) if record.camid is not None], dtype=np.int64)
    camids = np.array([record.camid for record in known if record.camid is not None], dtype=np.int64)
    left, right = PairSet(pids[with_camera], camids).draw(num_pairs, rng)
    impostor, genuine = _similarities(gallery, ids, [different.draw(num_pairs, rng), (with_camera[left], with_camera[right])])
    return ThresholdCalibration(
        num_records=len(ids),
        num_identities=identities,
        impostor=impostor,
        genuine=genuine,
        is_exhaustive=different.num_unordered <= num_pairs,
    )


def chance_of_any(false_match_rate: float, num_comparisons: int) -> float:
    """Return the chance of at least one false match among several comparisons, 1 - (1 - f)^N, where these err independently."""
    if false_match_rate >= 1:
        return float(num_comparisons > 0)
    return -math.expm1(num_comparisons * math.log1p(-false_match_rate))


def _upper_bound(num_events: int, num_trials: int) -> float:
    """Return the Clopper-Pearson upper bound on a rate, exact also for few events or none; with none it is about 3 / n."""
    return 1.0 if num_events >= num_trials else float(betaincinv(num_events + 1, num_trials - num_events, CONFIDENCE))


class PairSet:
    """All pairs of n items that share an outer label and differ in an inner one, numbered, so that none is ever listed."""

    def __init__(self, outer: npt.NDArray[np.int64], inner: npt.NDArray[np.int64]) -> None:
        _, outer = np.unique(outer, return_inverse=True)
        labels, inner = np.unique(inner, return_inverse=True)
        both = outer * len(labels) + inner
        self._order = np.argsort(both, kind="stable")
        self._outer_start, outer_end = _runs(outer[self._order])
        self._inner_start, self._inner_end = _runs(both[self._order])
        self._num_partners = (outer_end - self._outer_start) - (self._inner_end - self._inner_start)
        self._ends = np.cumsum(self._num_partners)
        self._num_ordered = int(self._ends[-1]) if len(self._ends) else 0

    @property
    def num_unordered(self) -> int:
        """Number of pairs."""
        return self._num_ordered // 2

    def draw(self, num_pairs: int, rng: np.random.Generator) -> Pairs:
        """Draw so many pairs with replacement; all of them, once each, where there are no more."""
        if self.num_unordered > num_pairs:
            return self._pairs(rng.integers(self._num_ordered, size=num_pairs))
        left, right = self._pairs(np.arange(self._num_ordered))
        once = left < right
        return left[once], right[once]

    def _pairs(self, numbers: npt.NDArray[np.int64]) -> Pairs:
        item = np.searchsorted(self._ends, numbers, side="right")
        partner = self._outer_start[item] + numbers - (self._ends[item] - self._num_partners[item])
        # The items with the same inner label lie together and are stepped over.
        partner += np.where(partner >= self._inner_start[item], self._inner_end[item] - self._inner_start[item], 0)
        return self._order[item], self._order[partner]


def _runs(labels: npt.NDArray[np.int64]) -> Pairs:
    """Return the first place and the end of the run of equal labels that each of an ascending sequence belongs to."""
    return np.searchsorted(labels, labels, "left"), np.searchsorted(labels, labels, "right")


def _similarities(gallery: Gallery, ids: npt.NDArray[np.int64], draws: Sequence[Pairs]) -> list[npt.NDArray[np.float32]]:
    """Return cosine similarities of pairs of records, ascending, read in bounded memory: (num_pairs,) float32 for each draw."""
    row_bytes = 4 * gallery.binding.embed_dim
    held = gallery.embeddings(ids.tolist()) if len(ids) * row_bytes <= _ROWS_BYTES else None

    def read(places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if held is not None:
            return held[places]
        unique, inverse = np.unique(places, return_inverse=True)
        return gallery.embeddings(ids[unique].tolist())[inverse]

    draws_similarities = [np.empty(len(left), dtype=np.float32) for left, _ in draws]
    step = max(1, _BLOCK_BYTES // (2 * row_bytes))
    for similarities, (left, right) in zip(draws_similarities, draws, strict=True):
        for start in range(0, len(left), step):
            block = slice(start, start + step)
            similarities[block] = np.einsum("nd,nd->n", read(left[block]), read(right[block]))
        similarities.sort()
    return draws_similarities


def draw_calibration(calibration: ThresholdCalibration, path: Path, *, title: str) -> None:
    """Draw the similarities of both kinds of pairs and, where people were seen by two cameras, the ROC: .png, .svg or .pdf."""
    from matplotlib.figure import Figure

    has_roc = calibration.num_genuine > 0
    figure = Figure(figsize=(11 if has_roc else 6.5, 4.5), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2 if has_roc else 1, squeeze=False)[0]
    _draw_similarities(panels[0], calibration)
    if has_roc:
        _draw_roc(panels[1], calibration)
    for axes in panels:
        style_axes(axes)
    heading = f"{title}: {calibration.num_records:,} images of {calibration.num_identities:,} people"
    figure.suptitle(heading, fontsize=11, x=0.01, ha="left")
    save_picture(figure, path)


def _draw_similarities(axes: Axes, calibration: ThresholdCalibration) -> None:
    both = ((calibration.impostor, _DIFFERENT, "different people"), (calibration.genuine, _SAME, "one person, two cameras"))
    similarities, colors, names = zip(*(kind for kind in both if len(kind[0])), strict=True)
    labels = [f"{name} ({len(pairs):,} pairs)" for name, pairs in zip(names, similarities, strict=True)]
    axes.hist(similarities, bins=80, density=True, histtype="stepfilled", color=colors, alpha=0.55, label=labels)
    axes.set_xlabel("similarity of a pair")
    axes.set_ylabel("density")
    axes.legend(frameon=False, fontsize=8)


def _draw_roc(axes: Axes, calibration: ThresholdCalibration) -> None:
    from matplotlib.ticker import NullFormatter

    rates = np.geomspace(max(calibration.lowest_rate, 1e-9), 0.5, num=400)
    points = [calibration.point_at(calibration.threshold_at(float(rate))) for rate in rates if rate >= calibration.lowest_rate]
    true = [100 * point.true_match_rate for point in points if point.true_match_rate is not None]
    axes.plot([point.false_match_bound for point in points], true, color=_ROC, label="upper bound, 95 %", linewidth=1.6)
    axes.plot([point.false_match_rate for point in points], true, color=_ROC, label="estimate", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 102)
    axes.set_xlabel("false match rate of one comparison")
    axes.set_ylabel("true match rate, %")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
