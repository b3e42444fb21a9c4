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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.errors import WorkError

from ..gallery.record_columns import RecordColumns, read_columns
from ..sqlite.records import stream_vectors
from ..sqlite.schema import GalleryFacts, State, read_state
from ..sqlite.vector_map import open_map, write_map
from ..sqlite.vector_rows import VectorRows

__all__ = ["MemoryIndex"]

MAX_REMOVED_SHARE = 0.25
"""Where more of the rows than this belong to removed records, everything is read anew."""


class MemoryIndex:
    """Columns and vectors of a gallery; the caller holds the gallery's lock.

    Args:
        path: The gallery's file.
        facts: What it is.
        map_above_bytes: So many bytes of vectors are held in memory at most, and the rest in a mapped file.
    """

    def __init__(self, path: Path, facts: GalleryFacts, map_above_bytes: int) -> None:
        self._path = path
        self._facts = facts
        self._dtype: np.dtype[Any] = np.dtype(facts.stored_type)
        self._row_bytes = self._dtype.itemsize * facts.embed_dim
        self._map_above_bytes = map_above_bytes
        self._state: State | None = None
        self._columns: RecordColumns | None = None
        self._vectors: VectorRows | None = None

    def forget(self) -> None:
        """Let go of everything; it is read again when it is needed."""
        self._state = self._columns = self._vectors = None

    def columns(self, sqlite: sqlite3.Connection) -> RecordColumns:
        """Columns as they are in the file.

        Args:
            sqlite: In a transaction.
        """
        state = read_state(sqlite)
        known, columns = self._state, self._columns
        if known is not None and known.purges != state.purges:
            self.forget()  # the file was rewritten so that nothing of removed records is left anywhere
            known = columns = None
        if columns is not None and known is not None and state.removals != known.removals:
            columns = columns.without_all_but(_all_ids(sqlite))
            if columns.num_removed > MAX_REMOVED_SHARE * len(columns):
                self.forget()
                columns = None
        if columns is None:
            columns = read_columns(sqlite)
        elif known is not None and state.generation != known.generation:
            columns = columns.extended(read_columns(sqlite, columns.last_id))
        self._state, self._columns = state, columns
        return columns

    def columns_and_chunks(self, sqlite: sqlite3.Connection) -> tuple[RecordColumns, list[npt.NDArray[Any]]]:
        """Columns as they are in the file, and the vectors of their rows in pieces.

        Args:
            sqlite: In a transaction.

        Raises:
            WorkError: The gallery is damaged, or a file of vectors is needed and cannot be written.
        """
        columns = self.columns(sqlite)
        columns, vectors = (columns, self._vectors) if self._vectors is not None else self._begin(sqlite, columns)
        num_new = len(columns) - len(vectors)
        try:
            if vectors.bytes_in_memory + num_new * self._row_bytes > self._map_above_bytes:
                columns, vectors = self._map_anew(sqlite)
            elif num_new:
                self._read_new(sqlite, columns, vectors)
        except BaseException:
            self.forget()  # rows that were not read must not be searched
            raise
        self._columns, self._vectors = columns, vectors
        return columns, vectors.chunks()

    def _begin(self, sqlite: sqlite3.Connection, columns: RecordColumns) -> tuple[RecordColumns, VectorRows]:
        """Begin with the mapped file where one is needed and a good one is there."""
        columns = columns.without_removed()
        in_memory = columns, VectorRows(self._dtype, self._facts.embed_dim)
        if len(columns) * self._row_bytes <= self._map_above_bytes:
            return in_memory
        found = open_map(sqlite, self._path, self._facts)
        if found is None:
            return in_memory
        newer = columns.ids[columns.ids > found.ids[-1]]
        older = len(columns) - len(newer)
        all_ids = np.concatenate([found.ids, newer])
        num_removed = len(found.ids) - older
        if num_removed > MAX_REMOVED_SHARE * len(all_ids) or not np.isin(columns.ids[:older], found.ids).all():
            return in_memory
        return columns.spread_over(all_ids), VectorRows(self._dtype, self._facts.embed_dim, found.vectors)

    def _map_anew(self, sqlite: sqlite3.Connection) -> tuple[RecordColumns, VectorRows]:
        columns = read_columns(sqlite)
        stream = stream_vectors(sqlite, 0, self._dtype, self._facts.embed_dim)
        mapped = write_map(sqlite, self._path, self._facts, columns.ids, stream)
        return columns, VectorRows(self._dtype, self._facts.embed_dim, mapped.vectors)

    def _read_new(self, sqlite: sqlite3.Connection, columns: RecordColumns, vectors: VectorRows) -> None:
        first = len(vectors)
        vectors.grow(len(columns))
        num_read = 0
        after_id = int(columns.ids[first - 1]) if first else 0
        for ids, some in stream_vectors(sqlite, after_id, self._dtype, self._facts.embed_dim):
            rows = np.searchsorted(columns.ids, ids)
            if rows[-1] >= len(columns) or not np.array_equal(columns.ids[rows], ids):
                raise WorkError(f"{self._path} is damaged: records and embeddings do not match; restore it from a backup")
            vectors.write(rows, some)
            num_read += len(ids)
        if num_read != np.count_nonzero(columns.live[first:]):
            raise WorkError(f"{self._path} is damaged: records and embeddings do not match; restore it from a backup")


def _all_ids(sqlite: sqlite3.Connection) -> npt.NDArray[np.int64]:
    return np.fromiter((id_ for (id_,) in sqlite.execute("SELECT id FROM records ORDER BY id")), dtype=np.int64)
