"""Records of requests: a line in the audit log, and counts in Prometheus' format.

Neither holds an image, an embedding, a file's name or a person's label, nor a label of a metric that a client can make grow. An
audit line is written before the answer is given, and withholds it where it cannot be: what nobody can look into should not be
had.
"""

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from hat.errors import UsageError

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class AuditLog:
    """Appends lines to a file that is readable by its owner alone.

    It may be moved away while the service runs (logrotate): the next line makes it again.

    Raises:
        UsageError: It cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        try:
            os.close(self._open())
        except OSError as error:
            raise UsageError(f"--audit {self.path}: cannot be opened: {error.strerror}") from None

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line of plain data, and the time, or raise an `OSError`."""
        stamp = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = orjson.dumps({"time": stamp, **entry}, option=orjson.OPT_APPEND_NEWLINE)
        descriptor = self._open()
        try:
            # One call for one line: appended whole or not at all, also where two processes share the file.
            if os.write(descriptor, line) != len(line):
                raise OSError("the line was cut short")
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


class ServiceMetrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        own = CollectorRegistry()
        self._registry = own
        self._requests = Counter("hat_requests", "Requests by action and HTTP status.", ("action", "status"), registry=own)
        self._latency = Histogram(
            "hat_request_seconds", "Seconds from a request's head to its answer.", ("action",), buckets=_SECONDS, registry=own
        )
        self._images = Counter("hat_images", "Images by what became of them.", ("outcome",), registry=own)
        self._batch_size = Histogram("hat_batch_images", "Images in a run of the model.", buckets=_BATCHES, registry=own)
        self._batch_seconds = Histogram("hat_batch_seconds", "Seconds of a run of the model.", buckets=_SECONDS, registry=own)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read whenever the metrics are."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def count_request(self, action: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(action, status).inc()
        self._latency.labels(action).observe(seconds)

    def count_images(self, outcome: str, number: int) -> None:
        """Count images that were ``"embedded"``, ``"enrolled"`` or ``"bad"``."""
        self._images.labels(outcome).inc(number)

    def observe_run(self, num_images: int, seconds: float) -> None:
        """Count a run of the model."""
        self._batch_size.observe(num_images)
        self._batch_seconds.observe(seconds)

    def exposition(self) -> bytes:
        """Return all of it as text."""
        return generate_latest(self._registry)
