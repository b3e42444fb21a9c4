"""One collection of a Milvus server: what is asked of it and sent to it, in messages of a size that it takes.

Everything goes through `pymilvus.MilvusClient`, the one interface that pymilvus 2.4, 2.5 and 3 share.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError, WorkError

from .address import MilvusAddress, connect, reason
from .rows import batches, range_expression, schema

if TYPE_CHECKING:
    from pymilvus import MilvusClient


WINDOW = 16384
"""Most rows that Milvus gives in one answer."""

MESSAGE_BYTES = 16 * 2**20
"""What is sent or asked for at once: a quarter of the largest message that a server takes by default."""

_TIES = 8
"""Rows that are asked for beyond the last place, in case they are as near as it."""

Nearest = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Ids and similarities of the rows nearest to one query, nearest first."""


class MilvusCollection:
    """A collection; calls may come from several threads, as a gRPC channel allows.

    Every answer knows everything that was written before it was asked for (strong consistency), which Milvus makes it wait for:
    up to the server's ``proxy.timeTickInterval``, a fifth of a second unless changed. Session consistency would not do even for
    the only writer: pymilvus does not count removals among what a session wrote.

    Args:
        address: Where it is.
        timeout_s: How long the server may take for one request.

    Raises:
        WorkError: The server cannot be reached.
        UsageError: It refuses user and password, or has no such database.
        MissingExtraError: pymilvus is not installed.
    """

    def __init__(self, address: MilvusAddress, timeout_s: float) -> None:
        self.address = address
        self._name = address.name
        self._timeout_s = math.ceil(timeout_s)  # pymilvus 2.4 takes no notice of a float
        self._client: MilvusClient = connect(address, timeout_s)

    def exists(self) -> bool:
        """Return whether the server has it."""
        with self._talking():
            return bool(self._client.has_collection(self._name, timeout=self._timeout_s))

    def create(self, embed_dim: int, properties: Mapping[str, str]) -> None:
        """Make it; a server that has one of the name by then keeps it, and says so where it is another."""
        with self._talking():
            self._client.create_collection(
                self._name,
                schema=schema(embed_dim),
                consistency_level="Strong",
                num_shards=1,
                properties=dict(properties),
                timeout=self._timeout_s,
            )

    def load(self) -> None:
        """Make the server ready to search it exactly; also where it was made by a process that did not get as far as here."""
        with self._talking():
            if "embedding" not in self._client.list_indexes(self._name):
                index = self._client.prepare_index_params()
                index.add_index("content_hash", index_type="Trie", index_name="content_hash")
                index.add_index("embedding", index_type="FLAT", metric_type="IP", index_name="embedding")
                self._client.create_index(self._name, index, timeout=self._timeout_s)
            self._client.load_collection(self._name, timeout=self._timeout_s)

    def properties(self) -> dict[str, str]:
        """Return what is kept with it, by name."""
        with self._talking():
            return dict(self._client.describe_collection(self._name, timeout=self._timeout_s).get("properties") or {})

    def set_properties(self, properties: Mapping[str, str]) -> None:
        """Change what is kept with it; other properties stay."""
        # Twice: up to 2.3.5 a server writes to its disk what was there before the call (milvus-io/milvus#30144).
        for _ in range(2):
            with self._talking():
                self._client.alter_collection_properties(self._name, properties=dict(properties), timeout=self._timeout_s)

    def count(self) -> int:
        """Return number of rows."""
        with self._talking():
            answer = self._client.query(
                self._name, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=self._timeout_s
            )
        return int(answer[0]["count(*)"])

    def query(self, expression: str, fields: Sequence[str], limit: int = WINDOW) -> list[dict[str, Any]]:
        """Return rows that pass an expression, at most ``limit``."""
        with self._talking():
            answer = self._client.query(
                self._name,
                filter=expression,
                output_fields=list(fields),
                limit=limit,
                consistency_level="Strong",
                timeout=self._timeout_s,
            )
        return list(answer)

    def scan(self, passing: str, fields: Sequence[str], last_id: int) -> Iterator[dict[str, Any]]:
        """Yield rows that pass an expression, a range of ids at a time: such a range has no more rows than an answer may have.

        Args:
            passing: The expression; empty for all.
            fields: What is read of them.
            last_id: No row had a larger id when this was asked for.
        """
        for after in range(0, max(last_id, 1), WINDOW):
            upto = after + WINDOW if after + WINDOW < last_id else None
            yield from self.query(_both(range_expression(after, upto), passing), fields)

    def nearest(self, queries: npt.NDArray[np.float32], top: int, passing: str, last_id: int) -> list[Nearest]:
        """Return the rows with the largest inner products with each query, equal ones by id.

        Milvus leaves the order of equal ones open, so more is asked for until what follows the last place is farther away.

        Args:
            queries: (n, embed_dim).
            top: How many for each.
            passing: An expression that they pass; empty for all.
            last_id: No row has a larger id.
        """
        limit = top + _TIES
        while True:
            found = self._hits(queries, limit, passing, last_id)
            if all(len(ids) < limit or values[-1] < values[top - 1] for ids, values in found):
                return [(ids[:top], values[:top]) for ids, values in found]
            limit *= 2

    def write(self, rows: Sequence[dict[str, Any]], *, undo: bool = True) -> None:
        """Write rows for good, all or none; without ``undo``, for rows that were there before, some where it fails.

        Raises:
            WorkError: They could not be written; whether some of them may be there all the same is said.
        """
        try:
            for part in batches(rows, MESSAGE_BYTES):
                with self._talking():
                    # Unlike an insert it may arrive twice: pymilvus sends it again when the answer was lost.
                    self._client.upsert(self._name, part, timeout=self._timeout_s)
        except BaseException as error:
            if not undo:
                raise
            try:
                self.delete([int(row["id"]) for row in rows])
            except WorkError:
                raise WorkError(
                    f"{error}; it could not be undone either: some of the {len(rows)} records may have been written; writing "
                    "them again is safe, those that are there are recognized"
                ) from None
            raise

    def delete(self, ids: Sequence[int]) -> None:
        """Remove rows; ids that are not there are passed over."""
        with self._talking():
            for start in range(0, len(ids), WINDOW):
                self._client.delete(self._name, ids=list(ids[start : start + WINDOW]), timeout=self._timeout_s)

    def compact(self, longest_s: float) -> None:
        """Let the server rewrite its segments without what was removed, and wait for it.

        Raises:
            WorkError: It takes longer than ``longest_s``.
        """
        with self._talking():
            self._client.flush(self._name, timeout=self._timeout_s)
            job = self._client.compact(self._name, timeout=self._timeout_s)
            end = time.monotonic() + longest_s
            while self._client.get_compaction_state(job, timeout=self._timeout_s) != "Completed":
                if time.monotonic() > end:
                    raise WorkError(f"{self.address}: the server has not finished its compaction in {longest_s:.0f} s")
                time.sleep(0.2)

    def close(self) -> None:
        """Let go of the connection; twice is fine."""
        self._client.close()

    def _hits(self, queries: npt.NDArray[np.float32], limit: int, passing: str, last_id: int) -> list[Nearest]:
        """Like `nearest`, with equal ones at the end as Milvus chose them."""
        expressions = [passing]
        if limit > WINDOW:  # more than one answer may have: by ranges of ids that are small enough, and together again
            ids = sorted(int(row["id"]) for row in self.scan(passing, ["id"], last_id))
            ends = [*ids[WINDOW - 1 :: WINDOW], *ids[-1:]]
            ranges = [(after, upto) for after, upto in zip([0, *ends], ends, strict=False) if after < upto]
            expressions = [_both(range_expression(after, upto), passing) for after, upto in ranges]
        numbers: list[list[int]] = [[] for _ in queries]
        values: list[list[float]] = [[] for _ in queries]
        for expression in expressions:
            with self._talking():
                answer = self._client.search(
                    self._name,
                    data=queries.tolist(),
                    anns_field="embedding",
                    filter=expression,
                    limit=min(limit, WINDOW),
                    search_params={"metric_type": "IP"},
                    consistency_level="Strong",
                    timeout=self._timeout_s,
                )
            for place, hits in enumerate(answer):
                numbers[place] += [int(hit["id"]) for hit in hits]
                values[place] += [float(hit["distance"]) for hit in hits]
        return [_ranked(ids, near, limit) for ids, near in zip(numbers, values, strict=True)]

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Milvus's errors become this package's."""
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            text = reason(error)
            if "permission deny" in text.lower():
                raise UsageError(f"{self.address}: the user may not do this: {text}") from None
            raise WorkError(f"{self.address}: the server could not do it: {text}") from None


def _both(first: str, second: str) -> str:
    return f"({first}) and ({second})" if second else first


def _ranked(ids: Sequence[int], similarities: Sequence[float], limit: int) -> Nearest:
    numbers, values = np.array(ids, dtype=np.int64), np.clip(np.array(similarities, dtype=np.float32), -1, 1)
    order = np.lexsort((numbers, -values))[:limit]
    return numbers[order], values[order]
