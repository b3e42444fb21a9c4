"""Index of a gallery in memory, which follows what this process and others write to the file.

Columns (what filters ask about) and vectors are read from SQLite when they are first needed, and brought up to date within the
transaction of each search, at the price of one row where nothing changed. Other searches of the process wait while much is
read, some seconds for a million records. Vectors beyond a number of bytes are read from a mapped file: 100,000 x 2,048 float32
are 0.8 GB in memory; 1,000,000 x 4,096 float16 are 8.2 GB in a file, of which the system keeps in memory what there is room
for, and of the process's own some 40 bytes a record and what was added since.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.errors import WorkError

from ..gallery.record_checks import UNKNOWN
from .records import CHUNK_BYTES, stream_vectors
from .schema import GalleryMetadata, State, read_state
from .vector_map import open_map, write_map

MAX_REMOVED_SHARE = 0.25  # where more of the rows than this belong to removed records, everything is read again

Columns = npt.NDArray[np.void]
"""(n,) rows of `_ROW`, ascending by id. Removed records keep their row, so that rows of vectors stay where they are. A change
makes a new array, so that searches that are under way keep what they have."""

_ROW = np.dtype([("id", "i8"), ("pid", "i8"), ("camid", "i8"), ("time_s", "f8"), ("live", "?")])
"""A pid or camid that is not known is `UNKNOWN`, such a time NaN; ``live`` is whether the record is still there."""


class MemoryIndex:
    """Columns and vectors of a gallery, of which ``map_above_bytes`` at most in memory; the caller holds the gallery's lock."""

    def __init__(self, path: Path, metadata: GalleryMetadata, map_above_bytes: int) -> None:
        self._path, self._metadata = path, metadata
        self._max_in_memory = map_above_bytes // metadata.row_bytes
        self.forget()

    def forget(self) -> None:
        """Release the memory; everything is read again when it is needed."""
        self._state: State | None = None
        self._columns: Columns | None = None
        self._chunks: list[npt.NDArray[Any]] = []  # vectors: first those of the mapped file, perhaps none

    def columns(self, sqlite: sqlite3.Connection) -> Columns:
        """Return the columns as they are in the file; ``sqlite`` is in a transaction."""
        state = read_state(sqlite)
        if self._state is not None and self._state.rewrites != state.rewrites:
            self.forget()  # the file was rewritten so that nothing of removed records is left anywhere
        known, columns = self._state, self._columns
        if known is None or columns is None:
            columns = _read_columns(sqlite)
        elif state.edits != known.edits:  # records were removed or relabeled: rows of vectors stay where they are
            read = _read_columns(sqlite)
            columns = _spread_over(np.union1d(columns["id"], read["id"]), read)
            if np.count_nonzero(~columns["live"]) > MAX_REMOVED_SHARE * len(columns):
                self.forget()
                columns = read
        elif state.generation != known.generation:
            columns = np.concatenate([columns, _read_columns(sqlite, int(columns["id"][-1]) if len(columns) else 0)])
        self._state, self._columns = state, columns
        return columns

    def columns_and_chunks(self, sqlite: sqlite3.Connection) -> tuple[Columns, list[npt.NDArray[Any]]]:
        """Return the columns as they are in the file, and the vectors of their rows in pieces, within a transaction."""
        columns = self.columns(sqlite)
        try:
            if not self._chunks:
                columns, mapped = self._begin(sqlite, columns[columns["live"]])
                self._chunks = [mapped]
            num_read = sum(map(len, self._chunks))
            if len(columns) - len(self._chunks[0]) > self._max_in_memory:
                columns = columns[columns["live"]]
                blocks = self._stream(sqlite, columns, 0)
                self._chunks = [write_map(sqlite, self._path, self._metadata, columns["id"], blocks)]
            elif len(columns) > num_read:
                columns = columns[columns["live"] | (np.arange(len(columns)) < num_read)]
                for block in self._stream(sqlite, columns, num_read):
                    self._append(block)
        except BaseException:
            self.forget()  # rows that were not read must not be searched
            raise
        self._columns = columns
        return columns, self._chunks

    def _begin(self, sqlite: sqlite3.Connection, columns: Columns) -> tuple[Columns, npt.NDArray[Any]]:
        """Return columns and first vectors: those of the mapped file where one is needed and a good one is there, or none."""
        found = open_map(sqlite, self._path, self._metadata) if len(columns) > self._max_in_memory else None
        if found is not None:
            map_ids, vectors = found
            ids = np.concatenate([map_ids, columns["id"][columns["id"] > map_ids[-1]]])
            if len(ids) - len(columns) <= MAX_REMOVED_SHARE * len(ids) and np.isin(columns["id"], ids).all():
                return _spread_over(ids, columns), vectors
        return columns, np.empty((0, self._metadata.binding.embed_dim), dtype=self._metadata.stored_type)

    def _append(self, block: npt.NDArray[Any]) -> None:
        """Put rows behind the last one; searches that are under way keep the pieces that they have."""
        mapped, *chunks = self._chunks
        # A block joins pieces no longer than itself: n rows, added one by one, are about log2(n) pieces, each copied as often.
        while chunks and len(chunks[-1]) <= len(block) and chunks[-1].nbytes + block.nbytes <= CHUNK_BYTES:
            block = np.concatenate([chunks.pop(), block])
        self._chunks = [mapped, *chunks, block]

    def _stream(self, sqlite: sqlite3.Connection, columns: Columns, first: int) -> Iterator[npt.NDArray[Any]]:
        """Yield vectors from a row on, which must be those of the columns' records."""
        num_read = first
        after_id = int(columns["id"][first - 1]) if first else 0
        for ids, vectors in stream_vectors(sqlite, self._metadata, after_id=after_id):
            if not np.array_equal(columns["id"][num_read : num_read + len(ids)], ids):
                break
            num_read += len(ids)
            yield vectors
        if num_read != len(columns):
            raise WorkError(f"{self._path} is damaged: records and embeddings do not match; restore it from a backup")


def _read_columns(sqlite: sqlite3.Connection, after_id: int = 0) -> Columns:
    """Return the columns of all records after an id."""
    query = "SELECT id, IFNULL(pid, ?), IFNULL(camid, ?), time_s, 1 FROM records WHERE id > ? ORDER BY id"
    return np.fromiter(sqlite.execute(query, (UNKNOWN, UNKNOWN, after_id)), dtype=_ROW)


def _spread_over(ids: npt.NDArray[np.int64], columns: Columns) -> Columns:
    """Return a row for each of these ascending ids, which include all of the columns' own; the others are removed records."""
    spread = np.zeros(len(ids), dtype=_ROW)
    spread["id"] = ids
    spread[np.searchsorted(ids, columns["id"])] = columns
    return spread
