"""What the service counts, in Prometheus' format: no identity, no name of a file, no label that a client can make grow."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServiceMetrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "hat_requests", "Requests by action and HTTP status.", ("action", "status"), registry=self.registry
        )
        self._latency = Histogram(
            "hat_request_seconds",
            "Seconds from a request's head to its answer.",
            ("action",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._images = Counter("hat_images", "Images by what became of them.", ("outcome",), registry=self.registry)
        self._batch_size = Histogram(
            "hat_batch_images", "Images in a run of the model.", buckets=_BATCHES, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "hat_batch_seconds", "Seconds of a run of the model.", buckets=_SECONDS, registry=self.registry
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Add a figure that is read whenever the metrics are."""
        Gauge(name, what, registry=self.registry).set_function(value)

    def count_request(self, action: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        children = self._children.get((action, status))
        if children is None:  # looking a child up by its labels costs more than counting
            children = (self._requests.labels(action, str(status)), self._latency.labels(action))
            self._children[action, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def count_images(self, outcome: str, number: int) -> None:
        """Count images that were ``"embedded"``, ``"enrolled"`` or ``"bad"``."""
        self._images.labels(outcome).inc(number)

    def observe_run(self, num_images: int, seconds: float) -> None:
        """Count a run of the model."""
        self._batch_size.observe(num_images)
        self._batch_seconds.observe(seconds)

    def exposition(self) -> bytes:
        """Return all of it as text."""
        return generate_latest(self.registry)
