"""One running service: everything that its routes share."""

from collections.abc import Callable
from typing import TypeVar

import anyio

from hat.io.artifact import ArtifactInfo
from hat.runtime import Runtime, runtime_info

from .admission import Admission, RateLimiter
from .api_error import ApiError
from .audit import AuditLog, ServiceMetrics
from .batching import BatchedEmbedder, Pipeline
from .gallery_registry import GalleryRegistry
from .keys import KeyRing
from .settings import ServiceSettings

T = TypeVar("T")


class Service:
    """What a service is made of.

    Args:
        runtime: The model.
        galleries: The galleries; the service closes them.
        settings: The bounds.
        keys: Whose keys are asked for; None asks for none, which is for loopback alone.
        audit: Where requests are put on record; None keeps no record.

    Raises:
        UsageError: The runtime does not say which model it runs.
    """

    def __init__(
        self,
        runtime: Runtime,
        galleries: GalleryRegistry,
        settings: ServiceSettings,
        *,
        keys: KeyRing | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self.settings = settings
        self.info: ArtifactInfo = runtime_info(runtime)
        self.galleries = galleries
        self.keys = keys
        self.rate_limiter = RateLimiter(settings.rate_per_s)
        self.audit = audit
        self.metrics = ServiceMetrics()
        self.pipeline = Pipeline(runtime, settings, self.metrics)
        self.embedder = BatchedEmbedder(self.pipeline)
        self.admission = Admission(settings.max_queue, settings.max_inflight_bytes)
        self._store_threads = anyio.CapacityLimiter(settings.num_store_threads)
        self.metrics.watch("hat_images_inside", "Images in the service.", lambda: self.admission.num_images)
        self.metrics.watch("hat_bytes_inside", "Bytes of request bodies in memory.", lambda: self.admission.num_bytes)
        self.metrics.watch("hat_images_waiting", "Images that wait for the model.", lambda: self.pipeline.batcher.num_waiting)
        self.metrics.watch("hat_store_requests", "Requests to galleries in work.", lambda: self.num_store_requests)

    @property
    def is_ready(self) -> bool:
        """Whether requests will be answered."""
        return self.pipeline.batcher.is_alive

    @property
    def num_store_requests(self) -> int:
        """Calls to galleries that run or wait for a thread."""
        threads = self._store_threads.statistics()
        return threads.borrowed_tokens + threads.tasks_waiting

    async def run_in_threadpool(self, work: Callable[[], T]) -> T:
        """Run a call to a gallery, which blocks, in one of a few threads, for which a bounded number of requests waits.

        When this is cancelled, work that has not begun is dropped, and the end of what has begun is waited for.

        Raises:
            ApiError: Too many requests are waiting.
        """
        if self.num_store_requests >= self.settings.max_store_requests:
            raise ApiError(503, "too many requests to galleries: try again later", retry_after_s=1)
        return await anyio.to_thread.run_sync(work, limiter=self._store_threads)

    def close(self) -> None:
        """Finish the work in hand and let go of everything."""
        self.pipeline.close()
        self.galleries.close()
