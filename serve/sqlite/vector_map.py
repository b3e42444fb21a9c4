"""A file of a large gallery's vectors that is mapped into memory: a cache beside the gallery, never the record.

The file begins with a page of JSON, then come the ids (int64, ascending) and the vectors, each at a multiple of a page.
Records never change and ids are never given again, so what it holds stays right for as long as the gallery's history contains
the commit up to which it was written; the commit's random number tells a gallery that was restored from a backup from the one
that it was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hat.errors import WorkError

from .schema import GalleryFacts

__all__ = ["VectorMap", "open_map", "remove_maps", "write_map"]

PAGE = 4096
KIND = "hat gallery vectors"
FORMAT_VERSION = 1
ENDING = "-vectors"


@dataclass(frozen=True)
class VectorMap:
    """Vectors in a mapped file.

    Attributes:
        ids: (n,) ids, ascending.
        vectors: (n, embed_dim) of these records, read from the file as they are used.
    """

    ids: npt.NDArray[np.int64]
    vectors: npt.NDArray[Any]


def open_map(sqlite: sqlite3.Connection, path: Path, facts: GalleryFacts) -> VectorMap | None:
    """Map the file that lies beside a gallery.

    Returns:
        The vectors; None where there is no file, or it does not belong to the gallery as it is.
    """
    try:
        with _map_path(path).open("rb") as file:
            return _mapped(file, facts, lambda last_id, token: _is_of_history(sqlite, last_id, token))
    except OSError:
        return None


def write_map(
    sqlite: sqlite3.Connection,
    path: Path,
    facts: GalleryFacts,
    ids: npt.NDArray[np.int64],
    vectors: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]],
) -> VectorMap:
    """Write the file anew, or a nameless one for this process where none may be written beside the gallery.

    Args:
        sqlite: In the read transaction that ``ids`` and ``vectors`` come from.
        path: The gallery's file.
        facts: What the gallery is.
        ids: (n,) ids of all records, ascending.
        vectors: Their ids and vectors, in pieces.

    Raises:
        WorkError: There is no room for it, or the gallery is damaged.
    """
    last_id, token = sqlite.execute("SELECT last_id, token FROM additions ORDER BY last_id DESC LIMIT 1").fetchone()
    header = {
        "kind": KIND,
        "format": FORMAT_VERSION,
        "gallery_id": facts.gallery_id,
        "last_id": last_id,
        "token": token,
        "num_rows": len(ids),
        "embed_dim": facts.embed_dim,
        "type": facts.stored_type,
        "ids_crc32": zlib.crc32(ids.tobytes()),
    }
    num_bytes = _start_of_vectors(len(ids)) + len(ids) * facts.embed_dim * np.dtype(facts.stored_type).itemsize
    unfinished = path.with_name(f"{path.name}{ENDING}.{secrets.token_hex(8)}.new")
    try:
        with _created(unfinished, path) as file:
            _write(file, json.dumps(header).encode().ljust(PAGE), ids, vectors, path)
            with contextlib.suppress(
                FileNotFoundError
            ):  # nameless, or taken away while the gallery was cleaned: ours all the same
                unfinished.replace(_map_path(path))
            written = _mapped(file, facts, lambda _last_id, _token: True)
    except OSError as error:
        raise WorkError(
            f"{path}: its vectors need a file of {num_bytes / 2**20:.0f} MiB to be searched from, which cannot be written: "
            f"{error.strerror or error}; make room beside the gallery"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    if written is None:
        raise WorkError(f"{path}: what was written of its vectors reads otherwise: the disk or its file system is at fault")
    return written


def remove_maps(path: Path) -> None:
    """Remove the file beside a gallery, and what was left of unfinished ones."""
    for left in [_map_path(path), *path.parent.glob(f"{_glob_literal(path.name)}{ENDING}.*.new")]:
        left.unlink(missing_ok=True)


def _map_path(path: Path) -> Path:
    return path.with_name(f"{path.name}{ENDING}")


def _glob_literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _start_of_vectors(num_rows: int) -> int:
    return PAGE + -(-num_rows * 8 // PAGE) * PAGE


def _is_of_history(sqlite: sqlite3.Connection, last_id: int, token: int) -> bool:
    query = "SELECT COUNT(*) FROM additions WHERE last_id = ? AND token = ?"
    return bool(sqlite.execute(query, (last_id, token)).fetchone()[0])


def _created(unfinished: Path, path: Path) -> IO[bytes]:
    """A new file beside the gallery that the same people may read; where the folder may not be written, one without a name."""
    try:
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return tempfile.TemporaryFile(prefix="hat-gallery-")
    with contextlib.suppress(OSError):
        unfinished.chmod(path.stat().st_mode & 0o777)
    return os.fdopen(descriptor, "w+b")


def _write(
    file: IO[bytes],
    header: bytes,
    ids: npt.NDArray[np.int64],
    vectors: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]],
    path: Path,
) -> None:
    file.write(header)
    file.write(ids.tobytes())
    file.seek(_start_of_vectors(len(ids)))
    done = 0
    for some_ids, some in vectors:
        if not np.array_equal(ids[done : done + len(some_ids)], some_ids):
            break
        file.write(np.ascontiguousarray(some).data)
        done += len(some_ids)
    if done != len(ids):
        raise WorkError(f"{path} is damaged: records and embeddings do not match; restore it from a backup")
    file.flush()
    os.fsync(
        file.fileno()
    )  # a file with the right name and a right header must not be without its vectors after a loss of power


def _mapped(file: IO[bytes], facts: GalleryFacts, is_of_history: Callable[[int, int], bool]) -> VectorMap | None:
    file.seek(0)
    try:
        header = json.loads(file.read(PAGE))
        expected = {
            "kind": KIND,
            "format": FORMAT_VERSION,
            "gallery_id": facts.gallery_id,
            "embed_dim": facts.embed_dim,
            "type": facts.stored_type,
        }
        if any(header[key] != value for key, value in expected.items()):
            return None
        num_rows, last_id, token = int(header["num_rows"]), int(header["last_id"]), int(header["token"])
        dtype = np.dtype(facts.stored_type)
        start = _start_of_vectors(num_rows)
        if num_rows < 1 or os.fstat(file.fileno()).st_size != start + num_rows * facts.embed_dim * dtype.itemsize:
            return None
        id_bytes = file.read(num_rows * 8)
        if zlib.crc32(id_bytes) != header["ids_crc32"] or not is_of_history(last_id, token):
            return None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # anything may have been written to it
        return None
    ids = np.frombuffer(id_bytes, dtype=np.int64)
    vectors = np.memmap(file, dtype=dtype, mode="r", offset=start, shape=(num_rows, facts.embed_dim))
    return VectorMap(ids, np.asarray(vectors)) if (np.diff(ids) > 0).all() else None
