"""What a command says: results on stdout, as a table or as JSON; everything else, progress bars included, on stderr."""

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

stderr = Console(stderr=True, highlight=False)
"""Where messages go, so that what a command prints on stdout can be piped."""


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a progress display on stderr with counts and the remaining time; it draws nothing where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[info]}"),
    )
    with Progress(*columns, console=stderr, transient=False, disable=not stderr.is_terminal) as display:
        yield display


def emit(result: Mapping[str, Any], table: RenderableType, as_json: bool) -> None:
    """Print a command's result on stdout.

    Args:
        result: The result as plain data.
        table: The same for a reader.
        as_json: Print ``result`` as indented JSON instead of ``table``.
    """
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    else:
        # A pipe has no width: rich would fold a table to 80 columns and lose digits.
        Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)


def make_table(rows: Iterable[Sequence[object]], columns: Sequence[str] = (), *, left: Collection[str] = ()) -> Table:
    """Return a table without lines.

    Args:
        rows: Its cells, printed as they are: a path in square brackets is no markup.
        columns: Bold heads of columns; none for a table of names and values.
        left: Those of them that hold texts; the others are numbers, which stand to the right.
    """
    table = Table(box=None, show_header=bool(columns), header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def metric_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return figures for a reader: the rates of a ranking as percent under their usual names, anything else as it is."""
    rates = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mINP": "mINP"}
    known = [(label, f"{percent(metrics[key])} %") for key, label in rates.items() if key in metrics]
    return known + [(key, str(value)) for key, value in metrics.items() if key not in rates]


def percent(rate: float) -> str:
    """Return a rate in [0, 1] as percent with two digits, as the field prints mAP and Rank-1."""
    return f"{100 * rate:.2f}"
