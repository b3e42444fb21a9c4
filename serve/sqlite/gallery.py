"""A gallery in one SQLite file, searched exactly in memory or through a mapped file."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from hat.errors import UsageError, WorkError
from hat.io.atomic_output import atomic_output

from ..gallery.binding import Binding, CompatibleModel, binding_to_json
from ..gallery.gallery import Gallery, StoredType
from ..gallery.identities import Identity
from ..gallery.records import Added, Filter, GalleryCounts, Neighbors, NewRecord, Record, RecordLabels
from ..search.exact_search import nearest_rows
from .connection import SqliteConnection, sqlite_errors
from .memory_index import Columns, MemoryIndex
from .records import (
    insert_records,
    known_ids,
    read_names,
    read_records,
    remove_records,
    stream_vectors,
    update_records,
)
from .schema import check_no_log, create_file, prepare_connection, read_metadata, read_state
from .vector_map import remove_map


class SqliteGallery(Gallery):
    """A gallery in one file; made by `Gallery.open`, or by `SqliteGallery.open` where its two limits are to be set.

    Any number of processes may read while one writes. Beside the file lie SQLite's log (``-wal``, ``-shm``) while it is open,
    and for a large gallery a cache of its vectors (``-vectors``), which may be removed at any time.
    """

    def __init__(self, reader: SqliteConnection, writer: SqliteConnection, map_above_bytes: int) -> None:
        # Two connections, so that a search does not wait for the disk, or for another process, because an enrollment does.
        self._reader, self._writer = reader, writer
        self._path = reader.path
        self.location = str(reader.path)
        self.read_only = writer.read_only
        with reader.reading() as sqlite:
            self._metadata = read_metadata(sqlite, self._path)
        self.binding, self.stored_type = self._metadata.binding, self._metadata.stored_type
        self._index = MemoryIndex(self._path, self._metadata, map_above_bytes)

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        binding: Binding | None = None,
        create: bool = False,
        stored_type: StoredType = "float32",
        read_only: bool = False,
        busy_timeout_s: float = 30.0,
        map_above_bytes: int = 2**31,
    ) -> Self:
        """Open a gallery's file; see `Gallery.open`.

        Where the folder may not be written either, a file that is opened ``read_only`` is taken to stay as it is while it is
        open. A call waits for another process that is writing for ``busy_timeout_s``. Up to ``map_above_bytes`` of vectors are
        held in memory, and those of a larger gallery in a mapped file.
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
            gallery = cls(connections[0], connections[-1], map_above_bytes)
            if binding is not None:
                gallery.check_model(binding)
            undo.pop_all()
        return gallery

    def prepare(self) -> None:
        """Read now what a search needs, which the first one would wait for otherwise."""
        with self._reader.reading() as sqlite:
            self._index.columns_and_chunks(sqlite)

    def counts(self) -> GalleryCounts:
        """Return how much it holds."""
        with self._reader.reading() as sqlite:
            names = read_names(sqlite)
            by_pid = dict(sqlite.execute("SELECT pid, COUNT(*) FROM records GROUP BY pid"))
            by_camid = dict(sqlite.execute("SELECT camid, COUNT(*) FROM records GROUP BY camid"))
            first_s, last_s = sqlite.execute("SELECT MIN(time_s), MAX(time_s) FROM records").fetchone()
        return GalleryCounts(
            num_records=sum(by_camid.values()),
            by_pid={names.get(pid, pid): count for pid, count in by_pid.items()},
            by_camid=by_camid,
            first_seen_s=first_s,
            last_seen_s=last_s,
        )

    def copy_to(self, path: Path) -> int:
        """Write everything to a new file; see `Gallery.copy_to`."""
        if path.exists():
            raise UsageError(f"{path} is there already: give another name")
        check_no_log(path)
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

    def close(self) -> None:
        """Close the file; twice is fine."""
        self._reader.close()
        self._writer.close()  # last, since the last one takes the log into the file
        self._index.forget()

    def _read_binding(self) -> Binding:
        with self._reader.reading() as sqlite:
            return read_metadata(sqlite, self._path).binding

    def _accept(self, compatible: CompatibleModel) -> Binding:
        with self._writer.writing() as sqlite:
            binding = read_metadata(sqlite, self._path).binding.accepting(compatible)
            sqlite.execute("UPDATE facts SET value = ? WHERE name = 'binding'", (binding_to_json(binding),))
        return binding

    def _count(self, where: Filter | None) -> int:
        with self._reader.reading() as sqlite:
            if where is None:
                return read_state(sqlite).num_records
            return int(np.count_nonzero(_passing(sqlite, self._index.columns(sqlite), where)))

    def _ids(self, where: Filter | None, after_id: int = 0, limit: int | None = None) -> npt.NDArray[np.int64]:
        with self._reader.reading() as sqlite:
            columns = self._index.columns(sqlite)
            ids: npt.NDArray[np.int64] = columns["id"][_passing(sqlite, columns, where)]
        return ids[np.searchsorted(ids, after_id, side="right") :][:limit]

    def _ids_by_hash(self, content_hashes: list[str]) -> dict[str, int]:
        with self._reader.reading() as sqlite:
            return known_ids(sqlite, content_hashes)

    def _read(self, ids: list[int], thumbnails: bool) -> dict[int, Record]:
        with self._reader.reading() as sqlite:
            return read_records(sqlite, ids, thumbnails=thumbnails)

    def _read_vectors(self, ids: list[int]) -> Iterator[tuple[npt.ArrayLike, npt.NDArray[Any]]]:
        with self._reader.reading() as sqlite:
            yield from stream_vectors(sqlite, self._metadata, ids=ids)

    def _nearest(self, queries: npt.NDArray[np.float32], top: int, where: Filter | None) -> Neighbors:
        with self._reader.reading() as sqlite:
            columns, chunks = self._index.columns_and_chunks(sqlite)
            mask = None if where is None and columns["live"].all() else _passing(sqlite, columns, where)
        rows, similarities = nearest_rows(chunks, queries, top, mask)
        is_match = rows >= 0
        ids = np.full(rows.shape, -1, dtype=np.int64)
        ids[is_match] = columns["id"][rows[is_match]]
        return Neighbors(ids=ids, similarities=similarities)

    def _insert(self, vectors: npt.NDArray[np.float32], records: list[NewRecord]) -> Added:
        with self._writer.writing() as sqlite:
            return insert_records(sqlite, vectors.astype(self.stored_type, copy=False), records)

    def _remove(self, ids: list[int] | None, pid: Identity | None, enrolled_before_s: float | None) -> int:
        with self._writer.writing() as sqlite:
            return remove_records(sqlite, ids, pid, enrolled_before_s)

    def _update(self, ids: list[int], labels: RecordLabels) -> int:
        with self._writer.writing() as sqlite:
            return update_records(sqlite, ids, labels)

    def _vacuum(self) -> None:
        """Let SQLite write a temporary copy of the file, in the folder ``SQLITE_TMPDIR`` names or in ``/var/tmp``, and swap."""
        with self._writer.writing() as sqlite:
            sqlite.execute("UPDATE state SET generation = generation + 1, purges = purges + 1")
        with self._reader.exclusive():
            self._index.forget()
        with self._writer.exclusive() as sqlite:
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


