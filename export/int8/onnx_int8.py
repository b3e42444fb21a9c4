"""Eight bits in the graph: which layers, with which ranges, in the form that a kind of runtime turns into eight-bit kernels.

Convolutions and linear layers are quantized, weights symmetric by output channel. Layer norm, softmax, the L2 norm and pixel
normalization stay in floating point. Two schemes, because runtimes match different patterns:

- ``"cpu"`` (ONNX Runtime on a CPU): activations in uint8 with a zero point, biases in int32, outputs of convolutions and
  residual sums quantized too: ONNX Runtime makes its integer kernels of exactly this. Placed by onnxruntime.quantization.
- ``"tensorrt"``: activations symmetric, zero point 0; inputs and weights alone, biases left as they are, since TensorRT takes
  no quantized ones. What is around the layers computes in float16 from opset 19 on, which strongly typed TensorRT takes
  literally.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hat.config import config_dataclass, config_from_dict, config_to_dict
from hat.console import progress
from hat.errors import ConfigError, UsageError
from hat.io.onnx_file import onnx_opset
from hat.model import HAT

from ..graph.onnx_activations import CalibrationName, GraphRunner, Range, open_session, tensor_ranges
from ..onnx_source import ExportSource, float_graph
from ..request import FLOAT16_SCALE_OPSET, Calibration, ExportRequest
from .cross_layer_equalization import equalize_channels
from .gptq import round_weights
from .leave_out import DEFAULT_MAX_DROP, PROJECTION, LayerLoss, leave_out_fewest, nothing_left, sensitivity_details
from .qdq_insertion import (
    BETWEEN,
    LAYERS,
    QuantizableLayer,
    feeding_convolutions,
    find_layers,
    insert_qdq,
    quantize_for_cpu,
)

if TYPE_CHECKING:
    import onnx


QUANTIZATION_OPSET = 13
"""The first operator set that quantizes each channel by a scale of its own; files of other projects may be older."""

_NUM_PREPARING = 256
"""Calibration images that equalization and GPTQ look at: with twice as many the Hessians are the same."""


@config_dataclass
class QuantizationOptions:
    """Options of quantization; each field is an option of an int8 or fp8 export."""

    scheme: Literal["cpu", "tensorrt"] = "tensorrt"
    """Runtime of the file. A file of its own, ``--to onnx``, is made for a CPU unless this says otherwise."""

    calibration: CalibrationName = "percentile"
    """Calibration of the ranges of activations: ``minmax`` or ``percentile``."""

    percentile: float = Field(default=99.99, gt=50, le=100)
    """Part of the values that ``calibration=percentile`` keeps, in percent."""

    cross_layer_equalization: bool = True
    """Scale the channels between two convolutions to more equal ranges first, which computes the same."""

    rounding: Literal["gptq", "nearest"] = "gptq"
    """Rounding of int8 weights: ``gptq``, so that what each layer gives changes least, or each to the ``nearest`` step."""

    float_dtype: Literal["fp32", "fp16"] | None = None
    """Type of what is not quantized; None is fp32, but fp16 for ``scheme=tensorrt`` where the opset has it."""

    attention: bool = False
    """Quantize attention's two products of activations too: little work, and among the first to lose precision."""

    layers: Literal["all", "linear"] = "all"
    """Layers that are quantized: ``linear`` leaves convolutions in floating point, the default of TensorRT for RTX."""

    weight_scales: Literal["channel", "tensor"] = "channel"
    """One scale for each output channel of an int8 weight, or one for the tensor: the default of TensorRT for RTX, whose
    products then move less."""

    residual_sums: bool = False
    """Quantize what is added to a convolution's output too, so that TensorRT can add it inside the convolution's int8 kernel;
    ``scheme=cpu`` always does. Whether it pays is for a GPU to say."""

    exclude: tuple[str, ...] = ()
    """Layers to leave out: names, or their beginnings."""

    max_drop: float | None = Field(default=None, gt=0, le=1)
    """Largest fall of the mean cosine between int8 and float embeddings: the layers that cost most are left out until it is
    met. 1 leaves none out. None is 0.001 for ``scheme=cpu``, and 1 for ``tensorrt``, where the builder's plan decides what is
    worth quantizing."""

    num_sensitivity: int = Field(default=32, ge=1)
    """Calibration images on which `max_drop` and the report are measured."""

    report: bool = False
    """Measure every layer's loss and record it, even where nothing is left out."""

    @property
    def allowed_drop(self) -> float:
        """`max_drop`, or its default for the scheme."""
        return self.max_drop or (DEFAULT_MAX_DROP if self.scheme == "cpu" else 1.0)


