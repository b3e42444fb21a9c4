"""Galleries block: a few threads do their work, and a bounded number of requests waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .api_error import ApiError

__all__ = ["StoreThreads"]

T = TypeVar("T")


class StoreThreads:
    """Runs calls to galleries.

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
