"""Tables of a gallery's file, its creation, and its distinction from other files."""

import contextlib
import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from hat.errors import UsageError, WorkError

from ..gallery.binding import Binding, binding_from_json, binding_to_json
from ..gallery.gallery import StoredType
from .connection import SqliteConnection, sqlite_errors

APPLICATION_ID = 0x48415447  # tells a gallery from the SQLite files of other programs: "HATG"
FORMAT_VERSION = 2  # the newest that is read: identities may have names; a file is of version 1 until it has its first one

SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = 1;

-- What the gallery is: its binding, the type of its embeddings.
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- What changed, so that a process that keeps the gallery in memory can follow at the price of reading one row.
CREATE TABLE state (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    num_records INTEGER NOT NULL,
    generation INTEGER NOT NULL,  -- grows with every change
    removals INTEGER NOT NULL,  -- grows when records are removed or relabeled
    purges INTEGER NOT NULL  -- grows when the file is rewritten
);
INSERT INTO state VALUES (1, 0, 0, 0, 0);

-- A random number for every commit that added records: by it a file of vectors shows that it belongs to this very history.
CREATE TABLE additions (last_id INTEGER PRIMARY KEY, token INTEGER NOT NULL);

CREATE TABLE records (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- an id is never given again
    content_hash TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    pid INTEGER,
    camid INTEGER,
    time_s REAL,
    enrolled_s REAL NOT NULL
);
-- Blobs have tables of their own, so that reading cameras and times does not step over them.
CREATE TABLE embeddings (id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE thumbnails (id INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE attributes (
    id INTEGER NOT NULL, name TEXT NOT NULL, is_bool INTEGER NOT NULL, value NOT NULL, PRIMARY KEY (id, name)
) WITHOUT ROWID;
CREATE INDEX attributes_by_value ON attributes (name, value, is_bool);
"""


@dataclass(frozen=True)
class GalleryMetadata:
    """Metadata of a gallery's file."""

    gallery_id: str
    binding: Binding
    stored_type: StoredType

    @property
    def row_bytes(self) -> int:
        """Bytes of an embedding."""
        return np.dtype(self.stored_type).itemsize * self.binding.embed_dim


@dataclass(frozen=True)
class State:
    """Counters that grow with changes, and the number of records."""

    num_records: int
    generation: int
    edits: int
    rewrites: int


def check_no_log(path: Path) -> None:
    """Refuse a gallery's path without a file where the log of an earlier one lies: SQLite would read that into the new file."""
    left = [log.name for ending in ("-wal", "-shm") if (log := path.with_name(f"{path.name}{ending}")).exists()]
    if left and not path.exists():  # asked last: another process may just have made the gallery, and opened it
        raise UsageError(
            f"{path} is gone, but {' and '.join(left)} of an earlier gallery are beside it, and would be read into a new one: "
            "move them away, or delete them if they are not needed"
        )


def create_file(path: Path, binding: Binding, stored_type: StoredType) -> None:
    """Make an empty gallery; it appears at its path whole or not at all. One that is there already is left as it is."""
    check_no_log(path)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    metadata = {"gallery_id": secrets.token_hex(16), "binding": binding_to_json(binding), "stored_type": stored_type}
    try:
        with sqlite_errors(path, 0), contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
            # Embeddings are blobs of some kilobytes, which larger pages write faster; much larger ones waste space.
            connection.execute("PRAGMA page_size = 8192")
            (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if journal != "wal":
                raise WorkError(f"{path}: this file system does not let SQLite keep a write-ahead log; choose a local folder")
            connection.executescript(f"BEGIN; {SCHEMA} COMMIT")
            connection.executemany("INSERT INTO facts VALUES (?, ?)", metadata.items())
        try:
            os.link(unfinished, path)  # unlike a move it never replaces what another process has just made
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            if not path.exists():
                unfinished.replace(path)
        if hasattr(os, "O_DIRECTORY"):
            descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)  # of the folder, which has the name
            finally:
                os.close(descriptor)
    except OSError as error:
        raise WorkError(f"{path} cannot be made: {error.strerror or error}") from error
    finally:
        for ending in ("", "-wal", "-shm"):
            unfinished.with_name(f"{unfinished.name}{ending}").unlink(missing_ok=True)


def prepare_connection(connection: SqliteConnection) -> None:
    """Make sure that an open file is a gallery that this version can read, and set how it is written."""
    with connection.exclusive() as sqlite:
        (application_id,) = sqlite.execute("PRAGMA application_id").fetchone()
        (version,) = sqlite.execute("PRAGMA user_version").fetchone()
        if application_id != APPLICATION_ID:
            (num_tables,) = sqlite.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            kind = "the SQLite database of another program" if num_tables else "an empty file"
            raise UsageError(f"{connection.path} is no gallery but {kind}: choose another path")
        if version > FORMAT_VERSION:
            raise UsageError(
                f"{connection.path} is of format {version}, this version reads up to {FORMAT_VERSION}: update hat-reid"
            )
        (page_bytes,) = sqlite.execute("PRAGMA page_size").fetchone()
        log = connection.path.with_name(f"{connection.path.name}-wal")
        is_settled = not log.exists() or log.stat().st_size == 0  # else a page may be on its way from the log
        # SQLite itself sees when whole pages are missing; a page that was cut off it would fill up with zeros.
        if is_settled and connection.path.stat().st_size % page_bytes:
            raise WorkError(f"{connection.path} is damaged: it was cut off within a page; restore it from a backup")
        if connection.read_only:
            sqlite.execute("PRAGMA query_only = ON")
        else:
            sqlite.execute("PRAGMA journal_mode = WAL")
            sqlite.execute("PRAGMA synchronous = FULL")  # what was acknowledged outlives a loss of power
            sqlite.execute("PRAGMA fullfsync = ON")  # the same on macOS, where a plain flush stops at the drive's cache
            # The log is taken into the file whenever it has grown to 4 MiB: each time the disk is waited for once more.
            sqlite.execute("PRAGMA wal_autocheckpoint = 512")
            sqlite.execute("PRAGMA secure_delete = ON")  # what was removed is overwritten with zeros


def read_metadata(sqlite: sqlite3.Connection, path: Path) -> GalleryMetadata:
    """Return what a gallery is; a `HatError` where that is missing or makes no sense."""
    metadata = dict(sqlite.execute("SELECT name, value FROM facts"))
    if metadata.get("stored_type") not in get_args(StoredType) or not metadata.keys() >= {"gallery_id", "binding"}:
        raise WorkError(f"{path} is damaged: what the gallery holds cannot be read; restore it from a backup")
    return GalleryMetadata(metadata["gallery_id"], binding_from_json(metadata["binding"], str(path)), metadata["stored_type"])


def read_state(sqlite: sqlite3.Connection) -> State:
    """Return the counters, as one row."""
    row = sqlite.execute("SELECT num_records, generation, removals, purges FROM state").fetchone()
    if row is None:
        raise WorkError("the gallery is damaged: its state is missing; restore it from a backup")
    return State(*row)
