"""A gallery in one SQLite file, searched exactly in memory or through a mapped file."""

import contextlib
import os
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from hat.errors import UsageError, WorkError
from hat.io.atomic_output import atomic_output

from ..gallery.binding import Binding, CompatibleModel, binding_from_json, binding_to_json
from ..gallery.gallery import Gallery, StoredType
from ..gallery.identities import Identity, check_identity
from ..gallery.record_checks import (
    checked_embeddings,
    checked_filter,
    checked_hashes,
    checked_ids,
    checked_labels,
    checked_records,
    checked_removal,
    checked_top,
)
from ..gallery.records import Filter, GalleryCounts, Neighbors, NewRecord, Record, RecordLabels, RecordPage, missing_records
from ..search.exact_search import nearest_rows
from .connection import SqliteConnection, sqlite_errors
from .memory_index import MemoryIndex
from .record_columns import RecordColumns
from .records import (
    ids_with_attribute,
    insert_records,
    known_ids,
    read_names,
    read_records,
    read_vectors,
    remove_records,
    update_records,
)
from .schema import create_file, prepare_connection, read_metadata, read_state
from .vector_map import remove_map

BUSY_TIMEOUT_S = 30.0
"""How long to wait for another process that is writing."""

MAP_ABOVE_BYTES = 2**31
"""Vectors beyond 2 GiB are read from a mapped file."""


