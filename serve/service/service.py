"""One running service: everything that its routes share."""

from __future__ import annotations

from hat.io.artifact import ArtifactInfo
from hat.runtime import Runtime, runtime_info

from .admission import Admission, RateLimiter
from .audit import AuditLog
from .gallery_registry import GalleryRegistry
from .keys import KeyRing
from .metrics import ServiceMetrics
from .pipeline import BatchedEmbedder, Pipeline
from .settings import ServiceSettings
from .store_threads import StoreThreads

__all__ = ["Service"]


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
