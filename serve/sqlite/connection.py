"""One connection to a gallery's file: threads take turns, transactions are whole, and SQLite's errors become ours."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hat.errors import HatError, UsageError, WorkError

_MESSAGES: dict[str, tuple[type[HatError], str]] = {
    "closed database": (UsageError, "{path} was closed: open it again"),
    "file is not a database": (UsageError, "{path} is no gallery: expected a file that `hat enroll` made"),
    "database is locked": (
        WorkError,
        "{path}: another process is writing to it and did not finish within {busy_timeout_s:g} s: nothing was changed; "
        "wait for it and try again",
    ),
    "disk is full": (WorkError, "{path}: the disk is full: nothing was changed; make room and try again"),
    "disk I/O error": (
        WorkError,
        "{path}: the system could not read or write it ({words}): nothing was changed; see to the disk and its limits",
    ),
    "malformed": (WorkError, "{path} is damaged ({words}): restore it from a backup, or enroll its images into a new gallery"),
    "readonly database": (UsageError, "{path} cannot be written ({words}): change who may write to it and to its folder"),
    "unable to open": (
        UsageError,
        "{path} cannot be opened ({words}): the file, and the folder in which SQLite keeps its log, must be readable, and "
        "writable for changes",
    ),
    "": (WorkError, "{path}: SQLite: {words}"),
}
"""Part of what SQLite says, whose words have been the same for decades (its codes reach Python from 3.11 on) -> what we say."""


class SqliteConnection:
    """A connection that several threads may use; a call waits for another process that is writing for ``busy_timeout_s``.

    The file itself is opened by SQLite alone, never beside it: closing any other descriptor of it would drop the locks that
    SQLite holds for this process (POSIX), and with them the protection from other processes.
    """

    def __init__(self, path: Path, *, read_only: bool, busy_timeout_s: float) -> None:
        self.path, self.read_only, self.busy_timeout_s = path, read_only, busy_timeout_s
        self._lock = threading.RLock()
        self._frozen: tuple[int, ...] | None = None
        mode = "mode=rw"
        if read_only:
            can_lock = os.access(path.parent, os.W_OK) or path.with_name(f"{path.name}-wal").exists()
            # SQLite cannot put its log and locks into a folder that may not be written, so it is opened as immutable.
            mode = "mode=ro" if can_lock else "mode=ro&immutable=1"
            self._frozen = None if can_lock else _version(path)
        with sqlite_errors(path, busy_timeout_s):
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?{mode}",
                uri=True,
                timeout=busy_timeout_s,
                isolation_level=None,
                check_same_thread=False,
            )

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a read transaction: all that is read within it belongs to one moment."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a write transaction: all of it is written for good when the block ends, or nothing when it raises."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def exclusive(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection without a transaction, for what SQLite does not do within one; other threads wait."""
        with self._lock, sqlite_errors(self.path, self.busy_timeout_s):
            try:
                yield self._connection
            finally:  # also where SQLite takes what another process has written meanwhile for damage
                if self._frozen is not None and _version(self.path) != self._frozen:
                    raise WorkError(f"{self.path} was changed by another process since it was opened: open it again")

    def close(self) -> None:
        """Close the file; twice is fine."""
        with self._lock, sqlite_errors(self.path, self.busy_timeout_s):
            self._connection.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self.exclusive() as connection:
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite itself rolls back after some errors
                    connection.execute("ROLLBACK")
                raise


def _version(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does, or when another takes its name."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def sqlite_errors(path: Path, busy_timeout_s: float) -> Iterator[None]:
    """Raise what SQLite raises as a `HatError` whose words tell what to do."""
    try:
        yield
    except sqlite3.Error as error:
        kind, sentence = next(message for part, message in _MESSAGES.items() if part in str(error))
        raise kind(sentence.format(path=path, busy_timeout_s=busy_timeout_s, words=error)) from error