class SqliteGallery(Gallery):
    """A gallery in one file; made by `Gallery.open`, or by `SqliteGallery.open` where its two limits are to be set.

    Any number of processes may read while one writes. Beside the file lie SQLite's log (``-wal``, ``-shm``) while it is open,
    and for a large gallery a cache of its vectors (``-vectors``), which may be removed at any time.
    """

    def __init__(self, reader: SqliteConnection, writer: SqliteConnection | None, map_above_bytes: int) -> None:
        # Two connections, so that a search does not wait for the disk, or for another process, because an enrollment does.
        self._reader = reader
        self._writer = writer
        self._path = reader.path
        self.location = str(reader.path)
        self.read_only = writer is None
        with reader.reading() as sqlite:
            metadata = read_metadata(sqlite, self._path)
        self.binding = binding_from_json(metadata.binding_json, self.location)
        self.stored_type = metadata.stored_type
        self._embed_dim = metadata.embed_dim
        self._dtype = np.dtype(metadata.stored_type)
        self._index = MemoryIndex(self._path, metadata, map_above_bytes)

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        binding: Binding | None = None,
        create: bool = False,
        stored_type: StoredType = "float32",
        read_only: bool = False,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        map_above_bytes: int = MAP_ABOVE_BYTES,
    ) -> Self:
        """Open a gallery's file; see `Gallery.open`.

        Args:
            location: Path of the file.
            binding: The model that embeddings will come from.
            create: Make the gallery where there is none.
            stored_type: In which a new gallery keeps embeddings.
            read_only: Refuse changes. Where the folder may not be written either, the file is taken to stay as it is while it
                is open.
            busy_timeout_s: How long a call waits for another process that is writing.
            map_above_bytes: Of vectors, so many bytes are held in memory, and those of a larger gallery in a mapped file.

        Raises:
            UsageError: See `Gallery.open`.
            WorkError: The file is damaged, or another process keeps writing.
        """
        path = _checked_path(location, create=create, read_only=read_only)
        if not path.exists():
            if binding is None:
                raise UsageError(f"{path}: a new gallery must be told which model its embeddings come from: give a binding")
            create_file(path, binding, stored_type)
        with ExitStack() as undo:
            connections = []
            for _ in range(1 if read_only else 2):
                connections.append(SqliteConnection(path, read_only=read_only, busy_timeout_s=busy_timeout_s))
                undo.callback(connections[-1].close)
                prepare_connection(connections[-1])
            gallery = cls(connections[0], None if read_only else connections[1], map_above_bytes)
            if binding is not None:
                gallery.check_model(binding)
            undo.pop_all()
        return gallery

    def check_model(self, binding: Binding) -> None:
        """Make sure that a model's embeddings belong here; see `Gallery.check_model`."""
        if self.binding.differences(binding):  # perhaps another process has accepted it meanwhile
            with self._reader.reading() as sqlite:
                self.binding = binding_from_json(read_metadata(sqlite, self._path).binding_json, self.location)
        super().check_model(binding)

    def __len__(self) -> int:
        with self._reader.reading() as sqlite:
            return read_state(sqlite).num_records

    def prepare(self) -> None:
        """Read now what a search needs, which the first one would wait for otherwise."""
        with self._reader.reading() as sqlite:
            self._index.columns_and_chunks(sqlite)

    def add(self, embeddings: npt.NDArray[np.floating], records: Sequence[NewRecord]) -> list[int]:
        """Enroll images; see `Gallery.add`."""
        vectors = checked_embeddings(embeddings, self._embed_dim).astype(self._dtype, copy=False)
        checked = checked_records(records, len(vectors))
        with self._writing() as sqlite:
            return insert_records(sqlite, vectors, checked)

    def search(self, embeddings: npt.NDArray[np.floating], top: int = 10, where: Filter | None = None) -> Neighbors:
        """Return the nearest records of each query, exactly, by the inner product with the vectors as they are stored."""
        queries = checked_embeddings(embeddings, self._embed_dim, "queries")
        top = checked_top(top, len(queries))
        where = checked_filter(where)
        with self._reader.reading() as sqlite:
            columns, chunks = self._index.columns_and_chunks(sqlite)
            mask = None if where is None and not columns.num_removed else self._mask(columns, where)
        rows, similarities = nearest_rows(chunks, queries, top, mask)
        found = rows >= 0
        ids = np.full(rows.shape, -1, dtype=np.int64)
        ids[found] = columns.ids[rows[found]]
        return Neighbors(ids=ids, similarities=similarities)

    def get(self, ids: Sequence[int], *, thumbnails: bool = False) -> list[Record]:
        """Return records by id; see `Gallery.get`."""
        wanted = checked_ids(ids)
        with self._reader.reading() as sqlite:
            found = read_records(sqlite, wanted, thumbnails=thumbnails)
        if missing := set(wanted) - found.keys():
            raise missing_records(missing)
        return [found[id_] for id_ in wanted]

    def embeddings(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return embeddings of records; see `Gallery.embeddings`. Those that are stored in float16 are of unit length again."""
        wanted = checked_ids(ids)
        with self._reader.reading() as sqlite:
            rows = read_vectors(sqlite, wanted, self._dtype, self._embed_dim)
        if self._dtype == np.float32:
            return rows
        rows = rows.astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def ids(self, where: Filter | None = None) -> npt.NDArray[np.int64]:
        """Return ids of the records that pass a filter, ascending."""
        where = checked_filter(where)
        with self._reader.reading() as sqlite:
            columns = self._index.columns(sqlite)
            return columns.ids[self._mask(columns, where)]

    def get_present(self, ids: Sequence[int], *, thumbnails: bool = False) -> list[Record]:
        """Return those of the records that are there; see `Gallery.get_present`."""
        wanted = checked_ids(ids)
        with self._reader.reading() as sqlite:
            found = read_records(sqlite, wanted, thumbnails=thumbnails)
        return [found[id_] for id_ in wanted if id_ in found]

    def page(self, where: Filter | None = None, *, after_id: int = 0, limit: int = 100) -> RecordPage:
        """Return some of the records that pass a filter, all as of one moment; see `Gallery.page`."""
        where = checked_filter(where)
        with self._reader.reading() as sqlite:
            columns = self._index.columns(sqlite)
            mask = self._mask(columns, where)
            first = int(np.searchsorted(columns.ids, after_id, side="right"))
            ids = columns.ids[first + np.flatnonzero(mask[first:])[: limit + 1]].tolist()
            found = read_records(sqlite, ids[:limit], thumbnails=False)
        next_id = ids[limit - 1] if len(ids) > limit else None
        return RecordPage([found[id_] for id_ in sorted(found)], int(np.count_nonzero(mask)), next_id)

    def ids_by_hash(self, content_hashes: Collection[str]) -> dict[str, int]:
        """Return ids of those of these images that are enrolled, by content hash."""
        wanted = checked_hashes(content_hashes)
        with self._reader.reading() as sqlite:
            return known_ids(sqlite, wanted)

    def counts(self) -> GalleryCounts:
        """Return how much it holds."""
        with self._reader.reading() as sqlite:
            return self._index.columns(sqlite).counts(read_names(sqlite))

    def remove(
        self, *, ids: Collection[int] | None = None, pid: Identity | None = None, enrolled_before_s: float | None = None
    ) -> int:
        """Remove records for good; see `Gallery.remove`. Ids that no record has are passed over."""
        checked_removal(ids, pid, enrolled_before_s)
        ids = None if ids is None else checked_ids(ids)
        pid = None if pid is None else check_identity(pid, "pid")
        enrolled_before_s = None if enrolled_before_s is None else float(enrolled_before_s)
        with self._writing() as sqlite:
            return remove_records(sqlite, ids=ids, pid=pid, enrolled_before_s=enrolled_before_s)

    def update(self, ids: Collection[int], labels: RecordLabels) -> int:
        """Change the labels of records; see `Gallery.update`."""
        wanted, labels = checked_ids(ids), checked_labels(labels)
        with self._writing() as sqlite:
            return update_records(sqlite, wanted, labels)

    def copy_to(self, path: Path) -> int:
        """Write everything to a new file; see `Gallery.copy_to`."""
        with atomic_output(path) as unfinished:
            with sqlite_errors(path, 0), contextlib.closing(sqlite3.connect(unfinished)) as copy:
                with self._reader.exclusive() as sqlite:
                    sqlite.backup(copy)  # what the log holds included, as of one moment
                (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
                num_records = read_state(copy).num_records if verdict == "ok" else 0
            if verdict != "ok":
                raise WorkError(f"{self.location} is damaged ({verdict}): restore it from a backup")
            unfinished.chmod(self._path.stat().st_mode & 0o777)  # who may read the gallery may read its copy
        return num_records

    def vacuum(self) -> None:
        """Rewrite the store so that nothing of removed records is left in its files; see `Gallery.vacuum`.

        SQLite writes a temporary copy of the file for it, in the folder that ``SQLITE_TMPDIR`` names or in ``/var/tmp``.
        """
        with self._writing() as sqlite:
            sqlite.execute("UPDATE state SET generation = generation + 1, purges = purges + 1")
        with self._reader.exclusive():
            self._index.forget()
        with self._changing.exclusive() as sqlite:
            sqlite.execute("VACUUM")
            (is_busy, *_) = sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise WorkError(
                    f"{self.location}: the log still holds removed records, since another process has been reading it for over "
                    f"{self._reader.busy_timeout_s:g} s: try again"
                )
            # Last, when nobody can be writing one from before the removal: whoever reads that far back holds up the log above.
            try:
                remove_map(self._path)
            except OSError as error:
                raise WorkError(f"{self.location}: its file of vectors cannot be removed: {error.strerror or error}") from error

    def accept(self, compatible: CompatibleModel) -> None:
        """Allow another file of the same weights; one that was accepted before takes its new figures."""
        with self._writing() as sqlite:
            binding = binding_from_json(read_metadata(sqlite, self._path).binding_json, self.location)
            others = tuple(one for one in binding.compatible_models if one.fingerprint != compatible.fingerprint)
            binding = replace(binding, compatible_models=(*others, compatible))
            sqlite.execute("UPDATE facts SET value = ? WHERE name = 'binding'", (binding_to_json(binding),))
        self.binding = binding

    def close(self) -> None:
        """Close the file; twice is fine."""
        self._reader.close()
        if self._writer is not None:
            self._writer.close()  # last, since the last one takes the log into the file
        self._index.forget()

    @property
    def _changing(self) -> SqliteConnection:
        if self._writer is None:
            raise UsageError(f"{self.location} was opened to be read only and cannot be changed")
        return self._writer

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._changing.writing()

    def _mask(self, columns: RecordColumns, where: Filter | None) -> npt.NDArray[np.bool_]:
        mask = columns.mask(where)
        if where is not None and where.attributes:
            with self._reader.exclusive() as sqlite:
                for name, value in where.attributes.items():
                    mask &= columns.rows_of(ids_with_attribute(sqlite, name, value))
        return mask


def _checked_path(location: str | os.PathLike[str], *, create: bool, read_only: bool) -> Path:
    text: object = os.fspath(location)
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"expected the path of a gallery's file, got {location!r}")
    path = Path(text)
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; a gallery is a file: name one within it")
        if not path.exists():
            if not create:
                raise UsageError(f"there is no gallery at {path}: `hat enroll` makes one")
            if read_only:
                raise UsageError(f"there is no gallery at {path}, and one that is made cannot be read only")
            if not path.parent.is_dir():
                raise UsageError(f"{path} cannot be made: there is no folder {path.parent}: make it first")
        elif not path.is_file():
            raise UsageError(f"{path} is no gallery: expected a file")
    except OSError as error:
        raise UsageError(f"{path} cannot be opened: {error.strerror or error}") from None
    may_write = os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
    if not read_only and not may_write:
        raise UsageError(
            f"{path} may not be written, or its folder may not: open it to be read only, or change who may write to them"
        )
    return path
