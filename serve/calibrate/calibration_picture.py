"""A calibration as a picture: how similar people are to others and to themselves, and the ROC that follows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hat.io.plot_file import save_plot, style_axes

from .thresholds import ThresholdCalibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_DIFFERENT, _SAME = "#c8552b", "#0c7f5c"
_NUM_BINS = 80
_NUM_STEPS = 400


def draw_calibration(calibration: ThresholdCalibration, path: Path, *, title: str) -> None:
    """Draw the similarities of both kinds of pairs and, where people were seen by two cameras, the ROC.

    Args:
        calibration: What is drawn.
        path: A ``.png``, ``.svg`` or ``.pdf`` file.
        title: What it is called.

    Raises:
        WorkError: The picture cannot be written.
    """
    from matplotlib.figure import Figure

    has_roc = calibration.num_genuine > 0
    figure = Figure(figsize=(11 if has_roc else 6.5, 4.5), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2 if has_roc else 1, squeeze=False)[0]
    _draw_similarities(panels[0], calibration)
    if has_roc:
        _draw_roc(panels[1], calibration)
    for axes in panels:
        style_axes(axes)
    figure.suptitle(
        f"{title}: {calibration.num_records:,} images of {calibration.num_identities:,} people", fontsize=11, x=0.01, ha="left"
    )
    save_plot(figure, path)


def _draw_similarities(axes: Axes, calibration: ThresholdCalibration) -> None:
    lowest = min(float(one[0]) for one in (calibration.impostor, calibration.genuine) if len(one))
    highest = max(float(one[-1]) for one in (calibration.impostor, calibration.genuine) if len(one))
    bins = np.linspace(lowest, max(highest, lowest + 1e-3), _NUM_BINS).tolist()
    kinds = ((calibration.impostor, _DIFFERENT, "different people"), (calibration.genuine, _SAME, "one person, two cameras"))
    for similarities, color, label in kinds:
        if len(similarities):
            axes.hist(similarities, bins, density=True, color=color, alpha=0.55, label=f"{label} ({len(similarities):,} pairs)")
    axes.set_xlabel("similarity of a pair")
    axes.set_ylabel("density")
    axes.legend(frameon=False, fontsize=8)


def _draw_roc(axes: Axes, calibration: ThresholdCalibration) -> None:
    from matplotlib.ticker import NullFormatter

    rates = np.geomspace(max(calibration.lowest_rate, 1e-9), 0.5, _NUM_STEPS)
    points = [calibration.point_at(calibration.threshold_at(float(rate))) for rate in rates if rate >= calibration.lowest_rate]
    true = [100 * point.true_match_rate for point in points if point.true_match_rate is not None]
    axes.plot([point.false_match_bound for point in points], true, color="#2f5fd0", label="upper bound, 95 %", linewidth=1.6)
    axes.plot([point.false_match_rate for point in points], true, color="#2f5fd0", label="estimate", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 102)
    axes.set_xlabel("false match rate of one comparison")
    axes.set_ylabel("true match rate, %")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
