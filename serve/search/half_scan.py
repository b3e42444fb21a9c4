"""Compare few queries with float16 rows where they lie, without making float32 copies of them.

FAISS decodes and multiplies in one step, at the speed of memory; NumPy converts first, which takes ten times as long.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hat.errors import MissingExtraError

from .candidates import Candidates

__all__ = ["HalfScan"]

ROOM = 32
"""Places beside the k nearest for rows that rounding cannot tell from the k-th."""


class HalfScan:
    """Scans float16 rows for a few queries; pieces may be scanned by several threads.

    Args:
        queries: (num_queries, D) float32, contiguous.
        candidates: Where the rows that are found go.

    Attributes:
        num_threads: How many threads are worth it.

    Raises:
        MissingExtraError: FAISS is not installed.
    """

    # FAISS never frees a scanner that Python made, so they are kept and used again. (D, whether with a selector) -> idle ones
    _idle: ClassVar[dict[tuple[int, bool], list[Any]]] = {}
    _idle_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, queries: npt.NDArray[np.float32], candidates: Candidates) -> None:
        try:
            import faiss
        except ImportError:
            raise MissingExtraError("faiss-cpu", "serve", "searching a gallery that is stored in float16") from None
        self.num_threads = min(os.cpu_count() or 1, int(faiss.omp_get_max_threads()))
        self._faiss: Any = faiss
        self._queries = queries
        self._candidates = candidates
        self._lock = threading.Lock()

    def offer(
        self, rows: npt.NDArray[np.int64], vectors: npt.NDArray[np.float16], within: npt.NDArray[np.bool_] | None
    ) -> None:
        """Scan rows and offer those that may be near.

        Args:
            rows: (n,) their numbers.
            vectors: (n, D) contiguous.
            within: (n,) which of them may be found; None is all.
        """
        positions = np.arange(len(rows))
        bits = None if within is None else np.packbits(within, bitorder="little")
        for query, embedding in enumerate(self._queries):
            found = self._scan(query, embedding, positions, vectors, bits)
            if found is None:  # more rows are near than there was room for
                products = vectors.astype(np.float32) @ embedding
                found = (positions, products) if within is None else (positions[within], products[within])
            with self._lock:
                self._candidates.offer(np.full(len(found[0]), query), rows[found[0]], found[1])

    def _scan(
        self,
        query: int,
        embedding: npt.NDArray[np.float32],
        positions: npt.NDArray[np.int64],
        vectors: npt.NDArray[np.float16],
        bits: npt.NDArray[np.uint8] | None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None:
        """Positions and products of all rows that reach the threshold; None where there was no room for all of them."""
        room = self._candidates.keep + ROOM
        if room > len(positions) // 4:  # a heap of that size costs more than the conversion
            return None
        faiss = self._faiss
        threshold = self._candidates.thresholds[query]
        labels = np.full(room, -1, dtype=np.int64)
        products = np.full(room, np.nextafter(threshold, np.float32(-np.inf)), dtype=np.float32)  # FAISS takes what is larger
        with self._scanner(embedding, bits, len(positions)) as scanner:
            scanner.scan_codes(
                len(positions),
                faiss.swig_ptr(vectors.view(np.uint8)),
                faiss.swig_ptr(positions),
                faiss.swig_ptr(products),
                faiss.swig_ptr(labels),
                room,
            )
        taken = labels >= 0
        if taken.all() and products.min() >= max(threshold, self._candidates.threshold_from(products)):
            return None
        return labels[taken], products[taken]

    @contextmanager
    def _scanner(self, embedding: npt.NDArray[np.float32], bits: npt.NDArray[np.uint8] | None, count: int) -> Iterator[Any]:
        faiss = self._faiss
        kind = (len(embedding), bits is not None)
        with self._idle_lock:
            idle = self._idle.setdefault(kind, [])
            quantizer, scanner = idle.pop() if idle else (faiss.ScalarQuantizer(kind[0], faiss.ScalarQuantizer.QT_fp16), None)
        if scanner is None:
            selector = faiss.IDSelectorAll() if bits is not None else None  # whether there is one is settled here
            scanner = quantizer.select_InvertedListScanner(faiss.METRIC_INNER_PRODUCT, None, False, selector, False)
            scanner.set_list(0, 0.0)
        if bits is not None:
            selector = faiss.IDSelectorBitmap(count, faiss.swig_ptr(bits))
            scanner.sel = selector
        scanner.set_query(faiss.swig_ptr(embedding))
        yield scanner
        with self._idle_lock:
            idle.append((quantizer, scanner))
