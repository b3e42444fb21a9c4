"""Accuracy against speed as a picture: the upper right is where one wants to be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hat.console import percent
from hat.errors import UsageError
from hat.io.plot_file import save_plot, style_axes

from .report import BenchmarkReport, CandidateSpeed, Speed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_COLORS = {"fp32": "#2f5fd0", "fp16": "#8a4fc9", "bf16": "#0d8f8a", "int8": "#d2691e", "fp8": "#b8336a"}
_MARKERS = {"torch": "o", "onnxruntime": "s", "openvino": "^", "tensorrt": "D"}


def picture_batch(report: BenchmarkReport) -> int:
    """Return the batch size whose speed is drawn: the one at which the first candidate is fastest."""
    return max(
        (speed for speed in report.candidates[0].speeds if speed.mode == "embedding"), key=lambda s: s.images_per_s
    ).batch


def draw_picture(report: BenchmarkReport, path: Path, *, overwrite: bool = False) -> list[str]:
    """Draw mAP over images in a second, one point for each candidate whose mAP is known.

    Args:
        report: What was measured.
        path: A ``.png``, ``.svg`` or ``.pdf`` file.
        overwrite: Replace a file that is there.

    Returns:
        Names of the candidates that are not in the picture, because nothing is known of their accuracy.

    Raises:
        UsageError: No accuracy is known, or the file is there and is not to be replaced.
        WorkError: The picture cannot be written.
    """
    known = [entry for entry in report.candidates if "mAP" in entry.accuracy]
    if not known:
        raise UsageError("no candidate's accuracy is known: name a data set with --data")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    batch = picture_batch(report)
    figure = Figure(figsize=(10, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    # Files of one model often have one accuracy: names beside the points would lie on one another, so a list holds them.
    points = [_point(axes, entry, batch, number) for number, entry in enumerate(known, start=1)]
    names = [f"{number}  {_label(entry, batch)}" for number, entry in enumerate(known, start=1)]
    axes.legend(points, names, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8, labelspacing=1.1)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.15)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"images in a second, batch {batch}")
    axes.set_ylabel("mAP, %")
    axes.set_title(f"Accuracy against speed ({report.machine})", fontsize=10, loc="left")
    style_axes(axes)
    save_plot(figure, path, overwrite=overwrite)
    return [entry.name for entry in report.candidates if entry not in known]


def _point(axes: Axes, entry: CandidateSpeed, batch: int, number: int) -> Any:
    """Draw one candidate with the range of its rounds; its marker, for the list of names."""
    speed = _speed(entry, batch)
    value = 100 * entry.accuracy["mAP"]
    color = _COLORS.get(entry.precision, "#444444")
    shape = next((shape for name, shape in _MARKERS.items() if entry.runtime.startswith(name)), "o")
    below, above = speed.images_per_s - min(speed.rounds), max(speed.rounds) - speed.images_per_s
    axes.errorbar(speed.images_per_s, value, xerr=[[below], [above]], color=color, capsize=3, linewidth=1)
    (marker,) = axes.plot(speed.images_per_s, value, marker=shape, markersize=9, color=color, linestyle="none")
    axes.annotate(
        str(number),
        (speed.images_per_s, value),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=color,
    )
    return marker


def _label(entry: CandidateSpeed, batch: int) -> str:
    speed = _speed(entry, batch)
    figures = f"{speed.images_per_s:.1f} images/s ({speed.ratio:.2f} x), mAP {percent(entry.accuracy['mAP'])} %"
    return f"{Path(entry.name).name}: {entry.runtime}\n    {figures}"


def _speed(entry: CandidateSpeed, batch: int) -> Speed:
    return next(speed for speed in entry.speeds if speed.mode == "embedding" and speed.batch == batch)
