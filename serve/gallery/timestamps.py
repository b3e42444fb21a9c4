"""Parsing and formatting of times, in UTC: ``2026-11-25T08:30``."""

import math
import re
from datetime import datetime, timezone

from hat.errors import UsageError

_EARLIEST_S, _LATEST_S = -6e10, 1e11  # the years 68 and 5138; milliseconds taken for seconds lie far behind


def parse_timestamp(text: str, where: str) -> float:
    """Return a time in seconds since 1970 (UTC); ``where`` is what it was written in, for an error message.

    The text is ISO 8601 (``2026-11-25``, ``2026-11-25T08:30:15``, with ``Z`` or ``+01:00``), taken as UTC where it names no
    zone; or a number of seconds since 1970.
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            # Python 3.10 does not read the Z.
            parsed = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip()))
            seconds = (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()
        except (ValueError, OverflowError):
            seconds = math.nan
    if not _EARLIEST_S < seconds < _LATEST_S:
        raise UsageError(f"{where}: {text!r} is not a time: expected 2026-11-25T08:30:15 (UTC), or seconds since 1970")
    return seconds


def format_timestamp(seconds: float) -> str:
    """Return a time for a reader, in UTC: ``2026-11-25 08:30:15``; in seconds since 1970 where no calendar has it."""
    if not _EARLIEST_S < seconds < _LATEST_S:
        return f"{seconds:g} s"
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
