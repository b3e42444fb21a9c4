"""Many images as uint8 batches: a whole split in one tensor, or batch after batch with bounded memory, decoded in threads.

Threads and not processes: Pillow releases the interpreter while it decodes and resizes, and threads write straight into one
array.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from hat.data.datasets import Split
from hat.data.images import decode_image, read_encoded, read_image
from hat.errors import ImageError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from hat.preprocessing import Preprocessing


T = TypeVar("T")
R = TypeVar("R")

_MAX_DEFAULT_WORKERS = 16


def default_num_workers() -> int:
    """Return number of cores that this process may use, at most 16."""
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
    return _threaded(function, iter(items), workers, max(window, workers)) if workers else (function(i) for i in items)


def _threaded(function: Callable[[T], R], items: Iterator[T], workers: int, window: int) -> Generator[R, None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hat-images")
    try:
        waiting: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(items, window))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


OnBad = Callable[[int, ImageError], None]
"""Called in the caller's thread, in order, with the index of an image that cannot be used and what is wrong with it."""

_CHUNK = 16
_CHUNKS_AHEAD = 64
_BATCHES_AHEAD = 3


class _Chunk(NamedTuple):
    """Rows of an array to be filled with the images of a run of paths; `first` is the first one's index."""

    rows: npt.NDArray[np.uint8]
    first: int
    batch: Tensor | None = None  # the batch that is complete once this chunk is


_Filled = tuple[_Chunk, list[tuple[int, ImageError]]]


