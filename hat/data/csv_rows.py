"""A CSV file that is read row by row, whatever its length, with every mistake named by its line."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path

from hat.errors import DataError

__all__ = ["csv_rows"]

_MOST_COLUMNS = 1000


def csv_rows(
    path: Path, *, required: Collection[str], all_or_none: Collection[str] = (), with_others: bool = True
) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file (UTF-8, comma-separated, with a header), one row at a time.

    Args:
        path: The file.
        required: Columns that must be there, in any order; names of columns are told without regard to case.
        all_or_none: Columns that come together or not at all.
        with_others: Whether all other columns are read too; otherwise they are ignored, whatever their names, which may be
            empty as spreadsheets leave them.

    Yields:
        The number of a row's line and its fields by column, blanks at their ends removed. Empty lines are left out.

    Raises:
        DataError: The file cannot be read, is not CSV, a column that is read is missing or named twice, or a row is too short
            or too long.
    """
    try:
        # utf-8-sig: spreadsheets write a byte-order mark, which would become part of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            read = header if with_others else [name for name in header if name in required or name in all_or_none]
            _check_header(path, read, required, all_or_none)
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    raise DataError(f"{path}, line {reader.line_num}: expected {len(header)} fields, got {len(fields)}")
                by_column = {name: field.strip() for name, field in zip(header, fields, strict=True)}
                yield reader.line_num, {name: by_column[name] for name in read}
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _check_header(path: Path, header: list[str], required: Collection[str], all_or_none: Collection[str]) -> None:
    repeated = (
        sorted({name for name in header if header.count(name) > 1})
        if len(header) <= _MOST_COLUMNS
        else [f"more than {_MOST_COLUMNS:,} columns"]
    )
    if repeated:
        raise DataError(f"{path}, line 1: expected every column once, got {', '.join(repeated)} more than once")
    begun = any(name in header for name in all_or_none)
    missing = [name for name in (*required, *(all_or_none if begun else ())) if name not in header]
    if missing:
        raise DataError(f"{path}, line 1: expected the columns {', '.join(required)}; {', '.join(missing)} missing")
