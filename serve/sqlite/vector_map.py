"""A file of a large gallery's vectors that is mapped into memory: a cache beside the gallery, never the record.

The file begins with a page of JSON, then come the ids (int64, ascending) and the vectors, each at a multiple of a page.
Vectors never change and ids are never given again, so what it holds stays right for as long as the gallery's history contains
the commit up to which it was written; the commit's random number tells a gallery that was restored from a backup from the one
that it was.
"""

import json
import os
import sqlite3
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hat.errors import WorkError
from hat.io.atomic_output import atomic_output, clear_leftovers

from .schema import GalleryMetadata

PAGE = 4096

_Ids = npt.NDArray[np.int64]
_Vectors = npt.NDArray[Any]


def open_map(sqlite: sqlite3.Connection, path: Path, metadata: GalleryMetadata) -> tuple[_Ids, _Vectors] | None:
    """Return ids (n,), ascending, and vectors (n, embed_dim), read as they are used, of the file that lies beside a gallery.

    Where there is none, or it does not belong to the gallery as it is, that is None.
    """
    try:
        with _map_path(path).open("rb") as file:
            header = json.loads(file.read(PAGE))
            num_rows, commit = int(header["num_rows"]), (int(header["last_id"]), int(header["token"]))
            size = _start_of_vectors(num_rows) + num_rows * metadata.row_bytes
            if num_rows < 1 or os.fstat(file.fileno()).st_size != size:
                return None
            ids = np.frombuffer(file.read(num_rows * 8), dtype=np.int64)
            query = "SELECT COUNT(*) FROM additions WHERE last_id = ? AND token = ?"
            is_of_history = sqlite.execute(query, commit).fetchone()[0] and header == _header(metadata, commit, ids)
            return (ids, _mapped(file, metadata, num_rows)) if is_of_history else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):  # anything may have been written to it
        return None


def write_map(
    sqlite: sqlite3.Connection, path: Path, metadata: GalleryMetadata, ids: _Ids, vectors: Iterable[_Vectors]
) -> _Vectors:
    """Write the file again, or a nameless one for this process where none may be written beside the gallery, and map it.

    ``ids`` (n,) are those of all records, ascending, and ``vectors`` their vectors, in pieces; both come from the read
    transaction that ``sqlite`` is in. Where there is no room for it that is a `WorkError`.
    """
    commit = sqlite.execute("SELECT last_id, token FROM additions ORDER BY last_id DESC LIMIT 1").fetchone()

    def write(file: IO[bytes]) -> _Vectors:
        file.write(json.dumps(_header(metadata, commit, ids)).encode().ljust(PAGE))
        file.write(ids.tobytes())
        file.seek(_start_of_vectors(len(ids)))
        for block in vectors:
            file.write(block.data)
        file.flush()
        return _mapped(file, metadata, len(ids))

    if os.access(path.parent, os.W_OK):
        with atomic_output(_map_path(path), overwrite=True) as unfinished, unfinished.open("w+b") as file:
            unfinished.chmod(path.stat().st_mode & 0o777)  # who may read the gallery may read it
            return write(file)
    try:
        with tempfile.TemporaryFile(prefix="hat-gallery-") as nameless:
            return write(nameless)
    except OSError as error:
        raise WorkError(f"{path}: its vectors need a file of their own, which cannot be written: {error.strerror}") from None


def remove_map(path: Path) -> None:
    """Remove the file beside a gallery, and what was left of unfinished ones."""
    _map_path(path).unlink(missing_ok=True)
    clear_leftovers(_map_path(path))


def _map_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-vectors")


def _start_of_vectors(num_rows: int) -> int:
    return PAGE + -(-num_rows * 8 // PAGE) * PAGE


def _header(metadata: GalleryMetadata, commit: tuple[int, int], ids: _Ids) -> dict[str, Any]:
    return {
        "kind": "hat gallery vectors",
        "format": 1,
        "gallery_id": metadata.gallery_id,
        "last_id": commit[0],
        "token": commit[1],
        "num_rows": len(ids),
        "embed_dim": metadata.binding.embed_dim,
        "type": metadata.stored_type,
        "ids_crc32": zlib.crc32(ids.tobytes()),
    }


def _mapped(file: IO[bytes], metadata: GalleryMetadata, num_rows: int) -> _Vectors:
    # Copied on writing, and never written: torch does not take what may not be written.
    shape = (num_rows, metadata.binding.embed_dim)
    return np.asarray(np.memmap(file, metadata.stored_type, mode="c", offset=_start_of_vectors(num_rows), shape=shape))
