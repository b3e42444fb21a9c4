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

VectorMap = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]
"""(n,) ids, ascending, and (n, embed_dim) vectors that are read from the file as they are used."""


def open_map(sqlite: sqlite3.Connection, path: Path, metadata: GalleryMetadata) -> VectorMap | None:
    """Map the file that lies beside a gallery; None where there is none, or it does not belong to the gallery as it is."""
    try:
        with _map_path(path).open("rb") as file:
            header = json.loads(file.read(PAGE))
            commit = (int(header["last_id"]), int(header["token"]))
            if header != _header(metadata, commit, int(header["num_rows"]), int(header["ids_crc32"])):
                return None
            query = "SELECT COUNT(*) FROM additions WHERE last_id = ? AND token = ?"
            return _mapped(file, metadata, header) if sqlite.execute(query, commit).fetchone()[0] else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):  # anything may have been written to it
        return None


def write_map(
    sqlite: sqlite3.Connection,
    path: Path,
    metadata: GalleryMetadata,
    ids: npt.NDArray[np.int64],
    vectors: Iterable[npt.NDArray[Any]],
) -> VectorMap:
    """Write the file again, or a nameless one for this process where none may be written beside the gallery.

    ``ids`` (n,) are those of all records, ascending, and ``vectors`` their vectors, in pieces; both come from the read
    transaction that ``sqlite`` is in.

    Raises:
        WorkError: There is no room for it, or the gallery is damaged.
    """
    commit = sqlite.execute("SELECT last_id, token FROM additions ORDER BY last_id DESC LIMIT 1").fetchone()
    header = _header(metadata, commit, len(ids), zlib.crc32(ids.tobytes()))

    def write(file: IO[bytes]) -> VectorMap | None:
        file.write(json.dumps(header).encode().ljust(PAGE))
        file.write(ids.tobytes())
        file.seek(_start_of_vectors(len(ids)))
        for block in vectors:
            file.write(block.data)
        file.flush()
        return _mapped(file, metadata, header)

    if os.access(path.parent, os.W_OK):
        with atomic_output(_map_path(path), overwrite=True) as unfinished, unfinished.open("w+b") as file:
            unfinished.chmod(path.stat().st_mode & 0o777)  # who may read the gallery may read it
            written = write(file)
    else:
        try:
            with tempfile.TemporaryFile(prefix="hat-gallery-") as file:
                written = write(file)
        except OSError as error:
            raise WorkError(
                f"{path}: its vectors need a file of their own, which cannot be written: {error.strerror}"
            ) from None
    if written is None:
        raise WorkError(f"{path} is damaged: records and embeddings do not match; restore it from a backup")
    return written


def remove_map(path: Path) -> None:
    """Remove the file beside a gallery, and what was left of unfinished ones."""
    _map_path(path).unlink(missing_ok=True)
    clear_leftovers(_map_path(path))


def _map_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-vectors")


def _start_of_vectors(num_rows: int) -> int:
    return PAGE + -(-num_rows * 8 // PAGE) * PAGE


def _header(metadata: GalleryMetadata, commit: tuple[int, int], num_rows: int, ids_crc32: int) -> dict[str, Any]:
    return {
        "kind": "hat gallery vectors",
        "format": 1,
        "gallery_id": metadata.gallery_id,
        "last_id": commit[0],
        "token": commit[1],
        "num_rows": num_rows,
        "embed_dim": metadata.embed_dim,
        "type": metadata.stored_type,
        "ids_crc32": ids_crc32,
    }


def _mapped(file: IO[bytes], metadata: GalleryMetadata, header: dict[str, Any]) -> VectorMap | None:
    """Return the content of a file; None where it is not as long as its header says, or the ids are others."""
    num_rows = header["num_rows"]
    start = _start_of_vectors(num_rows)
    if num_rows < 1 or os.fstat(file.fileno()).st_size != start + num_rows * metadata.row_bytes:
        return None
    file.seek(PAGE)
    ids = np.frombuffer(file.read(num_rows * 8), dtype=np.int64)
    if zlib.crc32(ids.tobytes()) != header["ids_crc32"]:
        return None
    # Copied on writing, and never written: torch does not take what may not be written.
    shape = (num_rows, metadata.embed_dim)
    return ids, np.asarray(np.memmap(file, metadata.stored_type, mode="c", offset=start, shape=shape))
