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
from hat.errors import CheckpointError, UsageError

from ..parity.candidate import choose_images, list_images, parse_candidate
from .matrix_peak import peak_of, timed_precisions
from .worker import WorkerProcess

_WARM_UP_S = 0.5
_PEAK_S = 0.6
_MAX_IMAGES = 512


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
    utilization: float | None  # of the measured peak in its precision, in [0, 1]; None where it cannot be told
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
    load: float | None = None  # load average when it began; above zero others were at work
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
    turns: Sequence[Turn], first: Sequence[Turn], mode: str, batch: int, *, num_operations: int | None, peak: float | None
) -> Speed:
    """Put the turns of one candidate together, one for each round, with those of the first candidate in the same rounds.

    ``num_operations`` are those of one image, ``peak`` those that the machine does in a second in the candidate's precision.
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
    need_accuracy: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> BenchmarkReport:
    """Measure candidates in turn.

    In every round each candidate has its turn at each batch size, in an order that moves on by one from round to round, and a
    matrix product has its own. Rates are medians over rounds.

    Args:
        candidates: As `hat.export.parity.candidate` reads them; the first is what the others are compared with.
        batches: Images in a run.
        end_to_end: Measure from files to embeddings too: reading, decoding and resizing by threads beside the model.
        images: A folder or zip file of images; without it embeddings are measured on noise.
        data: A data set for the accuracy; without it, what the checkpoint or file says of itself.
        num_ids: Rank so many identities of the data set only.
        seconds: Length of a turn.
        rounds: Number of rounds.
        num_threads: Threads of the CPU; None leaves the choice to each runtime.
        device: As `hat.runtime.open_runtime` takes it.
        need_accuracy: Refuse, before anything is measured, candidates none of whose accuracy is known.
        progress: Called with what is being done, how many turns are done and how many there are.

    Raises:
        UsageError: A candidate, a batch size or an option cannot be had.
        CheckpointError: There is nothing at a path.
        DataError: The folder of images or the data set is not there.
        WorkError: A candidate's process died.
    """
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise UsageError(f"batch sizes are different whole numbers of at least 1, got {list(batches)}")
    if seconds <= 0 or rounds < 1:
        raise UsageError(f"a benchmark has at least one round of more than 0 seconds, got {rounds} of {seconds}")
    paths = _checked_paths(candidates, images, end_to_end, data)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    tell = progress or (lambda what, done, total: None)
    modes = ("embedding", "end-to-end") if end_to_end else ("embedding",)
    jobs = [(mode, batch) for mode in modes for batch in batches]
    with ExitStack() as stack:
        workers = [stack.enter_context(WorkerProcess(spec, num_threads)) for spec in candidates]
        peak = stack.enter_context(WorkerProcess("matrix product", num_threads))
        opened = {"device": device, "num_threads": num_threads, "paths": paths}
        facts = [worker.ask("open", spec=worker.name, **opened) for worker in workers]
        if need_accuracy and data is None and not any("mAP" in fact["metrics"] for fact in facts):
            raise UsageError("no candidate's accuracy is known, so there is none to draw: name a data set with --data")
        for worker in workers:
            for done, (mode, batch) in enumerate(jobs):
                tell(f"warming up {worker.name}", done, len(jobs))
                worker.ask("warm", mode=mode, batch=batch, seconds=min(_WARM_UP_S, seconds))
        rates: dict[tuple[str, str], list[float]] = {key: [] for key in _wanted_peaks(facts)}
        turns: dict[tuple[int, str, int], list[Turn]] = {}
        done, total = 0, rounds * len(jobs) * len(workers)
        for number in range(rounds):
            for (kind, precision), measured in rates.items():
                place = device if device is not None and device.startswith(f"{kind}:") else kind
                asked = {"precision": precision, "device": place, "num_threads": num_threads}
                measured.append(peak.ask("peak", seconds=min(_PEAK_S, seconds), **asked)["rate"])
            order = [(number + step) % len(workers) for step in range(len(workers))]
            for (mode, batch), index in itertools.product(jobs, order):
                answer = workers[index].ask("measure", mode=mode, batch=batch, seconds=seconds, device=device)
                turn = Turn(answer["num_images"], answer["seconds"], tuple(answer["latencies_s"]))
                turns.setdefault((index, mode, batch), []).append(turn)
                done += 1
                tell("measuring", done, total)
        peaks: dict[str, dict[str, float]] = {}
        for (kind, precision), measured in rates.items():
            peaks.setdefault(kind, {})[precision] = statistics.median(measured)
        entries = []
        for index, (worker, fact) in enumerate(zip(workers, facts, strict=True)):
            memory = worker.ask("memory")
            accuracy, source = fact.pop("metrics"), "its own record"
            if data is not None:
                tell(f"accuracy of {worker.name}", index, len(facts))
                accuracy, source = worker.ask("accuracy", data=data, num_ids=num_ids, batch=max(batches)), data
            limit = peak_of(fact["precision"], peaks.get(fact.pop("device"), {}))
            speeds = [
                summarize(turns[(index, *job)], turns[(0, *job)], *job, num_operations=fact["num_operations"], peak=limit)
                for job in jobs
            ]
            known = {"accuracy": accuracy, "accuracy_source": source if accuracy else "", "speeds": tuple(speeds)}
            entries.append(CandidateSpeed(name=worker.name, **fact, **memory, **known))
    settings = {"batches": list(batches), "seconds": seconds, "rounds": rounds, "num_threads": num_threads, "device": device}
    settings |= {"images": None if images is None else os.fspath(images), "num_images": len(paths)}
    return BenchmarkReport(tuple(entries), peaks, settings, describe_machine(), load, os.cpu_count() or 1)


def _checked_paths(
    candidates: Sequence[str], images: str | os.PathLike[str] | None, end_to_end: bool, data: str | None
) -> list[str]:
    """Check before the measuring that all is there that is asked for; the locations of the images."""
    if not candidates:
        raise UsageError("nothing to measure: expected at least one candidate")
    for spec in candidates:
        if parse_candidate(spec).is_missing:
            raise CheckpointError(f"{spec}: there is no such checkpoint or file")
    if images is None and end_to_end:
        raise UsageError("end to end begins with files: name a folder of images with --images")
    paths = [] if images is None else choose_images(list_images(images), _MAX_IMAGES, 0)
    if images is not None and not paths:
        raise UsageError(f"{os.fspath(images)} has no images")
    if data is not None:
        open_dataset(data)
    return paths


def _wanted_peaks(facts: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(device, precision) of the matrix products that the candidates are held against."""
    wanted = {(fact["device"], one) for fact in facts if fact["device"] for one in ("fp32", fact["precision"])}
    return sorted((kind, precision) for kind, precision in wanted if precision in timed_precisions(kind))