def load_images(
    paths: Sequence[str],
    preprocessing: Preprocessing,
    *,
    num_workers: int | None = None,
    on_bad: OnBad | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Read images into one tensor, which is allocated once: N x 3 x H x W bytes and nothing beside it.

    Args:
        paths: Where the images are, as in `Sample.path`.
        preprocessing: Resizes each image to its height and width.
        num_workers: Number of threads; None is one for each core, 0 is none.
        on_bad: Called for an image that cannot be used, whose row is left black. None raises instead.
        progress: Called in the caller's thread with the number of images that were read since its last call.

    Returns:
        (N, 3, H, W) uint8 RGB, rows in the order of ``paths``.

    Raises:
        ImageError: An image cannot be used and ``on_bad`` is None; the first one in the order of ``paths`` is named.
        UsageError: ``num_workers`` is negative.
    """
    import torch

    images = torch.empty((len(paths), 3, *preprocessing.size), dtype=torch.uint8)
    array = images.numpy()
    chunks = (_Chunk(array[start : start + _CHUNK], start) for start in range(0, len(paths), _CHUNK))
    fill = _filler(paths, preprocessing)
    # Closed by hand: the traceback of an error would keep the loop, and so its threads, alive for as long as it is held.
    with closing(map_in_order(fill, chunks, num_workers=num_workers, window=_CHUNKS_AHEAD)) as results:
        for chunk, bad in results:
            _report(bad, on_bad)
            if progress is not None:
                progress(len(chunk.rows))
    return images


def iterate_batches(
    paths: Sequence[str],
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    num_workers: int | None = None,
    on_bad: OnBad | None = None,
    in_turns: bool = False,
) -> Iterator[Tensor]:
    """Read images batch after batch while the caller works on the one before; at most four batches are in memory.

    Args:
        paths: Where the images are, as in `Sample.path`.
        preprocessing: Resizes each image to its height and width.
        batch_size: Images in a batch; the last one holds what is left.
        num_workers: See `load_images`.
        on_bad: See `load_images`; it is called before the image's batch is given.
        in_turns: Decode and resize only while the caller waits for a batch, and merely read files while it works on one: for a
            caller that computes on all cores of this machine. A thread that decodes beside it takes one of them from it, and
            the others wait for what that one was to compute.

    Yields:
        (b, 3, H, W) uint8 RGB, rows in the order of ``paths``. Each batch is a tensor of its own. Threads end when the iterator
        does, also when it is closed or dropped early.

    Raises:
        ImageError: An image cannot be used and ``on_bad`` is None.
        UsageError: ``batch_size`` is below 1 or ``num_workers`` is negative.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}, expected at least 1")
    workers = default_num_workers() if num_workers is None else num_workers
    # A batch is shared out among the threads, so that the first one is there as soon as it can be.
    size = max(1, min(_CHUNK, -(-batch_size // max(1, workers))))
    chunks_in_batch = -(-batch_size // size)

    def chunks() -> Iterator[_Chunk]:
        import torch

        for start in range(0, len(paths), batch_size):
            length = min(batch_size, len(paths) - start)
            batch = torch.empty((length, 3, *preprocessing.size), dtype=torch.uint8)
            array = batch.numpy()
            for place in range(0, length, size):
                yield _Chunk(array[place : place + size], start + place, batch if place + size >= length else None)

    turn = threading.Event() if in_turns else None
    results = map_in_order(
        _filler(paths, preprocessing, turn), chunks(), num_workers=num_workers, window=_BATCHES_AHEAD * chunks_in_batch
    )
    return _whole_batches(results, on_bad, turn or threading.Event())


def _whole_batches(results: Generator[_Filled, None, None], on_bad: OnBad | None, turn: threading.Event) -> Iterator[Tensor]:
    with closing(results):
        try:
            turn.set()
            for chunk, bad in results:
                _report(bad, on_bad)
                if chunk.batch is not None:
                    turn.clear()
                    yield chunk.batch
                    turn.set()
        finally:
            turn.set()  # threads that wait for it could not end


def _filler(
    paths: Sequence[str], preprocessing: Preprocessing, turn: threading.Event | None = None
) -> Callable[[_Chunk], _Filled]:
    def fill(chunk: _Chunk) -> _Filled:
        bad: list[tuple[int, ImageError]] = []
        names = paths[chunk.first : chunk.first + len(chunk.rows)]
        # With turns a whole chunk is read first: while a disk or a network is waited for, the caller has all cores.
        encoded = [_read(path) for path in names] if turn else map(_read, names)
        for place, (path, data) in enumerate(zip(names, encoded, strict=True)):
            if turn:
                turn.wait()
            try:
                if isinstance(data, ImageError):
                    raise data
                chunk.rows[place] = preprocessing.resize_image(decode_image(data, path)).transpose(2, 0, 1)
            except ImageError as error:
                chunk.rows[place] = 0
                bad.append((chunk.first + place, error))
        return chunk, bad

    return fill


def _read(path: str) -> bytes | ImageError:
    try:
        return read_encoded(path)
    except ImageError as error:
        return error


def _report(bad: list[tuple[int, ImageError]], on_bad: OnBad | None) -> None:
    for index, error in bad:
        if on_bad is None:
            raise error
        on_bad(index, error)


def check_images(
    split: Split, *, skip_bad: bool = False, num_workers: int | None = None, progress: Callable[[int], None] | None = None
) -> tuple[Split, list[tuple[str, str]]]:
    """Decode every image of a split.

    Args:
        split: The split.
        skip_bad: Leave images out that cannot be used, instead of raising.
        num_workers: Number of threads; None is one for each core, 0 is none.
        progress: Called in the caller's thread with the number of images that were checked since its last call.

    Returns:
        The split without its bad images, and (path, reason) of each of those. The split itself where all are good.

    Raises:
        ImageError: An image cannot be used and ``skip_bad`` is False. It names the first one, what is wrong with it, and how
            many there are.
        UsageError: ``num_workers`` is negative.
    """
    paths = split.paths
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    results = map_in_order(_check, chunks, num_workers=num_workers, window=_CHUNKS_AHEAD)
    bad: list[tuple[str, str]] = []
    for chunk, found in zip(chunks, results, strict=True):
        bad += found
        if progress is not None:
            progress(len(chunk))
    if not bad:
        return split, []
    if not skip_bad:
        path, reason = bad[0]
        others = f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""
        raise ImageError(
            f"{path}: {reason} (this one{others} of {len(split):,} {split.name} images; --skip-bad leaves bad images out)"
        )
    bad_paths = {path for path, _ in bad}
    return Split(split.name, [sample for sample in split if sample.path not in bad_paths]), bad


def _check(paths: list[str]) -> list[tuple[str, str]]:
    bad = []
    for path in paths:
        try:
            read_image(path)
        except ImageError as error:
            bad.append((path, str(error).removeprefix(f"{path}: ")))
    return bad
