"""CPU time that other programs took during a measurement.

Not the load average: it remembers a minute, and so what the same user did just before, such as the export of the very file.
"""

import os
import time
from pathlib import Path

_PROC_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, interrupts, soft interrupts, stolen by other guests of the host (proc_stat(5))


class OtherWork:
    """Counts from the moment when it is made."""

    def __init__(self) -> None:
        self._began = _count()

    def mean_cores(self) -> float | None:
        """Return how many cores others kept busy since then, on average; None where the system does not tell.

        The children of this process are not others, once they have ended and were waited for.
        """
        now = _count()
        if self._began is None or now is None:
            return None
        wall_s, busy_s, own_s = (after - before for after, before in zip(now, self._began, strict=True))
        return max(0.0, busy_s - own_s) / wall_s


def _count() -> tuple[float, float, float] | None:
    """Return seconds: of a clock, of cores that were busy, and of these what this process and its children used."""
    try:
        ticks = [int(number) for number in _PROC_STAT.read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return None
    return time.monotonic(), sum(ticks[kind] for kind in _BUSY) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])
