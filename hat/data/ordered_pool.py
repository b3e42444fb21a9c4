"""A thread pool that gives results in order, works only a bounded way ahead, and stops cleanly when its reader does.

Threads and not processes: Pillow releases the interpreter while it decodes and resizes, and threads write straight into one
array.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from hat.errors import UsageError

__all__ = ["default_num_workers", "map_in_order"]

T = TypeVar("T")
R = TypeVar("R")

_MAX_DEFAULT_WORKERS = 16


def default_num_workers() -> int:
    """Number of cores that this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MAX_DEFAULT_WORKERS)


def map_in_order(
    function: Callable[[T], R], items: Iterable[T], *, num_workers: int | None = None, window: int
) -> Generator[R, None, None]:
    """Apply a function to items in threads.

    Args:
        function: Called in a worker thread, or in the caller's where ``num_workers`` is 0.
        items: Taken in the caller's thread, at most ``window`` ahead of what was given out.
        num_workers: Number of threads; None is one for each core.
        window: Items that may be waiting, in work or finished at once.

    Yields:
        The results in the order of the items. When the reader stops early, waiting items are dropped and the threads end before
        the iterator closes.

    Raises:
        UsageError: ``num_workers`` is negative.
    """
    workers = default_num_workers() if num_workers is None else num_workers
    if workers < 0:
        raise UsageError(f"num_workers is {workers}, expected 0 (no threads) or more")
    return _threaded(function, iter(items), workers, max(window, workers)) if workers else _inline(function, items)


def _inline(function: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
    for item in items:
        yield function(item)


def _threaded(function: Callable[[T], R], items: Iterator[T], workers: int, window: int) -> Generator[R, None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hat-images")
    try:
        waiting: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(items, window))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
