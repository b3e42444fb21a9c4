"""One running service: everything that its routes share."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hat.io.artifact import ArtifactInfo
from hat.runtime import Runtime, runtime_info

from .admission import Admission, RateLimiter
from .api_error import ApiError
from .audit import AuditLog
from .gallery_registry import GalleryRegistry
from .keys import KeyRing
from .metrics import ServiceMetrics
from .pipeline import BatchedEmbedder, Pipeline
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
        self.threads = StoreThreads(settings.num_store_threads, settings.max_store_requests)
        self.metrics.watch("hat_images_inside", "Images in the service.", lambda: self.admission.num_images)
        self.metrics.watch("hat_bytes_inside", "Bytes of request bodies in memory.", lambda: self.admission.num_bytes)
        self.metrics.watch("hat_images_waiting", "Images that wait for the model.", lambda: self.pipeline.batcher.num_waiting)
        self.metrics.watch("hat_store_requests", "Requests to galleries in work.", lambda: self.threads.num_requests)

    @property
    def is_ready(self) -> bool:
        """Whether requests will be answered."""
        return self.pipeline.batcher.is_alive

    def close(self) -> None:
        """Finish the work in hand and let go of everything."""
        self.threads.close()
        self.pipeline.close()
        self.galleries.close()


class StoreThreads:
    """Runs calls to galleries, which block: a few threads do their work, and a bounded number of requests waits for one.

    Args:
        num_threads: Threads.
        max_requests: Most calls that run or wait.

    Attributes:
        num_requests: Calls that run or wait.
    """

    def __init__(self, num_threads: int, max_requests: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="hat-store")
        self._max_requests = max_requests
        self.num_requests = 0

    async def run_in_threadpool(self, work: Callable[[], T], *, finish: bool = False) -> T:
        """Do work in a thread. When the call is cancelled, work that has not begun is dropped.

        Args:
            work: What to do.
            finish: Where work that has begun is cancelled, wait for its end all the same: it writes, and belongs on record.

        Raises:
            ApiError: Too many requests are waiting.
        """
        if self.num_requests >= self._max_requests:
            raise ApiError(503, "too many requests to galleries: try again later", retry_after_s=1)
        self.num_requests += 1
        future = self._pool.submit(work)
        result = asyncio.wrap_future(future)
        # Counted until the thread is done, also where nobody waits any more.
        result.add_done_callback(self._count_down)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if not future.cancel() and finish:
                await asyncio.wait((result,))
            raise

    def close(self) -> None:
        """Wait for the work in hand."""
        self._pool.shutdown(wait=True)

    def _count_down(self, result: asyncio.Future[T]) -> None:
        self.num_requests -= 1
        if not result.cancelled():
            result.exception()  # looked at: where the request was given up, nobody else does
