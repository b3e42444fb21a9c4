"""Records in SQLite: written, read and removed in statements that take any number of ids as one parameter."""

import json
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.errors import WorkError

from ..gallery.identities import Identity, name_number
from ..gallery.records import AttributeValue, NewRecord, Record, RecordLabels, missing_records
from .schema import FORMAT_WITH_NAMES, prepare_names

# A list of any length is one JSON parameter; SQLite takes only some thousands of single ones.
_LISTED = "(SELECT value FROM json_each(?))"


def known_ids(sqlite: sqlite3.Connection, content_hashes: Collection[str]) -> dict[str, int]:
    """Content hash -> id of the images that are enrolled."""
    query = f"SELECT content_hash, id FROM records WHERE content_hash IN {_LISTED}"
    return dict(sqlite.execute(query, (json.dumps(list(content_hashes)),)))


def insert_records(sqlite: sqlite3.Connection, vectors: npt.NDArray[Any], records: Sequence[NewRecord]) -> list[int]:
    """Add the records whose content is new, within a write transaction.

    Args:
        sqlite: In a write transaction.
        vectors: (n, embed_dim) in the type in which the gallery keeps them.
        records: n checked records.

    Returns:
        n ids: the new ones, and those that known images have already.
    """
    ids = known_ids(sqlite, [record.content_hash for record in records])
    row = sqlite.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
    last_id = row[0] if row else 0
    new: list[tuple[int, int]] = []  # (id, position)
    for position, record in enumerate(records):
        if record.content_hash not in ids:
            last_id += 1
            ids[record.content_hash] = last_id
            new.append((last_id, position))
    if new:
        numbers = _numbered(sqlite, {record.pid for _, record in _picked(new, records)})
        sqlite.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (id_, r.content_hash, r.source, numbers[r.pid], r.camid, r.time_s, r.enrolled_s)
                for id_, r in _picked(new, records)
            ),
        )
        sqlite.executemany("INSERT INTO embeddings VALUES (?, ?)", ((id_, memoryview(vectors[at])) for id_, at in new))
        sqlite.executemany(
            "INSERT INTO attributes VALUES (?, ?, ?, ?)",
            (
                (id_, name, isinstance(value, bool), value)
                for id_, record in _picked(new, records)
                for name, value in record.attributes.items()
            ),
        )
        sqlite.executemany(
            "INSERT INTO thumbnails VALUES (?, ?)",
            ((id_, record.thumbnail) for id_, record in _picked(new, records) if record.thumbnail is not None),
        )
        sqlite.execute("INSERT INTO additions VALUES (?, ?)", (last_id, secrets.randbits(62)))
        sqlite.execute("UPDATE state SET generation = generation + 1, num_records = num_records + ?", (len(new),))
    return [ids[record.content_hash] for record in records]


def read_records(sqlite: sqlite3.Connection, ids: Sequence[int], *, thumbnails: bool) -> dict[int, Record]:
    """Id -> record, of those that are there."""
    listed = (json.dumps(ids),)
    attributes: dict[int, dict[str, AttributeValue]] = {}
    query = f"SELECT id, name, is_bool, value FROM attributes WHERE id IN {_LISTED} ORDER BY id, name"
    for id_, name, is_bool, value in sqlite.execute(query, listed):
        attributes.setdefault(id_, {})[name] = bool(value) if is_bool else value
    query = f"SELECT id, jpeg FROM thumbnails WHERE id IN {_LISTED}"
    pictures: Mapping[int, bytes] = dict(sqlite.execute(query, listed)) if thumbnails else {}
    names = read_names(sqlite)
    query = f"SELECT id, content_hash, source, pid, camid, time_s, enrolled_s FROM records WHERE id IN {_LISTED}"
    return {
        id_: Record(
            id=id_,
            content_hash=content_hash,
            source=source,
            pid=names.get(pid, pid),
            camid=camid,
            time_s=time_s,
            enrolled_s=enrolled_s,
            attributes=attributes.get(id_, {}),
            thumbnail=pictures.get(id_),
        )
        for id_, content_hash, source, pid, camid, time_s, enrolled_s in sqlite.execute(query, listed)
    }


def read_vectors(sqlite: sqlite3.Connection, ids: Sequence[int], dtype: np.dtype[Any], embed_dim: int) -> npt.NDArray[Any]:
    """Return (n, embed_dim) stored vectors in the order of the ids.

    Raises:
        UsageError: There is no record with one of the ids.
        WorkError: A vector has another size than the gallery says.
    """
    wanted = np.asarray(ids, dtype=np.int64)
    distinct, place = np.unique(wanted, return_inverse=True)
    rows = np.empty((len(distinct), embed_dim), dtype=dtype)
    found = np.zeros(len(distinct), dtype=bool)
    query = f"SELECT id, vector FROM embeddings WHERE id IN {_LISTED} ORDER BY id"
    for some_ids, vectors in _batches(sqlite.execute(query, (json.dumps(distinct.tolist()),)), dtype, embed_dim):
        at = np.searchsorted(distinct, some_ids)
        rows[at], found[at] = vectors, True
    if not found.all():
        raise missing_records(distinct[~found].tolist())
    return rows[place.reshape(-1)]


