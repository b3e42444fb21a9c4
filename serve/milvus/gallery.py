"""A gallery in Milvus, for more images than one machine holds or more services than one machine runs.

Everything goes through `pymilvus.MilvusClient`, the one interface that pymilvus 2.4, 2.5 and 3 share. Milvus has no locks, so
whoever opens a gallery for writing puts a name of its own into the collection's properties and is the writer until another does
the same; a process that was killed leaves nothing locked. Ids are reserved before any record has them: those of a write that
fails are never used.
"""

import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from hat.errors import UsageError, WorkError

from ..gallery.binding import Binding, CompatibleModel, binding_from_json, binding_to_json
from ..gallery.gallery import Gallery, StoredType
from ..gallery.identities import FIRST_NAMED, Identity, name_number
from ..gallery.record_checks import UNKNOWN, check_num_attributes
from ..gallery.records import Added, Filter, GalleryCounts, Neighbors, NewRecord, Record, RecordLabels, missing_records
from .address import MilvusAddress, connect, parse_address, reason
from .rows import RECORD_FIELDS, among, batches, filter_expression, identity_of, known, record_of, row_of, schema

FORMAT_VERSION = 1
WINDOW = 16384  # most rows that Milvus gives in one answer
MESSAGE_BYTES = 16 * 2**20  # sent or asked for at once: a quarter of the largest message that a server takes by default
_RECORDS_AT_ONCE, _THUMBNAILS_AT_ONCE = 1000, 128
_TIES = 8  # rows that are asked for beyond the last place, in case they are as near as it

_FORMAT, _BINDING, _WRITER, _LAST_ID = "hat_reid.format", "hat_reid.binding", "hat_reid.writer", "hat_reid.last_id"
"""Properties of a collection that is a gallery: what it is, who writes, and the last id that was ever reserved."""


