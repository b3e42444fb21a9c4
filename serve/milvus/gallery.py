"""A gallery in Milvus, for more images than one machine holds or more services than one machine runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError

from ..gallery.binding import Binding, CompatibleModel, binding_from_json, binding_to_json
from ..gallery.gallery import Gallery, StoredType
from ..gallery.identities import FIRST_NAMED, Identity, check_identity
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
from ..gallery.records import Filter, GalleryCounts, Neighbors, NewRecord, Record, RecordLabels, missing_records
from .address import parse_address
from .collection import MESSAGE_BYTES, WINDOW, MilvusCollection
from .rows import (
    RECORD_FIELDS,
    filter_expression,
    hash_expression,
    identity_of,
    ids_expression,
    known_number,
    known_time,
    record_of,
    row_of,
)
from .writer import MilvusWriter, initial_properties, last_id

FORMAT_VERSION = 1

_FORMAT, _BINDING = "hat_reid.format", "hat_reid.binding"
"""Properties of a collection that is a gallery."""

_HASHES_AT_ONCE = 1000
_RECORDS_AT_ONCE = 1000
_THUMBNAILS_AT_ONCE = 128


class MilvusGallery(Gallery):
    """A gallery that a Milvus server keeps: one collection, searched exactly and always with what was written last.

    Any number of processes may read. One may write: who opens a gallery for writing becomes its writer, and who was it before
    is refused at its next change (`hat.serve.milvus.writer`).

    Calls may come from several threads; changes wait for each other. Made by `open`.
    """

    stored_type: StoredType = "float32"

    def __init__(
        self, collection: MilvusCollection, binding: Binding, writer: MilvusWriter | None, *, timeout_s: float
    ) -> None:
        self.location = str(collection.address)
        self.binding = binding
        self.read_only = writer is None
        self._collection, self._writer, self._timeout_s = collection, writer, timeout_s

    @classmethod
    def open(  # type: ignore[override] # a path cannot be an address
        cls,
        location: str,
        *,
        binding: Binding | None = None,
        create: bool = False,
        stored_type: StoredType = "float32",
        read_only: bool = False,
        timeout_s: float = 60.0,
    ) -> MilvusGallery:
        """Open a gallery; see `Gallery.open`.

        Args:
            location: ``milvus://host:port/name``, see `hat.serve.milvus.address.parse_address`.
            binding: The model that embeddings will come from.
            create: Make the gallery where there is none.
            stored_type: ``"float32"``: nothing else is kept in Milvus.
            read_only: Refuse changes.
            timeout_s: How long the server may take for one request.

        Raises:
            UsageError: There is no such gallery, the collection is none, it is of a newer format or another model, ``create``
                comes without a binding, another type than float32 was asked for, or the server refuses the user.
            WorkError: The server cannot be reached, or cannot make it.
            MissingExtraError: pymilvus is not installed.
        """
        address = parse_address(location)
        if stored_type != "float32":
            raise UsageError(f"{address}: Milvus keeps embeddings in float32, {stored_type} was asked for")
        collection = MilvusCollection(address, timeout_s)
        try:
            if not collection.exists():
                _create(collection, binding if create else None, create=create, read_only=read_only)
            kept = _binding_of(collection)
            if binding is not None:
                kept.check(binding, str(address))
            collection.load()
            return cls(collection, kept, None if read_only else MilvusWriter(collection), timeout_s=timeout_s)
        except BaseException:
            collection.close()
            raise

    def check_model(self, binding: Binding) -> None:
        """Make sure that a model's embeddings belong here; see `Gallery.check_model`."""
        if self.binding.differences(binding):  # perhaps another process has accepted it meanwhile
            self.binding = _binding_of(self._collection)
        super().check_model(binding)

    def __len__(self) -> int:
        """Return number of records."""
        return self._collection.count()

    def add(self, embeddings: npt.NDArray[np.floating], records: Sequence[NewRecord]) -> list[int]:
        """Enroll images; see `Gallery.add`.

        If the server goes away in the middle and cannot even be told to forget what it took, the error says so; adding the same
        images again is safe.
        """
        vectors = checked_embeddings(embeddings, self.binding.embed_dim)
        checked = checked_records(records, len(vectors))
        with self._changing() as writer:
            ids = self._ids_by_hash([record.content_hash for record in checked])
            new: dict[str, dict[str, Any]] = {}
            for vector, record in zip(vectors, checked, strict=True):
                if record.content_hash not in ids and record.content_hash not in new:
                    new[record.content_hash] = row_of(record, len(new), vector)
            if new:
                first = writer.reserve(len(new))
                for content_hash, row in new.items():
                    row["id"] += first
                    ids[content_hash] = row["id"]
                self._collection.write(list(new.values()))
        return [ids[record.content_hash] for record in checked]

    def search(self, embeddings: npt.NDArray[np.floating], top: int = 10, where: Filter | None = None) -> Neighbors:
        """Return the nearest records of each query, exactly; see `Gallery.search`."""
        queries = checked_embeddings(embeddings, self.binding.embed_dim, "queries")
        top = checked_top(top, len(queries))
        ids = np.full((len(queries), top), -1, dtype=np.int64)
        similarities = np.full((len(queries), top), np.nan, dtype=np.float32)
        step = max(1, min(MESSAGE_BYTES // (4 * self.binding.embed_dim), 8 * WINDOW // min(top, WINDOW)))
        passing, last = filter_expression(checked_filter(where)), last_id(self._collection)
        for start in range(0, len(queries), step):
            found = self._collection.nearest(queries[start : start + step], top, passing, last)
            for row, (numbers, values) in enumerate(found, start=start):
                ids[row, : len(numbers)], similarities[row, : len(numbers)] = numbers, values
        return Neighbors(ids, similarities)

    def get(self, ids: Sequence[int], *, thumbnails: bool = False) -> list[Record]:
        """Return records by id, in the order of the ids; see `Gallery.get`."""
        fields = [*RECORD_FIELDS, "thumbnail"] if thumbnails else RECORD_FIELDS
        rows = self._rows(ids, fields, _THUMBNAILS_AT_ONCE if thumbnails else _RECORDS_AT_ONCE)
        return [record_of(rows[int(one)]) for one in ids]

    def embeddings(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return (n, embed_dim) float32 unit rows of records, in the order of the ids; see `Gallery.embeddings`."""
        dim = self.binding.embed_dim
        rows = self._rows(ids, ("id", "embedding"), max(1, min(WINDOW, MESSAGE_BYTES // (4 * dim))))
        made = np.empty((len(ids), dim), dtype=np.float32)
        for place, one in enumerate(ids):
            made[place] = rows[int(one)]["embedding"]
        return made

    def ids(self, where: Filter | None = None) -> npt.NDArray[np.int64]:
        """Return ids of the records that pass a filter, ascending."""
        rows = self._collection.scan(filter_expression(checked_filter(where)), ["id"], last_id(self._collection))
        return np.array(sorted(int(row["id"]) for row in rows), dtype=np.int64)

    def ids_by_hash(self, content_hashes: Collection[str]) -> dict[str, int]:
        """Return ids of those of these images that are enrolled, by content hash."""
        return self._ids_by_hash(checked_hashes(content_hashes))

    def counts(self) -> GalleryCounts:
        """Return how much it holds; the numbers of every record are read for it."""
        pids: Counter[Identity | None] = Counter()
        camids: Counter[int | None] = Counter()
        names: dict[int | None, Identity | None] = {}
        times: list[float] = []
        for row in self._collection.scan("", ["pid", "camid", "time_s"], last_id(self._collection)):
            number = known_number(row["pid"])
            if number is not None and number <= FIRST_NAMED and number not in names:
                (named,) = self._collection.query(f"pid == {number}", ("pid", "facts"), limit=1)
                names[number] = identity_of(named)
            pids[names.get(number, number)] += 1
            camids[known_number(row["camid"])] += 1
            if (seen_s := known_time(row["time_s"])) is not None:
                times = [min(times[0], seen_s), max(times[1], seen_s)] if times else [seen_s, seen_s]
        return GalleryCounts(
            num_records=sum(pids.values()),
            by_pid=dict(pids),
            by_camid=dict(camids),
            first_seen_s=times[0] if times else None,
            last_seen_s=times[1] if times else None,
        )

    def remove(
        self, *, ids: Collection[int] | None = None, pid: Identity | None = None, enrolled_before_s: float | None = None
    ) -> int:
        """Remove records for good; see `Gallery.remove`."""
        checked_removal(ids, pid, enrolled_before_s)
        with self._changing():
            found: list[int] = []
            if ids is not None:
                found = sorted(self._rows_there(ids, ("id",), WINDOW))
            elif pid is not None:
                found = self.ids(Filter(pids=frozenset({check_identity(pid, "pid")}))).tolist()
            elif enrolled_before_s is not None:
                rows = self._collection.scan("", ("id", "enrolled_s"), last_id(self._collection))
                found = [int(row["id"]) for row in rows if row["enrolled_s"] < enrolled_before_s]
            self._collection.delete(found)
        return len(found)

    def update(self, ids: Collection[int], labels: RecordLabels) -> int:
        """Change the labels of records; see `Gallery.update`. Where the server fails some may have been changed."""
        wanted, labels = sorted(set(checked_ids(ids))), checked_labels(labels)
        fields = [*RECORD_FIELDS, "embedding", "thumbnail"]
        count = 0
        with self._changing():
            self._rows(wanted, ("id",), WINDOW)  # all are there, or nothing is changed
            for start in range(0, len(wanted), _THUMBNAILS_AT_ONCE):
                changed = []
                for id_, row in self._rows(wanted[start : start + _THUMBNAILS_AT_ONCE], fields, _THUMBNAILS_AT_ONCE).items():
                    before = record_of(row)
                    after = replace(
                        before,
                        pid=labels.get("pid", before.pid),
                        camid=labels.get("camid", before.camid),
                        time_s=labels.get("time_s", before.time_s),
                        attributes={**before.attributes, **labels.get("attributes", {})},
                    )
                    if after != before:
                        changed.append(row_of(after, id_, np.asarray(row["embedding"], dtype=np.float32)))
                self._collection.write(changed, undo=False)
                count += len(changed)
        return count

    def vacuum(self) -> None:
        """Let the server rewrite its segments without what was removed, and wait for it.

        This promises less than a local gallery's: the files that were replaced, and the server's log of what it was sent, go by
        its own clock, ``dataCoord.gc.dropTolerance`` (hours by default) and the retention of its message queue (days).
        """
        with self._changing():
            self._collection.compact(longest_s=10 * self._timeout_s)

    def accept(self, compatible: CompatibleModel) -> None:
        """Allow another file of the same weights; see `Gallery.accept`."""
        with self._changing():
            kept = _binding_of(self._collection)
            others = tuple(one for one in kept.compatible_models if one.fingerprint != compatible.fingerprint)
            changed = replace(kept, compatible_models=(*others, compatible))
            self._collection.set_properties({_BINDING: binding_to_json(changed)})
            self.binding = changed

    def close(self) -> None:
        """Let go of the connection; twice is fine."""
        self._collection.close()

    def _ids_by_hash(self, content_hashes: Collection[str]) -> dict[str, int]:
        wanted = sorted(set(content_hashes))
        found: dict[str, int] = {}
        for start in range(0, len(wanted), _HASHES_AT_ONCE):
            rows = self._collection.query(hash_expression(wanted[start : start + _HASHES_AT_ONCE]), ("id", "content_hash"))
            found |= {row["content_hash"]: int(row["id"]) for row in rows}
        return found

    def _rows(self, ids: Sequence[int], fields: Sequence[str], step: int) -> dict[int, dict[str, Any]]:
        """Return rows by id.

        Raises:
            RecordsMissingError: There is none with one of the ids.
        """
        rows = self._rows_there(ids, fields, step)
        if missing := set(checked_ids(ids)) - rows.keys():
            raise missing_records(missing)
        return rows

    def _rows_there(self, ids: Collection[int], fields: Sequence[str], step: int) -> dict[int, dict[str, Any]]:
        """Return rows by id, those that are there."""
        wanted = sorted({one for one in checked_ids(ids) if one > 0})
        rows: dict[int, dict[str, Any]] = {}
        for start in range(0, len(wanted), step):
            found = self._collection.query(ids_expression(wanted[start : start + step]), fields)
            rows |= {int(row["id"]): row for row in found}
        return rows

    @contextmanager
    def _changing(self) -> Iterator[MilvusWriter]:
        """Yield a change: in turn, and only by the writer."""
        if self._writer is None:
            raise UsageError(f"{self.location} was opened read-only and cannot be changed")
        with self._writer.turn:
            self._writer.check()
            yield self._writer


def _create(collection: MilvusCollection, binding: Binding | None, *, create: bool, read_only: bool) -> None:
    if not create or read_only:
        raise UsageError(f"{collection.address}: there is no such gallery: `hat enroll` makes one")
    if binding is None:
        raise UsageError(f"{collection.address}: a new gallery needs to know the model that its embeddings will come from")
    properties = {_FORMAT: str(FORMAT_VERSION), _BINDING: binding_to_json(binding)}
    collection.create(binding.embed_dim, properties | initial_properties())


def _binding_of(collection: MilvusCollection) -> Binding:
    kept = collection.properties()
    version = kept.get(_FORMAT, "")
    if not version.isdecimal() or _BINDING not in kept:
        raise UsageError(f"{collection.address} is a collection of something else and no gallery: choose another name")
    if int(version) > FORMAT_VERSION:
        raise UsageError(
            f"{collection.address} is of format {version}, this version reads up to {FORMAT_VERSION}: update hat-reid"
        )
    return binding_from_json(kept[_BINDING], str(collection.address))
