"""The rows of a CSV file as enrollment reads them: labels, moments, boxes, attributes, every mistake named by its line."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hat.data.csv_table import csv_rows
from hat.data.datasets import DISTRACTOR_PID, JUNK_PID
from hat.data.labels import parse_label
from hat.errors import DataError

from ..gallery.attribute_values import parse_attributes, parse_timestamp
from ..gallery.identities import Identity
from ..gallery.person_crops import Box
from ..gallery.records import AttributeValue

BOX_COLUMNS = ("left", "top", "right", "bottom")
"""Columns of a box, in pixels; right and bottom are the first column and row outside it."""

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
        """Return what stands in a column.

        Raises:
            DataError: Nothing does.
        """
        if not self.fields.get(column):
            raise DataError(f"{self.where}: {column} is empty")
        return self.fields[column]

    def pid(self) -> Identity | None:
        """Return the identity, a number or a name; -1 is junk, and None where the column is absent, empty or 0 (distractors).

        Raises:
            DataError: It is no label.
        """
        label = self._label("pid")
        return None if label == DISTRACTOR_PID else label

    def whole_number(self, column: str) -> int | None:
        """Return a whole number of at least 0; None where the column is absent or empty.

        Raises:
            DataError: It is something else.
        """
        label = self._label(column)
        if isinstance(label, str) or label == JUNK_PID:
            raise DataError(f"{self.where}: {column} is {self.fields[column]!r}, expected a whole number of at least 0")
        return label

    def _label(self, column: str) -> int | str | None:
        text = self.fields.get(column, "")
        try:
            return parse_label(text) if text else None
        except DataError as error:
            raise DataError(f"{self.where}: {column}: {error}") from None

    def timestamp(self, column: str) -> float | None:
        """Return a time in seconds since 1970 (UTC); None where the column is absent or empty.

        Raises:
            UsageError: It is not a time.
        """
        text = self.fields.get(column, "")
        return parse_timestamp(text, f"{self.where}, column {column}") if text else None

    def number(self, column: str, convert: Callable[[str], T]) -> T:
        """Return a number.

        Raises:
            DataError: It is none.
        """
        text = self.text(column)
        try:
            return convert(text)
        except (ValueError, OverflowError):
            raise DataError(f"{self.where}: {column} is {text!r}, expected a number") from None

    def box(self) -> Box | None:
        """Return the box, rounded to whole pixels; None where its columns are absent or all empty.

        Raises:
            DataError: Some are empty, or one is no number.
        """
        if not any(self.fields.get(column) for column in BOX_COLUMNS):
            return None
        left, top, right, bottom = (self.number(column, _pixels) for column in BOX_COLUMNS)
        return left, top, right, bottom

    def attributes(self, known: Collection[str]) -> dict[str, AttributeValue]:
        """Return what stands in the columns that have no meaning of their own.

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
