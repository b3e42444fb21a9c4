"""Items to be enrolled: images with their labels, from a name, from a row of a table, or from the call."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn, TypeVar

from PIL import Image

from hat.data.csv_table import csv_rows
from hat.data.datasets import DISTRACTOR_PID, JUNK_PID
from hat.data.images import decode_image
from hat.data.labels import parse_label
from hat.data.market import parse_market_name
from hat.errors import DataError, ImageError

from ..gallery.identities import Identity
from ..gallery.person_crops import Box, crop_person
from ..gallery.record_checks import parse_attributes
from ..gallery.records import AttributeValue
from ..gallery.timestamps import parse_timestamp

BOX_COLUMNS = ("left", "top", "right", "bottom")
"""Columns of a box, in pixels; right and bottom are the first column and row outside it."""

CAMERA_ATTRIBUTE = "camera"  # what a table calls a record's camera, where that is not a number

_MAX_COORDINATE = 10**9
_MARKET_FRAME = re.compile(r"(?:-1|\d+)_c\d+s(\d{1,9})_(\d{1,9})", re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of an image, or of all images of a call; the time in seconds since 1970 (UTC)."""

    pid: Identity | None = None
    camid: int | None = None
    time_s: float | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)

    def of(self, item: "Item") -> "Item":
        """Return an item with these labels, as far as they are known, in place of its own."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return replace(item, **known | {"attributes": {**item.attributes, **self.attributes}})


@dataclass(frozen=True, kw_only=True)
class Item(Labels):
    """One image that is to be enrolled, and what is known of it.

    Attributes:
        source: How it is called for people; a path that can still be read later lets a gallery be rebuilt.
        read: Gives its encoded bytes, in one of `hat.data.images.FORMATS`; an `ImageError` says why it cannot.
        box: The person within a larger picture; None where the picture is of the person.
        enrolled_s: When it was enrolled before, in seconds since 1970 (UTC); None is now.
    """

    source: str
    read: Callable[[], bytes]
    box: Box | None = None
    enrolled_s: float | None = None

    def decode(self, data: bytes) -> Image.Image:
        """Return the person, RGB, from the encoded bytes of the whole picture; an `ImageError` where they hold none."""
        image = decode_image(data, self.source)
        return image if self.box is None else crop_person(image, self.box, self.source)


def refuse(reason: str) -> Callable[[], NoReturn]:
    """Return what reads an image that cannot be read: it raises an `ImageError` with that message."""

    def read() -> NoReturn:
        raise ImageError(reason)

    return read


def read_name(name: str) -> Labels | None:
    """Return what a Market-style file name says: ``0002_c1s1_000451_03.jpg`` is identity 2 seen by camera 1.

    The sequence and the frame within it (``s1_000451``) become attributes and no time, for nothing says when a sequence began.
    Identity 0 is Market-1501's label for background and passers-by, who are not one person: their identity is unknown. Junk has
    pid -1; a name of another kind says nothing (None).
    """
    labels = parse_market_name(name)
    if labels is None:
        return None
    pid, camid = labels
    match = _MARKET_FRAME.match(name)
    attributes = {"sequence": int(match[1]), "frame": int(match[2])} if match else {}
    return Labels(pid=None if pid == DISTRACTOR_PID else pid, camid=camid, attributes=attributes)


@dataclass(frozen=True)
class TableRow:
    """A row of a table; whatever cannot be read in it is a `DataError` or a `UsageError` that names its line, ``where``."""

    where: str
    fields: dict[str, str]  # text by column, blanks at its ends removed

    def text(self, column: str) -> str:
        """Return what stands in a column, which must not be empty."""
        if not self.fields.get(column):
            raise DataError(f"{self.where}: {column} is empty")
        return self.fields[column]

    def number(self, column: str, convert: Callable[[str], T]) -> T:
        """Return a number."""
        text = self.text(column)
        try:
            return convert(text)
        except (ValueError, OverflowError):
            raise DataError(f"{self.where}: {column} is {text!r}, expected a number") from None

    def whole_number(self, column: str) -> int | None:
        """Return a whole number of at least 0; None where the column is absent or empty."""
        label = self.label(column)
        if isinstance(label, str) or label == JUNK_PID:
            raise DataError(f"{self.where}: {column} is {self.fields[column]!r}, expected a whole number of at least 0")
        return label

    def labels(self, known: Collection[str], cameras: Mapping[str, int] | None = None) -> Labels:
        """Return pid (-1 is junk, None distractors), camid and, of the columns that are not ``known``, attributes; no time.

        ``cameras`` are numbers of those that are called by a name, which becomes `CAMERA_ATTRIBUTE`.
        """
        pid, camera, numbers = self.label("pid"), self.label("camid"), cameras or {}
        attributes = parse_attributes(((name, text) for name, text in self.fields.items() if name not in known), self.where)
        camid: int | None
        if isinstance(camera, str) and camera in numbers:
            camid, attributes = numbers[camera], attributes | {CAMERA_ATTRIBUTE: camera}
        else:
            camid = self.whole_number("camid")
        return Labels(pid=None if pid == DISTRACTOR_PID else pid, camid=camid, attributes=attributes)

    def timestamp(self, column: str) -> float | None:
        """Return a time in seconds since 1970 (UTC); None where the column is absent or empty."""
        text = self.fields.get(column, "")
        return parse_timestamp(text, f"{self.where}, column {column}") if text else None

    def box(self) -> Box | None:
        """Return the box, rounded to whole pixels; None where its columns are absent or all empty."""
        if not any(self.fields.get(column) for column in BOX_COLUMNS):
            return None
        left, top, right, bottom = (self.number(column, _pixels) for column in BOX_COLUMNS)
        return left, top, right, bottom

    def label(self, column: str) -> int | str | None:
        """Return what a label means, a number or a name; None where the column is absent or empty."""
        text = self.fields.get(column, "")
        try:
            return parse_label(text) if text else None
        except DataError as error:
            raise DataError(f"{self.where}: {column}: {error}") from None


def read_rows(path: Path, *, required: Collection[str]) -> Iterator[TableRow]:
    """Read a table with a header, one row at a time, see `csv_rows`; box columns come all four or not at all."""
    for line, fields in csv_rows(path, required=required, all_or_none=BOX_COLUMNS):
        yield TableRow(f"{path}, line {line}", fields)


def _pixels(text: str) -> int:
    value = float(text)
    if not abs(value) <= _MAX_COORDINATE:
        raise ValueError
    return round(value)