def _passing(sqlite: sqlite3.Connection, columns: Columns, where: Filter | None) -> npt.NDArray[np.bool_]:
    """Return the mask (n,) of the records that are there and pass a checked filter."""
    mask = columns["live"].copy()
    if where is None:
        return mask
    for name, allowed in (("camid", where.camids), ("pid", where.pids)):
        if allowed is not None:
            mask &= np.isin(columns[name], np.array([*allowed], dtype=np.int64))
    for name, excluded in (("camid", where.exclude_camids), ("id", where.exclude_ids)):
        if excluded:
            mask &= np.isin(columns[name], np.array([*excluded], dtype=np.int64), invert=True)
    if where.since_s is not None:
        mask &= columns["time_s"] >= where.since_s
    if where.until_s is not None:
        mask &= columns["time_s"] < where.until_s
    for name, value in where.attributes.items():  # true is not 1, and 1 is 1.0
        query = "SELECT id FROM attributes WHERE name = ? AND value = ? AND is_bool = ?"
        found = sqlite.execute(query, (name, value, isinstance(value, bool)))
        mask &= np.isin(columns["id"], np.fromiter((id_ for (id_,) in found), dtype=np.int64))
    return mask


def _checked_path(location: str | os.PathLike[str], *, create: bool, read_only: bool) -> Path:
    text: object = os.fspath(location)
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"expected the path of a gallery's file, got {location!r}")
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path's raises without a home
    try:
        if path.is_symlink():  # SQLite keeps its log beside the file itself
            path = path.resolve()
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
