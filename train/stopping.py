"""Ending a run before its end: after a time that was given, or when the process is asked to end."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from .distributed import Place

__all__ = ["StopRequest"]


class StopRequest:
    """Watches the time and the signal SIGTERM for as long as the context lasts; before and after it SIGTERM ends the process.

    Args:
        at: When to stop, as `time.monotonic` counts; None for no limit.
        place: This process among all: they stop together, at the first one's time or at any one's signal.

    Attributes:
        reason: Why the run was stopped; None where it was not.
    """

    def __init__(self, at: float | None, place: Place) -> None:
        self.at = at
        self.place = place
        self.reason: str | None = None
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread listen
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def is_due(self, *, together: bool) -> bool:
        """Whether to stop now.

        Args:
            together: All processes are asking at this moment. Elsewhere one of several never stops, since the others would wait
                for it.
        """
        if self.place.world_size > 1:
            if not together:
                return False
            votes = torch.tensor([self._own_vote()], device=self.place.device)
            dist.all_reduce(votes, op=dist.ReduceOp.MAX)
            vote = int(votes.item())
        else:
            vote = self._own_vote()
        if vote:
            self.reason = "the process was asked to end" if vote == 2 else "its time is over"
        return vote > 0

    def _own_vote(self) -> int:
        """0 to go on, 1 when the time is over by the first process's clock, 2 when asked to."""
        if self._asked:
            return 2
        return int(self.at is not None and self.place.is_main and time.monotonic() >= self.at)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
