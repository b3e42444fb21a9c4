"""Models and exported files side by side: one process each, round by round, so that what slows the machine slows them all."""

import itertools
import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hat.console import describe_machine
from hat.data import open_dataset
from hat.errors import UsageError

from ..parity.candidate import choose_images, list_images, parse_candidate
from .matrix_peak import peak_of, timed_precisions
from .other_work import OtherWork
from .worker import WorkerProcess

_WARM_UP_S = 0.5
_PEAK_S = 0.6
_MAX_IMAGES = 512


@dataclass(frozen=True)
class Speed:
    """One candidate at one batch size; times are in seconds over all rounds.

    End to end, the time of a run is that from one batch's result to the next one's. The ratio to the first candidate is the
    median of the ratios within each round, which what happens to the whole machine between two rounds leaves alone.
    """

    mode: str  # "embedding" from pixels to embeddings, "end-to-end" from files to embeddings
    batch: int
    images_per_s: float  # median over the rounds
    p50_s: float
    p95_s: float
    p99_s: float
    ratio: float
    utilization: float | None  # of the measured peak in its precision, in [0, 1]; None where it is unknown
    rounds: tuple[float, ...]  # images in a second, round by round
    num_runs: int  # behind the percentiles


@dataclass(frozen=True)
class CandidateSpeed:
    """All about one candidate."""

    name: str
    runtime: str
    precision: str
    num_operations: int | None  # for one image
    peak_bytes: int  # peak of resident memory of its process, which holds nothing else
    process_bytes: int  # peak of that process before the candidate was opened: Python and libraries
    device_bytes: int  # memory that it took of a GPU
    accuracy: dict[str, Any]  # mAP and the like, in [0, 1]; empty where they are not known
    accuracy_source: str
    speeds: tuple[Speed, ...]  # one for each mode and batch size

    def at(self, batch: int, mode: str = "embedding") -> Speed:
        """Return the speed at a batch size that was measured."""
        return next(speed for speed in self.speeds if (speed.batch, speed.mode) == (batch, mode))


@dataclass(frozen=True)
class BenchmarkReport:
    """A whole benchmark, candidates in the order in which they were asked for."""

    candidates: tuple[CandidateSpeed, ...]
    peaks: dict[str, dict[str, float]]  # device -> precision -> operations in a second of the best matrix product
    settings: dict[str, Any] = field(default_factory=dict)
    machine: str = ""
    other_cores: float | None = None  # that others kept busy meanwhile, on average; None where the system does not tell
    num_cores: int = 1

    @property
    def is_busy(self) -> bool:
        """Return whether other programs used the machine meanwhile."""
        return self.other_cores is not None and self.other_cores > 0.1 * self.num_cores

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        candidates = [{**vars(entry), "speeds": [vars(speed) for speed in entry.speeds]} for entry in self.candidates]
        return {**vars(self), "is_busy": self.is_busy, "candidates": candidates}


def summarize(
    turns: Sequence[Sequence[float]],
    first: Sequence[Sequence[float]],
    mode: str,
    batch: int,
    *,
    num_operations: int | None,
    peak: float | None,
) -> Speed:
    """Put the turns of one candidate together, with those of the first candidate in the same rounds.

    A turn is the seconds of each of its runs. ``num_operations`` are those of one image, ``peak`` those that the machine does
    in a second in the candidate's precision.
    """
    rates, others = (np.array([batch * len(turn) / sum(turn) for turn in side]) for side in (turns, first))
    latencies = np.concatenate(turns)
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]).tolist()
    speed = float(np.median(rates))
    return Speed(
        mode=mode,
        batch=batch,
        images_per_s=speed,
        p50_s=p50,
        p95_s=p95,
        p99_s=p99,
        ratio=float(np.median(rates / others)),
        utilization=speed * num_operations / peak if num_operations and peak else None,
        rounds=tuple(rates.tolist()),
        num_runs=len(latencies),
    )


