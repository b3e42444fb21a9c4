"""Who may write to a gallery in Milvus, and which ids it may give.

Milvus has no locks. So whoever opens a gallery for writing puts a name of its own into the collection's properties and is the
writer until another does the same; a process that was killed leaves nothing locked.
"""

import secrets
import threading

from hat.errors import WorkError

from .collection import WINDOW, MilvusCollection
from .rows import range_expression

_WRITER, _LAST_ID = "hat_reid.writer", "hat_reid.last_id"
"""Properties of the collection: who writes, and the last id that was ever reserved."""


def initial_properties() -> dict[str, str]:
    """Return what a new collection says: no writer, no id given."""
    return {_WRITER: "", _LAST_ID: "0"}


def last_id(collection: MilvusCollection) -> int:
    """Return an id that no record lies beyond."""
    return int(collection.properties().get(_LAST_ID, 0))


class MilvusWriter:
    """The right to change a gallery, taken when this is made.

    Args:
        collection: The gallery's collection.

    Attributes:
        turn: Held by whoever changes something, so that changes of several threads wait for each other.

    Raises:
        WorkError: Another process opened the gallery for writing at the same moment.
    """

    def __init__(self, collection: MilvusCollection) -> None:
        self.turn = threading.Lock()
        self._collection = collection
        self._token = secrets.token_hex(16)
        collection.set_properties({_WRITER: self._token})
        self._last_id = self.check()
        # Who was the writer before may have been overtaken in the moment of a reservation and have set the mark back.
        while rows := collection.query(range_expression(self._last_id, self._last_id + WINDOW), ("id",)):
            self._last_id = max(int(row["id"]) for row in rows)

    def check(self) -> int:
        """Make sure that this is still the writer.

        Returns:
            The last id that was reserved.

        Raises:
            WorkError: Another process has opened the gallery for writing since.
        """
        kept = self._collection.properties()
        if kept.get(_WRITER) != self._token:
            raise WorkError(
                f"{self._collection.address}: another process has opened it for writing since, and only one may write: close "
                "one of the two, then open this one again; or open it read-only"
            )
        return int(kept.get(_LAST_ID, 0))

    def reserve(self, count: int) -> int:
        """Return the first of so many ids that were never given, and that nobody else will give.

        They are reserved before any record has them: those of a write that fails are never used. The writer is looked up again
        after the reservation: if it is still this one, then whoever takes over from now on sees the reservation.

        Raises:
            WorkError: Another process has opened the gallery for writing since.
        """
        last = max(self.check(), self._last_id)
        self._collection.set_properties({_LAST_ID: str(last + count)})
        self.check()
        self._last_id = last + count
        return last + 1
