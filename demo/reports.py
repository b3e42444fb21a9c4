"""Reports that `hat verify --report-json` and `hat bench --json` left: found, told apart and read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hat.errors import UsageError

__all__ = ["Report", "check_report_paths", "find_reports"]

MAX_REPORT_BYTES = 8 * 2**20
"""Largest report that is read."""

Kind = Literal["verification", "benchmark"]


@dataclass(frozen=True, eq=False)
class Report:
    """A report.

    Attributes:
        kind: What it reports.
        path: Where it is.
        modified_s: When it was written, in seconds since 1970.
        content: Its JSON.
    """

    kind: Kind
    path: Path
    modified_s: float
    content: dict[str, Any] = field(repr=False)


def find_reports(paths: Sequence[Path]) -> list[Report]:
    """Reports in files and folders, the newest first.

    Args:
        paths: Files, which must be reports; and folders, of whose ``.json`` files those are taken that are reports.

    Raises:
        UsageError: A path is not there, or a file is no report.
    """
    found: list[Report] = []
    for path in paths:
        if path.is_dir():
            found += [report for file in sorted(path.glob("*.json")) if (report := _read(file, strict=False)) is not None]
        else:
            report = _read(path, strict=True)
            found += [report] if report is not None else []
    return sorted(found, key=lambda report: -report.modified_s)


def check_report_paths(paths: Sequence[Path]) -> None:
    """Make sure, before the demo opens, that there is something to show.

    Raises:
        UsageError: A path is not there, a file is no report, or a folder holds none.
    """
    for path in paths:
        if not find_reports([path]):
            raise UsageError(
                f"{path} holds no report: write one with `hat verify ... --report-json FILE` or `hat bench ... --json > FILE`"
            )


def _read(path: Path, *, strict: bool) -> Report | None:
    try:
        status = path.stat()
        if status.st_size > MAX_REPORT_BYTES:
            raise ValueError(f"larger than {MAX_REPORT_BYTES // 2**20} MB")
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = _kind(content)
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such report") from None
    except (OSError, ValueError, RecursionError) as error:
        if strict:
            raise UsageError(f"{path} cannot be read as a report: {error}") from None
        return None
    if kind is None:
        if strict:
            raise UsageError(f"{path} is no report of `hat verify --report-json` or `hat bench --json`")
        return None
    return Report(kind, path, status.st_mtime, content)


def _kind(content: Any) -> Kind | None:
    candidates = content.get("candidates") if isinstance(content, dict) else None
    if not isinstance(candidates, list) or not candidates or not all(isinstance(one, dict) for one in candidates):
        return None
    if "reference" in content and all(isinstance(one.get("checks"), list) for one in candidates):
        return "verification"
    if "peaks" in content and all(isinstance(one.get("speeds"), list) for one in candidates):
        return "benchmark"
    return None
