"""From the labels that people write to the integers that arrays hold."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hat.errors import DataError

__all__ = ["FIRST_NUMBER", "number_labels"]

FIRST_NUMBER = 1
"""Number of the first named label: 0 is the label of distractors in the field's own naming."""

_INTEGER = re.compile(r"[0-9]{1,18}")
_JUNK = "-1"


def number_labels(labels: Iterable[str], where: str) -> dict[str, int]:
    """Give every label an integer.

    Labels that are all decimal numbers keep their numbers, so that ``0002`` is 2 and distractors ``0000`` are 0. Otherwise all
    are names and are numbered from `FIRST_NUMBER` in sorted order. ``-1`` is junk either way.

    Args:
        labels: The labels, in any order, repeated or not.
        where: What they belong to, for the error message.

    Returns:
        Integer by label.

    Raises:
        DataError: Two labels are written differently and are the same number.
    """
    known = set(labels)
    numbers = {_JUNK: -1} if _JUNK in known else {}
    names = sorted(known - {_JUNK})
    if not all(_INTEGER.fullmatch(name) for name in names):
        return numbers | {name: number for number, name in enumerate(names, start=FIRST_NUMBER)}
    spelled: dict[int, str] = {}
    for name in names:
        other = spelled.setdefault(int(name), name)
        if other != name:
            raise DataError(f"{where}: the labels {other} and {name} are the same number; write one of them everywhere")
    return numbers | {name: number for number, name in spelled.items()}
