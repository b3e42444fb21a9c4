"""Who calls, what they may do, and how fast."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .keys import KeyRing
from .refusal import RefusalError

__all__ = ["LOCAL", "Access", "Caller"]

_BURST_S = 2.0
_MAX_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Someone who was let in.

    Attributes:
        id: Public id of the key.
        name: Whose key it is.
        can_write: Whether galleries may be changed.
    """

    id: str
    name: str
    can_write: bool


LOCAL = Caller("local", "local", True)
"""Everybody on this machine, where no keys are asked for."""


class Access:
    """Lets callers in.

    Args:
        keys: Whose keys open the door; None lets everybody in, which is for loopback alone.
        rate_per_s: Images a second for each caller; None is no limit.
    """

    def __init__(self, keys: KeyRing | None, rate_per_s: float | None) -> None:
        self.keys = keys
        self._rate = rate_per_s
        self._buckets: dict[str, tuple[float, float]] = {}

    def identify(self, authorization: str | None, *, to_write: bool) -> Caller:
        """Whose request it is.

        Args:
            authorization: The header of that name.
            to_write: Whether galleries will be changed.

        Raises:
            RefusalError: The key is missing, wrong, or not for this.
        """
        caller = LOCAL if self.keys is None else self._holder(self.keys, authorization)
        if to_write and not caller.can_write:
            raise RefusalError(403, "this key may only read: a key with the role write is needed")
        return caller

    def charge(self, caller: Caller, number: int, *, begun: bool = False) -> None:
        """Count images against a caller's rate.

        Args:
            caller: Who sent them.
            number: How many.
            begun: They belong to a request that was let in: it is met whole, and the next one waits the longer.

        Raises:
            RefusalError: The caller is too fast.
        """
        if self._rate is None:
            return
        now = time.monotonic()
        full = max(1.0, self._rate * _BURST_S)
        left, since = self._buckets.get(caller.id, (full, now))
        left = min(full, left + (now - since) * self._rate)
        if left < 1 and not begun:
            self._buckets[caller.id] = (left, now)
            raise RefusalError(429, "this key has used up its rate: slow down", retry_after_s=(1 - left) / self._rate)
        if len(self._buckets) >= _MAX_BUCKETS:
            self._buckets.clear()
        self._buckets[caller.id] = (left - number, now)

    @staticmethod
    def _holder(keys: KeyRing, authorization: str | None) -> Caller:
        scheme, _, token = (authorization or "").partition(" ")
        key = keys.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            reason = "an API key is needed: Authorization: Bearer KEY" if authorization is None else "this key is not known"
            raise RefusalError(401, reason, headers={"WWW-Authenticate": "Bearer"})
        return Caller(key.id, key.name, key.role == "write")
