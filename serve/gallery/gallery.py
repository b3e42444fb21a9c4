"""The gallery: a set of enrolled images that lasts, with one interface whatever stores it."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from hat.errors import UsageError

from .binding import Binding, CompatibleModel
from .identities import Identity, check_identity
from .record_checks import (
    checked_embeddings,
    checked_filter,
    checked_hash,
    checked_ids,
    checked_labels,
    checked_records,
    checked_top,
    time_bound,
)
from .records import Added, Filter, GalleryCounts, Neighbors, NewRecord, Record, RecordLabels, RecordPage, missing_records

StoredType = Literal["float32", "float16"]  # in which a gallery keeps embeddings

_STORES = {"": "hat.serve.sqlite.gallery:SqliteGallery", "milvus": "hat.serve.milvus.gallery:MilvusGallery"}
"""Scheme of a location -> the class that keeps galleries there, imported when one is opened."""


class Gallery(ABC):
    """Enrolled images: their embeddings, what is known of them, and the search among them.

    A gallery is bound to the model that made its embeddings: `check_model` before adding or searching with a model's
    embeddings. Calls may come from several threads. Use it as a context manager, or call `close`.

    A change raises a `UsageError` where the gallery was opened read-only, and a `WorkError` where it cannot be written: the
    disk is full, another process is writing.

    What comes in is checked here, once for every store. A store overrides the methods below that begin with an underscore; it
    is handed checked values in plain Python, and changes only where they are allowed.
    """

    location: str
    binding: Binding
    stored_type: StoredType
    read_only: bool

    @staticmethod
    def open(
        location: str | os.PathLike[str],
        *,
        binding: Binding | None = None,
        create: bool = False,
        stored_type: StoredType = "float32",
        read_only: bool = False,
    ) -> Gallery:
        """Open a gallery.

        Args:
            location: Path of a gallery's file, or ``milvus://host:port/name``.
            binding: The model that embeddings will come from; a gallery of another model is refused. Needed to make a new one.
            create: Make the gallery where there is none.
            stored_type: In which a new gallery keeps embeddings; one that is there keeps its own.
            read_only: Refuse changes; any number of readers may share a gallery with one writer.

        Raises:
            UsageError: There is no such gallery, the file is something else, it is of a newer format or another model, or
                ``create`` comes without a binding.
            WorkError: Another process is writing to it, or it cannot be reached or made.
            MissingExtraError: What stores it is not installed.
        """
        scheme, separator, _ = location.partition("://") if isinstance(location, str) else ("", "", "")
        scheme = scheme if separator and scheme.isalnum() else ""
        if scheme not in _STORES:
            raise UsageError(f"{location}: nothing is known by {scheme}://: expected a file's path, or milvus://host:port/name")
        module, _, name = _STORES[scheme].partition(":")
        store = getattr(importlib.import_module(module), name)
        opened: Gallery = store.open(location, binding=binding, create=create, stored_type=stored_type, read_only=read_only)
        return opened

    def check_model(self, binding: Binding) -> None:
        """Make sure that a model's embeddings belong here.

        Raises:
            UsageError: It is another model; the differences are spelled out.
        """
        if self.binding.differences(binding):  # perhaps another process has accepted it meanwhile
            self.binding = self._read_binding()
        self.binding.check(binding, self.location)

    def prepare(self) -> None:  # noqa: B027 - a store with nothing to read ahead leaves it as it is
        """Read now what a search needs, which the first one would wait for otherwise."""

    def __len__(self) -> int:
        """Return number of records."""
        return self._count(None)

    def add(self, embeddings: npt.NDArray[np.floating], records: Sequence[NewRecord]) -> list[int]:
        """Enroll images. When the call returns they have been written for good; if it raises, none of them was.

        Of n unit rows (n, embed_dim) and n records, n ids are returned; of an image that is there already (by its content
        hash), the id that it has.

        Raises:
            UsageError: Shapes do not agree, or rows are not finite or not of unit length.
        """
        return self.add_new(embeddings, records).ids

    def add_new(self, embeddings: npt.NDArray[np.floating], records: Sequence[NewRecord]) -> Added:
        """Enroll images as `add` does, and say which of them are new: another process may have been first with some."""
        self._check_writable()
        vectors = checked_embeddings(embeddings, self.binding.embed_dim)
        return self._insert(vectors, checked_records(records, len(vectors)))

    def search(self, embeddings: npt.NDArray[np.floating], top: int = 10, where: Filter | None = None) -> Neighbors:
        """Return the nearest records of each query, exactly, by the inner product with the vectors as they are stored.

        Args:
            embeddings: (num_queries, embed_dim) unit rows.
            top: Records for each query, at least 1. More than there are is fine: the result has ``top`` columns.
            where: Which records may be found; None is all.

        Raises:
            UsageError: Shapes do not agree, or a query is not finite or not of unit length.
        """
        queries = checked_embeddings(embeddings, self.binding.embed_dim, "queries")
        return self._nearest(queries, checked_top(top, len(queries)), checked_filter(where))

    def get(self, ids: Sequence[int], *, thumbnails: bool = False) -> list[Record]:
        """Return records by id, in the order of the ids; thumbnails are read only when asked for.

        Raises:
            RecordsMissingError: There is no record with one of the ids.
        """
        records = self.get_present(ids, thumbnails=thumbnails)
        if len(records) < len(ids):
            raise missing_records(set(checked_ids(ids)) - {record.id for record in records})
        return records

    def get_present(self, ids: Sequence[int], *, thumbnails: bool = False) -> list[Record]:
        """Return those of the records that are there, in the order of the ids."""
        plain = checked_ids(ids)
        records = self._read(plain, thumbnails)
        return [records[id_] for id_ in plain if id_ in records]

    def embeddings(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return (n, embed_dim) float32 unit rows of records, in the order of the ids.

        Raises:
            RecordsMissingError: There is no record with one of the ids.
        """
        distinct, inverse = np.unique(np.array(checked_ids(ids), dtype=np.int64), return_inverse=True)
        rows = np.empty((len(distinct), self.binding.embed_dim), dtype=np.float32)
        is_present = np.zeros(len(distinct), dtype=bool)
        for batch_ids, vectors in self._read_vectors(distinct.tolist()):
            at = np.searchsorted(distinct, batch_ids)
            rows[at], is_present[at] = vectors, True
        if not is_present.all():
            raise missing_records(distinct[~is_present].tolist())
        if self.stored_type == "float16":  # rounding changed their lengths
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows[inverse]

    def ids(self, where: Filter | None = None) -> npt.NDArray[np.int64]:
        """Return ids of the records that pass a filter, ascending."""
        return self._ids(checked_filter(where))

    def page(self, where: Filter | None = None, *, after_id: int = 0, limit: int = 100) -> RecordPage:
        """Return some of the records that pass a filter, by ascending id.

        A page has at most ``limit`` records, with ids larger than ``after_id``; those that are removed while they are read are
        left out.
        """
        where = checked_filter(where)
        ids = self._ids(where, after_id, limit + 1).tolist()
        next_id = ids[limit - 1] if len(ids) > limit else None
        return RecordPage(self.get_present(ids[:limit]), num_matching=self._count(where), next_after_id=next_id)

    def records(self, where: Filter | None = None, *, chunk: int = 1000) -> Iterator[Record]:
        """Yield records that pass a filter, by ascending id, read a chunk at a time; those removed meanwhile are left out."""
        ids = self.ids(where).tolist()
        for start in range(0, len(ids), chunk):
            yield from self.get_present(ids[start : start + chunk])

    def ids_by_hash(self, content_hashes: Collection[str]) -> dict[str, int]:
        """Return ids of those of these images that are enrolled, by content hash."""
        return self._ids_by_hash([checked_hash(content_hash) for content_hash in content_hashes])

    @abstractmethod
    def counts(self) -> GalleryCounts:
        """Return how much it holds."""

    def remove(
        self, *, ids: Collection[int] | None = None, pid: Identity | None = None, enrolled_before_s: float | None = None
    ) -> int:
        """Remove records for good: by id, all of a person, or all that were enrolled before a time. Exactly one is given.

        They are found by no search once the call returns; `vacuum` takes their bytes off the disk. Ids that no record has are
        passed over. How many were removed is returned.

        Raises:
            UsageError: None or several of the conditions were given.
        """
        self._check_writable()
        if sum(one is not None for one in (ids, pid, enrolled_before_s)) != 1:
            raise UsageError("say what to remove by exactly one of ids, pid and enrolled_before_s")
        return self._remove(
            None if ids is None else checked_ids(ids),
            None if pid is None else check_identity(pid, "pid"),
            None if enrolled_before_s is None else time_bound(enrolled_before_s, "enrolled_before_s"),
        )

    def update(self, ids: Collection[int], labels: RecordLabels) -> int:
        """Change the labels of records, and return how many have others now; embeddings stay as they are.

        Raises:
            RecordsMissingError: There is no record with one of the ids; nothing was changed.
            UsageError: A label is of the wrong type or size.
        """
        self._check_writable()
        return self._update(sorted(set(checked_ids(ids))), checked_labels(labels))

    def copy_to(self, path: Path) -> int:
        """Write everything to a new gallery file, as of one moment, and return how many records it holds.

        Raises:
            UsageError: The file is there already, its folder is not, or this store has a backup of its own.
            WorkError: It cannot be written, or this gallery is damaged.
        """
        raise UsageError(f"{self.location} is not a file: back it up by the means of its server")

    def vacuum(self) -> None:
        """Rewrite the store so that nothing of removed records is left in its files."""
        self._check_writable()
        self._vacuum()

    def accept(self, compatible: CompatibleModel) -> None:
        """Allow another file of the same weights; one that was accepted before takes its new figures."""
        self._check_writable()
        self.binding = self._accept(compatible)

    @abstractmethod
    def close(self) -> None:
        """Close files and connections; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_writable(self) -> None:
        if self.read_only:
            raise UsageError(f"{self.location} was opened to be read only and cannot be changed")

    @abstractmethod
    def _read_binding(self) -> Binding: ...

    @abstractmethod
    def _accept(self, compatible: CompatibleModel) -> Binding:
        """Store the binding with another compatible model, and return it."""

    @abstractmethod
    def _count(self, where: Filter | None) -> int: ...

    @abstractmethod
    def _ids(self, where: Filter | None, after_id: int = 0, limit: int | None = None) -> npt.NDArray[np.int64]:
        """Return the first ids after an id that pass, ascending; None is all of them."""

    @abstractmethod
    def _ids_by_hash(self, content_hashes: list[str]) -> dict[str, int]: ...

    @abstractmethod
    def _read(self, ids: list[int], thumbnails: bool) -> dict[int, Record]:
        """Return the records that are there, by id."""

    @abstractmethod
    def _read_vectors(self, ids: list[int]) -> Iterable[tuple[npt.ArrayLike, npt.NDArray[Any]]]:
        """Yield ids of those that are there and their vectors, some at a time; ``ids`` are distinct and ascending."""

    @abstractmethod
    def _nearest(self, queries: npt.NDArray[np.float32], top: int, where: Filter | None) -> Neighbors: ...

    @abstractmethod
    def _insert(self, vectors: npt.NDArray[np.float32], records: list[NewRecord]) -> Added: ...

    @abstractmethod
    def _remove(self, ids: list[int] | None, pid: Identity | None, enrolled_before_s: float | None) -> int: ...

    @abstractmethod
    def _update(self, ids: list[int], labels: RecordLabels) -> int: ...

    @abstractmethod
    def _vacuum(self) -> None: ...
