"""What filters ask about, in memory: a column for each of id, identity, camera and time, a row for each record."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..gallery.identities import Identity, numbers_of
from ..gallery.records import Filter, GalleryCounts

BoolArray = npt.NDArray[np.bool_]

_ROW = np.dtype(
    [("id", "i8"), ("has_pid", "?"), ("pid", "i8"), ("has_camid", "?"), ("camid", "i8"), ("has_time", "?"), ("time_s", "f8")]
)


@dataclass(frozen=True)
class RecordColumns:
    """Records as columns; a change makes a new object, so that searches that are under way keep what they have.

    Attributes:
        table: (n,) structured rows, ascending by id.
        live: (n,) whether the record is still there. Removed ones keep their row, so that rows of vectors stay where they are.
    """

    table: npt.NDArray[np.void]
    live: BoolArray

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """(n,) ids, ascending."""
        return np.ascontiguousarray(self.table["id"])

    @property
    def last_id(self) -> int:
        """The largest id, 0 where there is none."""
        return int(self.table["id"][-1]) if len(self.table) else 0

    @property
    def num_removed(self) -> int:
        """Rows of removed records."""
        return len(self.live) - int(np.count_nonzero(self.live))

    def extended(self, newer: RecordColumns) -> RecordColumns:
        """Return these columns with newer records after them."""
        return RecordColumns(np.concatenate([self.table, newer.table]), np.concatenate([self.live, newer.live]))

    def without_removed(self, after: int = 0) -> RecordColumns:
        """Return these columns without the rows of removed records, from a row on."""
        kept = self.live.copy()
        kept[:after] = True
        return RecordColumns(self.table[kept], self.live[kept])

    def spread_over(self, ids: npt.NDArray[np.int64]) -> RecordColumns:
        """Return a row for each of these ascending ids, which include all of its own; the others are removed records."""
        table = np.zeros(len(ids), dtype=_ROW)
        table["id"] = ids
        live = np.zeros(len(ids), dtype=bool)
        at = np.searchsorted(ids, self.ids)
        table[at], live[at] = self.table, self.live
        return RecordColumns(table, live)

    def rows_of(self, ids: npt.NDArray[np.int64]) -> BoolArray:
        """Return the mask (n,) of the rows that belong to these ids; ids without a row are passed over."""
        mask = np.zeros(len(self), dtype=bool)
        at = np.searchsorted(self.ids, ids)
        known = at < len(self)
        at = at[known]
        mask[at[self.ids[at] == ids[known]]] = True
        return mask

    def mask(self, where: Filter | None) -> BoolArray:
        """Return the mask (n,) of the records that are there and pass a filter; its attributes are left to the caller."""
        mask = self.live.copy()
        if where is None:
            return mask
        if where.camids is not None:
            mask &= self.table["has_camid"] & _is_among(self.table["camid"], where.camids)
        if where.exclude_camids:
            mask &= ~(self.table["has_camid"] & _is_among(self.table["camid"], where.exclude_camids))
        if where.pids is not None:
            mask &= self.table["has_pid"] & _is_among(self.table["pid"], numbers_of(where.pids))
        if where.since_s is not None:
            mask &= self.table["has_time"] & (self.table["time_s"] >= where.since_s)
        if where.until_s is not None:
            mask &= self.table["has_time"] & (self.table["time_s"] < where.until_s)
        if where.exclude_ids:
            mask &= ~self.rows_of(_as_int64(where.exclude_ids))
        return mask

    def counts(self, names: Mapping[int, str]) -> GalleryCounts:
        """Return how many records there are, by identity (by name, of ``names``) and camera, and when they were seen."""
        table = self.table[self.live]
        times = table["time_s"][table["has_time"]]
        return GalleryCounts(
            num_records=len(table),
            by_pid=_with_names(_counted(table["pid"], table["has_pid"]), names),
            by_camid=_counted(table["camid"], table["has_camid"]),
            first_seen_s=float(times.min()) if len(times) else None,
            last_seen_s=float(times.max()) if len(times) else None,
        )


def read_columns(sqlite: sqlite3.Connection, after_id: int = 0) -> RecordColumns:
    """Return the columns of all records after an id."""
    cursor = sqlite.execute(
        "SELECT id, pid IS NOT NULL, COALESCE(pid, 0), camid IS NOT NULL, COALESCE(camid, 0), "
        "time_s IS NOT NULL, COALESCE(time_s, 0) FROM records WHERE id > ? ORDER BY id",
        (after_id,),
    )
    table = np.fromiter(cursor, dtype=_ROW)
    return RecordColumns(table, np.ones(len(table), dtype=bool))


def _is_among(column: npt.NDArray[np.int64], values: Collection[int]) -> BoolArray:
    numbers = _as_int64(values)
    return column == numbers[0] if len(numbers) == 1 else np.isin(column, numbers)


def _as_int64(values: Collection[int]) -> npt.NDArray[np.int64]:
    limits = np.iinfo(np.int64)  # no record can have a number beyond them
    return np.array([value for value in values if limits.min <= value <= limits.max], dtype=np.int64)


def _counted(column: npt.NDArray[np.int64], known: BoolArray) -> dict[int | None, int]:
    values, counts = np.unique(column[known], return_counts=True)
    found: dict[int | None, int] = dict(zip(values.tolist(), counts.tolist(), strict=True))
    num_unknown = len(known) - int(np.count_nonzero(known))
    return found | {None: num_unknown} if num_unknown else found


def _with_names(counts: dict[int | None, int], names: Mapping[int, str]) -> dict[Identity | None, int]:
    return {pid if pid is None else names.get(pid, pid): count for pid, count in counts.items()}
