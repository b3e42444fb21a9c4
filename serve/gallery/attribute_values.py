"""Free attributes and times as people type them: ``color=red``, ``2026-11-25T08:30``."""

import math
import re
from collections.abc import Iterable
from datetime import datetime, timezone

from hat.errors import UsageError

from .record_checks import checked_attributes
from .records import AttributeValue

_NAME = re.compile(r"[^\W\d][\w .:-]{0,63}")
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,17})\.\d{1,18}")
_EARLIEST_S, _LATEST_S = -6e10, 1e11  # the years 68 and 5138; milliseconds taken for seconds lie far behind


def attribute_value(text: str) -> AttributeValue:
    """Return the value that a text stands for: ``true`` and ``false``, whole and decimal numbers, or else the text itself.

    A number with a sign or zeros that it does not need (``007``, ``+1``) stays text: it is a name rather than a number.
    """
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def parse_attributes(pairs: Iterable[tuple[str, str]], where: str) -> dict[str, AttributeValue]:
    """Return attributes from (name, text), of which an empty text is none; ``where`` is what they were written in.

    Raises:
        UsageError: A name is none, a text is too long, there are too many, or one name is given twice.
    """
    attributes: dict[str, AttributeValue] = {}
    for name, text in pairs:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{where}: {name[:80]!r} is not a name for an attribute: a letter, then up to 63 letters, digits or .:-_"
            )
        if name in attributes:
            raise UsageError(f"{where}: the attribute {name} is given twice")
        if text:
            attributes[name] = attribute_value(text)
    return checked_attributes(attributes, where)


def parse_timestamp(text: str, where: str) -> float:
    """Return a time in seconds since 1970 (UTC); ``where`` is what it was written in, for an error message.

    The text is ISO 8601 (``2026-11-25``, ``2026-11-25T08:30:15``, with ``Z`` or ``+01:00``), taken as UTC where it names no
    zone; or a number of seconds since 1970.

    Raises:
        UsageError: It is neither.
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            # Python 3.10 does not read the Z.
            time = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip()))
            seconds = (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
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
