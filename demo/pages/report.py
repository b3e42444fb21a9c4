"""The Report page: the last verification and the last benchmark that were written."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from jinja2 import UndefinedError

from hat.console import share_text
from hat.errors import HatError, UsageError
from hat.export.parity.verification_report import RATES, SHORT_NAMES, Check
from hat.serve.gallery.timestamps import format_timestamp

from ..app_state import AppState, Session
from ..events import bind
from ..view.blocks import html_block
from ..view.markup import Cell, fragments, plural

MAX_REPORT_BYTES = 8 * 2**20
"""Largest report that is read."""

Kind = Literal["verification", "benchmark"]
Bar = tuple[str, float, str, bool]


@dataclass(frozen=True, eq=False)
class Report:
    """A report: what it reports, where it is, when it was written (seconds since 1970), and its JSON."""

    kind: Kind
    path: Path
    modified_s: float
    content: dict[str, Any] = field(repr=False)


def report_page(state: AppState, session_state: gr.State, tab: Any) -> None:
    """Build the page; the reports are read again whenever it is opened."""
    page = html_block(reports_html(state.report_paths))

    def read(_: Session) -> tuple[str]:
        return (reports_html(state.report_paths),)

    if state.report_paths:
        bind(tab.select, read, session_state, [], [page], show_progress="hidden")


def find_reports(paths: Sequence[Path]) -> list[Report]:
    """Return reports, the newest first: files, which must be reports, and those among the ``.json`` files of folders."""
    reports = []
    for path in paths:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        reports += [report for file in files if (report := _read(file, strict=not path.is_dir())) is not None]
    return sorted(reports, key=lambda report: -report.modified_s)


def check_report_paths(paths: Sequence[Path]) -> None:
    """Make sure, before the demo opens, that there is something to show; a UsageError names what is no report."""
    for path in paths:
        if not find_reports([path]):
            raise UsageError(
                f"{path} holds no report: write one with `hat verify ... --report-json FILE` or `hat bench ... --json > FILE`"
            )


def reports_html(paths: Sequence[Path]) -> str:
    """Return the newest report of each kind; where it cannot be shown, the reason."""
    try:
        reports = find_reports(paths)
    except HatError as error:
        return str(fragments("components").notice(str(error), "bad"))
    shown = ""
    for kind, title, render in (
        ("verification", "Do exported files rank people alike?", verification_html),
        ("benchmark", "How fast are they?", benchmark_html),
    ):
        if not (ours := [report for report in reports if report.kind == kind]):
            continue
        newest, num_older = ours[0], len(ours) - 1
        try:
            body = render(newest.content)
        except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
            message = f"{newest.path.name} cannot be shown: {type(error).__name__} {error}"
            body = fragments("components").notice(message, "bad")
        older = f"; {plural(num_older, 'older report')} not shown" if num_older else ""
        source = f"{newest.path.name}, {format_timestamp(newest.modified_s)} UTC{older}"
        shown += str(fragments("report").part(title, body, source))
    return shown or str(fragments("report").how_to())


def verification_html(content: Mapping[str, Any]) -> str:
    """Return a verification: a verdict and the figures of each candidate, and how much of every tolerance it used."""
    candidates = content["candidates"]
    checks = [[Check.from_dict(check) for check in candidate["checks"]] for candidate in candidates]
    names = list(dict.fromkeys(check.name for own in checks for check in own if check.level != "rows"))
    rows, groups = [], []
    for candidate, own in zip(candidates, checks, strict=True):
        by_name = {check.name: check for check in own}
        verdict = Cell("pass", kind="good") if candidate["passed"] else Cell("fail", kind="bad")
        rows.append(
            [Cell(candidate["name"], candidate["runtime"]), verdict, *(_check_cell(by_name.get(name)) for name in names)]
        )
        groups.append((candidate["name"], [_tolerance_bar(by_name[name]) for name in names if name in by_name]))
    columns = ["candidate", "verdict", *(SHORT_NAMES.get(name, name) for name in names)]
    return fragments("report").verification(content, columns, rows, groups)  # type: ignore[no-any-return]


def benchmark_html(content: Mapping[str, Any]) -> str:
    """Return a benchmark: speed and latency by batch size, memory, and accuracy where it is known."""
    speeds = [(candidate, speed) for candidate in content["candidates"] for speed in candidate["speeds"]]
    fastest = max((float(speed["images_per_s"]) for _, speed in speeds), default=1.0) or 1.0
    groups: dict[str, list[Bar]] = {}
    rows = []
    for candidate, speed in speeds:
        rate, batch, accuracy = float(speed["images_per_s"]), int(speed["batch"]), candidate.get("accuracy", {})
        groups.setdefault(f"batch {batch}, {speed['mode']}", []).append(
            (candidate["name"], rate / fastest, f"{rate:,.1f}", False)
        )
        cells = [
            f"{speed['mode']}, {batch}",
            f"{rate:,.1f}",
            f"{float(speed['ratio']):.2f}×",
            *(f"{1000 * float(speed[key]):.1f}" for key in ("p50_s", "p95_s", "p99_s")),
            share_text(speed.get("utilization")),
            f"{float(candidate['peak_bytes']) / 2**20:,.0f}",
            ", ".join(f"{label} {share_text(float(accuracy[key]))}" for key, label in RATES.items() if key in accuracy) or "–",
        ]
        rows.append([Cell(candidate["name"], candidate["runtime"]), *map(Cell, cells)])
    columns = ["candidate", "mode, batch", "images/s", "to first", "p50 ms", "p95 ms", "p99 ms"]
    columns += ["utilization", "memory MB", "accuracy"]
    return fragments("report").benchmark(content, columns, rows, list(groups.items()))  # type: ignore[no-any-return]


def _check_cell(check: Check | None) -> Cell:
    if check is None:
        return Cell("–")
    sense = "≥" if check.sense == ">=" else "≤"
    return Cell(check.value_text, f"{sense} {check.limit_text}", "" if check.passed else "bad")


def _tolerance_bar(check: Check) -> Bar:
    """Return a bar of the share of a tolerance that a figure uses; the whole width is the limit."""
    text = f"{100 * check.used:.0f} %" if check.passed else "over" if math.isfinite(check.value) else check.value_text
    return SHORT_NAMES.get(check.name, check.name), check.used, text, not check.passed


def _read(path: Path, *, strict: bool) -> Report | None:
    """Return a file's report; None where it is not one and need not be."""
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
    if kind is None and strict:
        raise UsageError(f"{path} is not a report of `hat verify --report-json` or `hat bench --json`")
    return None if kind is None else Report(kind, path, status.st_mtime, content)


def _kind(content: Any) -> Kind | None:
    candidates = content.get("candidates") if isinstance(content, dict) else None
    if not isinstance(candidates, list) or not candidates or not all(isinstance(candidate, dict) for candidate in candidates):
        return None
    if "reference" in content and all(isinstance(candidate.get("checks"), list) for candidate in candidates):
        return "verification"
    if "peaks" in content and all(isinstance(candidate.get("speeds"), list) for candidate in candidates):
        return "benchmark"
    return None
