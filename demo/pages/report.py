"""The Report page: the last verification and the last benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from hat.errors import HatError

from ..app_state import Workbench
from ..events import listen
from ..ranking import format_time
from ..reports import Report, find_reports
from ..session import Session
from ..view.markup import empty_state, escaped, notice, plural
from ..view.report_tables import benchmark_html, verification_html

__all__ = ["report_page", "reports_html"]

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


def report_page(bench: Workbench, session: gr.State, tab: Any) -> None:
    """Build the page; the reports are read anew whenever it is opened."""
    page = gr.HTML(reports_html(bench.report_paths), apply_default_css=False)

    def read(_: Session) -> tuple[str]:
        return (reports_html(bench.report_paths),)

    if bench.report_paths:
        listen(tab.select, read, session, [], [page], show_progress="hidden")


def reports_html(paths: Sequence[Path]) -> str:
    """The newest report of each kind; where it cannot be shown, the reason."""
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
