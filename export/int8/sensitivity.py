"""Where eight bits cost precision, layer by layer: each layer alone, and one after another as they add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hat.console import progress
from hat.errors import MissingExtraError, WorkError

from ..graph.onnx_trace import INPUT_NAME
from .qdq_insertion import SWITCHES, QuantizableLayer, insert_pairs

if TYPE_CHECKING:
    import onnx
    from rich.table import Table

__all__ = ["LayerLoss", "SensitivityReport", "measure_sensitivity", "sensitivity_table"]

_IMAGES_AT_A_TIME = 8


@dataclass(frozen=True)
class LayerLoss:
    """What quantizing one layer takes from the embedding.

    Attributes:
        layer: Its name in the model.
        alone: 1 - the worst cosine between embeddings with and without this layer quantized, all others in floating point.
        alone_mean: The same for the mean cosine.
        cumulative: 1 - the worst cosine with this layer and all kept ones before it quantized.
        excluded: Left in floating point, since ``alone`` is more than was allowed.
    """

    layer: str
    alone: float
    alone_mean: float
    cumulative: float
    excluded: bool


@dataclass(frozen=True)
class SensitivityReport:
    """The losses of all layers, in order of computation.

    Attributes:
        losses: One for each layer.
        num_images: Images that they were measured on.
        max_drop: What a layer was allowed to cost; None excludes nothing.
    """

    losses: tuple[LayerLoss, ...]
    num_images: int
    max_drop: float | None

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        layers = [
            {
                "layer": loss.layer,
                "alone": float(f"{loss.alone:.3e}"),
                "alone_mean": float(f"{loss.alone_mean:.3e}"),
                "cumulative": float(f"{loss.cumulative:.3e}"),
                "excluded": loss.excluded,
            }
            for loss in self.losses
        ]
        return {"num_images": self.num_images, "max_drop": self.max_drop, "layers": layers}


def sensitivity_table(report: Mapping[str, Any], most: int = 12) -> Table:
    """The layers that cost most, worst first, as a table.

    Args:
        report: `SensitivityReport.to_dict`, as an artifact records it.
        most: Rows to show.
    """
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("layer", "loss alone, worst", "mean", "cumulative", ""):
        table.add_column(column, justify="left" if column in ("layer", "") else "right")
    for loss in sorted(report["layers"], key=lambda loss: -loss["alone"])[:most]:
        values = (f"{loss[key]:.2e}" for key in ("alone", "alone_mean", "cumulative"))
        table.add_row(loss["layer"], *values, "left out" if loss["excluded"] else "")
    return table


def measure_sensitivity(
    proto: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    ranges: Mapping[str, tuple[float, float]],
    images: npt.NDArray[np.uint8],
    *,
    kind: Literal["int8", "fp8"] = "int8",
    max_drop: float | None = None,
) -> SensitivityReport:
    """Measure every layer's loss.

    All layers stand quantized in one graph, each with a switch, so that one session serves every measurement. Inputs are
    quantized symmetrically here, whatever the scheme: what tells layers apart is the width of their ranges.

    Args:
        proto: The floating-point model.
        layers: Its layers, of `find_layers`.
        ranges: Tensor name -> its lowest and highest value.
        images: (n, 3, H, W) uint8 RGB.
        kind: ``"int8"`` or ``"fp8"``.
        max_drop: Exclude a layer whose loss alone is larger. The cumulative losses are measured without the excluded ones.

    Raises:
        WorkError: The graph cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    session = _Session(insert_pairs(proto, layers, ranges, kind=kind, switches=True), images)
    off = np.zeros(len(layers), dtype=np.bool_)
    reference = session.run(off)
    alone: list[npt.NDArray[np.float64]] = []
    cumulative: list[float] = []
    with progress() as display:
        task = display.add_task("layer by layer", total=2 * len(layers), info="")
        for index in range(len(layers)):
            switches = off.copy()
            switches[index] = True
            alone.append(_losses(reference, session.run(switches)))
            display.advance(task)
        excluded = [max_drop is not None and float(loss.max()) > max_drop for loss in alone]
        switches = off.copy()
        for index in range(len(layers)):
            if excluded[index]:
                cumulative.append(cumulative[-1] if cumulative else 0.0)
            else:
                switches[index] = True
                cumulative.append(float(_losses(reference, session.run(switches)).max()))
            display.advance(task)
    losses = tuple(
        LayerLoss(layer.name, float(loss.max()), float(loss.mean()), added, left_out)
        for layer, loss, added, left_out in zip(layers, alone, cumulative, excluded, strict=True)
    )
    return SensitivityReport(losses, len(images), max_drop)


class _Session:
    """A graph with switches, ready to run on the same images again and again."""

    def __init__(self, proto: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "export", "measuring what quantizing costs") from None
        import onnx

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Nothing is fused: a fused kernel would take the switched pairs for real ones.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
            raise WorkError("models above 2 GB cannot be measured layer by layer: leave out --max-drop and report")
        try:
            self.session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base below Exception
            raise WorkError(f"the graph for the layer report cannot be run: {str(error).splitlines()[0]}") from error
        is_uint8 = proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
        self.images = images if is_uint8 else images.astype(np.float32)

    def run(self, switches: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        parts = [
            self.session.run(None, {INPUT_NAME: self.images[start : start + _IMAGES_AT_A_TIME], SWITCHES: switches})[0]
            for start in range(0, len(self.images), _IMAGES_AT_A_TIME)
        ]
        return np.concatenate(parts)


def _losses(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """1 - cosine of each pair of rows, which are of unit length; a row that is not finite has lost everything."""
    cosines = np.einsum("nd,nd->n", reference.astype(np.float64), other.astype(np.float64))
    losses: npt.NDArray[np.float64] = np.clip(1 - np.nan_to_num(cosines, nan=-1.0), 0, 2)
    return losses
