"""Bounded admission: images and bytes that the service holds at once are counted, and what goes beyond is refused at the door.

A request makes a reservation before its body is read and gives it back with its answer. All of it happens on the event loop's
thread, so that nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .api_error import ApiError

_FIRST_RATE = 10.0  # images a second that are taken to leave, before any has
_MAX_HOLD_S = 2.0
_MAX_HELD = 1000  # requests that are held before they are refused: the server buffers up to 64 KiB of each
_BURST_S = 2.0
_MAX_BUCKETS = 10_000


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
        """Whether not one image more would be let in."""
        return self.num_images >= self.max_images

    def overloaded(self) -> ApiError:
        """Return the error of a request that finds no room, with the time that what is inside will take."""
        detail = "the service is busy: try again later, with fewer requests at once"
        return ApiError(503, detail, retry_after_s=self.num_images / self._rate)

    async def wait_for_room(self) -> None:
        """Return once a request that brings a body may come in: at once, unless it is full.

        Where it is full, the request is held before it is refused, unread, for as long as those inside need, at most two
        seconds. A client that ignores ``Retry-After`` and comes again at once is slowed down by that, and costs the less of
        the time that those inside need.

        Raises:
            ApiError: It is full.
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
        """Hold what one request acquires, until the end of a ``with`` statement. Nothing is acquired yet.

        Raises:
            ApiError: It is full already, so that the request need not even be read.
        """
        if self.is_full:
            raise self.overloaded()
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self._release(reservation)

    def _release(self, reservation: Reservation) -> None:
        self.num_images -= reservation.num_images
        self.num_bytes -= reservation.num_bytes
        # From how much leaves in a second follows how long others should wait.
        self._num_left += reservation.num_images
        now = time.monotonic()
        if now - self._since >= 1:
            self._rate = max(1.0, self._num_left / (now - self._since))
            self._num_left, self._since = 0, now


class Reservation:
    """What one request has acquired."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.num_images = 0
        self.num_bytes = 0

    def acquire(self, *, num_images: int = 0, num_bytes: int = 0) -> None:
        """Acquire room for more.

        Raises:
            ApiError: There is none.
        """
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
        """Count images against a rate; a request that was ``admitted`` is met whole, and the next one waits the longer.

        Raises:
            ApiError: The caller is too fast.
        """
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
