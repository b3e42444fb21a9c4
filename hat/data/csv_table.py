"""Tables: a CSV file row by row with every mistake named by its line, and a data set as such a table.

Relative paths are relative to the table. A path may be absolute, may climb with ``..`` and may name a member of a zip file: the
table is its owner's own list, and whatever it names has to exist and, when it is read, to be an image.
"""

import codecs
import csv
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from hat.data.archives import location_exists
from hat.data.datasets import JUNK_PID, ReIDDataset, Sample, assemble
from hat.data.labels import number_labels
from hat.errors import DataError
from hat.io.atomic_output import atomic_output, encodable

_COLUMNS = ("path", "pid", "camid", "split")
_SPLITS = ("train", "query", "gallery")
_MOST_COLUMNS = 1000
_MAX_HEADER = 1_000_000


def csv_rows(
    path: Path, *, required: Collection[str], all_or_none: Collection[str] = (), with_others: bool = True
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table with a header: the number of a row's line, and its fields by column in lower case.

    It is UTF-8 or UTF-16, separated by commas, semicolons or tabs; blanks around fields are removed, empty lines left out.
    Columns ``required`` must be there, in any order and case; those of ``all_or_none`` come together or not at all. Without
    ``with_others`` all others are ignored, whatever their names, which may be empty as spreadsheets leave them.
    """
    try:
        with path.open("rb") as binary:
            is_utf16 = binary.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        # utf-8-sig: spreadsheets write a byte-order mark, which would become part of the first column's name.
        with path.open(newline="", encoding="utf-16" if is_utf16 else "utf-8-sig") as file:
            first = file.readline(_MAX_HEADER)
            file.seek(0)
            # The separator that the header has most of; names of columns hold none of the three.
            reader = csv.reader(file, strict=True, delimiter=max(",;\t", key=first.count))
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
    except UnicodeError as error:
        raise DataError(f"{path}: neither UTF-8 nor UTF-16 ({error}); save the table as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _check_header(path: Path, header: list[str], required: Collection[str], all_or_none: Collection[str]) -> None:
    if len(header) > _MOST_COLUMNS:
        raise DataError(f"{path}, line 1: more than {_MOST_COLUMNS:,} columns")
    if repeated := sorted(name for name, count in Counter(header).items() if count > 1):
        raise DataError(f"{path}, line 1: expected every column once, got {', '.join(repeated)} more than once")
    begun = any(name in header for name in all_or_none)
    missing = [name for name in (*required, *(all_or_none if begun else ())) if name not in header]
    if missing:
        raise DataError(f"{path}, line 1: expected the columns {', '.join(required)}; {', '.join(missing)} missing")


def read_csv_table(path: Path, *, skip_missing: bool = False) -> ReIDDataset:
    """Read a data set from a table, see `csv_rows`, in the order of its rows.

    ``pid`` and ``camid`` are any labels: numbers keep their values, names are numbered after them, and a pid of ``-1`` is junk
    and left out. ``split`` is ``train``, ``query`` or ``gallery``. Paths may be written with backslashes. With ``skip_missing``
    rows whose files are not there are left out, with a note, instead of raising.
    """
    rows: list[dict[str, str]] = []
    missing: list[tuple[str, str]] = []
    for line, row in csv_rows(path, required=_COLUMNS, with_others=False):
        where = f"{path}, line {line}"
        row["path"] = _locate(row, path.parent, where)
        if location_exists(row["path"]):
            rows.append(row)
        else:
            missing.append((where, row["path"]))
    if missing and not skip_missing:
        where, location = missing[0]
        more = f" (and {len(missing) - 1:,} more of {len(rows) + len(missing):,})" if len(missing) > 1 else ""
        raise DataError(f"{where}: there is no file {location}{more}; --skip-bad of hat train and hat eval leaves it out")
    if missing and not rows:
        raise DataError(f"{path}: none of its {len(missing):,} files is there, the first is {missing[0][1]}")
    if not rows:
        raise DataError(f"{path}: no rows after the header")
    pids = number_labels((row["pid"] for row in rows), f"{path}, column pid")
    camids = number_labels((row["camid"] for row in rows), f"{path}, column camid")
    usable = [row for row in rows if pids[row["pid"]] != JUNK_PID]
    notes = [f"{len(rows) - len(usable):,} junk images (-1) left out"] if len(usable) < len(rows) else []
    if missing:
        notes.append(f"{len(missing):,} listed files are not there and left out, the first is {missing[0][1]}")
    repeated = [name for name, count in Counter((row["path"], row["split"]) for row in usable).items() if count > 1]
    if repeated:
        notes.append(f"{len(repeated):,} files are listed more than once in one split, such as {repeated[0][0]}")
    splits: dict[str, list[Sample]] = {name: [] for name in _SPLITS}
    for row in usable:
        splits[row["split"]].append(Sample(row["path"], pids[row["pid"]], camids[row["camid"]]))
    return assemble("csv", str(path), *splits.values(), notes=notes)


def _locate(row: dict[str, str], folder: Path, where: str) -> str:
    """Return the location of a row's file, as it can be opened from anywhere, once its fields are checked."""
    for column in _COLUMNS:
        if not row[column]:
            raise DataError(f"{where}: {column} is empty")
    if row["split"] not in _SPLITS:
        raise DataError(f"{where}: split is {row['split']!r}, expected {', '.join(_SPLITS)}")
    if row["camid"].startswith("-"):
        raise DataError(f"{where}: camid is {row['camid']!r}, expected a name or a number of at least 0")
    return locate(row["path"], folder)


def locate(text: str, folder: Path) -> str:
    """Return the location of the file that a table in ``folder`` calls so: with backslashes too, and with ``~`` for home."""
    written = (text, text.replace("\\", "/"), os.path.expanduser(text))  # noqa: PTH111 - Path's raises without a home
    locations = list(dict.fromkeys(str(folder / one) for one in written))  # joining keeps an absolute path as it is
    return next(filter(location_exists, locations), locations[0]) if len(locations) > 1 else locations[0]


def is_csv_table(path: Path) -> bool:
    """Return whether this is a file whose name ends with ``.csv``."""
    return path.is_file() and path.name.lower().endswith(".csv")


def write_csv_table(dataset: ReIDDataset, path: Path) -> None:
    """Write a data set, with absolute paths, as a table that `read_csv_table` reads, whole or not at all.

    A file that is there is never replaced, since it may be the table that the data set came from: a `UsageError`.
    """
    with atomic_output(path) as unfinished, encodable(path), unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for split in (dataset.train, dataset.query, dataset.gallery):
            writer.writerows([Path(s.path).absolute(), s.pid, s.camid, split.name] for s in split)
