"""The Report page: the last verification and the last benchmark that were written."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from hat.errors import HatError, UsageError

from ..app_state import AppState
from ..events import bind
from ..ranking import format_time
from ..session import Session
from ..view.markup import empty_state, escaped, notice, plural
from ..view.report_tables import benchmark_html, verification_html

MAX_REPORT_BYTES = 8 * 2**20
"""Largest report that is read."""

Kind = Literal["verification", "benchmark"]

_HOW_TO = empty_state(
    "No report was given",
    "Write some and start the demo with them: <code>hat verify runs/market market.onnx --images crops --report-json "
    "parity.json</code>, <code>hat bench runs/market market.onnx --json &gt; speed.json</code>, then <code>hat demo "
    "runs/market --report parity.json --report speed.json</code>.",
)

_PARTS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("verification", "Do exported files rank people alike?", verification_html),
    ("benchmark", "How fast are they?", benchmark_html),
)


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
    """Return reports in files and folders, the newest first.

    Args:
        paths: Files, which must be reports; and folders, of whose ``.json`` files those are taken that are reports.

    Raises:
        UsageError: A path is not there, or a file is not one.
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
        UsageError: A path is not there, a file is not one, or a folder holds none.
    """
    for path in paths:
        if not find_reports([path]):
            raise UsageError(
                f"{path} holds no report: write one with `hat verify ... --report-json FILE` or `hat bench ... --json > FILE`"
            )


def report_page(state: AppState, session_state: gr.State, tab: Any) -> None:
    """Build the page; the reports are read again whenever it is opened."""
    page = gr.HTML(reports_html(state.report_paths), apply_default_css=False)

    def read(_: Session) -> tuple[str]:
        return (reports_html(state.report_paths),)

    if state.report_paths:
        bind(tab.select, read, session_state, [], [page], show_progress="hidden")


def reports_html(paths: Sequence[Path]) -> str:
    """Return the newest report of each kind; where it cannot be shown, the reason."""
    if not paths:
        return _HOW_TO
    try:
        reports = find_reports(paths)
    except HatError as error:
        return notice(escaped(str(error)), kind="bad")
    parts = []
    for kind, title, render in _PARTS:
        of_kind = [report for report in reports if report.kind == kind]
        if of_kind:
            parts.append(_part(title, of_kind, render))
    return "".join(parts) or _HOW_TO


def _part(title: str, reports: Sequence[Report], render: Callable[[Mapping[str, Any]], str]) -> str:
    newest = reports[0]
    try:
        body = render(newest.content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        body = notice(escaped(f"{newest.path.name} cannot be shown: {type(error).__name__} {error}"), kind="bad")
    older = f"; {plural(len(reports) - 1, 'older report')} not shown" if len(reports) > 1 else ""
    return (
        f'<section class="hat-report"><h2 class="hat-title">{title}</h2>{body}<p class="hat-hint">'
        f"{escaped(newest.path.name)}, {format_time(newest.modified_s)} UTC{older}.</p></section>"
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
            raise UsageError(f"{path} is not a report of `hat verify --report-json` or `hat bench --json`")
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