class MilvusGallery(Gallery):
    """A gallery that a Milvus server keeps: one collection, searched exactly and always with what was written last.

    Any number of processes may read. One may write: who opens a gallery for writing becomes its writer, and who was it before
    is refused at its next change. If the server goes away in the middle of `add`, so that what it took cannot be
    deleted, or in the middle of `update`, some records may be written; the error says so, and adding them again is safe.

    Every answer knows everything that was written before (strong consistency) and waits for it up to the server's
    ``proxy.timeTickInterval``, a fifth of a second unless changed. Session consistency would not do even for the only writer:
    pymilvus does not count removals among what a session wrote.
    """

    stored_type: StoredType = "float32"

    def __init__(self, address: MilvusAddress, *, read_only: bool, timeout_s: float) -> None:
        self.location, self.read_only = str(address), read_only
        self._name, self._timeout_s = address.name, timeout_s
        self._client = connect(address, timeout_s)
        self._turn = threading.Lock()
        self._token = secrets.token_hex(16)
        self._last_id = 0

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
    ) -> Self:
        """Open a gallery, in float32 alone; see `Gallery.open`. The server may take ``timeout_s`` for one request."""
        address = parse_address(location)
        if stored_type != "float32":
            raise UsageError(f"{address}: Milvus keeps embeddings in float32, {stored_type} was asked for")
        gallery = cls(address, read_only=read_only, timeout_s=timeout_s)
        try:
            if not gallery._call("has_collection"):
                gallery._create(binding, create=create)
            gallery.binding = gallery._read_binding()
            if binding is not None:
                gallery.check_model(binding)
            gallery._load()
            if not read_only:
                gallery._become_writer()
        except BaseException:
            gallery.close()
            raise
        return gallery

    def counts(self) -> GalleryCounts:
        """Return how much it holds; the numbers of every record are read for it."""
        pids: Counter[int] = Counter()
        camids: Counter[int | None] = Counter()
        named: dict[int, int] = {}  # number that stands for a name -> a record that knows the name
        times: list[float] = []
        for rows in self._scan("", ["id", "pid", "camid", "time_s"]):
            pids.update(int(row["pid"]) for row in rows)
            camids.update(known(int(row["camid"])) for row in rows)
            named.update((int(row["pid"]), int(row["id"])) for row in rows if UNKNOWN < row["pid"] <= FIRST_NAMED)
            times += [seen_s for row in rows if (seen_s := known(row["time_s"])) is not None]
            times = [min(times), max(times)] if times else []
        names = {int(row["pid"]): identity_of(row) for row in self._rows("id", named.values(), ["pid", "facts"])}
        return GalleryCounts(
            num_records=pids.total(),
            by_pid={names.get(pid, known(pid)): count for pid, count in pids.items()},
            by_camid=dict(camids),
            first_seen_s=times[0] if times else None,
            last_seen_s=times[1] if times else None,
        )

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._client.close()

    def _create(self, binding: Binding | None, *, create: bool) -> None:
        """Make the collection; a server that has one of the name by then keeps it, and says so where it is another."""
        if not create or self.read_only:
            raise UsageError(f"{self.location}: there is no such gallery: `hat enroll` makes one")
        if binding is None:
            raise UsageError(f"{self.location}: a new gallery needs to know the model that its embeddings will come from")
        properties = {_FORMAT: str(FORMAT_VERSION), _BINDING: binding_to_json(binding), _WRITER: "", _LAST_ID: "0"}
        fields = schema(binding.embed_dim)
        self._call("create_collection", schema=fields, consistency_level="Strong", num_shards=1, properties=properties)

    def _load(self) -> None:
        """Make the server ready to search exactly; also where it was made by a process that did not get as far as here."""
        if "embedding" not in self._call("list_indexes"):
            index = self._client.prepare_index_params()
            index.add_index("content_hash", index_type="Trie", index_name="content_hash")
            index.add_index("embedding", index_type="FLAT", metric_type="IP", index_name="embedding")
            self._call("create_index", index_params=index)
        self._call("load_collection")

    def _read_binding(self) -> Binding:
        properties = self._properties()
        version = properties.get(_FORMAT, "")
        if not version.isdecimal() or _BINDING not in properties:
            raise UsageError(f"{self.location} is a collection of something else and no gallery: choose another name")
        if int(version) > FORMAT_VERSION:
            raise UsageError(
                f"{self.location} is of format {version}, this version reads up to {FORMAT_VERSION}: update hat-reid"
            )
        return binding_from_json(properties[_BINDING], self.location)

    def _accept(self, compatible: CompatibleModel) -> Binding:
        with self._changing():
            binding = self._read_binding().accepting(compatible)
            self._set_properties({_BINDING: binding_to_json(binding)})
        return binding

    def _count(self, where: Filter | None) -> int:
        (row,) = self._call("query", filter=filter_expression(where), output_fields=["count(*)"], consistency_level="Strong")
        return int(row["count(*)"])

    def _ids(self, where: Filter | None, after_id: int = 0, limit: int | None = None) -> npt.NDArray[np.int64]:
        ids: list[int] = []
        for rows in self._scan(filter_expression(where), ["id"], after_id):
            ids += sorted(int(row["id"]) for row in rows)
            if limit is not None and len(ids) >= limit:
                break
        return np.array(ids[:limit], dtype=np.int64)

    def _ids_by_hash(self, content_hashes: list[str]) -> dict[str, int]:
        rows = self._rows("content_hash", content_hashes, ["id", "content_hash"])
        return {row["content_hash"]: int(row["id"]) for row in rows}

    def _read(self, ids: list[int], thumbnails: bool) -> dict[int, Record]:
        fields, step = ([*RECORD_FIELDS, "thumbnail"], _THUMBNAILS_AT_ONCE) if thumbnails else (RECORD_FIELDS, _RECORDS_AT_ONCE)
        return {int(row["id"]): record_of(row) for row in self._rows("id", ids, fields, step)}

    def _read_vectors(self, ids: list[int]) -> Iterator[tuple[npt.ArrayLike, npt.NDArray[Any]]]:
        for row in self._rows("id", ids, ["id", "embedding"], self._vectors_at_once):
            yield [int(row["id"])], np.array([row["embedding"]], dtype=np.float32)

    def _nearest(self, queries: npt.NDArray[np.float32], top: int, where: Filter | None) -> Neighbors:
        ids = np.full((len(queries), top), -1, dtype=np.int64)
        similarities = np.full((len(queries), top), np.nan, dtype=np.float32)
        step = max(1, min(self._vectors_at_once, 8 * WINDOW // min(top, WINDOW)))
        for start in range(0, len(queries), step):
            for row, hits in enumerate(self._search(queries[start : start + step], top, filter_expression(where)), start):
                similarities[row, : len(hits)] = [-negated for negated, _ in hits]
                ids[row, : len(hits)] = [id_ for _, id_ in hits]
        return Neighbors(ids, similarities)

    def _search(self, queries: npt.NDArray[np.float32], top: int, passing: str) -> list[list[tuple[float, int]]]:
        """Return negated similarity and id of the rows nearest to each query, which may be more than one answer holds."""
        limit = top + _TIES
        while True:
            hits: list[list[tuple[float, int]]] = [[] for _ in queries]
            for expression in [passing] if limit <= WINDOW else self._ranges(passing):
                answer = self._call(
                    "search",
                    data=queries.tolist(),
                    anns_field="embedding",
                    filter=expression,
                    limit=min(limit, WINDOW),
                    search_params={"metric_type": "IP"},
                    consistency_level="Strong",
                )
                for some, found in zip(hits, answer, strict=True):
                    some += [(-min(max(float(hit["distance"]), -1.0), 1.0), int(hit["id"])) for hit in found]
            hits = [sorted(some)[:limit] for some in hits]
            # Milvus leaves the order of equal ones open, so more is asked for until what follows the last place is farther.
            if all(len(some) < limit or some[-1][0] > some[top - 1][0] for some in hits):
                return [some[:top] for some in hits]
            limit *= 2

    def _insert(self, vectors: npt.NDArray[np.float32], records: list[NewRecord]) -> Added:
        with self._changing():
            ids = self._ids_by_hash([record.content_hash for record in records])
            is_new: list[bool] = []
            new: dict[str, tuple[NewRecord, npt.NDArray[np.float32]]] = {}
            for vector, record in zip(vectors, records, strict=True):
                is_new.append(record.content_hash not in ids and record.content_hash not in new)
                if is_new[-1]:
                    new[record.content_hash] = (record, vector)
            if new:
                first = self._reserve(len(new))
                rows = [row_of(record, id_, vector) for id_, (record, vector) in enumerate(new.values(), first)]
                self._write_or_undo(rows)
                ids |= {row["content_hash"]: row["id"] for row in rows}
        return Added([ids[record.content_hash] for record in records], is_new)

    def _write_or_undo(self, rows: Sequence[dict[str, Any]]) -> None:
        try:
            self._write(rows)
        except BaseException as error:
            try:
                self._delete([int(row["id"]) for row in rows])
            except WorkError:
                raise WorkError(
                    f"{error}; it could not be undone either: some of the {len(rows)} records may have been written; writing "
                    "them again is safe, those that are there are recognized"
                ) from None
            raise

    def _remove(self, ids: list[int] | None, pid: Identity | None, enrolled_before_s: float | None) -> int:
        with self._changing():
            if ids is not None:
                matching_ids = [int(row["id"]) for row in self._rows("id", ids, ["id"], WINDOW)]
            else:
                passing = f"enrolled_s < {enrolled_before_s!r}" if pid is None else f"pid == {name_number(pid)}"
                matching_ids = [int(row["id"]) for rows in self._scan(passing, ["id"]) for row in rows]
            self._delete(matching_ids)
        return len(matching_ids)

    def _update(self, ids: list[int], labels: RecordLabels) -> int:
        count = 0
        with self._changing():
            if missing := set(ids) - {int(row["id"]) for row in self._rows("id", ids, ["id"], WINDOW)}:
                raise missing_records(missing)
            for start in range(0, len(ids), _THUMBNAILS_AT_ONCE):
                some, changed = ids[start : start + _THUMBNAILS_AT_ONCE], []
                for row in self._rows("id", some, [*RECORD_FIELDS, "embedding", "thumbnail"]):
                    before = record_of(row)
                    changes: dict[str, Any] = {**labels, "attributes": {**before.attributes, **labels.get("attributes", {})}}
                    after = replace(before, **changes)
                    check_num_attributes(after.attributes, f"record {before.id}")
                    if after != before:
                        changed.append(row_of(after, before.id, np.asarray(row["embedding"], dtype=np.float32)))
                self._write(changed)
                count += len(changed)
        return count

    def _vacuum(self) -> None:
        """Let the server rewrite its segments without what was removed, and wait for it.

        This promises less than a local gallery's: the files that were replaced, and the server's log of what it was sent, go by
        its own clock, ``dataCoord.gc.dropTolerance`` (hours by default) and the retention of its message queue (days).
        """
        with self._changing():
            self._call("flush")
            job = self._call("compact")
            longest_s = 10 * self._timeout_s
            end_s = time.monotonic() + longest_s
            while self._call("get_compaction_state", about=job) != "Completed":
                if time.monotonic() > end_s:
                    raise WorkError(f"{self.location}: the server has not finished its compaction in {longest_s:.0f} s")
                time.sleep(0.2)

    def _become_writer(self) -> None:
        """Take the right to change it from whoever has it."""
        self._set_properties({_WRITER: self._token})
        self._last_id = self._check_writer()
        # Who was the writer before may have been overtaken in the moment of a reservation and have set the mark back.
        while rows := self._query(f"id > {self._last_id} and id <= {self._last_id + WINDOW}", ["id"]):
            self._last_id = max(int(row["id"]) for row in rows)

    def _check_writer(self) -> int:
        """Make sure that this is still the writer, and return the last id that was reserved."""
        properties = self._properties()
        if properties.get(_WRITER) != self._token:
            raise WorkError(
                f"{self.location}: another process has opened it for writing since, and only one may write: close one of the "
                "two, then open this one again; or open it read-only"
            )
        return int(properties.get(_LAST_ID, 0))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Let the changes of several threads wait for each other, and only the writer make them."""
        with self._turn:
            self._check_writer()
            yield

    def _reserve(self, count: int) -> int:
        """Return the first of so many ids that were never given, and that nobody else will give."""
        last = max(self._check_writer(), self._last_id)
        self._set_properties({_LAST_ID: str(last + count)})
        self._check_writer()  # if it is still this one, then whoever takes over from now on sees the reservation
        self._last_id = last + count
        return last + 1

    def _properties(self) -> dict[str, str]:
        return dict(self._call("describe_collection").get("properties") or {})

    def _set_properties(self, properties: Mapping[str, str]) -> None:
        # Twice: up to 2.3.5 a server writes to its disk what was there before the call (milvus-io/milvus#30144).
        for _ in range(2):
            self._call("alter_collection_properties", properties=dict(properties))

    def _query(self, passing: str, fields: Sequence[str]) -> list[dict[str, Any]]:
        """Return rows that pass an expression, as many as an answer may have."""
        return list(self._call("query", filter=passing, output_fields=list(fields), limit=WINDOW, consistency_level="Strong"))

    def _scan(self, passing: str, fields: Sequence[str], after: int = 0) -> Iterator[list[dict[str, Any]]]:
        """Yield rows that pass an expression, a range of ids after another, from an id on."""
        for expression in self._ranges(passing, after):
            yield self._query(expression, fields)

    def _ranges(self, passing: str, after: int = 0) -> Iterator[str]:
        """Yield the expression for a range of ids after another: such a range has no more rows than an answer may have."""
        last = int(self._properties().get(_LAST_ID, 0))
        both = f" and ({passing})" if passing else ""
        while after + WINDOW < last:
            yield f"id > {after} and id <= {after + WINDOW}{both}"
            after += WINDOW
        yield f"id > {after}{both}"  # without an end, for what is written meanwhile

    def _rows(
        self, name: str, values: Collection[Any], fields: Sequence[str], step: int = _RECORDS_AT_ONCE
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows whose unique field has one of these values, in any order."""
        distinct = sorted(set(values))
        for start in range(0, len(distinct), step):
            yield from self._query(among(name, distinct[start : start + step]), fields)

    @property
    def _vectors_at_once(self) -> int:
        return max(1, min(WINDOW, MESSAGE_BYTES // (4 * self.binding.embed_dim)))

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        for part in batches(rows, MESSAGE_BYTES):
            # Unlike an insert it may arrive twice: pymilvus sends it again when the answer was lost.
            self._call("upsert", data=part)

    def _delete(self, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), WINDOW):
            self._call("delete", ids=list(ids[start : start + WINDOW]))

    def _call(self, method: str, *, about: Any = None, **options: Any) -> Any:
        """Call a method of the client, about this collection unless said; Milvus's errors become this package's."""
        import grpc
        from pymilvus.exceptions import MilvusException

        try:  # pymilvus 2.4 takes no notice of a float as the timeout
            return getattr(self._client, method)(about or self._name, timeout=math.ceil(self._timeout_s), **options)
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            text = reason(error)
            if "permission deny" in text.lower():
                raise UsageError(f"{self.location}: the user may not do this: {text}") from None
            raise WorkError(f"{self.location}: the server could not do it: {text}") from None
