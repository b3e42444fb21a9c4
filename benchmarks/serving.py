"""What the benchmarks of the service share: a `hat serve` in a process of its own, its memory, and bodies of requests."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BOUNDARY = "hat-benchmark"


@contextmanager
def served(artifact: str, *options: str) -> Iterator[dict[str, Any]]:
    """A service on a free port of loopback: what it says of itself, and its process id."""
    command = [sys.executable, "-m", "hat", "serve", artifact, "--port", "0", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            if not line:
                sys.exit(f"the service did not start: {' '.join(command)}")
            text += line
        yield {**json.loads(text), "pid": process.pid}
    finally:
        process.terminate()
        process.wait(60)
    if process.returncode:
        sys.exit(f"the service ended with exit code {process.returncode}")


def read_metrics(address: str) -> dict[str, float]:
    """The service's counters by name with labels."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def form_body(images: list[bytes]) -> bytes:
    """Images as the body of a form."""
    head = '--{}\r\nContent-Disposition: form-data; name="images"; filename="{}.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    parts = [head.format(BOUNDARY, number).encode() + image + b"\r\n" for number, image in enumerate(images)]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def resident_bytes(pid: int) -> int:
    """Memory of a process now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


class MemoryWatch:
    """Samples a process's memory until the end of a ``with`` block."""

    def __init__(self, pid: int, every_s: float = 0.5) -> None:
        self.pid, self.every_s = pid, every_s
        self.samples: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def growth_bytes(self) -> int:
        """Median of the last quarter less median of the second: the first one warms caches up."""
        quarter = max(1, len(self.samples) // 4)
        return int(statistics.median(self.samples[-quarter:]) - statistics.median(self.samples[quarter : 2 * quarter]))

    def _watch(self) -> None:
        while not self._ended.wait(self.every_s):
            self.samples.append(resident_bytes(self.pid))


def busy() -> float:
    """Load average of the last minute: above a tenth of the cores, others are at work and the figures are not to be kept."""
    return os.getloadavg()[0]


def wait_until_idle(address: str, timeout_s: float = 60.0) -> float:
    """Seconds until the service holds no image any more."""
    start = time.monotonic()
    while read_metrics(address)["hat_images_inside"] > 0:
        if time.monotonic() - start > timeout_s:
            sys.exit("the service did not come to rest")
        time.sleep(0.05)
    return time.monotonic() - start
