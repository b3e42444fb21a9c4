"""One running service: everything that its routes share."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from hat.io.artifact import ArtifactInfo
from hat.runtime import Runtime, runtime_info

from ..gallery.binding import binding_of
from .admission import Admission, RateLimiter, ServiceSettings
from .api_error import ApiError
from .audit import AuditLog, ServiceMetrics
from .batching import Pipeline
from .gallery_registry import GalleryRegistry
from .keys import KeyRing

T = TypeVar("T")


class Service:
    """A model, galleries, which it closes, and bounds.

    Args:
        keys: API keys of clients; None requires none, which is for loopback alone.
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
        self.admission = Admission(settings.max_queue, settings.max_inflight_bytes)
        self.num_store_requests = 0
        self._store_threads = ThreadPoolExecutor(settings.num_store_threads, thread_name_prefix="hat-store")
        self.metrics.watch("hat_images_inside", "Images in the service.", lambda: self.admission.num_images)
        self.metrics.watch("hat_bytes_inside", "Bytes of request bodies in memory.", lambda: self.admission.num_bytes)
        self.metrics.watch("hat_images_waiting", "Images that wait for the model.", lambda: self.pipeline.batcher.num_waiting)
        self.metrics.watch("hat_store_requests", "Requests to galleries in work.", lambda: self.num_store_requests)

    @classmethod
    def open(
        cls,
        runtime: Runtime,
        places: Mapping[str, str],
        settings: ServiceSettings,
        *,
        root: Path | None = None,
        read_only: bool = False,
        keys: KeyRing | None = None,
        audit: AuditLog | None = None,
    ) -> "Service":
        """Open galleries, see `GalleryRegistry.open`, and run the model once, so that what is wrong is known at once."""
        galleries = GalleryRegistry.open(
            places, binding_of(runtime_info(runtime)), root=root, read_only=read_only, max_galleries=settings.max_galleries
        )
        service = cls(runtime, galleries, settings, keys=keys, audit=audit)
        try:
            service.pipeline.warm_up()
        except BaseException:
            service.close()
            raise
        return service

    @property
    def is_ready(self) -> bool:
        """Return whether requests will be answered."""
        return self.pipeline.batcher.is_alive

    async def run_in_threadpool(self, work: Callable[[], T]) -> T:
        """Run a call to a gallery, which blocks, in one of a few threads; with too many requests waiting for one it is refused.

        When this is cancelled, work that has not begun is dropped; what has begun comes to its end, and its result is returned.
        """
        if self.num_store_requests >= self.settings.max_store_requests:
            raise ApiError(503, "too many requests to galleries: try again later", retry_after_s=1)
        self.num_store_requests += 1
        future = self._store_threads.submit(work)
        result = asyncio.wrap_future(future)
        result.add_done_callback(self._count_down)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if future.cancel():
                raise
            return await result

    def _count_down(self, result: asyncio.Future[T]) -> None:
        self.num_store_requests -= 1
        if not result.cancelled():
            result.exception()  # looked at: where the request was given up, nobody else does

    def close(self) -> None:
        """Finish the running work and release all resources."""
        self._store_threads.shutdown()
        self.pipeline.close()
        self.galleries.close()
