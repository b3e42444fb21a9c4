"""The report of a verification as one HTML file: no request to anybody, light and dark, the worst pairs as pictures."""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.console import percent

from ..templates import render
from .verification_report import SHORT_NAMES, Check, VerificationReport

_THUMBNAIL_HEIGHT = 192
_PLOT_SIZE = 278

_LEVELS = {
    "rows": "Rows",
    "embedding": "Embedding",
    "batch": "Batches",
    "ranking": "Ranking",
    "retrieval": "Retrieval",
}


def render_page(report: VerificationReport) -> str:
    """Return a report as a page.

    The compared images appear in it as small pictures where the report holds their pixels, and the page says so.

    Args:
        report: What was found.

    Returns:
        HTML, one file that needs no other.
    """
    failed = sum(not result.passed for result in report.candidates)
    counted = f"{failed} of {len(report.candidates)} candidates disagree with the reference"
    pixels = report.pixels
    return render(
        "hat.export.parity",
        "page.html.jinja",
        report=report,
        verdict="All candidates rank as the reference does" if report.passed else counted,
        has_pictures=pixels is not None and any(result.worst_images for result in report.candidates),
        facts=_facts(report),
        levels=_LEVELS,
        short_names=SHORT_NAMES,
        used=_used,
        plot=_plot,
        thumbnail=lambda index: _thumbnail(pixels[index]) if pixels is not None else None,
    )


def _facts(report: VerificationReport) -> dict[str, str]:
    num_gallery = len(report.paths) - report.num_queries
    facts = {
        "images": f"{len(report.paths)} of {report.source}, seed {report.seed}: "
        f"{report.num_queries} queries, {num_gallery} gallery images",
    }
    if report.left_out:
        facts["left out"] = f"{len(report.left_out)} that cannot be read, the first: {report.left_out[0]}"
    if report.dataset is not None:
        metrics = report.dataset["reference"]
        names = {"mAP": "mAP", "rank1": "Rank-1", "mINP": "mINP"}
        parts = [
            f"{report.dataset['name']}, {metrics['num_queries']:,} queries, {metrics['num_gallery']:,} gallery images",
            "reference " + ", ".join(f"{percent(metrics[key])} {name}" for key, name in names.items()),
        ]
        facts["data set"] = "; ".join([*parts, *report.dataset["notes"]])
    facts["machine"] = report.machine
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return facts


def _used(check: Check) -> float:
    """Return how much of what is allowed was used, in [0, 1]."""
    allowed = 1 - check.limit if check.sense == ">=" else check.limit
    used = 1 - check.value if check.sense == ">=" else check.value
    return min(1.0, max(0.0, used / allowed)) if allowed > 0 and np.isfinite(used) else float(not check.passed)


def _plot(pairs: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return where the template draws similarities: by the reference to the right, by the candidate upwards."""
    low, high = float(pairs.min()), float(pairs.max())
    margin = 0.04 * (high - low) or 0.01
    places = (pairs.astype(np.float64) - (low - margin)) / (high - low + 2 * margin) * _PLOT_SIZE
    ticks = np.linspace(low, high, 4)
    at = (ticks - (low - margin)) / (high - low + 2 * margin) * _PLOT_SIZE
    return {
        "dots": "".join(f"M{54 + x:.1f} {290 - y:.1f}h0" for x, y in places.tolist()),
        "ticks": [{"value": value, "at": place} for value, place in zip(ticks.tolist(), at.tolist(), strict=True)],
    }


def _thumbnail(pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if image.height > _THUMBNAIL_HEIGHT:
        image = image.resize((max(1, round(image.width * _THUMBNAIL_HEIGHT / image.height)), _THUMBNAIL_HEIGHT))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return {"width": image.width, "height": image.height, "data": base64.b64encode(buffer.getvalue()).decode("ascii")}
