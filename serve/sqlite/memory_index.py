"""What a search needs of a gallery, in memory, following what this process and others write to the file.

Columns and vectors are read from SQLite when they are first needed and are brought up to date within the transaction of each
search, at the price of reading one row where nothing changed; other searches of the process wait while much is being read, some
seconds for a million records. Vectors beyond a number of bytes are read from a mapped file:

    100,000 x 2,048 float32: 0.8 GB in memory
    1,000,000 x 4,096 float16: 8.2 GB in a file beside the gallery, of which the system keeps in memory what there is room for;
        of its own the process has some 50 bytes a record, and new vectors up to the number of bytes above which it maps
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.errors import WorkError

from .record_columns import RecordColumns, read_columns
from .records import stream_vectors
from .schema import GalleryMetadata, State, read_state
from .vector_map import open_map, write_map

MAX_REMOVED_SHARE = 0.25
"""Where more of the rows than this belong to removed records, everything is read again."""

CHUNK_BYTES = 2**25
"""A chunk is large enough for the calls around it to cost nothing."""


class MemoryIndex:
    """Columns and vectors of a gallery; the caller holds the gallery's lock.

    Args:
        path: The gallery's file.
        metadata: What it is.
        map_above_bytes: So many bytes of vectors are held in memory at most, and the rest in a mapped file.
    """

    def __init__(self, path: Path, metadata: GalleryMetadata, map_above_bytes: int) -> None:
        self._path, self._metadata, self._map_above_bytes = path, metadata, map_above_bytes
        self._dtype: np.dtype[Any] = np.dtype(metadata.stored_type)
        self._state: State | None = None
        self._columns: RecordColumns | None = None
        self._vectors: _VectorRows | None = None

    def forget(self) -> None:
        """Let go of everything; it is read again when it is needed."""
        self._state = self._columns = self._vectors = None

    def columns(self, sqlite: sqlite3.Connection) -> RecordColumns:
        """Return the columns as they are in the file.

        Args:
            sqlite: In a transaction.
        """
        state = read_state(sqlite)
        known, columns = self._state, self._columns
        if known is not None and known.rewrites != state.rewrites:
            self.forget()  # the file was rewritten so that nothing of removed records is left anywhere
            known = columns = None
        if columns is not None and known is not None and state.generation != known.generation:
            if state.edits != known.edits:  # records were removed or relabeled: rows of vectors stay where they are
                read = read_columns(sqlite)
                columns = read.spread_over(np.concatenate([columns.ids, read.ids[read.ids > columns.last_id]]))
                if columns.num_removed > MAX_REMOVED_SHARE * len(columns):
                    self.forget()
                    columns = read
            else:
                columns = columns.extended(read_columns(sqlite, columns.last_id))
        if columns is None:
            columns = read_columns(sqlite)
        self._state, self._columns = state, columns
        return columns

    def columns_and_chunks(self, sqlite: sqlite3.Connection) -> tuple[RecordColumns, list[npt.NDArray[Any]]]:
        """Return the columns as they are in the file, and the vectors of their rows in pieces.

        Args:
            sqlite: In a transaction.

        Raises:
            WorkError: The gallery is damaged, or a file of vectors is needed and cannot be written.
        """
        columns = self.columns(sqlite)
        try:
            if self._vectors is None:
                columns = self._begin(sqlite, columns.without_removed())
            vectors = self._vectors
            assert vectors is not None
            if vectors.num_in_memory + len(columns) - len(vectors) > self._max_in_memory:
                columns = columns.without_removed()
                mapped = write_map(sqlite, self._path, self._metadata, columns.ids, self._stream(sqlite, columns, 0))
                self._vectors = vectors = _VectorRows(mapped[1])
            elif len(columns) > len(vectors):
                columns = columns.without_removed(after=len(vectors))
                for block in self._stream(sqlite, columns, len(vectors)):
                    vectors.append(block)
        except BaseException:
            self.forget()  # rows that were not read must not be searched
            raise
        self._columns = columns
        return columns, vectors.chunks()

    @property
    def _max_in_memory(self) -> int:
        return self._map_above_bytes // (self._dtype.itemsize * self._metadata.embed_dim)

    def _begin(self, sqlite: sqlite3.Connection, columns: RecordColumns) -> RecordColumns:
        """Begin with the mapped file where one is needed and a good one is there."""
        self._vectors = _VectorRows(np.empty((0, self._metadata.embed_dim), dtype=self._dtype))
        found = open_map(sqlite, self._path, self._metadata) if len(columns) > self._max_in_memory else None
        if found is None:
            return columns
        ids = np.concatenate([found[0], columns.ids[columns.ids > found[0][-1]]])
        if len(ids) - len(columns) > MAX_REMOVED_SHARE * len(ids) or not np.isin(columns.ids, ids).all():
            return columns
        self._vectors = _VectorRows(found[1])
        return columns.spread_over(ids)

    def _stream(self, sqlite: sqlite3.Connection, columns: RecordColumns, first: int) -> Iterator[npt.NDArray[Any]]:
        """Vectors from a row on, which must be those of the columns' records."""
        num_read = first
        after_id = int(columns.ids[first - 1]) if first else 0
        for ids, vectors in stream_vectors(sqlite, after_id, self._dtype, self._metadata.embed_dim):
            if not np.array_equal(columns.ids[num_read : num_read + len(ids)], ids):
                break
            num_read += len(ids)
            yield vectors
        if num_read != len(columns):
            raise WorkError(f"{self._path} is damaged: records and embeddings do not match; restore it from a backup")


class _VectorRows:
    """A growing matrix: the rows of a mapped file, then chunks in memory. Rows never move, and never change once given out.

    Args:
        mapped: (n, embed_dim) rows of a file, the first of the matrix.
    """

    def __init__(self, mapped: npt.NDArray[Any]) -> None:
        self.num_in_memory = 0
        self._mapped = mapped
        self._chunk_rows = max(1, CHUNK_BYTES // (mapped.itemsize * mapped.shape[1]))
        self._chunks: list[npt.NDArray[Any]] = []

    def __len__(self) -> int:
        return len(self._mapped) + self.num_in_memory

    def append(self, vectors: npt.NDArray[Any]) -> None:
        """Write rows behind the last one."""
        while len(vectors):
            used = self.num_in_memory % self._chunk_rows
            if not used:
                self._chunks.append(np.empty((self._chunk_rows, self._mapped.shape[1]), dtype=self._mapped.dtype))
            block = vectors[: self._chunk_rows - used]
            self._chunks[-1][used : used + len(block)] = block
            self.num_in_memory += len(block)
            vectors = vectors[len(block) :]

    def chunks(self) -> list[npt.NDArray[Any]]:
        """Return all rows there are now, as consecutive pieces."""
        mapped = [self._mapped[first : first + self._chunk_rows] for first in range(0, len(self._mapped), self._chunk_rows)]
        ends = (self.num_in_memory - at * self._chunk_rows for at in range(len(self._chunks)))
        return mapped + [chunk[:end] for chunk, end in zip(self._chunks, ends, strict=True)]
