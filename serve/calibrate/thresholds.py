"""What a similarity means in a gallery: how often two different people reach it, and how often one person does.

The unit is one comparison of two images. A search compares its query with every record, so that the chance of at least one
false match among N records is 1 - (1 - f)^N where f is the rate of one comparison (`chance_of_any`): a threshold for a gallery
of 10,000 has to be far stricter than one for two images. The rates are those of the people and cameras in this gallery: others,
who dress more alike or are seen in other light, have other rates.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.errors import MissingExtraError, UsageError

from ..gallery.gallery import Gallery
from ..gallery.identities import name_number
from .image_pairs import Pairs, PairSet

CONFIDENCE = 0.95
"""Of the one-sided upper bound on a false match rate."""

_MIN_IDENTITIES = 2

_ROWS_BYTES = 256 * 2**20
"""Embeddings that are held at once; a larger gallery is read pair by pair."""

_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class RocPoint:
    """What a threshold does: two images whose similarity is at least ``similarity`` count as one person.

    Attributes:
        similarity: The threshold.
        false_match_rate: Share of pairs of different people that reach it, as estimated.
        false_match_bound: Upper bound on that share in this gallery, with a confidence of 95 %.
        true_match_rate: Share of pairs of one person, from different cameras, that reach it; None without such pairs.
    """

    similarity: float
    false_match_rate: float
    false_match_bound: float
    true_match_rate: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Plain data for JSON."""
        return {
            "similarity": self.similarity,
            "false_match_rate": self.false_match_rate,
            "false_match_bound": self.false_match_bound,
            "true_match_rate": self.true_match_rate,
        }


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

    def _num_false(self, similarity: float) -> int:
        return self.num_pairs - int(np.searchsorted(self.impostor, np.float32(similarity), side="left"))

    def false_match_rate_at(self, similarity: float) -> float:
        """Share of pairs of different people whose similarity is at least this, as estimated."""
        return self._num_false(similarity) / self.num_pairs

    def false_match_bound_at(self, similarity: float) -> float:
        """Upper bound (Clopper-Pearson, 95 %) on the share of all the gallery's pairs of different people that reach this."""
        return _upper_bound(self._num_false(similarity), self.num_pairs)

    def true_match_rate_at(self, similarity: float) -> float | None:
        """Share of pairs of one person, from different cameras, whose similarity is at least this; None without such pairs."""
        if not self.num_genuine:
            return None
        return 1 - float(np.searchsorted(self.genuine, np.float32(similarity), side="left")) / self.num_genuine

    def threshold_at(self, false_match_rate: float) -> float:
        """Return the lowest similarity that keeps to a false match rate: its upper bound, not only the estimate, is within.

        Args:
            false_match_rate: Of one comparison, in (0, 1).

        Returns:
            A similarity: two images whose similarity is at least this count as one person. It lies above that of the pair of
            different people which would break the rate, so it may be a little more than 1.

        Raises:
            UsageError: The rate is no such number, or so low that too few pairs were compared to show it.
        """
        if not 0 < false_match_rate < 1:
            raise UsageError(f"a false match rate lies between 0 and 1, got {false_match_rate}")
        # The largest number whose chance is at most 5 % under this rate: one less than the 5 % quantile; of a little more than
        # 5 %, so that rounding does not refuse the lowest rate.
        num_allowed = int(_binomial().binom.ppf((1 - CONFIDENCE) * (1 + 1e-9), self.num_pairs, false_match_rate)) - 1
        if num_allowed < 0:
            needed = math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-false_match_rate))
            remedy = "enroll more people" if self.is_exhaustive else "compare more pairs (hat gallery calibrate --pairs)"
            raise UsageError(
                f"a false match rate of {false_match_rate:g} cannot be shown by {self.num_pairs:,} pairs of different people: "
                f"it takes {needed:,}, and these show {self.lowest_rate:.2g} at best; {remedy}, or ask for a higher rate"
            )
        # Just above the first pair that must not reach it.
        return float(np.nextafter(self.impostor[self.num_pairs - 1 - num_allowed], np.float32(2)))

    def point_at(self, similarity: float) -> RocPoint:
        """Return all rates at a similarity."""
        return RocPoint(
            similarity,
            self.false_match_rate_at(similarity),
            self.false_match_bound_at(similarity),
            self.true_match_rate_at(similarity),
        )

    def roc(self) -> list[RocPoint]:
        """Thresholds for the false match rates 10 %, 5, 2, 1, 0.5 ... down to the lowest that can be shown."""
        rates = [step * 10.0**-power for power in range(2, 8) for step in (10, 5, 2)]
        return [self.point_at(self.threshold_at(rate)) for rate in rates if rate >= self.lowest_rate]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the similarities."""
        return {
            "num_records": self.num_records,
            "num_identities": self.num_identities,
            "num_pairs": self.num_pairs,
            "num_genuine_pairs": self.num_genuine,
            "is_exhaustive": self.is_exhaustive,
            "confidence": CONFIDENCE,
            "lowest_false_match_rate": self.lowest_rate,
            "roc": [point.to_dict() for point in self.roc()],
        }


def calibrate_thresholds(gallery: Gallery, *, num_pairs: int = 300_000, seed: int = 0) -> ThresholdCalibration:
    """Estimate what similarities mean in a gallery.

    Pairs of different people are drawn with equal chances from all that the gallery has, with replacement; so the number of
    false matches among them is binomial, and its bound is exact for this gallery. Where there are no more pairs than were asked
    for, every one is compared. The same holds for pairs of one person, of which only those from two different known cameras
    count: two pictures of one walk past one camera are nearly the same picture and would flatter the model.

    Args:
        gallery: Records that know their identity take part.
        num_pairs: Most pairs of either kind; 300,000 can show false match rates down to 1e-5.
        seed: Of the draw: the same gallery and seed give the same result.

    Returns:
        The calibration.

    Raises:
        UsageError: Fewer than two identities are known, or ``num_pairs`` is out of range.
    """
    if not 1 <= num_pairs <= 50_000_000:
        raise UsageError(f"the number of pairs is 1 to 50,000,000, got {num_pairs:,}")
    ids, pids, camids = _known(gallery)
    identities = len(np.unique(pids))
    if identities < _MIN_IDENTITIES:
        raise UsageError(
            f"{gallery.location} knows {identities} identities, and a threshold needs pairs of different people: enroll images "
            "with their identities (--pid, a CSV with the column pid, or Market-style names)"
        )
    rng = np.random.default_rng(seed)
    everyone = np.zeros(len(ids), dtype=np.int64)
    different = PairSet(everyone, pids)
    # Without a camera there is no other camera: such a record is in no pair of one person.
    with_camera = np.flatnonzero(camids >= 0)
    same = PairSet(pids[with_camera], camids[with_camera])
    left, right = same.draw(num_pairs, rng)
    rows = _Rows(gallery, ids)
    return ThresholdCalibration(
        num_records=len(ids),
        num_identities=identities,
        impostor=rows.similarities(different.draw(num_pairs, rng)),
        genuine=rows.similarities((with_camera[left], with_camera[right])),
        is_exhaustive=different.num_unordered <= num_pairs,
    )


def _upper_bound(num_events: int, num_trials: int) -> float:
    """Clopper-Pearson upper bound on a rate, exact also for few events or none; with none it is about 3 / n."""
    if num_events >= num_trials:
        return 1.0
    return float(_binomial().beta.ppf(CONFIDENCE, num_events + 1, num_trials - num_events))


def _binomial() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtraError("scipy", "serve", "calibrating thresholds") from None
    return stats


def chance_of_any(false_match_rate: float, num_comparisons: int) -> float:
    """Chance of at least one false match among several comparisons, 1 - (1 - f)^N, where these err independently."""
    if false_match_rate >= 1:
        return float(num_comparisons > 0)
    return -math.expm1(num_comparisons * math.log1p(-false_match_rate))


class _Rows:
    """Similarities of pairs of records, read in bounded memory."""

    def __init__(self, gallery: Gallery, ids: npt.NDArray[np.int64]) -> None:
        self._gallery, self._ids = gallery, ids
        self._row_bytes = 4 * gallery.binding.embed_dim
        self._held = gallery.embeddings(ids.tolist()) if len(ids) * self._row_bytes <= _ROWS_BYTES else None

    def similarities(self, pairs: Pairs) -> npt.NDArray[np.float32]:
        """(num_pairs,) float32 cosine similarities, ascending."""
        left, right = pairs
        found = np.empty(len(left), dtype=np.float32)
        step = max(1, _BLOCK_BYTES // (2 * self._row_bytes))
        for start in range(0, len(left), step):
            block = slice(start, start + step)
            found[block] = np.einsum("nd,nd->n", self._read(left[block]), self._read(right[block]))
        found.sort()
        return found

    def _read(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if self._held is not None:
            return self._held[places]
        unique, inverse = np.unique(places, return_inverse=True)
        return self._gallery.embeddings(self._ids[unique].tolist())[inverse]


def _known(gallery: Gallery) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids, identities and cameras (-1 where unknown, otherwise numbered from 0) of the records whose identity is known."""
    ids: list[int] = []
    pids: list[int] = []
    cameras: dict[int, int] = {}
    numbers: list[int] = []
    for record in gallery.records():
        if record.pid is not None:
            ids.append(record.id)
            pids.append(name_number(record.pid))
            numbers.append(-1 if record.camid is None else cameras.setdefault(record.camid, len(cameras)))
    return np.array(ids, dtype=np.int64), np.array(pids, dtype=np.int64), np.array(numbers, dtype=np.int64)
