"""Where eight bits cost precision: every layer quantized by itself, all others in floating point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hat.console import progress

from ..graph.onnx_activations import GraphRunner
from .qdq_insertion import QuantizableLayer, insert_qdq

if TYPE_CHECKING:
    import onnx
    from rich.table import Table


@dataclass(frozen=True)
class LayerLoss:
    """What quantizing one layer takes from the embedding, all others being in floating point."""

    layer: str  # its name in the model
    worst: float  # 1 - the worst cosine between embeddings with and without it quantized
    mean: float  # the same for the mean cosine


def measure_sensitivity(
    proto: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    ranges: Mapping[str, tuple[float, float]],
    images: npt.NDArray[np.uint8],
    *,
    kind: Literal["int8", "fp8"] = "int8",
) -> list[LayerLoss]:
    """Measure every layer's loss, in order of computation.

    Inputs are quantized symmetrically here, whatever the scheme: what distinguishes layers is the width of their ranges.

    Args:
        proto: The floating-point model.
        layers: Its layers, of `find_layers`.
        ranges: Tensor name -> its lowest and highest value.
        images: (n, 3, H, W) uint8 RGB.
        kind: ``"int8"`` or ``"fp8"``.

    Raises:
        WorkError: The graph cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    reference = GraphRunner(proto).embed(images)
    losses = []
    with progress() as display:
        task = display.add_task("layer by layer", total=len(layers), info="")
        for layer in layers:
            runner = GraphRunner(insert_qdq(proto, [layer], ranges, kind=kind), optimize=False)
            lost = cosine_losses(reference, runner.embed(images))
            losses.append(LayerLoss(layer.name, float(lost.max()), float(lost.mean())))
            display.advance(task)
    return losses


def cosine_losses(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return 1 - cosine of each pair of unit rows, (n,) in [0, 2]; a row that is not finite has lost everything."""
    cosines = np.einsum("nd,nd->n", reference.astype(np.float64), other.astype(np.float64))
    losses: npt.NDArray[np.float64] = np.clip(1 - np.nan_to_num(cosines, nan=-1.0), 0, 2)
    return losses


def sensitivity_table(report: Mapping[str, Any], max_rows: int = 12) -> Table:
    """Return the layers that cost most, worst first, as a table.

    Args:
        report: What an artifact records: ``layers``, each with ``layer``, ``worst``, ``mean`` and ``excluded``.
        max_rows: Rows to show.
    """
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("layer", "loss alone, worst", "mean", ""):
        table.add_column(column, justify="left" if column in ("layer", "") else "right")
    for loss in sorted(report["layers"], key=lambda loss: -loss["mean"])[:max_rows]:
        excluded = "left out" if loss["excluded"] else ""
        table.add_row(loss["layer"], f"{loss['worst']:.2e}", f"{loss['mean']:.2e}", excluded)
    return table