def quantized_graph(model: ExportSource, request: ExportRequest) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Calibrate and quantize a trained model, or an ONNX file of this package in floating point, to int8 or fp8.

    With it comes what to record: options, calibration images, layers that were left out and why, the fall of the mean cosine,
    and the loss of every layer where it was measured.

    Raises:
        UsageError: There are no calibration images, or an option is unknown or contradicts another.
        WorkError: The graph cannot be made, or no layer is left to quantize.
    """
    options, calibration = _check_quantization(request)
    images = calibration.images
    proto = fold_foreign_graph(float_graph(model, request, _float_precision(model, request, options)))
    if options.cross_layer_equalization:
        proto, _ = equalize_channels(proto, images[:_NUM_PREPARING])
    layers = find_layers(proto, attention=options.attention)
    if unknown := [name for name in options.exclude if not any(layer.name.startswith(name) for layer in layers)]:
        raise UsageError(f"exclude names no layer: {', '.join(unknown)}; the option report=true lists them")
    operators = [*LAYERS, *BETWEEN] if options.scheme == "cpu" else [*LAYERS, *(["Add"] if options.residual_sums else [])]
    ranges = tensor_ranges(proto, operators, images, method=options.calibration, percentile=options.percentile)
    quantizer = _Quantizer(proto, proto, layers, ranges, "fp8" if request.precision == "fp8" else "int8", options)
    convolutions = {node.name for node in proto.graph.node if node.op_type == "Conv"} if options.layers == "linear" else set()
    for layer in layers:
        if layer.node in convolutions:
            quantizer.left_out[layer.name] = "a convolution"
        if layer.name.startswith(options.exclude or ("\0",)):
            quantizer.left_out[layer.name] = "named"
        if layer.name == PROJECTION:
            quantizer.left_out[layer.name] = "it makes the embedding"
    if options.rounding == "gptq" and request.precision == "int8":
        per_tensor = options.weight_scales == "tensor"
        quantizer.rounded = round_weights(proto, quantizer.kept, images[:_NUM_PREPARING], per_tensor=per_tensor)
    quantized = quantizer.quantize(images[: options.num_sensitivity])
    return quantized, quantizer.details | {
        "quantization": config_to_dict(options),
        "num_quantized_layers": len(quantizer.kept),
        "layers_left_out": quantizer.left_out,
        "calibration": calibration.details,
    }


def _check_quantization(request: ExportRequest) -> tuple[QuantizationOptions, Calibration]:
    """Return the options and images of an int8 or fp8 export, before any work is done."""
    if request.calibration is None or not len(request.calibration.images):
        raise UsageError(f"{request.precision} needs calibration images: name a data set with --calibration-data [NAME=]DIR")
    try:
        options = config_from_dict(QuantizationOptions, request.options, where="options")
    except ConfigError as error:
        raise UsageError(f"{request.precision}: {error}") from None
    if request.precision == "fp8":
        if options.scheme == "cpu":
            raise UsageError("fp8 belongs to scheme=tensorrt: no CPU computes in it")
        if request.graph_opset < FLOAT16_SCALE_OPSET:
            raise UsageError(f"ONNX has float8 from opset {FLOAT16_SCALE_OPSET} on, got {request.opset}: ask for that one")
    return options, request.calibration


def _float_precision(model: ExportSource, request: ExportRequest, options: QuantizationOptions) -> Literal["fp32", "fp16"]:
    """Return the type of what is not quantized."""
    if options.scheme == "cpu":
        if options.float_dtype == "fp16":
            raise UsageError("float_dtype=fp16 belongs to scheme=tensorrt: a CPU computes the rest in fp32")
        if options.weight_scales == "tensor":
            raise UsageError("weight_scales=tensor belongs to scheme=tensorrt: on a CPU every channel has its scale")
        return "fp32"
    has_half = request.graph_opset >= FLOAT16_SCALE_OPSET
    default = has_half if isinstance(model, HAT) else model.info.precision == "fp16"  # of a file its own
    chosen = options.float_dtype or ("fp16" if default else "fp32")
    if chosen == "fp16" and not has_half:
        raise UsageError(f"int8 inside fp16 needs opset {FLOAT16_SCALE_OPSET}, got {request.graph_opset}: ask for that one")
    return chosen


def fold_foreign_graph(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of another project with its batch norms folded, its constants as initializers, and a name for every node.

    A graph that has all of it already is returned as it is. The folding is ONNX Runtime's, at its basic level, which keeps to
    ONNX's own operators.
    """
    if all(node.name and node.op_type not in ("BatchNormalization", "Constant") for node in proto.graph.node):
        return proto
    import onnx

    with tempfile.TemporaryDirectory(prefix="hat-onnx-") as folder:
        open_session(proto, "ORT_ENABLE_BASIC", optimized=Path(folder) / "folded.onnx")
        result: onnx.ModelProto = onnx.shape_inference.infer_shapes(onnx.load(Path(folder) / "folded.onnx"))
    opset = onnx.helper.make_opsetid("", onnx_opset(result))  # ONNX Runtime imports the operators of its own too
    del result.opset_import[:]
    result.opset_import.append(opset)
    for node in result.graph.node:
        node.name = node.name or f"{node.output[0]}/{node.op_type}"
    return result


