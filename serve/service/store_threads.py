"""Galleries block: a few threads do their work, a bounded number of requests waits for one, and errors lose their paths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from hat.errors import UsageError, WorkError

from .refusal import RefusalError, as_sentence

__all__ = ["StoreThreads"]

T = TypeVar("T")


class StoreThreads:
    """Runs calls to galleries.

    Args:
        num_threads: Threads.
        max_requests: Most calls that run or wait.
    """

    def __init__(self, num_threads: int, max_requests: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="hat-store")
        self._max_requests = max_requests
        self.num_requests = 0

    async def run(self, name: str, location: str, work: Callable[[], T], *, finish: bool = False) -> T:
        """Do work in a thread. When the call is cancelled, work that has not begun is dropped.

        Args:
            name: The gallery's name, for messages.
            location: The gallery's place, which no message may show.
            work: What to do.
            finish: Where work that has begun is cancelled, wait for its end all the same: it writes, and belongs on record.

        Raises:
            RefusalError: Too many requests are waiting, or the gallery refused or failed.
        """
        if self.num_requests >= self._max_requests:
            raise RefusalError(503, "too many requests to galleries: try again later", retry_after_s=1)
        self.num_requests += 1
        future = self._pool.submit(work)
        loop = asyncio.get_running_loop()
        # The place is taken until the thread is done, also where nobody waits any more.
        future.add_done_callback(lambda _: self._leave(loop))
        try:
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                if finish and not future.cancelled():
                    await _ended(future)
                raise
        except UsageError as error:
            raise RefusalError(422, as_sentence(str(error), location, name)) from None
        except WorkError as error:
            raise StoreError(name, error) from None

    def close(self) -> None:
        """Wait for the work in hand."""
        self._pool.shutdown(wait=True)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self.num_requests -= 1


class StoreError(RefusalError):
    """A gallery could not be read or written; the reason is for the log, since it names places."""

    def __init__(self, name: str, reason: WorkError) -> None:
        super().__init__(503, f"the gallery {name} cannot be used at the moment: try again later", retry_after_s=5)
        self.reason = reason


async def _ended(future: Future[T]) -> None:
    """Wait for a thread's work to end, whatever comes of it."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    await ended.wait()
