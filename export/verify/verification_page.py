"""The report of a verification as one HTML file: no request to anybody, light and dark, the worst pairs as pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.console import percent

from ..page_style import CONTENT_POLICY, STYLE
from .verification_report import SHORT_NAMES, CandidateResult, Check, ImageShift, PairShift, VerificationReport

__all__ = ["render_page"]

_THUMBNAIL_HEIGHT = 192

_LEVELS = {
    "rows": "Rows",
    "embedding": "Embedding",
    "batch": "Batches",
    "ranking": "Ranking",
    "retrieval": "Retrieval",
}


def render_page(report: VerificationReport) -> str:
    """A report as a page.

    The compared images appear in it as small pictures where the report holds their pixels, and the page says so.

    Args:
        report: What was found.

    Returns:
        HTML, one file that needs no other.
    """
    verdict = "All candidates rank as the reference does" if report.passed else _count_failed(report)
    pictures = report.pixels is not None and any(result.worst_images for result in report.candidates)
    private = (
        '<p class="private"><b>This page holds images of persons.</b> Pass it on only to those who may see them; '
        "the JSON report holds the same figures without images.</p>"
    )
    body = [
        f'<div class="head"><h1>{escape(verdict)}</h1>{_badge(report.passed)}</div>',
        f'<p class="soft">Parity with <code>{escape(report.reference)}</code>, run by {escape(report.reference_runtime)}.</p>',
        private if pictures else "",
        f'<section class="card"><h2>Summary</h2>{_summary(report)}{_facts(report)}</section>',
        *(_candidate(result, report.pixels) for result in report.candidates),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(verdict)}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _count_failed(report: VerificationReport) -> str:
    failed = sum(not result.passed for result in report.candidates)
    return f"{failed} of {len(report.candidates)} candidates disagree with the reference"


def _badge(passed: bool) -> str:
    return f'<span class="badge {"good" if passed else "bad"}">{"pass" if passed else "fail"}</span>'


def _summary(report: VerificationReport) -> str:
    names = report.summary_names
    head = "".join(f'<th class="num" title="{escape(name)}">{escape(SHORT_NAMES.get(name, name))}</th>' for name in names)
    rows = []
    for result in report.candidates:
        by_name = {check.name: check for check in result.checks}
        cells = "".join(_summary_cell(by_name.get(name)) for name in names)
        name = f'<td class="name">{escape(result.name)}</td>'
        rows.append(f"<tr>{name}<td>{_badge(result.passed)}</td>{cells}</tr>")
    return f'<div class="wide"><table><tr><th>candidate</th><th>verdict</th>{head}</tr>{"".join(rows)}</table></div>'


def _summary_cell(check: Check | None) -> str:
    if check is None:
        return '<td class="num soft">-</td>'
    return f'<td class="num{"" if check.passed else " bad"}">{check.value_text}</td>'


def _facts(report: VerificationReport) -> str:
    num_gallery = len(report.paths) - report.num_queries
    facts = {
        "images": f"{len(report.paths)} of {report.source}, seed {report.seed}: "
        f"{report.num_queries} queries, {num_gallery} gallery images",
    }
    if report.left_out:
        facts["left out"] = f"{len(report.left_out)} that cannot be read, the first: {report.left_out[0]}"
    if report.dataset is not None:
        figures = report.dataset["reference"]
        facts["data set"] = "; ".join(
            [
                f"{report.dataset['name']}, {figures['num_queries']:,} queries, {figures['num_gallery']:,} gallery images",
                "reference "
                + ", ".join(
                    f"{percent(figures[key])} {name}" for key, name in (("mAP", "mAP"), ("rank1", "Rank-1"), ("mINP", "mINP"))
                ),
                *report.dataset["notes"],
            ]
        )
    facts["machine"] = report.machine
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return f'<dl class="small">{"".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())}</dl>'


def _candidate(result: CandidateResult, pixels: npt.NDArray[np.uint8] | None) -> str:
    parts = [
        f'<section class="card"><div class="head"><h2>{escape(result.name)}</h2>{_badge(result.passed)}</div>',
        f'<p class="soft small">{escape(result.runtime)}, {escape(result.precision)}; limits of {escape(result.tolerance)}</p>',
        _list("problems", result.problems),
        _list("hints", result.hints),
        _checks(result.checks) if result.checks else "",
    ]
    if result.similarities is not None and pixels is not None:
        pictures = "".join(_pair(pair, pixels) for pair in result.worst_pairs)
        parts.append(
            f"<details{'' if result.passed else ' open'}><summary>Similarities, and the worst of the images</summary>"
            f'<div class="columns"><div><h3>Similarity of query and gallery images</h3>{_scatter(result.similarities)}</div>'
            f'<div><h3>Pairs whose similarity changed most (query, gallery)</h3><div class="pairs">{pictures}</div></div></div>'
        )
        images = "".join(_image(shift, pixels) for shift in result.worst_images)
        parts.append(f'<h3>Images whose embedding moved most</h3><div class="images">{images}</div></details>')
    return "".join([*parts, "</section>"])


def _list(kind: str, sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _checks(checks: Iterable[Check]) -> str:
    rows, level = [], None
    for check in checks:
        first = _LEVELS[check.level] if check.level != level else ""
        level = check.level
        note = f'<div class="soft small">{escape(check.note)}</div>' if check.note else ""
        sign = "at least" if check.sense == ">=" else "at most"
        rows.append(
            f'<tr><td class="soft">{first}</td><td>{escape(check.name)}{note}</td>'
            f'<td class="num{"" if check.passed else " bad"}">{check.value_text}</td>'
            f'<td class="num soft">{sign} {check.limit_text}</td><td>{_meter(check)}</td>'
            f'<td class="reason">{escape(check.reason)}</td></tr>'
        )
    head = (
        '<th>level</th><th>figure</th><th class="num">value</th><th class="num">limit</th><th>used</th><th>why this limit</th>'
    )
    return f'<div class="wide"><table style="margin-top:14px"><tr>{head}</tr>{"".join(rows)}</table></div>'


def _meter(check: Check) -> str:
    """How much of what is allowed was used."""
    room = 1 - check.limit if check.sense == ">=" else check.limit
    used = 1 - check.value if check.sense == ">=" else check.value
    share = min(1.0, max(0.0, used / room)) if room > 0 and np.isfinite(used) else float(not check.passed)
    return f'<div class="meter{"" if check.passed else " over"}"><i style="width:{100 * share:.0f}%"></i></div>'


def _scatter(pairs: npt.NDArray[np.float32]) -> str:
    """Similarities by the reference (across) and by the candidate (up), with the line on which they are equal."""
    low, high = float(pairs.min()), float(pairs.max())
    margin = 0.04 * (high - low) or 0.01
    low, high = low - margin, high + margin
    left, bottom, side = 54, 290, 278

    def place(value: float) -> float:
        return (value - low) / (high - low) * side

    dots = "".join(f"M{left + place(x):.1f} {bottom - place(y):.1f}h0" for x, y in pairs.tolist())
    ticks = []
    for tick in np.linspace(low + margin, high - margin, 4).tolist():
        ticks.append(f'<text x="{left + place(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.2f}</text>')
        ticks.append(f'<text x="{left - 6}" y="{bottom - place(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>')
    return (
        f'<svg viewBox="0 0 340 336" role="img" aria-label="similarity by the candidate against similarity by the reference">'
        f'<path class="axis" d="M{left} {bottom - side}V{bottom}H{left + side}"/>'
        f'<path class="ideal" d="M{left} {bottom}L{left + side} {bottom - side}"/>{"".join(ticks)}'
        f'<path class="points" d="{dots}"/>'
        f'<text x="{left + side / 2}" y="{bottom + 34}" text-anchor="middle">by the reference</text>'
        f'<text transform="translate(11 {bottom - side / 2}) rotate(-90)" text-anchor="middle">by the candidate</text></svg>'
    )


def _pair(pair: PairShift, pixels: npt.NDArray[np.uint8]) -> str:
    change = f"{pair.candidate_similarity - pair.reference_similarity:+.1e}"
    ranks = f"{change}, rank {pair.reference_rank} &rarr; {pair.candidate_rank}"
    return (
        f'<figure><div class="duo">{_thumbnail(pixels[pair.query], pair.query_path)}'
        f"{_thumbnail(pixels[pair.gallery], pair.gallery_path)}</div><figcaption>"
        f"<b>{pair.reference_similarity:.4f} &rarr; {pair.candidate_similarity:.4f}</b><br>{ranks}</figcaption></figure>"
    )


def _image(shift: ImageShift, pixels: npt.NDArray[np.uint8]) -> str:
    name = shift.path.replace("\\", "/").rpartition("/")[2]
    return (
        f"<figure>{_thumbnail(pixels[shift.index], shift.path)}<figcaption>"
        f"<b>1 - cos {max(0.0, 1 - shift.cosine):.1e}</b><br>{escape(name)}</figcaption></figure>"
    )


def _thumbnail(pixels: npt.NDArray[np.uint8], path: str) -> str:
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if image.height > _THUMBNAIL_HEIGHT:
        image = image.resize((max(1, round(image.width * _THUMBNAIL_HEIGHT / image.height)), _THUMBNAIL_HEIGHT))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    name, size = escape(path), f'width="{image.width}" height="{image.height}"'
    return f'<img alt="{name}" title="{name}" {size} src="data:image/jpeg;base64,{data}">'
