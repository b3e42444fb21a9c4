"""Who may come in: images and bytes that the service holds at once are counted, and what goes beyond is refused at the door.

A request takes a place before its body is read and gives it back with its answer. All of it happens on the event loop's
thread, so that nothing needs a lock.
"""

from __future__ import annotations

import time
from types import TracebackType

from .refusal import RefusalError

__all__ = ["Admission", "Place"]

_FIRST_RATE = 10.0


class Admission:
    """Counts what is inside.

    Args:
        max_images: Most images at once.
        max_bytes: Most bytes of request bodies at once.

    Attributes:
        num_images: Images inside.
        num_bytes: Bytes of bodies inside.
    """

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self.max_images = max_images
        self.max_bytes = max_bytes
        self.num_images = 0
        self.num_bytes = 0
        self._rate = _FIRST_RATE
        self._num_left = 0
        self._since = time.monotonic()

    def enter(self) -> Place:
        """A place for one request, to be used in a ``with`` statement. Nothing is taken yet.

        Raises:
            RefusalError: It is full already, so that the request need not even be read.
        """
        if self.is_full:
            raise self.overloaded()
        return Place(self)

    @property
    def is_full(self) -> bool:
        """Whether not one image more would be let in."""
        return self.num_images >= self.max_images

    def overloaded(self) -> RefusalError:
        """The refusal, with the time that what is inside will take."""
        return RefusalError(
            503, "the service is busy: try again later, with fewer requests at once", retry_after_s=self.num_images / self._rate
        )

    def leave(self, num_images: int, num_bytes: int) -> None:
        """Give back what a place took; from how much leaves in a second follows how long others should wait."""
        self.num_images -= num_images
        self.num_bytes -= num_bytes
        self._num_left += num_images
        now = time.monotonic()
        if now - self._since >= 1:
            self._rate = max(1.0, self._num_left / (now - self._since))
            self._num_left, self._since = 0, now


class Place:
    """What one request has taken; given back at the end of its ``with`` statement."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.num_images = 0
        self.num_bytes = 0

    def take(self, *, images: int = 0, num_bytes: int = 0) -> None:
        """Take more.

        Raises:
            RefusalError: There is no room.
        """
        inside = self._admission
        if inside.num_images + images > inside.max_images or inside.num_bytes + num_bytes > inside.max_bytes:
            raise inside.overloaded()
        inside.num_images += images
        inside.num_bytes += num_bytes
        self.num_images += images
        self.num_bytes += num_bytes

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._admission.leave(self.num_images, self.num_bytes)
        self.num_images = self.num_bytes = 0
