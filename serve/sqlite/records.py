"""Records in SQLite: written, read and removed in statements that take any number of ids as one parameter."""

import json
import secrets
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.errors import WorkError

from ..gallery.identities import Identity, name_number
from ..gallery.record_checks import check_num_attributes
from ..gallery.records import Added, AttributeValue, NewRecord, Record, RecordLabels, missing_records
from .schema import FORMAT_VERSION, GalleryMetadata

CHUNK_BYTES = 2**25  # of vectors that are read at a time
_COLUMNS = ("id", "content_hash", "source", "pid", "camid", "time_s", "enrolled_s")

# A list of any length is one JSON parameter; SQLite takes only some thousands of single ones.
_LISTED = "(SELECT value FROM json_each(?))"


def known_ids(sqlite: sqlite3.Connection, content_hashes: Collection[str]) -> dict[str, int]:
    """Return the ids of the images that are enrolled, by content hash."""
    query = f"SELECT content_hash, id FROM records WHERE content_hash IN {_LISTED}"
    return dict(sqlite.execute(query, (json.dumps(list(content_hashes)),)))


def insert_records(sqlite: sqlite3.Connection, vectors: npt.NDArray[Any], records: Sequence[NewRecord]) -> Added:
    """Add the records whose content is new, within a write transaction.

    ``vectors`` are (n, embed_dim) in the type in which the gallery keeps them, ``records`` n checked ones.
    """
    ids = known_ids(sqlite, [record.content_hash for record in records])
    is_new: list[bool] = []
    row = sqlite.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
    last_id = row[0] if row else 0
    new: list[tuple[int, NewRecord, npt.NDArray[Any]]] = []
    for record, vector in zip(records, vectors, strict=True):
        is_new.append(record.content_hash not in ids)
        if is_new[-1]:
            last_id += 1
            ids[record.content_hash] = last_id
            new.append((last_id, record, vector))
    if new:
        numbers = _numbered(sqlite, {record.pid for _, record, _ in new})
        sqlite.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((id_, r.content_hash, r.source, numbers[r.pid], r.camid, r.time_s, r.enrolled_s) for id_, r, _ in new),
        )
        sqlite.executemany("INSERT INTO embeddings VALUES (?, ?)", ((id_, vector.data) for id_, _, vector in new))
        sqlite.executemany(
            "INSERT INTO attributes VALUES (?, ?, ?, ?)",
            ((id_, name, isinstance(value, bool), value) for id_, r, _ in new for name, value in r.attributes.items()),
        )
        sqlite.executemany(
            "INSERT INTO thumbnails VALUES (?, ?)", ((id_, r.thumbnail) for id_, r, _ in new if r.thumbnail is not None)
        )
        sqlite.execute("INSERT INTO additions VALUES (?, ?)", (last_id, secrets.randbits(62)))
        sqlite.execute("UPDATE state SET generation = generation + 1, num_records = num_records + ?", (len(new),))
    return Added([ids[record.content_hash] for record in records], is_new)


def read_records(sqlite: sqlite3.Connection, ids: Sequence[int], *, thumbnails: bool) -> dict[int, Record]:
    """Return the records that are there, by id."""
    listed = (json.dumps(ids),)
    attributes: dict[int, dict[str, AttributeValue]] = {}
    query = f"SELECT id, name, is_bool, value FROM attributes WHERE id IN {_LISTED} ORDER BY id, name"
    for id_, name, is_bool, value in sqlite.execute(query, listed):
        attributes.setdefault(id_, {})[name] = bool(value) if is_bool else value
    query = f"SELECT id, jpeg FROM thumbnails WHERE id IN {_LISTED}"
    pictures: Mapping[int, bytes] = dict(sqlite.execute(query, listed)) if thumbnails else {}
    names = read_names(sqlite)
    records = {}
    for row in sqlite.execute(f"SELECT {', '.join(_COLUMNS)} FROM records WHERE id IN {_LISTED}", listed):
        values: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
        id_, pid = values["id"], values["pid"]
        others = {"pid": names.get(pid, pid), "attributes": attributes.get(id_, {}), "thumbnail": pictures.get(id_)}
        records[id_] = Record(**{**values, **others})
    return records