@dataclass
class _Quantizer:
    """Quantizes a prepared graph, and leaves layers out until its embeddings have fallen by no more than is allowed."""

    proto: onnx.ModelProto
    rounded: onnx.ModelProto  # the same graph with weights on the grid
    layers: Sequence[QuantizableLayer]
    ranges: Mapping[str, Range]
    kind: Literal["int8", "fp8"]
    options: QuantizationOptions
    left_out: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> list[QuantizableLayer]:
        """The layers that are quantized."""
        return [layer for layer in self.layers if layer.name not in self.left_out]

    def quantize(self, images: npt.NDArray[np.uint8]) -> onnx.ModelProto:
        """Return the quantized graph."""
        quantized = self._quantized()
        losses: list[LayerLoss] = []
        if self.options.report:
            losses = measure_sensitivity(self.rounded, self.kept, self.ranges, images, kind=self.kind)
        if self.options.allowed_drop < 1:
            reference = GraphRunner(self.proto).embed(images)
            drop = _cosine_losses(reference, quantized, images).mean()
            if drop > self.options.allowed_drop:
                losses = losses or measure_sensitivity(self.rounded, self.kept, self.ranges, images, kind=self.kind)
                named = self.left_out

                def quantize(worst: Sequence[LayerLoss]) -> tuple[tuple[dict[str, str], onnx.ModelProto], float]:
                    self.left_out = named | {loss.layer: loss.reason for loss in worst}
                    made = self._quantized()
                    return (self.left_out, made), float(_cosine_losses(reference, made, images).mean())

                (self.left_out, quantized), drop = leave_out_fewest(losses, quantize, self.options.allowed_drop)
            self.details["cosine_drop"] = float(f"{drop:.3e}")
        if losses:
            self.details["sensitivity"] = sensitivity_details(losses, self.left_out, len(images))
        return quantized

    def _quantized(self) -> onnx.ModelProto:
        if self.options.scheme == "cpu":
            left_out = {layer.node: layer.name for layer in self.layers if layer.name in self.left_out}
            feeding = feeding_convolutions(self.proto, left_out)
            self.left_out |= {layer.name: f"it feeds {feeding[layer.node]}" for layer in self.kept if layer.node in feeding}
        kept = self.kept
        if not kept:
            raise nothing_left(self.kind, len(self.layers))
        # What stays in floating point has its own weights, and not those on the grid.
        proto, weights = copy.deepcopy(self.proto), {layer.weight for layer in kept}
        on_grid = {tensor.name: tensor for tensor in self.rounded.graph.initializer if tensor.name in weights}
        for tensor in proto.graph.initializer:
            if tensor.name in on_grid:
                tensor.CopyFrom(on_grid[tensor.name])
        if self.options.scheme == "cpu":
            return quantize_for_cpu(proto, kept, self.ranges)
        per_tensor, sums = self.options.weight_scales == "tensor", self.options.residual_sums
        return insert_qdq(proto, kept, self.ranges, kind=self.kind, per_tensor=per_tensor, residual_sums=sums)


def measure_sensitivity(
    proto: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    ranges: Mapping[str, Range],
    images: npt.NDArray[np.uint8],
    *,
    kind: Literal["int8", "fp8"] = "int8",
) -> list[LayerLoss]:
    """Measure the loss of every layer of a floating-point model by itself, in order of computation.

    Inputs are quantized symmetrically here, whatever the scheme: what distinguishes layers is the width of their ranges.
    """
    reference = GraphRunner(proto).embed(images)
    losses = []
    with progress() as display:
        task = display.add_task("layer by layer", total=len(layers), info="")
        for layer in layers:
            quantized = insert_qdq(proto, [layer], ranges, kind=kind)
            lost = _cosine_losses(reference, quantized, images, optimize=False)
            losses.append(LayerLoss(layer.name, float(lost.max()), float(lost.mean())))
            display.advance(task)
    return losses


def _cosine_losses(
    reference: npt.NDArray[np.float32], proto: onnx.ModelProto, images: npt.NDArray[np.uint8], *, optimize: bool = True
) -> npt.NDArray[np.float64]:
    """Return 1 - cosine of each image's embeddings, (n,) in [0, 2]; one that is not finite has lost everything."""
    embeddings = GraphRunner(proto, optimize=optimize).embed(images)
    cosines = np.einsum("nd,nd->n", reference.astype(np.float64), embeddings.astype(np.float64))
    losses: npt.NDArray[np.float64] = np.clip(1 - np.nan_to_num(cosines, nan=-1.0), 0, 2)
    return losses
