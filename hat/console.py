"""Output of a command: results on stdout, as a table or as JSON; everything else, progress bars included, on stderr.

Results worth keeping go into a Markdown file too, with all that is needed to measure them again.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from hat.errors import UsageError
from hat.io.atomic_output import check_output, writing
from hat.processor import processor_name

stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""Console of messages, so that what a command prints on stdout can be piped. No markup: paths have square brackets."""

RATES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mINP": "mINP"}
"""Metrics of a ranking -> their names for a reader."""


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a progress display on stderr with counts and the remaining time; it draws nothing where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[info]}", markup=False),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as display:
        yield display


def emit(result: Mapping[str, Any], table: RenderableType, as_json: bool) -> None:
    """Print a command's result on stdout: plain data as indented JSON, or the same for a reader as a table or a sentence."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    else:
        # A pipe has no width: rich would fold a table to 80 columns and lose digits.
        console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 140)
        console.print(table)


def make_table(rows: Iterable[Sequence[object]], columns: Sequence[str] = (), *, left: Collection[str] = ()) -> Table:
    """Return a table without lines: of names and values, or with columns, whose numbers stand to the right."""
    table = Table(box=None, show_header=bool(columns), header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def metric_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return figures for a reader: the rates of a ranking as percent under their usual names, anything else as it is."""
    known = [(label, f"{percent(metrics[key])} %") for key, label in RATES.items() if key in metrics]
    return known + [(key, str(value)) for key, value in metrics.items() if key not in RATES]


def percent(rate: float) -> str:
    """Return a rate in [0, 1] as percent with two digits, as the field prints mAP and Rank-1."""
    return f"{100 * rate:.2f}"


def share_text(rate: float | None) -> str:
    """Return a rate in [0, 1] as percent with its sign and three significant digits, however small; None is a dash."""
    return "–" if rate is None else f"{Decimal(f'{100 * rate:.3g}'):f} %"


def check_record(path: Path | None) -> None:
    """Refuse before the work a file that `append_record` could not write after it; None is no file."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"--record takes a Markdown file, and {path} is a folder")
    check_output(path, overwrite=True)


def append_record(path: Path, title: str, rows: Sequence[Mapping[str, Any]], wall_time_s: float) -> None:
    """Append a section with a table, the command, the commit, the machine and the wall time to a Markdown file."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    day, commit = time.strftime("%Y-%m-%d"), _source_commit() or "unknown"
    details = f"{day}, commit {commit}, {describe_machine()}, {wall_time_s:.0f} s."
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(f"\n## {title}\n\n{markdown_table(rows)}\n`{command}`\n\n{details}\n")


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of rows that share their columns; numbers are aligned to the right."""
    columns = list(rows[0])
    aligned = ["---:" if isinstance(rows[0][column], int | float) else "---" for column in columns]
    lines = [columns, aligned, *([str(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def describe_machine() -> str:
    """Return processor, cores and CUDA device in a few words, with the version of torch."""
    import torch

    parts = [f"{processor_name()}, {os.cpu_count()} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return "; ".join([*parts, f"torch {torch.__version__}"])


def _source_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, marked where files differ; None where there is none."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        folder = Path(__file__).resolve().parent
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)

    try:
        if git("ls-files", "--error-unmatch", Path(__file__).name).returncode:
            return None  # installed into an environment that lies in somebody else's checkout
        return git("describe", "--always", "--dirty", "--abbrev=10").stdout.strip() or None
    except OSError:
        return None
