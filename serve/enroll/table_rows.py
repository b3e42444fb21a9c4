"""The rows of a CSV file as enrollment reads them: labels, moments, boxes, attributes, every mistake named by its line."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hat.data.csv_table import csv_rows
from hat.data.datasets import JUNK_PID
from hat.errors import DataError

from ..gallery.attribute_values import parse_attributes, parse_moment
from ..gallery.person_crops import Box
from ..gallery.records import AttributeValue

__all__ = ["BOX_COLUMNS", "TableRow", "read_rows"]

BOX_COLUMNS = ("left", "top", "right", "bottom")
"""Columns of a box, in pixels; right and bottom are the first column and row outside it."""

_LABEL = re.compile(r"\d{1,18}")
_MAX_COORDINATE = 10**9

T = TypeVar("T")


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        where: The file and the line, for messages.
        fields: Text by column, blanks at its ends removed.
    """

    where: str
    fields: dict[str, str]

    def text(self, column: str) -> str:
        """What stands in a column.

        Raises:
            DataError: Nothing does.
        """
        if not self.fields.get(column):
            raise DataError(f"{self.where}: {column} is empty")
        return self.fields[column]

    def label(self, column: str) -> int | None:
        """A whole number of at least 0; None where the column is absent or empty. For pid, -1 is junk.

        Raises:
            DataError: It is something else.
        """
        text = self.fields.get(column, "")
        if not text:
            return None
        if column == "pid" and text == str(JUNK_PID):
            return JUNK_PID
        if not _LABEL.fullmatch(text):
            raise DataError(
                f"{self.where}: {column} is {text!r}, expected a whole number; a name can stand in a column of its own, which "
                "becomes an attribute"
            )
        return int(text)

    def moment(self, column: str) -> float | None:
        """A moment in seconds since 1970 (UTC); None where the column is absent or empty.

        Raises:
            UsageError: It is no moment.
        """
        text = self.fields.get(column, "")
        return parse_moment(text, f"{self.where}, column {column}") if text else None

    def number(self, column: str, convert: Callable[[str], T]) -> T:
        """A number.

        Raises:
            DataError: It is none.
        """
        text = self.text(column)
        try:
            return convert(text)
        except (ValueError, OverflowError):
            raise DataError(f"{self.where}: {column} is {text!r}, expected a number") from None

    def box(self) -> Box | None:
        """The box, rounded to whole pixels; None where its columns are absent or all empty.

        Raises:
            DataError: Some are empty, or one is no number.
        """
        if not any(self.fields.get(column) for column in BOX_COLUMNS):
            return None
        left, top, right, bottom = (self.number(column, _pixels) for column in BOX_COLUMNS)
        return left, top, right, bottom

    def attributes(self, known: Collection[str]) -> dict[str, AttributeValue]:
        """What stands in the columns that have no meaning of their own.

        Raises:
            UsageError: A column's name or a value cannot be an attribute.
        """
        return parse_attributes(((name, text) for name, text in self.fields.items() if name not in known), self.where)


def read_rows(path: Path, *, required: Collection[str]) -> Iterator[TableRow]:
    """Read a CSV file (UTF-8, comma-separated, with a header), one row at a time.

    Args:
        path: The file.
        required: Columns that must be there. The names of columns are told without regard to case, and box columns come all
            four or not at all.

    Yields:
        Its rows; empty lines are left out.

    Raises:
        DataError: The file cannot be read, is not CSV, a column is missing or named twice, or a row is too short or too long.
    """
    for line, fields in csv_rows(path, required=required, all_or_none=BOX_COLUMNS):
        yield TableRow(f"{path}, line {line}", fields)


def _pixels(text: str) -> int:
    value = float(text)
    if not abs(value) <= _MAX_COORDINATE:
        raise ValueError
    return round(value)
