"""Ending a run before its end: after a time that was given, or when the process is asked to end."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from typing_extensions import Self

from ..distributed import DistributedContext

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAME_REQUEST_S = 1.0
"""A terminal's Ctrl-C reaches a worker twice: by itself, and from torchrun, which got it too."""


class StopRequest:
    """Watches the time, SIGTERM and SIGINT (Ctrl-C) for as long as the context lasts; outside of it signals do what they did.

    The first signal asks the run to write its state and end; a second one, later than a second, ends the process at once. All
    processes stop together, at the time of the first one (``at``, as `time.monotonic` counts) or at the signal of any; then
    ``reason`` says why.
    """

    def __init__(self, at: float | None, context: DistributedContext) -> None:
        self.at = at
        self.context = context
        self.reason: str | None = None
        self._requested_at: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread listen
            self._before = {number: signal.signal(number, self._request) for number in _SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_due(self, *, together: bool) -> bool:
        """Return whether to stop now; one of several processes only where all ask ``together``, else the others would wait."""
        if self.context.world_size > 1:
            if not together:
                return False
            votes = torch.tensor([self._own_vote()], device=self.context.device)
            dist.all_reduce(votes, op=dist.ReduceOp.MAX)
            vote = int(votes.item())
        else:
            vote = self._own_vote()
        if vote:
            self.reason = "the process was asked to end" if vote == 2 else "its time is over"
        return vote > 0

    def _own_vote(self) -> int:
        """0 to go on, 1 when the time is over by the first process's clock, 2 when asked to."""
        if self._requested_at is not None:
            return 2
        return int(self.at is not None and self.context.is_main and time.monotonic() >= self.at)

    def _request(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._requested_at is not None:
            if now - self._requested_at < _SAME_REQUEST_S:
                return
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._requested_at = now
        if self.context.is_main:
            # Not through a stream, whose lock the interrupted code may hold.
            os.write(2, b"\nstopping after the step under way, then writing the state; once more ends at once\n")
