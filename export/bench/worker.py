"""The process in which one candidate of a benchmark lives, from both sides: it opens it once, and runs it at its turn.

A process for each, because thread pools of two runtimes in one process disturb each other, and because the peak of resident
memory is then the candidate's own. `WorkerProcess` asks and `main` answers, in JSON, one object a line.

Runtimes give arrays on the host, so that a run has ended, on a GPU too, when its call returns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hat.data import iterate_batches, open_dataset
from hat.data.images import set_gray_bits
from hat.embedder import Embedder
from hat.errors import HatError, UsageError, WorkError
from hat.evaluation import evaluate
from hat.model.complexity import count_complexity
from hat.runtime import Runtime, TorchRuntime, runtime_info
from hat.runtime.protocol import runtime_device

from ..parity.candidate import open_candidate, parse_candidate
from ..parity.levels import some_identities
from .matrix_peak import matrix_rate

_MIN_RUNS = 3
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerProcess:
    """One process that runs this module, named for messages by what it works on; a context manager that ends it.

    ``num_threads`` is for libraries that read their number of threads when they start; None leaves it to them.
    """

    def __init__(self, name: str, num_threads: int | None = None) -> None:
        self.name = name
        threads = {} if num_threads is None else dict.fromkeys(_THREAD_VARIABLES, str(num_threads))
        self._messages = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by __exit__
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._messages}
        # Not -m, which would import the Python files of the folder that one happens to be in.
        code = f"import sys; sys.path[:] = filter(None, sys.path); from {__name__} import main; main()"
        command = [sys.executable, "-c", code]
        self._process = subprocess.Popen(command, text=True, encoding="utf-8", env=os.environ | threads, **pipes)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Let it do something and wait for the answer; `WorkError` with its last words where the process died."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._messages.seek(0)
            output = self._messages.read().strip() or "it said nothing; a process that is out of memory is killed with code -9"
            raise WorkError(f"{self.name}: its process ended with code {code}: {output.splitlines()[-1].strip()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise (UsageError if answer["exit_code"] == UsageError.exit_code else WorkError)(answer["error"])
        return answer

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # it died with a request unread, which was reported already
            self._process.stdin.close()
        self._messages.close()


class Worker:
    """Handler of the requests of one benchmark, one method each; all but `peak` are about the candidate that is open."""

    runtime: Runtime
    device: str | None
    paths: list[str]

    def __init__(self) -> None:
        self.runs: dict[int, int] = {}
        self.device_bytes = 0

    def open(
        self, *, spec: str, device: str | None, num_threads: int | None, paths: list[str], gray_bits: int | None = None
    ) -> dict[str, Any]:
        """Open a candidate and tell what it is."""
        set_gray_bits(gray_bits)
        before, used = peak_memory_bytes(), _device_bytes_in_use(device)
        runtime = open_candidate(parse_candidate(spec), device, num_threads=num_threads)
        self.runtime, self.device, self.paths = runtime, device, paths
        self.device_bytes += _device_bytes_in_use(device) - used
        info = runtime_info(runtime)
        exact = not isinstance(runtime, TorchRuntime) or runtime.inference_graph
        return {
            "runtime": runtime.name,
            "precision": info.precision,
            "device": runtime_device(runtime),
            "num_operations": count_complexity(info.model, cls_only=exact).total_operations if info.model else None,
            "metrics": dict(info.metrics) if info.precision == "fp32" else {},  # they were measured in fp32
            "process_bytes": before,
        }

    def measure(self, *, mode: str, batch: int, seconds: float) -> dict[str, Any]:
        """Run one turn and tell how long each run took."""
        used = _device_bytes_in_use(self.device)
        self._turn(mode, batch, 0, min_runs=1)  # what the other candidates pushed out of the caches comes back
        latencies = self._turn(mode, batch, seconds, min_runs=_MIN_RUNS)
        self.device_bytes += _device_bytes_in_use(self.device) - used
        return {"latencies_s": latencies}

    def memory(self) -> dict[str, Any]:
        """Return the peak of resident memory of this process, and what it took of the GPU's."""
        return {"peak_bytes": peak_memory_bytes(), "device_bytes": self.device_bytes}

    def accuracy(self, *, data: str, num_ids: int | None, batch: int) -> dict[str, Any]:
        """Return the metrics on a data set."""
        dataset = some_identities(open_dataset(data), num_ids, seed=0)
        return evaluate(Embedder(self.runtime, batch_size=batch), dataset).to_dict()

    def peak(self, *, precision: str, device: str, seconds: float) -> dict[str, Any]:
        """Return the rate of a matrix product; on CUDA tensor cores may round float32 to TF32, as convolutions do."""
        torch.backends.cuda.matmul.allow_tf32 = True
        return {"rate": matrix_rate(precision, device, seconds)}

    def _turn(self, mode: str, batch: int, seconds: float, *, min_runs: int) -> list[float]:
        """Return the seconds of each run, for so long and at least so many."""
        if mode == "end-to-end":
            return self._end_to_end(batch, seconds, min_runs)
        images = self._images(batch)
        latencies: list[float] = []
        end = time.perf_counter() + seconds
        while len(latencies) < min_runs or time.perf_counter() < end:
            start = time.perf_counter()
            self.runtime.run(images)
            latencies.append(time.perf_counter() - start)
        return latencies

    def _end_to_end(self, batch: int, seconds: float, min_runs: int) -> list[float]:
        """Return the times between the embeddings of one batch and those of the next, decoding and resizing included.

        A whole number of batches from start to end: stopping early would leave images decoded that nobody pays for.
        """
        runs = max(min_runs, self.runs.get(batch, 0) if seconds > 0 else 0)
        in_turns = runtime_device(self.runtime) == "cpu"
        while True:
            paths = list(islice(cycle(self.paths), runs * batch))
            times = [time.perf_counter()]
            for images in iterate_batches(paths, self.runtime.preprocessing, batch, in_turns=in_turns):
                self.runtime.run(images.numpy())
                times.append(time.perf_counter())
            total = times[-1] - times[0]
            if total >= 0.7 * seconds:
                self.runs[batch] = max(runs, self.runs.get(batch, 0))
                return [after - before for before, after in pairwise(times)]
            runs = max(runs + 1, min(8 * runs, int(1.1 * runs * seconds / total)))

    def _images(self, batch: int) -> npt.NDArray[np.uint8]:
        preprocessing = self.runtime.preprocessing
        if self.paths:
            chosen = list(islice(cycle(self.paths), batch))
            return next(iter(iterate_batches(chosen, preprocessing, batch))).numpy()
        return np.random.default_rng(0).integers(0, 256, (batch, 3, *preprocessing.size), dtype=np.uint8)


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss where this can be had: that one begins with the size of the process that started this one.
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _device_bytes_in_use(device: str | None) -> int:
    """Return the memory of the GPU that is taken, by whomever: only one candidate has its turn, so a difference is its own."""
    chosen = "cuda" if device is None or device == "auto" else device
    if not torch.cuda.is_available() or not chosen.startswith("cuda"):
        return 0
    free, total = torch.cuda.mem_get_info(chosen)
    return total - free


def main() -> None:
    """Answer requests until the input ends; an error of ours is an answer too."""
    # Libraries print what they like: only this copy of the real output is the line to the benchmark.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except HatError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
