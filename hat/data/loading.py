"""Many images as uint8 batches: a whole list in one tensor, or batch after batch with bounded memory, decoded in threads.

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
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from hat.data.datasets import ReIDDataset, Split
from hat.data.images import decode_image, read_encoded, read_image
from hat.errors import ImageError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from hat.preprocessing import Preprocessing

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 16
_BATCHES_AHEAD = 3
_LOADED_TOGETHER = 32
_CHECKED_AHEAD = 256


def default_num_workers() -> int:
    """Return number of cores that this process may use, at most 16."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def map_in_order(
    function: Callable[[T], R], items: Iterable[T], *, num_workers: int | None = None, window: int
) -> Generator[R, None, None]:
    """Yield the results of a function for items in their order, computed in threads.

    They are taken in the caller's thread, at most ``window`` ahead of what was given out. ``num_workers`` None is one for each
    core, 0 none. When the reader stops early, waiting items are dropped and the threads end before the iterator closes.
    """
    workers = default_num_workers() if num_workers is None else num_workers
    if not workers:
        yield from map(function, items)
        return
    source = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hat-images")
    try:
        waiting: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(source, max(window, workers)))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(source, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


OnBad = Callable[[int, ImageError], None]
"""Called in the caller's thread, in order, with the index of an image that cannot be used and what is wrong with it."""


def load_images(
    paths: Sequence[str],
    preprocessing: Preprocessing,
    *,
    on_bad: OnBad | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Read images, resized by ``preprocessing``, into one (N, 3, H, W) uint8 RGB tensor, rows in the order of ``paths``.

    Args:
        paths: Where the images are, as in `Sample.path`.
        on_bad: Called for an image that cannot be used, whose row is left black. None raises instead.
        progress: Called in the caller's thread with the number of images that were read since its last call.

    Raises:
        ImageError: An image cannot be used and ``on_bad`` is None; the first one in the order of ``paths`` is named.
    """
    import torch

    images = torch.empty((len(paths), 3, *preprocessing.size), dtype=torch.uint8)
    done = 0
    # Closed by hand: the traceback of an error would keep the loop, and so its threads, alive for as long as it is held.
    with closing(iterate_batches(paths, preprocessing, _LOADED_TOGETHER, on_bad=on_bad)) as batches:
        for batch in batches:
            images[done : done + len(batch)] = batch
            done += len(batch)
            if progress is not None:
                progress(len(batch))
    return images


class _Chunk(NamedTuple):
    """Rows of a batch to be filled with the images of a run of paths."""

    paths: Sequence[str]
    rows: npt.NDArray[np.uint8]
    first: int  # index of its first image among all
    batch: Tensor | None  # the batch that is complete once this chunk is


_Filled = tuple[_Chunk, list[tuple[int, ImageError]]]


def iterate_batches(
    paths: Sequence[str],
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    num_workers: int | None = None,
    on_bad: OnBad | None = None,
    in_turns: bool = False,
) -> Generator[Tensor, None, None]:
    """Read images batch after batch while the caller works on the one before; at most four batches are in memory.

    Args:
        batch_size: Images in a batch; the last one holds what is left.
        num_workers: Number of threads; None is one for each core, 0 is none.
        on_bad: See `load_images`; called before the image's batch is given.
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
    if workers < 0:
        raise UsageError(f"num_workers is {workers}, expected 0 (no threads) or more")
    # A batch is shared out among the threads, so that the first one is there as soon as it can be.
    size = max(1, min(_CHUNK, -(-batch_size // max(1, workers))))
    chunks_in_batch = -(-batch_size // size)

    def chunks() -> Iterator[_Chunk]:
        import torch

        for start in range(0, len(paths), batch_size):
            names = paths[start : start + batch_size]
            batch = torch.empty((len(names), 3, *preprocessing.size), dtype=torch.uint8)
            array = batch.numpy()
            for place in range(0, len(names), size):
                part, last = slice(place, place + size), place + size >= len(names)
                yield _Chunk(names[part], array[part], start + place, batch if last else None)

    turn = threading.Event() if in_turns else None
    fill = partial(_fill, preprocessing, turn)
    results = map_in_order(fill, chunks(), num_workers=workers, window=_BATCHES_AHEAD * chunks_in_batch)
    return _whole_batches(results, on_bad, turn or threading.Event())


def _fill(preprocessing: Preprocessing, turn: threading.Event | None, chunk: _Chunk) -> _Filled:
    """Fill the rows of a chunk; with turns only while ``turn`` is set, which it is while the caller waits."""
    bad: list[tuple[int, ImageError]] = []
    # With turns a whole chunk is read first: while a disk or a network is waited for, the caller has all cores.
    encoded = [_read(path) for path in chunk.paths] if turn else map(_read, chunk.paths)
    for place, (path, data) in enumerate(zip(chunk.paths, encoded, strict=True)):
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


def _read(path: str) -> bytes | ImageError:
    try:
        return read_encoded(path)
    except ImageError as error:
        return error


def _whole_batches(
    results: Generator[_Filled, None, None], on_bad: OnBad | None, turn: threading.Event
) -> Generator[Tensor, None, None]:
    with closing(results):
        try:
            turn.set()
            for chunk, bad in results:
                for index, error in bad:
                    if on_bad is None:
                        raise error
                    on_bad(index, error)
                if chunk.batch is not None:
                    turn.clear()
                    yield chunk.batch
                    turn.set()
        finally:
            turn.set()  # threads that wait for it could not end


def check_images(split: Split) -> tuple[Split, list[tuple[str, str]]]:
    """Decode every image of a split; return it without the bad ones, and (path, reason) of each of those."""
    problems = map_in_order(_find_problem, split.paths, window=_CHECKED_AHEAD)
    bad = [(path, problem) for path, problem in zip(split.paths, problems, strict=True) if problem is not None]
    if not bad:
        return split, []
    bad_paths = {path for path, _ in bad}
    return Split(split.name, [sample for sample in split if sample.path not in bad_paths]), bad


def without_bad_images(dataset: ReIDDataset, splits: Sequence[str]) -> tuple[ReIDDataset, list[tuple[str, str]]]:
    """Decode every image of some splits, such as ``("query", "gallery")``.

    Returns:
        The data set without the bad ones, and (path, reason) of each of those.
    """
    checked = {name: check_images(getattr(dataset, name)) for name in splits}
    kept: dict[str, Any] = {name: split for name, (split, _) in checked.items()}
    return replace(dataset, **kept), [problem for _, bad in checked.values() for problem in bad]


def _find_problem(path: str) -> str | None:
    try:
        read_image(path)
    except ImageError as error:
        return str(error).removeprefix(f"{path}: ")
    return None