def benchmark(
    candidates: Sequence[str],
    *,
    batches: Sequence[int] = (1, 8, 32),
    end_to_end: bool = False,
    images: str | os.PathLike[str] | None = None,
    data: str | None = None,
    num_ids: int | None = None,
    seconds: float = 2.0,
    rounds: int = 5,
    num_threads: int | None = None,
    device: str | None = None,
    gray_bits: int | None = None,
    need_accuracy: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> BenchmarkReport:
    """Measure candidates, named as `hat.export.parity.candidate` reads them, in turn and against the first of them.

    In every round each candidate has its turn of so many seconds at each batch size, in an order that moves on by one from
    round to round, and a matrix product has its own. Rates are medians over rounds. End to end, files of ``images`` are read,
    decoded and resized by threads beside the model; without ``images`` embeddings are measured on noise. The accuracy is that
    on ``data``, or what the checkpoint or file says of itself; ``need_accuracy`` refuses, before anything is measured,
    candidates none of which has any. ``gray_bits`` are those that sixteen-bit gray images use.
    ``progress`` is called with what is done, how many turns are over and how many there are.
    """
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise UsageError(f"batch sizes are different whole numbers of at least 1, got {list(batches)}")
    if seconds <= 0 or rounds < 1:
        raise UsageError(f"a benchmark has at least one round of more than 0 seconds, got {rounds} of {seconds}")
    paths = _checked_paths(candidates, images, end_to_end, data)
    others = OtherWork()
    tell = progress or (lambda what, done, total: None)
    modes = ("embedding", "end-to-end") if end_to_end else ("embedding",)
    jobs = [(mode, batch) for mode in modes for batch in batches]
    with ExitStack() as stack:
        workers = [stack.enter_context(WorkerProcess(spec, num_threads)) for spec in candidates]
        matrix = stack.enter_context(WorkerProcess("matrix product", num_threads))
        opened = {"device": device, "num_threads": num_threads, "paths": paths, "gray_bits": gray_bits}
        candidate_metadata = [worker.ask("open", spec=worker.name, **opened) for worker in workers]
        if need_accuracy and data is None and not any("mAP" in metadata["metrics"] for metadata in candidate_metadata):
            raise UsageError("no candidate's accuracy is known, so there is none to draw: name a data set with --data")
        for worker in workers:
            for done, (mode, batch) in enumerate(jobs):
                tell(f"warming up {worker.name}", done, len(jobs))
                worker.ask("measure", mode=mode, batch=batch, seconds=min(_WARM_UP_S, seconds))
        rates: dict[str, dict[str, list[float]]] = {}
        turns: dict[tuple[int, str, int], list[list[float]]] = {}
        done, total = 0, rounds * len(jobs) * len(workers)
        for number in range(rounds):
            for kind, precision in _peaks_to_time(candidate_metadata):
                target = device if device is not None and device.startswith(f"{kind}:") else kind
                rate = matrix.ask("peak", precision=precision, device=target, seconds=min(_PEAK_S, seconds))["rate"]
                rates.setdefault(kind, {}).setdefault(precision, []).append(rate)
            order = [(number + step) % len(workers) for step in range(len(workers))]
            for (mode, batch), index in itertools.product(jobs, order):
                answer = workers[index].ask("measure", mode=mode, batch=batch, seconds=seconds)
                turns.setdefault((index, mode, batch), []).append(answer["latencies_s"])
                done += 1
                tell("measuring", done, total)
        peaks = {kind: {name: statistics.median(found) for name, found in each.items()} for kind, each in rates.items()}
        entries = []
        for index, (worker, metadata) in enumerate(zip(workers, candidate_metadata, strict=True)):
            memory = worker.ask("memory")
            accuracy, source = metadata.pop("metrics"), "its own record"
            if data is not None:
                tell(f"accuracy of {worker.name}", index, len(workers))
                accuracy, source = worker.ask("accuracy", data=data, num_ids=num_ids, batch=max(batches)), data
            limits: dict[str, Any] = {"peak": peak_of(metadata["precision"], peaks.get(metadata.pop("device"), {}))}
            limits["num_operations"] = metadata["num_operations"]
            speeds = tuple(summarize(turns[(index, *job)], turns[(0, *job)], *job, **limits) for job in jobs)
            known = {"accuracy": accuracy, "accuracy_source": source if accuracy else "", "speeds": speeds}
            entries.append(CandidateSpeed(name=worker.name, **metadata, **memory, **known))
    settings = {"batches": list(batches), "seconds": seconds, "rounds": rounds, "num_threads": num_threads, "device": device}
    settings |= {"images": None if images is None else os.fspath(images), "num_images": len(paths)}
    return BenchmarkReport(tuple(entries), peaks, settings, describe_machine(), others.mean_cores(), os.cpu_count() or 1)


def _checked_paths(
    candidates: Sequence[str], images: str | os.PathLike[str] | None, end_to_end: bool, data: str | None
) -> list[str]:
    """Return the locations of the images, after a check that all is there that is asked for."""
    if not candidates:
        raise UsageError("nothing to measure: expected at least one candidate")
    for spec in candidates:
        parse_candidate(spec)
    if images is None and end_to_end:
        raise UsageError("end to end begins with files: name a folder of images with --images")
    paths = [] if images is None else choose_images(list_images(images), _MAX_IMAGES, 0)
    if images is not None and not paths:
        raise UsageError(f"{os.fspath(images)} has no images")
    if data is not None:
        open_dataset(data)
    return paths


def _peaks_to_time(candidate_metadata: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return (device, precision) of the matrix products that the candidates are held against."""
    pairs = {
        (entry["device"], precision)
        for entry in candidate_metadata
        if entry["device"]
        for precision in ("fp32", entry["precision"])
    }
    return sorted((kind, precision) for kind, precision in pairs if precision in timed_precisions(kind))
