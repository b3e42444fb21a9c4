"""What a benchmark measured: medians over rounds, percentiles over runs, ratios within rounds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Turn:
    """One candidate's turn in one round."""

    num_images: int
    seconds: float
    latencies_s: tuple[float, ...]

    @property
    def images_per_s(self) -> float:
        """Rate of this turn."""
        return self.num_images / self.seconds


@dataclass(frozen=True)
class Speed:
    """One candidate at one batch size.

    Attributes:
        mode: ``"embedding"`` from pixels to embeddings, ``"end-to-end"`` from files to embeddings.
        batch: Images in a run.
        images_per_s: Median over the rounds.
        p50_s: Median time of a run in seconds, over all rounds; end to end the time from one batch's result to the next one's.
        p95_s: 95th percentile.
        p99_s: 99th percentile.
        ratio: To the first candidate at the same batch and mode: median of the ratios within each round, which what happens to
            the whole machine between two rounds leaves alone.
        utilization: Of the measured peak in its precision, in [0, 1]; None where it cannot be told.
        rounds: Images in a second, round by round.
        num_runs: Runs behind the percentiles.
    """

    mode: str
    batch: int
    images_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    ratio: float
    utilization: float | None
    rounds: tuple[float, ...]
    num_runs: int


@dataclass(frozen=True)
class CandidateSpeed:
    """All about one candidate.

    Attributes:
        name: As it was asked for.
        runtime: What ran it.
        precision: In which it computes.
        num_operations: For one image.
        peak_bytes: Peak of resident memory of its process, which holds nothing else.
        process_bytes: Peak of that process before the candidate was opened: Python and libraries.
        device_bytes: Memory that it took of a GPU.
        accuracy: mAP and the like, in [0, 1]; empty where they are not known.
        accuracy_source: Where they are from.
        speeds: One for each mode and batch size.
    """

    name: str
    runtime: str
    precision: str
    num_operations: int | None
    peak_bytes: int
    process_bytes: int
    device_bytes: int
    accuracy: dict[str, Any]
    accuracy_source: str
    speeds: tuple[Speed, ...]


@dataclass(frozen=True)
class BenchmarkReport:
    """A whole benchmark.

    Attributes:
        candidates: In the order in which they were asked for.
        peaks: Device -> precision -> operations in a second of a matrix product: median over the rounds of the best of each.
        settings: Batches, seconds, rounds, threads, images.
        machine: Where it ran.
        load: Load average when it began; above zero others were at work.
        num_cores: Cores of the machine.
    """

    candidates: tuple[CandidateSpeed, ...]
    peaks: dict[str, dict[str, float]]
    settings: dict[str, Any] = field(default_factory=dict)
    machine: str = ""
    load: float | None = None
    num_cores: int = 1

    @property
    def is_busy(self) -> bool:
        """Whether others were at work on the machine when it began."""
        return self.load is not None and self.load > 0.25 * self.num_cores

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        candidates = [{**vars(entry), "speeds": [vars(speed) for speed in entry.speeds]} for entry in self.candidates]
        return {**vars(self), "is_busy": self.is_busy, "candidates": candidates}


def summarize(
    turns: Sequence[Turn],
    first: Sequence[Turn],
    *,
    mode: str,
    batch: int,
    num_operations: int | None,
    peak: float | None,
) -> Speed:
    """Put the turns of one candidate together.

    Args:
        turns: One for each round.
        first: Those of the first candidate, in the same rounds.
        mode: See `Speed`.
        batch: See `Speed`.
        num_operations: For one image.
        peak: Operations in a second that the machine reaches in the candidate's precision.
    """
    rates = np.array([turn.images_per_s for turn in turns])
    ratios = rates / np.array([turn.images_per_s for turn in first])
    latencies = np.concatenate([turn.latencies_s for turn in turns])
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]).tolist()
    speed = float(np.median(rates))
    return Speed(
        mode=mode,
        batch=batch,
        images_per_s=speed,
        p50_s=p50,
        p95_s=p95,
        p99_s=p99,
        ratio=float(np.median(ratios)),
        utilization=speed * num_operations / peak if num_operations and peak else None,
        rounds=tuple(rates.tolist()),
        num_runs=len(latencies),
    )