def stream_vectors(
    sqlite: sqlite3.Connection, after_id: int, dtype: np.dtype[Any], embed_dim: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """Yield ids and vectors of all records after an id, ascending, some megabytes at a time.

    Raises:
        WorkError: A vector has another size than the gallery says.
    """
    cursor = sqlite.execute("SELECT id, vector FROM embeddings WHERE id > ? ORDER BY id", (after_id,))
    yield from _batches(cursor, dtype, embed_dim)


def ids_with_attribute(sqlite: sqlite3.Connection, name: str, value: AttributeValue) -> npt.NDArray[np.int64]:
    """Return ids of the records that have this value, ascending. True is not 1, and 1 is 1.0."""
    query = "SELECT id FROM attributes WHERE name = ? AND value = ? AND is_bool = ? ORDER BY id"
    cursor = sqlite.execute(query, (name, value, isinstance(value, bool)))
    return np.fromiter((id_ for (id_,) in cursor), dtype=np.int64)


def remove_records(
    sqlite: sqlite3.Connection, *, ids: Iterable[int] | None, pid: Identity | None, enrolled_before_s: float | None
) -> int:
    """Remove records by one of the conditions, within a write transaction; how many there were."""
    if ids is not None:
        found = sqlite.execute(f"SELECT id FROM records WHERE id IN {_LISTED}", (json.dumps(list(ids)),))
    elif pid is not None:
        found = sqlite.execute("SELECT id FROM records WHERE pid = ?", (name_number(pid),))
    else:
        found = sqlite.execute("SELECT id FROM records WHERE enrolled_s < ?", (enrolled_before_s,))
    chosen = json.dumps([id_ for (id_,) in found])
    for table in ("embeddings", "thumbnails", "attributes"):
        sqlite.execute(f"DELETE FROM {table} WHERE id IN {_LISTED}", (chosen,))
    count = sqlite.execute(f"DELETE FROM records WHERE id IN {_LISTED}", (chosen,)).rowcount
    if count:
        _forget_names(sqlite)
        sqlite.execute(
            "UPDATE state SET generation = generation + 1, removals = removals + 1, num_records = num_records - ?", (count,)
        )
    return count


def update_records(sqlite: sqlite3.Connection, ids: Sequence[int], labels: RecordLabels) -> int:
    """Change the labels of records, within a write transaction; how many have others now.

    Raises:
        RecordsMissingError: There is no record with one of the ids.
    """
    before = read_records(sqlite, ids, thumbnails=False)
    if missing := set(ids) - before.keys():
        raise missing_records(missing)
    listed = json.dumps(ids)
    for column in labels.keys() & {"camid", "time_s"}:
        sqlite.execute(f"UPDATE records SET {column} = ? WHERE id IN {_LISTED}", (labels.get(column), listed))
    if "pid" in labels:
        number = _numbered(sqlite, {labels["pid"]})[labels["pid"]]
        sqlite.execute(f"UPDATE records SET pid = ? WHERE id IN {_LISTED}", (number, listed))
    for name, value in labels.get("attributes", {}).items():
        query = "INSERT OR REPLACE INTO attributes SELECT value, ?, ?, ? FROM json_each(?)"
        sqlite.execute(query, (name, isinstance(value, bool), value, listed))
    after = read_records(sqlite, ids, thumbnails=False)
    count = sum(before[id_] != after[id_] for id_ in before)
    if count:
        _forget_names(sqlite)
        sqlite.execute("UPDATE state SET generation = generation + 1, removals = removals + 1")
    return count


def read_names(sqlite: sqlite3.Connection) -> dict[int, str]:
    """Return the names of identities by their numbers; a file of format 1 has none."""
    (version,) = sqlite.execute("PRAGMA user_version").fetchone()
    return dict(sqlite.execute("SELECT number, name FROM names")) if version >= FORMAT_WITH_NAMES else {}


def _forget_names(sqlite: sqlite3.Connection) -> None:
    """Remove the names that no record has any more."""
    if read_names(sqlite):
        sqlite.execute("DELETE FROM names WHERE number NOT IN (SELECT pid FROM records WHERE pid IS NOT NULL)")


def _numbered(sqlite: sqlite3.Connection, identities: Collection[Identity | None]) -> dict[Identity | None, int | None]:
    """Return identities as the table of records keeps them; the names among them are kept beside it."""
    numbers = {identity: None if identity is None else name_number(identity) for identity in identities}
    names = [(number, name) for name, number in numbers.items() if isinstance(name, str)]
    if names:
        prepare_names(sqlite)
        sqlite.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", names)
    return numbers


def _picked(new: Sequence[tuple[int, int]], records: Sequence[NewRecord]) -> Iterator[tuple[int, NewRecord]]:
    return ((id_, records[position]) for id_, position in new)


def _batches(
    cursor: sqlite3.Cursor, dtype: np.dtype[Any], embed_dim: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
    row_bytes = dtype.itemsize * embed_dim
    count = max(1, 2**22 // row_bytes)
    while rows := cursor.fetchmany(count):
        ids = np.array([id_ for id_, _ in rows], dtype=np.int64)
        sizes = {len(vector) for _, vector in rows}
        if sizes != {row_bytes}:
            raise WorkError(
                f"the gallery is damaged: an embedding takes {row_bytes} bytes, and among those of the records {ids[0]} to "
                f"{ids[-1]} there are some of {max(sizes - {row_bytes})}; restore it from a backup"
            )
        yield ids, np.frombuffer(b"".join([vector for _, vector in rows]), dtype=dtype).reshape(-1, embed_dim)
