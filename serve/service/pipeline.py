"""From encoded images to embeddings: decoded and resized by threads, run by the batcher, nothing of it on the event loop.

An image crosses threads as seldom as it can: the event loop hands bytes to a decoding thread, that thread hands pixels to the
model's thread, and the event loop wakes once for each few images. Where the model computes on a device of its own, decoding
overlaps with it. On the CPU the two take turns, as in `hat.data.iterate_batches`: a model that computes on all cores waits in
every layer for the one that a decoder has taken from it.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.data import decode_image
from hat.data.loading import default_num_workers
from hat.errors import ImageError, UsageError, WorkError
from hat.preprocessing import Preprocessing
from hat.runtime import Runtime
from hat.runtime.protocol import runtime_device, warm_up

from .batching import Batcher, EmbeddingFuture
from .metrics import ServiceMetrics
from .settings import ServiceSettings
from .uploads import UploadedImage

_IMAGES_A_TASK = 4
"""Images that one thread decodes in one go: fewer cost more hand-overs, more leave threads idle."""


@dataclass(slots=True)
class _Task:
    images: list[UploadedImage]
    future: EmbeddingFuture

    def drop(self) -> None:
        """Forget the images, unless their run has begun: what nobody waits for must not hold memory."""
        if self.future.cancel():
            self.images.clear()


class Pipeline:
    """Embeds encoded images of many requests at once.

    Args:
        runtime: The model.
        settings: Bounds and numbers of threads.
        metrics: Where runs and images are counted.

    Attributes:
        runtime: The model.
        preprocessing: How images become its input.
        batcher: Runs the model.
    """

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
        """Run the model on the smallest and the largest batch, so that no client waits for what happens only once.

        Raises:
            WorkError: What came out are no embeddings.
        """
        warm_up(self.runtime)
        for size in sorted({1, self.batcher.max_batch}):
            pixels = np.zeros((size, 3, *self.preprocessing.size), dtype=np.uint8)
            rows = self.batcher.submit(pixels).result()
            if rows.shape != (size, self.runtime.embed_dim) or not np.isfinite(rows).all():
                raise WorkError(f"{self.runtime.name} gave no embeddings for {size} black images, but {rows.shape}")

    async def embed(self, images: Sequence[UploadedImage]) -> npt.NDArray[np.float32]:
        """Embed images. When the call is cancelled, what has not begun is dropped.

        Returns:
            (n, embed_dim) float32 unit rows, in the order of the images.

        Raises:
            ImageError: An image cannot be used.
        """
        tasks = [
            _Task(list(images[start : start + _IMAGES_A_TASK]), Future()) for start in range(0, len(images), _IMAGES_A_TASK)
        ]
        try:
            for task in tasks:
                self.batcher.announce(len(task.images))
                self._decoders.submit(self._decode, task, len(task.images))
            parts = [await asyncio.wrap_future(task.future) for task in tasks]
        except ImageError:
            self._metrics.count_images("bad", 1)
            raise
        except UsageError as error:  # nothing that a client could have sent differently
            raise WorkError(str(error)) from error
        finally:
            for task in tasks:
                task.drop()
        self._metrics.count_images("embedded", len(images))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Finish what was begun and end the threads."""
        self._decoders.shutdown(wait=True)
        self.batcher.close()

    def _decode(self, task: _Task, num_images: int) -> None:
        submitted = 0
        try:
            pixels = np.empty((num_images, 3, *self.preprocessing.size), dtype=np.uint8)
            for row, image in zip(pixels, list(task.images), strict=False):
                if self._serialize:
                    self.batcher.idle.wait()
                if task.future.cancelled():
                    return
                picture = decode_image(image.data, image.name, max_pixels=self._max_pixels)
                row[...] = self.preprocessing.resize_image(picture).transpose(2, 0, 1)
            if not task.future.cancelled():
                submitted = num_images
                self.batcher.submit(pixels, task.future, announced=num_images)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request that waits must hear of it
            if not task.future.done():
                task.future.set_exception(error)
        finally:
            task.images.clear()
            if not submitted:
                self.batcher.withdraw(num_images)


class BatchedEmbedder:
    """What `hat.serve.enroll_images` takes for an embedder: its images go through the batches of all other requests.

    Args:
        pipeline: Runs the model.

    Attributes:
        runtime: The model.
        preprocessing: How images become its input.
        embed_dim: Width of an embedding.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.runtime = pipeline.runtime
        self.preprocessing = pipeline.preprocessing
        self.embed_dim = pipeline.runtime.embed_dim
        self._batcher = pipeline.batcher

    def embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Embed decoded images; (n, embed_dim) float32 unit rows. Waits for them, so never call it on an event loop."""
        if not images:
            return np.empty((0, self.embed_dim), dtype=np.float32)
        pixels = np.stack([self.preprocessing.resize_image(image).transpose(2, 0, 1) for image in images])
        return self._batcher.submit(pixels).result()
