"""Settings and admission control: images and bytes held at once are counted, and requests beyond the limits are refused.

All of it happens on the event loop's thread, so that nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field

from hat.config import config_dataclass

from .api_error import ApiError

_FIRST_RATE = 10.0  # images a second that are taken to leave, before any has
_MAX_HOLD_S = 2.0
_MAX_HELD = 1000  # requests that are held before they are refused: the server buffers up to 64 KiB of each
_BURST_S = 2.0
_MAX_BUCKETS = 10_000

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


@config_dataclass
class ServiceSettings:
    """Bounds of a service. Everything that a stranger can make grow has one."""

    max_batch: Count = 32  # images in one run of the model; lowered to what the runtime takes
    max_wait_s: Annotated[float, Field(ge=0)] = 0.005  # that a run waits for images that are being decoded, and for no others
    max_queue: Count = 256  # images in the service at once, from the first byte to the answer; more are answered with 503
    max_images: Count = 64  # in one request
    max_top: Count = 1000  # matches for each query of a search
    max_body_bytes: Count = 32 * 2**20  # of one request
    max_inflight_bytes: Count = 256 * 2**20  # of all bodies that are held at once; more are answered with 503
    max_pixels: Count = 25_000_000  # of an image; a header that says more is refused before anything is decoded
    num_decoders: Count | None = None  # threads that decode and resize; None is one for each core
    num_store_threads: Count = 4  # that read and write galleries
    max_store_requests: Count = 64  # to galleries, in work or waiting for a thread; more are answered with 503
    max_galleries: Count = 256  # that the service may have open, those made over HTTP included
    receive_timeout_s: Seconds = 30.0  # for a body to arrive
    timeout_s: Seconds = 60.0  # for a request once its body is here; then it is answered with 504 and dropped
    rate_per_s: Seconds | None = None  # images for each key, a request without images counting as one; None is no limit
    hosts: tuple[str, ...] | None = None  # names that the Host header may have; None is any
    thumbnail_height: Count | None = None  # in pixels, of the pictures that are kept of enrolled images; None keeps none


class Admission:
    """Counts the images and the bytes of request bodies that are inside, and bounds both."""

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self.max_images = max_images
        self.max_bytes = max_bytes
        self.num_images = 0
        self.num_bytes = 0
        self._rate = _FIRST_RATE
        self._num_held = 0
        self._num_left = 0
        self._since = time.monotonic()

    @property
    def is_full(self) -> bool:
        """Return whether no further image is admitted."""
        return self.num_images >= self.max_images

    def overloaded(self) -> ApiError:
        """Return the error of a request that finds no room, with the time that those inside will take."""
        detail = "the service is busy: try again later, with fewer requests at once"
        return ApiError(503, detail, retry_after_s=self.num_images / self._rate)

    async def wait_for_room(self) -> None:
        """Return at once unless it is full; then hold a request, unread, and refuse it where that has not changed.

        It is held for as long as those inside need, at most two seconds: a client that ignores ``Retry-After`` and comes again
        at once is slowed down by that, and costs the less of the time that those inside need.
        """
        if self.is_full and self._num_held < _MAX_HELD:
            self._num_held += 1
            try:
                await asyncio.sleep(min(_MAX_HOLD_S, self.num_images / self._rate))
            finally:
                self._num_held -= 1
        if self.is_full:
            raise self.overloaded()

    @contextmanager
    def reserve(self) -> Iterator[Reservation]:
        """Hold what one request acquires until the end of a ``with`` statement; refused where it is full already."""
        if self.is_full:
            raise self.overloaded()
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.num_images -= reservation.num_images
            self.num_bytes -= reservation.num_bytes
            # From how much leaves in a second follows how long others should wait.
            self._num_left += reservation.num_images
            now = time.monotonic()
            if now - self._since >= 1:
                self._rate = max(1.0, self._num_left / (now - self._since))
                self._num_left, self._since = 0, now


class Reservation:
    """Images and bytes that one request has acquired."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.num_images = 0
        self.num_bytes = 0

    def acquire(self, *, num_images: int = 0, num_bytes: int = 0) -> None:
        """Acquire room for more, or raise an `ApiError` where there is none."""
        inside = self._admission
        if inside.num_images + num_images > inside.max_images or inside.num_bytes + num_bytes > inside.max_bytes:
            raise inside.overloaded()
        inside.num_images += num_images
        inside.num_bytes += num_bytes
        self.num_images += num_images
        self.num_bytes += num_bytes


class RateLimiter:
    """Token buckets, one for each caller, of so many images a second; None is no limit."""

    def __init__(self, rate_per_s: float | None) -> None:
        self._rate = rate_per_s
        self._buckets: dict[str, tuple[float, float]] = {}

    def charge(self, caller_id: str, num_images: int, *, admitted: bool = False) -> None:
        """Count images, or refuse a caller who is too fast; what was ``admitted`` is met, and the next one waits the longer."""
        if self._rate is None:
            return
        now = time.monotonic()
        full = max(1.0, self._rate * _BURST_S)
        left, since = self._buckets.get(caller_id, (full, now))
        left = min(full, left + (now - since) * self._rate)
        if left < 1 and not admitted:
            self._buckets[caller_id] = (left, now)
            raise ApiError(429, "this key has used up its rate: slow down", retry_after_s=(1 - left) / self._rate)
        if len(self._buckets) >= _MAX_BUCKETS:
            self._buckets.clear()
        self._buckets[caller_id] = (left - num_images, now)
