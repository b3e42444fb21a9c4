"""Models and exported files side by side: one process each, round by round, so that what slows the machine slows them all."""

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from hat.data import open_dataset
from hat.errors import CheckpointError, UsageError
from hat.record import describe_machine

from ..parity.candidate import parse_candidate
from ..parity.image_folder import choose_images, list_images
from .matrix_peak import peak_of, timed_precisions
from .process import WorkerProcess
from .report import BenchmarkReport, CandidateSpeed, Turn, summarize

_WARM_UP_S = 0.5
_PEAK_S = 0.6
_MAX_IMAGES = 512


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
    check: Callable[[Sequence[dict[str, Any]]], None] | None = None,
    tell: Callable[[str, int, int], None] | None = None,
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
        check: Called with what each candidate says of itself before anything is measured; may raise.
        tell: Called with what is being done, how many turns are done and how many there are.

    Raises:
        UsageError: A candidate, a batch size or an option cannot be had.
        CheckpointError: There is nothing at a path.
        DataError: The folder of images or the data set is not there.
        WorkError: A candidate's process died.
    """
    paths = _checked(candidates, batches, end_to_end, images, seconds, rounds)
    if data is not None:
        open_dataset(data)  # a data set that is not there is to be told before the measuring and not after it
    modes = ("embedding", "end-to-end") if end_to_end else ("embedding",)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    tell = tell or (lambda what, done, total: None)
    jobs = [(mode, batch) for mode in modes for batch in batches]
    with ExitStack() as stack:
        workers, facts = [], []
        for spec in candidates:
            worker = stack.enter_context(WorkerProcess(spec, num_threads))
            facts.append(worker.ask("open", spec=spec, device=device, num_threads=num_threads, paths=paths))
            workers.append(worker)
        if check is not None:
            check(facts)
        peak = stack.enter_context(WorkerProcess("matrix product", num_threads))
        rates: dict[tuple[str, str], list[float]] = {key: [] for key in _wanted_peaks(facts)}

        for worker in workers:
            for done, (mode, batch) in enumerate(jobs):
                tell(f"warming up {worker.name}", done, len(jobs))
                worker.ask("warm", mode=mode, batch=batch, seconds=min(_WARM_UP_S, seconds))
        turns: dict[tuple[int, str, int], list[Turn]] = {}
        total = rounds * len(jobs) * len(workers)
        done = 0
        for number in range(rounds):
            for (kind, precision), measured in rates.items():
                place = device if device is not None and device.startswith(f"{kind}:") else kind
                length = min(_PEAK_S, seconds)
                answer = peak.ask("peak", precision=precision, device=place, seconds=length, num_threads=num_threads)
                measured.append(answer["rate"])
            for mode, batch in jobs:
                for step in range(len(workers)):
                    index = (number + step) % len(workers)
                    answer = workers[index].ask("measure", mode=mode, batch=batch, seconds=seconds, device=device)
                    turn = Turn(answer["num_images"], answer["seconds"], tuple(answer["latencies_s"]))
                    turns.setdefault((index, mode, batch), []).append(turn)
                    done += 1
                    tell("measuring", done, total)
        peaks: dict[str, dict[str, float]] = {}
        for (kind, precision), measured in rates.items():
            peaks.setdefault(kind, {})[precision] = statistics.median(measured)
        entries = []
        for index, (spec, fact) in enumerate(zip(candidates, facts, strict=True)):
            memory = workers[index].ask("memory")
            accuracy, source = fact["metrics"], "its own record"
            if data is not None:
                tell(f"accuracy of {spec}", index, len(facts))
                size = max(batches)
                accuracy, source = workers[index].ask("accuracy", data=data, num_ids=num_ids, seed=0, batch=size), data
            best: dict[str, Any] = {"peak": peak_of(fact["precision"], peaks.get(fact["device"], {}))}
            best["num_operations"] = fact["num_operations"]
            speeds = [
                summarize(turns[index, mode, batch], turns[0, mode, batch], mode=mode, batch=batch, **best)
                for mode, batch in jobs
            ]
            told = {key: fact[key] for key in ("runtime", "precision", "num_operations", "process_bytes")}
            entries.append(
                CandidateSpeed(
                    name=spec,
                    **told,
                    **memory,
                    accuracy=accuracy,
                    accuracy_source=source if accuracy else "",
                    speeds=tuple(speeds),
                )
            )
    settings = {"batches": list(batches), "seconds": seconds, "rounds": rounds, "num_threads": num_threads, "device": device}
    settings |= {"images": None if images is None else os.fspath(images), "num_images": len(paths)}
    return BenchmarkReport(tuple(entries), peaks, settings, describe_machine(), load, os.cpu_count() or 1)


def _checked(
    candidates: Sequence[str],
    batches: Sequence[int],
    end_to_end: bool,
    images: str | os.PathLike[str] | None,
    seconds: float,
    rounds: int,
) -> list[str]:
    """Check a request before processes are started; the paths of the images."""
    if not candidates:
        raise UsageError("nothing to measure: expected at least one candidate")
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise UsageError(f"batch sizes are different whole numbers of at least 1, got {list(batches)}")
    if seconds <= 0 or rounds < 1:
        raise UsageError(f"a benchmark has at least one round of more than 0 seconds, got {rounds} of {seconds}")
    for spec in candidates:
        if parse_candidate(spec).is_missing:
            raise CheckpointError(f"{spec}: there is no such checkpoint or file")
    if images is None:
        if end_to_end:
            raise UsageError("end to end begins with files: name a folder of images with --images")
        return []
    paths = choose_images(list_images(images), _MAX_IMAGES, 0)
    if not paths:
        raise UsageError(f"{os.fspath(images)} has no images")
    return paths


def _wanted_peaks(facts: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(device, precision) of the matrix products that the candidates are held against."""
    wanted = set()
    for fact in facts:
        if fact["device"] is not None:
            wanted |= {(fact["device"], precision) for precision in ("fp32", fact["precision"])}
    return sorted((kind, precision) for kind, precision in wanted if precision in timed_precisions(kind))
