"""Dynamic batching: images of requests that are here at the same time share one run of the model.

Kept libraries were looked at first. ``batched`` sleeps a fixed time before every batch, also when nothing waits, and its queue
has no bound; ``async-batcher`` polls, has one item for one result where a request brings several images, and a client that has
gone away breaks the batch of all others; Ray Serve's ``@serve.batch`` comes with Ray.
What is needed beside them is small: groups of images that may be split over runs, cancellation before a run begins, and no
waiting for images that may never come.

A run begins as soon as the model is free. It waits, at most ``max_wait_s``, only while images are known to be on their way:
announced by the threads that decode them. So a lone request is not delayed, and under load a batch fills: while the one before
it runs, or where that runs on the CPU, as soon as it has.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError, WorkError
from hat.runtime import Runtime

EmbeddingFuture: TypeAlias = Future[npt.NDArray[np.float32]]
"""Of the (n, embed_dim) embeddings of n images. Cancelling it drops the images, unless their run has begun."""


@dataclass(slots=True)
class _Group:
    """Images that were submitted together. They may be split over several runs."""

    pixels: npt.NDArray[np.uint8]
    future: EmbeddingFuture
    rows: list[npt.NDArray[np.float32]] = field(default_factory=list)
    num_taken: int = 0


_Part: TypeAlias = tuple[_Group, int, int]
"""A group and the range of its images that takes part in a run."""


class Batcher:
    """Runs a model in a thread of its own, on whatever images are waiting.

    Args:
        runtime: The model. It is only ever called from one thread.
        max_batch: Most images in a run; lowered to what the runtime takes.
        max_wait_s: How long a run that is not full waits for images that were announced.
        on_run: Called after each run with the number of images and the seconds that it took.

    Attributes:
        max_batch: Most images in a run.
        idle: Set while no run is under way.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        max_batch: int = 32,
        max_wait_s: float = 0.005,
        on_run: Callable[[int, float], None] | None = None,
    ) -> None:
        self.max_batch = min(max_batch, runtime.max_batch or max_batch)
        self._runtime = runtime
        self._shape = (3, *runtime.preprocessing.size)
        self._max_wait_s = max_wait_s
        self._on_run = on_run
        self._waiting: deque[_Group] = deque()
        self._num_waiting = 0
        self._num_announced = 0
        self._closed = False
        self._changed = threading.Condition()
        self.idle = threading.Event()
        self.idle.set()
        self._thread = threading.Thread(target=self._work, name="hat-model", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Images that wait for a run."""
        return self._num_waiting

    @property
    def is_alive(self) -> bool:
        """Whether submitted images will be run."""
        return self._thread.is_alive() and not self._closed

    def announce(self, num_images: int) -> None:
        """Say that images are being decoded; every one must be submitted or withdrawn afterwards."""
        with self._changed:
            self._num_announced += num_images

    def withdraw(self, num_images: int) -> None:
        """Take an announcement back."""
        with self._changed:
            self._num_announced -= num_images
            self._changed.notify()

    def submit(
        self, pixels: npt.NDArray[np.uint8], future: EmbeddingFuture | None = None, *, announced: int = 0
    ) -> EmbeddingFuture:
        """Queue images; any thread may call this.

        Args:
            pixels: (n, 3, H, W) uint8 RGB; n of at least 1.
            future: Is given the result; None makes one.
            announced: How many of the images were announced.

        Returns:
            The future: (n, embed_dim) float32 unit rows, or what the runtime raised.

        Raises:
            UsageError: The images are of another shape or type.
            WorkError: The batcher is closed.
        """
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self._shape or not len(pixels):
            self.withdraw(announced)
            raise UsageError(f"expected (n, {self._shape}) uint8 images, got {pixels.shape} {pixels.dtype}")
        future = future or Future()
        with self._changed:
            self._num_announced -= announced
            if self._closed:
                raise WorkError("the service is shutting down")
            self._waiting.append(_Group(pixels, future))
            self._num_waiting += len(pixels)
            self._changed.notify()
        return future

    def close(self) -> None:
        """Run what is waiting, and end the thread; twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while parts := self._take():
            self._run(parts)

    def _take(self) -> list[_Part]:
        """Return the images of the next run; none once the batcher is closed and nothing waits."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                deadline = time.monotonic() + self._max_wait_s
                while self._num_waiting < self.max_batch and self._num_announced > 0 and not self._closed:
                    if not self._changed.wait(deadline - time.monotonic()) or time.monotonic() >= deadline:
                        break
                parts = self._cut()
                if parts or (self._closed and not self._waiting):
                    return parts

    def _cut(self) -> list[_Part]:
        parts: list[_Part] = []
        room = self.max_batch
        while self._waiting and room:
            group = self._waiting[0]
            # From here on a group can no longer be cancelled, so that its future is not cancelled between two of its runs.
            if group.num_taken == 0 and not group.future.set_running_or_notify_cancel():
                self._waiting.popleft()
                self._num_waiting -= len(group.pixels)
                continue
            start = group.num_taken
            stop = group.num_taken = min(start + room, len(group.pixels))
            parts.append((group, start, stop))
            room -= stop - start
            self._num_waiting -= stop - start
            if stop == len(group.pixels):
                self._waiting.popleft()
        return parts

    def _run(self, parts: list[_Part]) -> None:
        batch = np.concatenate([group.pixels[start:stop] for group, start, stop in parts])
        began = time.perf_counter()
        self.idle.clear()
        try:
            rows = self._runtime.run(batch)
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises belongs to those who wait for it
            for group, _, _ in parts:
                if not group.future.done():  # a group that was split fails once
                    group.future.set_exception(error)
            return
        finally:
            self.idle.set()
        if self._on_run is not None:
            self._on_run(len(batch), time.perf_counter() - began)
        position = 0
        for group, start, stop in parts:
            if not group.future.done():
                group.rows.append(rows[position : position + stop - start])
                if stop == len(group.pixels):
                    group.future.set_result(group.rows[0] if len(group.rows) == 1 else np.concatenate(group.rows))
            position += stop - start
