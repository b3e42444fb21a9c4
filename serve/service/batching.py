"""Dynamic batching: images of requests that are here at the same time are decoded by threads and share one run of the model.

A run begins as soon as the model is free, and waits, at most ``max_wait_s``, only for images that decoding threads have
announced: a lone request is not delayed, and under load a batch fills. On the CPU, decoding and the model take turns: a model
that computes on all cores waits in every layer for the one that a decoder has taken. (``batched`` sleeps before every batch and
has no bound, ``async-batcher`` fails a batch when one of its clients goes away.)
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.data import decode_image
from hat.data.loading import default_num_workers
from hat.errors import ImageError, UsageError, WorkError
from hat.preprocessing import Preprocessing
from hat.runtime import Runtime
from hat.runtime.protocol import runtime_device, warm_up

from .admission import ServiceSettings
from .audit import ServiceMetrics
from .uploads import UploadedImage

EmbeddingFuture: TypeAlias = Future[npt.NDArray[np.float32]]
"""Of the (n, embed_dim) embeddings of n images. Cancelling it drops the images, unless their run has begun."""

_Group: TypeAlias = tuple[npt.NDArray[np.uint8], EmbeddingFuture]  # images that were submitted together share a run

_IMAGES_A_TASK = 4  # that one thread decodes in one go: fewer cost more hand-overs, more leave threads idle


class Batcher:
    """Runs a model in a thread of its own, the only one that calls it, on whatever images are waiting: ``num_waiting`` of them.

    A run that is not full waits at most ``max_wait_s`` for images that were announced. ``on_run`` is called after each with the
    number of images and the seconds that it took; ``idle`` is set while there is none.
    """

    def __init__(self, runtime: Runtime, *, max_batch: int, max_wait_s: float, on_run: Callable[[int, float], None]) -> None:
        self.max_batch = min(max_batch, runtime.max_batch or max_batch)
        self.num_waiting = 0
        self._runtime = runtime
        self._max_wait_s = max_wait_s
        self._on_run = on_run
        self._waiting: deque[_Group] = deque()
        self._num_announced = 0
        self._closed = False
        self._changed = threading.Condition()
        self.idle = threading.Event()
        self.idle.set()
        self._thread = threading.Thread(target=self._work, name="hat-model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Return whether submitted images will be run."""
        return self._thread.is_alive() and not self._closed

    def announce(self, num_images: int) -> None:
        """Say that images are being decoded; every one must be submitted, or taken back by a negative number."""
        with self._changed:
            self._num_announced += num_images
            self._changed.notify()

    def submit(
        self, pixels: npt.NDArray[np.uint8], future: EmbeddingFuture | None = None, *, announced: int = 0
    ) -> EmbeddingFuture:
        """Queue (n, 3, H, W) uint8 RGB images, n of 1 to ``max_batch``, ``announced`` of which were; any thread may call this.

        The future that is returned, a new one where none is given, has (n, embed_dim) float32 unit rows or what the runtime
        raised.
        """
        future = future or Future()
        with self._changed:
            self.announce(-announced)
            if self._closed:
                raise WorkError("the service is shutting down")
            self._waiting.append((pixels, future))
            self.num_waiting += len(pixels)
        return future

    def close(self) -> None:
        """Run what is waiting, and end the thread; twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while groups := self._take():
            self._run(groups)

    def _take(self) -> list[_Group]:
        """Return the images of the next run; none once the batcher is closed and nothing waits."""
        groups: list[_Group] = []
        with self._changed:
            while not groups and (self._waiting or not self._closed):
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._changed.wait_for(
                    lambda: self.num_waiting >= self.max_batch or self._num_announced <= 0 or self._closed, self._max_wait_s
                )
                room = self.max_batch
                while self._waiting and (not groups or len(self._waiting[0][0]) <= room):
                    pixels, future = self._waiting.popleft()
                    self.num_waiting -= len(pixels)
                    if future.set_running_or_notify_cancel():  # from here on it can no longer be cancelled
                        groups.append((pixels, future))
                        room -= len(pixels)
        return groups

    def _run(self, groups: list[_Group]) -> None:
        batch = np.concatenate([pixels for pixels, _ in groups])
        began = time.perf_counter()
        self.idle.clear()
        try:
            rows = self._runtime.run(batch)
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises belongs to those who wait for it
            for _, future in groups:
                future.set_exception(error)
            return
        finally:
            self.idle.set()
        self._on_run(len(batch), time.perf_counter() - began)
        stop = 0
        for pixels, future in groups:
            start, stop = stop, stop + len(pixels)
            future.set_result(rows[start:stop])


class Pipeline:
    """Embeds images of many requests at once: encoded ones are decoded and resized by threads; all are run by the batcher."""

    def __init__(self, runtime: Runtime, settings: ServiceSettings, metrics: ServiceMetrics) -> None:
        self.runtime = runtime
        self.preprocessing: Preprocessing = runtime.preprocessing
        self.batcher = Batcher(
            runtime, max_batch=settings.max_batch, max_wait_s=settings.max_wait_s, on_run=metrics.observe_run
        )
        self._serialize = runtime_device(runtime) == "cpu"
        self._max_pixels = settings.max_pixels
        self._metrics = metrics
        self._decoders = ThreadPoolExecutor(settings.num_decoders or default_num_workers(), thread_name_prefix="hat-decode")

    def warm_up(self) -> None:
        """Run the model on the smallest and the largest batch, so that no client waits for what happens only once."""
        warm_up(self.runtime)
        for size in sorted({1, self.batcher.max_batch}):
            pixels = np.zeros((size, 3, *self.preprocessing.size), dtype=np.uint8)
            rows = self.batcher.submit(pixels).result()
            if rows.shape != (size, self.runtime.embed_dim) or not np.isfinite(rows).all():
                raise WorkError(f"{self.runtime.name} gave no embeddings for {size} black images, but {rows.shape}")

    def embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Embed images, at least one; (n, embed_dim) float32 unit rows. Waits for them, so never call it on an event loop."""
        pixels = np.stack([self.preprocessing.resize_image(image).transpose(2, 0, 1) for image in images])
        size = self.batcher.max_batch
        futures = [self.batcher.submit(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        return np.concatenate([future.result() for future in futures])

    async def embed_encoded(self, images: Sequence[UploadedImage]) -> npt.NDArray[np.float32]:
        """Embed images: (n, embed_dim) float32 unit rows. When the call is cancelled, what has not begun is dropped."""
        size = min(_IMAGES_A_TASK, self.batcher.max_batch)
        tasks: list[tuple[list[UploadedImage], EmbeddingFuture]] = [
            (list(images[start : start + size]), Future()) for start in range(0, len(images), size)
        ]
        try:
            for some, future in tasks:
                self.batcher.announce(len(some))
                self._decoders.submit(self._decode, some, len(some), future)
            parts = [await asyncio.wrap_future(future) for _, future in tasks]
        except ImageError:
            self._metrics.count_images("bad", 1)
            raise
        except UsageError as error:  # nothing that a client could have sent differently
            raise WorkError(str(error)) from error
        finally:
            for some, future in tasks:
                if future.cancel():
                    some.clear()  # what nobody waits for must not hold memory
        self._metrics.count_images("embedded", len(images))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Finish what was begun and end the threads."""
        self._decoders.shutdown(wait=True)
        self.batcher.close()

    def _decode(self, images: list[UploadedImage], num_images: int, future: EmbeddingFuture) -> None:
        """Decode images for the batcher; where nobody waits any more, there may be none of them left."""
        submitted = 0
        try:
            pixels = np.empty((num_images, 3, *self.preprocessing.size), dtype=np.uint8)
            for row, image in zip(pixels, list(images), strict=False):
                if self._serialize:
                    self.batcher.idle.wait()
                if future.cancelled():
                    return
                picture = decode_image(image.data, image.name, max_pixels=self._max_pixels)
                row[...] = self.preprocessing.resize_image(picture).transpose(2, 0, 1)
            if not future.cancelled():
                submitted = num_images
                self.batcher.submit(pixels, future, announced=num_images)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request that waits must hear of it
            if not future.done():
                future.set_exception(error)
        finally:
            images.clear()
            if not submitted:
                self.batcher.announce(-num_images)
