"""Reports as tables and plots."""

import math
from collections.abc import Mapping
from typing import Any

from hat.export.parity.verification_report import SHORT_NAMES

from .markup import escaped, notice, plural, table

_RATES = {"mAP": "mAP", "rank1": "Rank-1", "mINP": "mINP"}


def verification_html(content: Mapping[str, Any]) -> str:
    """Return a verification: a verdict and the figures of each candidate, and how much of every tolerance it used.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is not such a report.
    """
    candidates = content["candidates"]
    names = list(dict.fromkeys(str(check["name"]) for one in candidates for check in one["checks"] if check["level"] != "rows"))
    rows, bars = [], ""
    for one in candidates:
        by_name = {str(check["name"]): check for check in one["checks"]}
        verdict = '<span class="hat-good-text">pass</span>' if one["passed"] else '<span class="hat-bad-text">fail</span>'
        rows.append([_candidate(one), verdict, *(_check_cell(by_name.get(name)) for name in names)])
        used = "".join(_tolerance_bar(name, by_name[name]) for name in names if name in by_name)
        if used:
            bars += f'<div><p class="hat-label">{escaped(one["name"])}</p><dl class="hat-bars">{used}</dl></div>'
    problems = "".join(
        f"<li><strong>{escaped(one['name'])}</strong>: {escaped(sentence)}</li>"
        for one in candidates
        for sentence in [*one.get("problems", []), *([] if one["passed"] else one.get("hints", []))]
    )
    queries = plural(int(content["num_queries"]), "query", "queries")
    head = (
        f"Reference <strong>{escaped(content['reference'])}</strong>, {queries}, "
        f"{plural(int(content['num_gallery']), 'gallery image')}; {escaped(content.get('machine', ''))}"
    )
    return (
        f'<p class="hat-hint">{head}</p>'
        + (
            notice("Every candidate ranks people as the reference does.", kind="good")
            if content["passed"]
            else notice("Not every candidate is within its limits.", kind="bad")
        )
        + table(
            ["candidate", "verdict", *(escaped(SHORT_NAMES.get(name, name)) for name in names)],
            rows,
            caption="Figures of each candidate",
            numeric=frozenset(range(2, 2 + len(names))),
        )
        + (f'<ul class="hat-list">{problems}</ul>' if problems else "")
        + (
            f'<h3 class="hat-heading">How much of each tolerance is used</h3><div class="hat-bar-groups">{bars}</div>'
            if bars
            else ""
        )
    )


def benchmark_html(content: Mapping[str, Any]) -> str:
    """Return a benchmark: speed and latency by batch size, memory, and accuracy where it is known.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is not such a report.
    """
    candidates = content["candidates"]
    runs = list(dict.fromkeys((str(speed["mode"]), int(speed["batch"])) for one in candidates for speed in one["speeds"]))
    fastest = max((float(speed["images_per_s"]) for one in candidates for speed in one["speeds"]), default=1.0) or 1.0
    groups = ""
    for mode, batch in runs:
        bars = "".join(
            _bar(escaped(one["name"]), float(speed["images_per_s"]) / fastest, f"{float(speed['images_per_s']):,.1f}")
            for one in candidates
            for speed in one["speeds"]
            if (speed["mode"], speed["batch"]) == (mode, batch)
        )
        groups += f'<div><p class="hat-label">batch {batch}, {escaped(mode)}</p><dl class="hat-bars">{bars}</dl></div>'
    rows = [
        [
            _candidate(one),
            f"{escaped(speed['mode'])}, {int(speed['batch'])}",
            f"{float(speed['images_per_s']):,.1f}",
            f"{float(speed['ratio']):.2f}×",
            *(f"{1000 * float(speed[key]):.1f}" for key in ("p50_s", "p95_s", "p99_s")),
            _percent(speed.get("utilization")),
            f"{float(one['peak_bytes']) / 2**20:,.0f}",
            _accuracy(one.get("accuracy", {})),
        ]
        for one in candidates
        for speed in one["speeds"]
    ]
    columns = ["candidate", "mode, batch", "images/s", "to first", "p50 ms", "p95 ms", "p99 ms"]
    columns += ["utilization", "memory MB", "accuracy"]
    busy = notice("Others were at work on this machine: the figures may be too low.", kind="bad")
    return (
        f'<p class="hat-hint">{escaped(content.get("machine", ""))}</p>'
        + (busy if content.get("is_busy") else "")
        + '<h3 class="hat-heading">Images in a second</h3>'
        + f'<div class="hat-bar-groups">{groups}</div>'
        + table(columns, rows, caption="Speed, latency and memory", numeric=frozenset(range(2, 9)))
    )


def _accuracy(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{_RATES[key]} {_percent(value)}" for key, value in figures.items() if key in _RATES) or "–"


def _candidate(one: Mapping[str, Any]) -> str:
    return f'{escaped(one["name"])}<br><span class="hat-quiet-text">{escaped(one["runtime"])}</span>'


def _check_cell(check: Mapping[str, Any] | None) -> str:
    if check is None:
        return '<span class="hat-quiet-text">–</span>'
    kind = "" if check["passed"] else " hat-bad-text"
    sense = {"<=": "≤", ">=": "≥"}.get(str(check["sense"]), "")
    return (
        f'<span class="hat-value{kind}">{_figure(check, "value")}</span><br>'
        f'<span class="hat-quiet-text">{sense} {_figure(check, "limit")}</span>'
    )


def _figure(check: Mapping[str, Any], key: str) -> str:
    value = check[key]
    if value is None or not math.isfinite(float(value)):
        return "not a number"
    if check["level"] == "retrieval":
        return f"{100 * float(value):.2f} pt"
    return f"{float(value):.6g}" if abs(float(value)) > 0.9 else f"{float(value):.3g}"


def _tolerance_bar(name: str, check: Mapping[str, Any]) -> str:
    """Return how far a figure went from perfect towards its limit; the whole width is the limit."""
    value, limit = check["value"], float(check["limit"])
    if value is None:
        return _bar(escaped(SHORT_NAMES.get(name, name)), 1.0, "not a number", kind="hat-bad")
    room = 1 - limit if check["sense"] == ">=" else limit
    gone = 1 - float(value) if check["sense"] == ">=" else float(value)
    share = gone / room if room > 0 else (0.0 if gone <= 0 else math.inf)
    text = f"{100 * share:.0f} %" if math.isfinite(share) else "over"
    return _bar(escaped(SHORT_NAMES.get(name, name)), share, text, kind="" if check["passed"] else "hat-bad")


def _bar(name: str, share: float, text: str, *, kind: str = "") -> str:
    width = 100 * min(1.0, max(0.0, share)) if math.isfinite(share) else 100.0
    return (
        f'<div class="hat-bar"><dt>{name}</dt><dd><span class="hat-track"><span class="hat-bar-fill {kind}" '
        f'style="width: {width:.1f}%"></span></span><span>{text}</span></dd></div>'
    )


def _percent(rate: Any) -> str:
    return "–" if rate is None else f"{100 * float(rate):.1f} %"