def stream_vectors(
    sqlite: sqlite3.Connection, metadata: GalleryMetadata, *, after_id: int = 0, ids: Sequence[int] | None = None
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """Yield ids and vectors, ascending by id and some megabytes at a time: of all records after an id, or of these."""
    condition, parameter = ("id > ?", after_id) if ids is None else (f"id IN {_LISTED}", json.dumps(ids))
    cursor = sqlite.execute(f"SELECT id, vector FROM embeddings WHERE {condition} ORDER BY id", (parameter,))
    row_bytes = metadata.row_bytes
    while rows := cursor.fetchmany(max(1, CHUNK_BYTES // row_bytes)):
        found = np.array([id_ for id_, _ in rows], dtype=np.int64)
        if others := {len(vector) for _, vector in rows} - {row_bytes}:
            raise WorkError(
                f"the gallery is damaged: an embedding takes {row_bytes} bytes, and among those of the records {found[0]} to "
                f"{found[-1]} there are some of {max(others)}; restore it from a backup"
            )
        joined = bytearray().join([vector for _, vector in rows])  # torch does not take what may not be written
        yield found, np.frombuffer(joined, dtype=metadata.stored_type).reshape(-1, metadata.binding.embed_dim)


def remove_records(
    sqlite: sqlite3.Connection, ids: Sequence[int] | None, pid: Identity | None, enrolled_before_s: float | None
) -> int:
    """Remove records by the one condition that is not None, within a write transaction, and return how many there were."""
    if ids is not None:
        matching = sqlite.execute(f"SELECT id FROM records WHERE id IN {_LISTED}", (json.dumps(ids),))
    elif pid is not None:
        matching = sqlite.execute("SELECT id FROM records WHERE pid = ?", (name_number(pid),))
    else:
        matching = sqlite.execute("SELECT id FROM records WHERE enrolled_s < ?", (enrolled_before_s,))
    chosen = json.dumps([id_ for (id_,) in matching])
    for table in ("embeddings", "thumbnails", "attributes"):
        sqlite.execute(f"DELETE FROM {table} WHERE id IN {_LISTED}", (chosen,))
    count = sqlite.execute(f"DELETE FROM records WHERE id IN {_LISTED}", (chosen,)).rowcount
    if count:
        _note_edit(sqlite, count)
    return count


def update_records(sqlite: sqlite3.Connection, ids: Sequence[int], labels: RecordLabels) -> int:
    """Change the labels of records, within a write transaction, and return how many have others now."""
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
    for record in after.values():
        check_num_attributes(record.attributes, f"record {record.id}")
    count = sum(repr(before[id_]) != repr(after[id_]) for id_ in before)  # 1 equals true
    if count:
        _note_edit(sqlite)
    return count


def _note_edit(sqlite: sqlite3.Connection, num_removed: int = 0) -> None:
    """Tell other processes of it, and remove the names that no record has any more."""
    query = "UPDATE state SET generation = generation + 1, removals = removals + 1, num_records = num_records - ?"
    sqlite.execute(query, (num_removed,))
    if read_names(sqlite):
        sqlite.execute("DELETE FROM names WHERE number NOT IN (SELECT pid FROM records WHERE pid IS NOT NULL)")


def _has_names(sqlite: sqlite3.Connection) -> bool:
    (version,) = sqlite.execute("PRAGMA user_version").fetchone()
    return bool(version == FORMAT_VERSION)


def read_names(sqlite: sqlite3.Connection) -> dict[int, str]:
    """Return the names of identities by their numbers; a file of format 1 has none."""
    return dict(sqlite.execute("SELECT number, name FROM names")) if _has_names(sqlite) else {}


def _numbered(sqlite: sqlite3.Connection, identities: Collection[Identity | None]) -> dict[Identity | None, int | None]:
    """Return identities as the table of records keeps them; the names among them are kept beside it."""
    numbers = {identity: None if identity is None else name_number(identity) for identity in identities}
    names = [(number, name) for name, number in numbers.items() if isinstance(name, str)]
    if names:
        if not _has_names(sqlite):
            sqlite.execute("CREATE TABLE names (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
            sqlite.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        sqlite.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", names)
    return numbers
