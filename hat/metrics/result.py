"""What an evaluation found: one frozen object for a program, for JSON and for a reader."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError

__all__ = ["RankingResult"]


@dataclass(frozen=True, eq=False)
class RankingResult:
    """Retrieval metrics of one ranking; every rate is in [0, 1].

    Attributes:
        mAP: Mean over the counted queries of average precision.
        cmc: Cumulative matching characteristic, (num_ranks,) float64, read-only: ``cmc[k - 1]`` is the rate of counted queries
            whose first match stands at rank k or before. It is as long as the ``max_rank`` that was asked for, or as the
            gallery.
        mINP: Mean over the counted queries of (number of matches) / (rank of the last match) (Ye et al., TPAMI 2021, Sec. 3.3).
        num_queries: Queries that have a match in the gallery; the means are over these.
        num_skipped_queries: Queries without one; they enter no mean.
        num_gallery: Gallery images that were ranked; junk is not among them.
    """

    mAP: float  # noqa: N815 - the field writes it so
    cmc: npt.NDArray[np.float64]
    mINP: float  # noqa: N815
    num_queries: int
    num_skipped_queries: int
    num_gallery: int

    def __post_init__(self) -> None:
        cmc = np.array(self.cmc, dtype=np.float64)
        if cmc.ndim != 1 or cmc.size == 0:
            raise UsageError(f"cmc must be a vector with at least one rank, got shape {cmc.shape}")
        cmc.setflags(write=False)
        object.__setattr__(self, "cmc", cmc)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RankingResult):
            return NotImplemented
        return self.to_dict() == other.to_dict() and np.array_equal(self.cmc, other.cmc)

    __hash__ = None  # type: ignore[assignment]

    def rank(self, k: int) -> float:
        """Rate of counted queries that have a match among their k nearest gallery images.

        Args:
            k: A rank, counted from 1. Beyond the end of the gallery the rate is that of the whole gallery.

        Raises:
            UsageError: ``k`` is under 1, or over the ``max_rank`` that was evaluated.
        """
        if k < 1:
            raise UsageError(f"ranks are counted from 1, got {k}")
        if k <= len(self.cmc):
            return float(self.cmc[k - 1])
        if len(self.cmc) >= self.num_gallery:
            return float(self.cmc[-1])
        raise UsageError(
            f"rank {k} was not evaluated: the CMC ends at rank {len(self.cmc)}; evaluate with max_rank={k} or more"
        )

    @property
    def rank1(self) -> float:
        """Rate of counted queries whose nearest gallery image is a match."""
        return self.rank(1)

    @property
    def rank5(self) -> float:
        """Rate of counted queries with a match among the five nearest."""
        return self.rank(5)

    @property
    def rank10(self) -> float:
        """Rate of counted queries with a match among the ten nearest."""
        return self.rank(10)

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain numbers for JSON; a rank beyond the evaluated ``max_rank`` is None."""
        return {
            "mAP": self.mAP,
            "rank1": self._rank_or_none(1),
            "rank5": self._rank_or_none(5),
            "rank10": self._rank_or_none(10),
            "mINP": self.mINP,
            "num_queries": self.num_queries,
            "num_skipped_queries": self.num_skipped_queries,
            "num_gallery": self.num_gallery,
        }

    def _rank_or_none(self, k: int) -> float | None:
        known = k <= len(self.cmc) or len(self.cmc) >= self.num_gallery
        return self.rank(k) if known else None

    def __str__(self) -> str:
        parts = [f"mAP {100 * self.mAP:.2f} %"]
        for k in (1, 5, 10):
            rate = self._rank_or_none(k)
            if rate is not None:
                parts.append(f"Rank-{k} {100 * rate:.2f} %")
        parts.append(f"mINP {100 * self.mINP:.2f} %")
        skipped = f", {self.num_skipped_queries} without a match left out" if self.num_skipped_queries else ""
        return f"{', '.join(parts)} ({self.num_queries} queries{skipped}, {self.num_gallery} gallery images)"
