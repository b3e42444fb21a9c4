"""What the benchmarks share: errors, made-up embeddings of a data set's size, and a job timed in a process of its own.

A process of its own, because a process reports one peak of memory for its whole life.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hat.errors import HatError, describe_failure

MEBIBYTE = 2**20


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Say of wrong input, and of files that cannot be read or written, what is wrong with them and no more; exit code 1."""
    try:
        yield
    except (HatError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error if isinstance(error, HatError) else describe_failure(error)}")


def add_size_arguments(parser: argparse.ArgumentParser, *, query: int, gallery: int, pids: int, cameras: int, dim: int) -> None:
    parser.add_argument("--num-query", type=int, default=query, help="queries (default %(default)s)")
    parser.add_argument("--num-gallery", type=int, default=gallery, help="gallery images (default %(default)s)")
    parser.add_argument("--num-pids", type=int, default=pids, help="identities (default %(default)s)")
    parser.add_argument("--num-cameras", type=int, default=cameras, help="cameras (default %(default)s)")
    parser.add_argument("--embed-dim", type=int, default=dim, help="width of an embedding (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)


def make_labels(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Identities and cameras of queries and gallery, drawn evenly; a tenth of the gallery are distractors (pid 0)."""
    rng = np.random.default_rng(args.seed)
    gallery_pids = rng.integers(1, args.num_pids + 1, args.num_gallery)
    gallery_pids[rng.random(args.num_gallery) < 0.1] = 0
    query_pids = rng.integers(1, args.num_pids + 1, args.num_query)
    cameras = (rng.integers(0, args.num_cameras, n) for n in (args.num_query, args.num_gallery))
    return query_pids, next(cameras), gallery_pids, next(cameras)


def make_embeddings(
    args: argparse.Namespace, query_pids: np.ndarray, gallery_pids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unit float32 rows around one center for each identity; distractors have no center."""
    rng = np.random.default_rng(args.seed + 1)
    centers = rng.standard_normal((args.num_pids + 1, args.embed_dim), dtype=np.float32)
    centers[0] = 0
    sides = []
    for pids in (query_pids, gallery_pids):
        rows = np.empty((len(pids), args.embed_dim), dtype=np.float32)
        # Filled in slices, so that making the data does not set the peak that is to be measured.
        for start in range(0, len(pids), 4096):
            part = slice(start, start + 4096)
            noise = rng.standard_normal((len(pids[part]), args.embed_dim), dtype=np.float32)
            rows[part] = centers[pids[part]] + 2 * noise
            rows[part] /= np.linalg.norm(rows[part], axis=1, keepdims=True)
        sides.append(rows)
    return sides[0], sides[1]


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss where this can be had: that one begins with the size of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def timed(function: Callable[[], Any], repeats: int) -> tuple[dict[str, Any], Any]:
    """Run a function several times; its last value, and medians of wall and CPU seconds with the peak of memory after it."""
    walls, cpus, value = [], [], None
    before = peak_bytes()
    for _ in range(repeats):
        value = None
        wall, cpu = time.perf_counter(), time.process_time()
        value = function()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    report = {
        "wall_s": statistics.median(walls),
        "cpu_s": statistics.median(cpus),
        "all_wall_s": walls,
        "peak_bytes": peak_bytes(),
        "peak_bytes_before": before,
    }
    return report, value


def run_job(job: str, extra: list[str] | None = None) -> dict[str, Any]:
    """Run this script again with ``--job`` in a process of its own, and read the report that it prints."""
    command = [sys.executable, *sys.argv, "--job", job, *(extra or [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"the job {job!r} failed with exit code {done.returncode}; memory that ran out shows as -9")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def describe(name: str, report: dict[str, Any]) -> str:
    return (
        f"{name:<18} {report['wall_s']:8.2f} s wall  {report['cpu_s']:8.2f} s CPU  "
        f"peak {report['peak_bytes'] / MEBIBYTE:8.0f} MiB (before: {report['peak_bytes_before'] / MEBIBYTE:.0f} MiB)"
    )


def finish(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Print the result; exit with 1 where a bar or a comparison was missed."""
    print(json.dumps(result, indent=2) if as_json else "\n".join(lines))
    if not result["passed"]:
        print("not within the bars", file=sys.stderr)
        sys.exit(1)
