"""One running service: everything that its routes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from starlette.requests import Request

from hat.io.artifact import ArtifactInfo
from hat.runtime import Runtime, runtime_info

from ..gallery.gallery import Gallery
from .access import Access, Caller
from .admission import Admission, Place
from .audit import AuditLog
from .exchange import Exchange, exchange_of
from .keys import KeyRing
from .metrics import ServiceMetrics
from .patience import while_wanted
from .pipeline import BatchedEmbedder, Pipeline
from .settings import ServiceSettings
from .shelf import Shelf, is_gallery_name
from .store_threads import StoreThreads
from .uploads import Upload, UploadedImage, read_upload, skip_body

__all__ = ["Service", "Visit", "reader", "service_of", "writer"]

T = TypeVar("T")


class Service:
    """What a service is made of.

    Args:
        runtime: The model.
        shelf: The galleries.
        settings: The bounds.
        keys: Whose keys are asked for; None asks for none.
        audit: Where requests are put on record; None keeps no record.

    Raises:
        UsageError: The runtime does not say which model it runs.
    """

    def __init__(
        self,
        runtime: Runtime,
        shelf: Shelf,
        settings: ServiceSettings,
        *,
        keys: KeyRing | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self.settings = settings
        self.info: ArtifactInfo = runtime_info(runtime)
        self.shelf = shelf
        self.access = Access(keys, settings.rate_per_s)
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
        self.shelf.close()


@dataclass(slots=True)
class Visit:
    """One request whose caller is known and may do what it asks.

    Attributes:
        service: The service.
        request: The request.
        caller: Who asks.
        exchange: What is put on record of it.
    """

    service: Service
    request: Request
    caller: Caller
    exchange: Exchange
    _body_is_read: bool = False

    async def upload(self, place: Place, *, json: bool = False) -> Upload:
        """Read the request's body; see `read_upload`."""
        upload = await read_upload(self.request, place, self.service.settings, json=json)
        self._body_is_read = True
        self.exchange.counts["num_images"] = len(upload.images)
        self.service.access.charge(self.caller, max(0, len(upload.images) - 1), begun=True)
        return upload

    async def embed(self, images: Sequence[UploadedImage]) -> npt.NDArray[np.float32]:
        """Embed images while the client waits for it; see `Pipeline.embed`."""
        return await while_wanted(self.request, self.service.pipeline.embed(images), self.service.settings.timeout_s)

    async def in_shelf(self, name: str, work: Callable[[], T]) -> T:
        """Do work on the shelf in a thread: there is no gallery of this name yet."""
        run = self.service.threads.run(name, "", work, finish=True)
        return await while_wanted(self.request, run, self.service.settings.timeout_s)

    async def in_store(self, name: str, gallery: Gallery, work: Callable[[], T], *, finish: bool = False) -> T:
        """Do work on a gallery in a thread while the client waits for it; see `StoreThreads.run`."""
        if not self._body_is_read:
            await skip_body(self.request)
            self._body_is_read = True
        run = self.service.threads.run(name, gallery.location, work, finish=finish)
        return await while_wanted(self.request, run, self.service.settings.timeout_s)


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service


async def reader(request: Request) -> Visit:
    """Dependency of every route that embeds, searches or lists."""
    return _visit(request, to_write=False)


async def writer(request: Request) -> Visit:
    """Dependency of every route that changes a gallery."""
    return _visit(request, to_write=True)


def _visit(request: Request, *, to_write: bool) -> Visit:
    service, exchange = service_of(request), exchange_of(request)
    exchange.action = request.scope["endpoint"].__name__
    name = request.path_params.get("name", "")
    exchange.gallery = name if is_gallery_name(name) else None
    caller = service.access.identify(request.headers.get("authorization"), to_write=to_write)
    exchange.caller = caller
    service.access.charge(caller, 1)
    return Visit(service, request, caller, exchange)
