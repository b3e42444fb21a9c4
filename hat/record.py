"""Results worth keeping: a Markdown section with the figures and all that is needed to measure them again."""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hat.errors import UsageError, WorkError


def append_record(path: Path, title: str, rows: Sequence[Mapping[str, Any]], wall_time_s: float) -> None:
    """Append a section with a table, the command, the commit, the machine and the wall time to a Markdown file.

    Args:
        path: The file; made if it is not there.
        title: Heading of the section.
        rows: Column -> value; every row has the columns of the first one.
        wall_time_s: How long the work took, in seconds.

    Raises:
        UsageError: There is nothing to record, or the path is a folder.
        WorkError: The file cannot be written.
    """
    if not rows:
        raise UsageError("there is nothing to record")
    if path.is_dir():
        raise UsageError(f"--record takes a Markdown file, and {path} is a folder")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    lines = [
        f"\n## {title}\n",
        markdown_table(rows),
        f"`{command}`\n",
        f"{time.strftime('%Y-%m-%d')}, commit {source_commit() or 'unknown'}, {describe_machine()}, {wall_time_s:.0f} s.\n",
    ]
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines))
    except OSError as error:
        raise WorkError(f"{path}: cannot be written: {error.strerror or error}") from None


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of rows that share their columns; numbers are aligned to the right."""
    columns = list(rows[0])
    aligned = ["---:" if isinstance(rows[0][column], int | float) else "---" for column in columns]
    lines = [columns, aligned, *([str(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def describe_machine() -> str:
    """Processor, cores and CUDA device in a few words, with the version of torch."""
    import torch

    parts = [f"{_processor_name()}, {os.cpu_count()} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return "; ".join([*parts, f"torch {torch.__version__}"])


def source_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, marked where files differ; None where there is none."""
    folder = Path(__file__).resolve().parent
    try:
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=folder, capture_output=True, check=False
        )
        if tracked.returncode:
            return None
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return described.stdout.strip() or None


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the general answer below
    return platform.processor() or platform.machine()
